"""Logarithms: entropies, likelihoods, recursions in log space."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import lax

from corpus.case import Built, case, f32, initial, normal


@case(
    title="KL against a distribution with a masked (-inf) logit and a zero target there",
    source="google-deepmind/optax#1786 (second case)",
    primitive="mul",
    mechanism="0*inf",
    phase="forward",
    first_inf="log",
    causal_inf="constant",
    note=(
        "the -inf that matters is the mask constant; log(0) of the guarded target is an earlier, "
        "harmless inf"
    ),
)
def kl_masked_logit() -> Built:
    def loss(logits, t):
        logits = jnp.where(t > 0, logits, -jnp.inf)
        lp = jax.nn.log_softmax(logits)
        return optax.kl_divergence(lp, t)  # <-- culprit

    return loss, (jnp.array([0.5, 1.0, 2.0, -1.0]), jnp.array([0.0, 0.4, 0.6, 0.0]))


@case(
    title="policy entropy with illegal actions masked by -inf",
    source="masked-action policies; same mechanism as google-deepmind/optax#1786",
    primitive="mul",
    mechanism="0*inf",
    phase="forward",
    causal_inf="constant",
)
def rl_masked_entropy() -> Built:
    class Policy(nn.Module):
        @nn.compact
        def __call__(self, obs, legal):
            h = nn.relu(nn.Dense(16)(obs))
            return jnp.where(legal, nn.Dense(4)(h), -jnp.inf)

    net, tx = Policy(), optax.adam(3e-4)
    obs = normal(6, 5, 8)
    legal = jnp.array([[1, 1, 0, 1]] * 5, bool)
    params = initial(net, jax.random.PRNGKey(0), obs, legal)

    def loss(p):
        logp = jax.nn.log_softmax(net.apply(p, obs, legal))
        ent = -jnp.sum(jnp.exp(logp) * logp, -1)  # <-- culprit
        return -jnp.mean(logp[:, 0]) - 0.01 * jnp.mean(ent)

    @jax.jit
    def step(p, s):
        value, g = jax.value_and_grad(loss)(p)
        u, s = tx.update(g, s)
        return optax.apply_updates(p, u), s, value

    return step, (params, tx.init(params))


@case(
    title="sigmoid then log: (1-y)*log(1-p) with p rounded to 1",
    source="keras-team/keras#9247; pkmital/CADL#75",
    primitive="mul",
    mechanism="0*inf",
    phase="forward",
    first_inf="log",
)
def bce_naive() -> Built:
    @jax.jit
    def bce(logit, y):
        p = jax.nn.sigmoid(logit)
        neg = (1.0 - y) * jnp.log(1.0 - p)  # <-- culprit
        return -jnp.mean(y * jnp.log(p) + neg)

    return bce, (jnp.array([2.0, 25.0]), jnp.array([0.0, 1.0]))


@case(
    title="flax classifier in bfloat16: p rounds to 1 in bf16, finite in float32",
    source="google/flax#677",
    primitive="mul",
    mechanism="0*inf",
    phase="forward",
    first_inf="log",
)
def bf16_bce() -> Built:
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.Dense(8, dtype=jnp.bfloat16)(x))
            return nn.Dense(1, dtype=jnp.bfloat16, kernel_init=nn.initializers.constant(1.0))(x)[
                :, 0
            ]

    net, tx = Net(), optax.sgd(0.1)
    x, y = jnp.abs(normal(7, 6, 4, scale=3.0)), jnp.ones(6, jnp.bfloat16)
    params = initial(net, jax.random.PRNGKey(3), x)

    def loss(p):
        q = jax.nn.sigmoid(net.apply(p, x))
        neg = (1 - y) * jnp.log(1 - q)  # <-- culprit
        return -jnp.mean((y * jnp.log(q) + neg).astype(f32))

    @jax.jit
    def step(p, s):
        value, g = jax.value_and_grad(loss)(p)
        u, s = tx.update(g, s)
        return optax.apply_updates(p, u), s, value

    return step, (params, tx.init(params))


@case(
    title="gradient of logsumexp over entries that are all -inf",
    source="jax-ml/jax#6811; pytorch/pytorch#31829",
    primitive="mul",
    mechanism="0*inf",
    phase="backward",
    first_inf="log",
    causal_inf="div",
)
def logsumexp_all_neginf() -> Built:
    def f(x):
        a = jnp.stack([-jnp.inf, -jnp.inf + x])
        return jax.nn.logsumexp(a)  # <-- culprit

    return jax.grad(f), (f32(1.0),)


@case(
    title="HMM/CTC forward recursion in log space: a state becomes unreachable at t=3",
    source="pytorch/pytorch#31829; jax-ml/jax#6811 (CTC)",
    primitive="div",
    mechanism="0/0",
    phase="backward",
    first_inf="log",
    causal_inf="div",
    iterations=(3,),
    note="reverse scan: t=5, t=4 are clean, the transpose of logsumexp at t=3 divides 0 by 0",
)
def hmm_forward_blocked() -> Built:
    T, S = 6, 3
    blocked = jnp.zeros((T, S, S), bool).at[3, :, 1].set(True)

    def loss(logA):
        def stepf(alpha, blk):
            trans = jnp.where(blk, -jnp.inf, logA)
            nxt = alpha[:, None] + trans
            out = jax.nn.logsumexp(nxt, axis=0)  # <-- culprit
            return out, None

        alpha, _ = lax.scan(stepf, jnp.zeros(S), blocked)
        return -jax.nn.logsumexp(alpha)

    return jax.jit(jax.grad(loss)), (normal(9, S, S),)


@case(
    title="GAN generator loss log(1 - sigmoid(D)) with a confident discriminator",
    source="GRIST/RANUM benchmark class log(1-sigmoid) (DCGAN programs)",
    primitive="mul",
    mechanism="0*inf",
    phase="backward",
    first_inf="log",
    causal_inf="div",
)
def gan_saturated() -> Built:
    class G(nn.Module):
        @nn.compact
        def __call__(self, z):
            return nn.Dense(6)(nn.relu(nn.Dense(12)(z)))

    class D(nn.Module):
        @nn.compact
        def __call__(self, x):
            h = nn.relu(nn.Dense(12)(x))
            return nn.Dense(1, bias_init=nn.initializers.constant(60.0))(h)[:, 0]

    g, d, tx = G(), D(), optax.adam(1e-3)
    z = normal(11, 7, 3)
    pg = initial(g, jax.random.PRNGKey(0), z)
    pd = initial(d, jax.random.PRNGKey(1), jnp.zeros((7, 6)))

    def loss(pg, pd):
        score = jax.nn.sigmoid(d.apply(pd, g.apply(pg, z)))  # <-- culprit
        return jnp.mean(jnp.log(1.0 - score))

    @jax.jit
    def step(pg, pd, s):
        value, gr = jax.value_and_grad(loss)(pg, pd)
        u, s = tx.update(gr, s)
        return optax.apply_updates(pg, u), s, value

    return step, (pg, pd, tx.init(pg))


@case(
    title="log-spectrogram of a silent clip, then mean normalisation",
    source="speech front-ends without an energy floor (GRIST class log)",
    primitive="sub",
    mechanism="inf-inf",
    phase="forward",
    first_inf="log",
    lane=1,
)
def logmel_silence() -> Built:
    def features(wave):
        frames = wave.reshape(4, 32)
        power = jnp.abs(jnp.fft.rfft(frames)) ** 2
        logp = jnp.log(power)
        centred = logp - jnp.mean(logp, axis=0)  # <-- culprit
        return centred / 3.0

    waves = jnp.stack([normal(12, 128), jnp.zeros(128)])
    return jax.vmap(features), (waves,)


@case(
    title="cumprod written as exp(cumsum(log x)) with a zero in x, gradient",
    source="jax-ml/jax#2542 (the workaround used there)",
    primitive="div",
    mechanism="0/0",
    phase="backward",
    first_inf="log",
    causal_inf="div",
)
def cumprod_via_logs() -> Built:
    def f(x):
        logs = jnp.log(x)  # <-- culprit
        return jnp.sum(jnp.exp(jnp.cumsum(logs)))

    return jax.grad(f), (jnp.array([1.0, 0.0, 2.0]),)


@case(
    title="a guarded softplus whose unused branch is inf, then a real division by zero",
    source="pytorch/pytorch#2211 (log sigmoid without log-sum-exp)",
    origin="div",
    mechanism="pole",
    phase="forward",
    first_inf="exp",
)
def guarded_softplus_then_pole() -> Built:
    @jax.jit
    def rate(x, exposure):
        soft = jnp.where(x > 20.0, x, jnp.log1p(jnp.exp(x)))
        return soft / exposure  # <-- origin

    return rate, (jnp.array([100.0, 1.0]), jnp.array([2.0, 0.0]))


CASES = (
    kl_masked_logit,
    rl_masked_entropy,
    bce_naive,
    bf16_bce,
    logsumexp_all_neginf,
    hmm_forward_blocked,
    gan_saturated,
    logmel_silence,
    cumprod_via_logs,
    guarded_softplus_then_pole,
)
