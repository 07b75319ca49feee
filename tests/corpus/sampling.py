"""Sampling, reinforcement learning, generative models."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from corpus.case import Built, case, initial, normal


@case(
    title="SAC actor loss: log(1 - tanh(u)^2) underflows for a large pre-activation, gradient",
    source="vwxyzjn/cleanrl#300; google-deepmind/distrax#216",
    primitive="mul",
    mechanism="0*inf",
    phase="backward",
    first_inf="log",
    causal_inf="div",
)
def sac_log1m_tanh2() -> Built:
    class Actor(nn.Module):
        @nn.compact
        def __call__(self, o):
            h = nn.relu(nn.Dense(16)(o))
            return nn.Dense(2, bias_init=nn.initializers.constant(20.0))(h), jnp.clip(
                nn.Dense(2)(h), -5, 2
            )

    net, tx = Actor(), optax.adam(3e-4)
    obs = normal(55, 4, 5)
    params = initial(net, jax.random.PRNGKey(0), obs)

    def loss(p, key):
        mu, ls = net.apply(p, obs)
        eps = jax.random.normal(key, mu.shape)
        u = mu + jnp.exp(ls) * eps
        a = jnp.tanh(u)  # <-- culprit
        lp = jnp.sum(-0.5 * eps**2 - ls - jnp.log(1.0 - a**2), -1)
        return jnp.mean(0.2 * lp)

    @jax.jit
    def step(p, s, key):
        value, g = jax.value_and_grad(loss)(p, key)
        u, s = tx.update(g, s)
        return optax.apply_updates(p, u), s, value

    return step, (params, tx.init(params), jax.random.key(0))


@case(
    title="PPO ratio exp(logp-old) overflows while the advantage is exactly 0",
    source="PPO importance-ratio overflow reports",
    primitive="mul",
    mechanism="0*inf",
    phase="forward",
    first_inf="exp",
)
def ppo_ratio_overflow() -> Built:
    @jax.jit
    def loss(logp, old, adv):
        ratio = jnp.exp(logp - old)
        unclipped = ratio * adv  # <-- culprit
        return -jnp.mean(jnp.minimum(unclipped, jnp.clip(ratio, 0.8, 1.2) * adv))

    return jax.value_and_grad(loss), (
        jnp.array([-1.0, -2.0]),
        jnp.array([-1.1, -150.0]),
        jnp.array([0.5, 0.0]),
    )


@case(
    title="Box-Muller with u=0: infinite sample, then mean removal",
    source="sampling with a closed interval at 0 (jax-ml/jax#3043 class)",
    primitive="sub",
    mechanism="inf-inf",
    phase="forward",
    first_inf="log",
)
def box_muller_u0() -> Built:
    @jax.jit
    def noise(u, v):
        z = jnp.sqrt(-2.0 * jnp.log(u)) * jnp.cos(2 * jnp.pi * v)
        return z - jnp.mean(z)  # <-- culprit

    return noise, (jnp.array([0.5, 0.0, 0.1]), jnp.array([0.1, 0.7, 0.3]))


@case(
    title="VAE on raw pixels: exp(logvar/2) overflows, the decoder matmul is inf-inf",
    source="AppliedDataSciencePartners/WorldModels#9; LEEYOONHYUNG/BVAE-TTS#8",
    primitive="dot_general",
    mechanism="inf-inf",
    phase="forward",
    first_inf="exp",
    module="VAE/decoder",
)
def vae_logvar_overflow() -> Built:
    class VAE(nn.Module):
        @nn.compact
        def __call__(self, x, key):
            h = nn.relu(nn.Dense(16, name="encoder")(x))
            mu = nn.Dense(4, name="mu")(h)
            logvar = nn.Dense(4, name="logvar", bias_init=nn.initializers.constant(300.0))(h)
            z = mu + jnp.exp(0.5 * logvar) * jax.random.normal(key, mu.shape)
            return nn.Dense(12, name="decoder")(z), mu, logvar  # <-- culprit

    net, tx = VAE(), optax.adam(1e-3)
    x = jnp.abs(normal(56, 3, 12)) * 10.0
    params = initial(net, jax.random.PRNGKey(0), x, jax.random.key(1))

    def loss(p, key):
        y, mu, lv = net.apply(p, x, key)
        kl = -0.5 * jnp.sum(1 + lv - mu**2 - jnp.exp(lv), -1)
        return jnp.mean((y - x) ** 2) + jnp.mean(kl)

    @jax.jit
    def step(p, s, key):
        value, g = jax.value_and_grad(loss)(p, key)
        u, s = tx.update(g, s)
        return optax.apply_updates(p, u), s, value

    return step, (params, tx.init(params), jax.random.key(2))


@case(
    title="hand-written dropout with keep probability 0: fine forward, 0/0 backward",
    source="dropout rate 1.0 edge case (Keras/Flax special-case it)",
    primitive="div",
    mechanism="0/0",
    phase="backward",
    first_inf="div",
    module="Net/Drop_0",
)
def dropout_keep_zero() -> Built:
    class Drop(nn.Module):
        keep: float

        @nn.compact
        def __call__(self, x):
            m = jax.random.bernoulli(self.make_rng("dropout"), self.keep, x.shape)
            return jnp.where(m, x / jnp.asarray(self.keep), 0.0)  # <-- culprit

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(1)(Drop(0.0)(nn.Dense(8)(x)))

    net = Net()
    x = normal(59, 3, 4) + 0.1
    key = jax.random.key(7)
    params = initial(net, {"params": jax.random.key(0), "dropout": key}, x)

    def loss(p, k):
        return jnp.sum(
            net.apply(p, x, rngs={"dropout": k}) ** 2 + net.apply(p, x, rngs={"dropout": k})
        )

    return jax.jit(jax.value_and_grad(loss)), (params, key)


CASES = (
    sac_log1m_tanh2,
    ppo_ratio_overflow,
    box_muller_u0,
    vae_logvar_overflow,
    dropout_keep_zero,
)
