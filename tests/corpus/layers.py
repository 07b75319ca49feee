"""Normalization layers and losses without an epsilon, or with it in the wrong place."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import lax

from corpus.case import Built, case, initial, normal


@case(
    title="LayerNorm without eps on an all-zero padding token inside remat",
    source="DeepStability class; patrick-kidger/equinox#314",
    primitive="mul",
    mechanism="0*inf",
    phase="forward",
    first_inf="rsqrt",
    module="Net/CheckpointBlock_0/LN_0",
)
def layernorm_no_eps() -> Built:
    class LN(nn.Module):
        @nn.compact
        def __call__(self, x):
            c = x - x.mean(-1, keepdims=True)
            return c * lax.rsqrt((c * c).mean(-1, keepdims=True))  # <-- culprit

    class Block(nn.Module):
        @nn.compact
        def __call__(self, x):
            return x + nn.Dense(6, use_bias=False)(nn.gelu(nn.Dense(12)(LN()(x))))

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            for _ in range(2):
                x = nn.remat(Block)()(x)
            return x

    net = Net()
    x = normal(19, 4, 6).at[3].set(0.0)
    params = initial(net, jax.random.PRNGKey(0), x)
    return jax.value_and_grad(lambda p: jnp.sum(net.apply(p, x)[:3] ** 2)), (params,)


@case(
    title="eps added to std (outside the sqrt): forward fine, gradient NaN at zero variance",
    source="pytorch/pytorch#4320; FluxML/Flux.jl#448 (eps in or out of the sqrt)",
    primitive="mul",
    mechanism="0*inf",
    phase="backward",
    first_inf="div",
    module="MLP/StdNorm_0",
)
def layernorm_eps_outside() -> Built:
    class StdNorm(nn.Module):
        @nn.compact
        def __call__(self, x):
            m = x.mean(-1, keepdims=True)
            s = jnp.std(x, -1, keepdims=True)  # <-- culprit
            return (x - m) / (s + 1e-5)

    class MLP(nn.Module):
        @nn.compact
        def __call__(self, x):
            h = nn.Dense(8)(x)
            return nn.Dense(1)(nn.relu(StdNorm()(h)))[:, 0]

    net, tx = MLP(), optax.adam(1e-3)
    x, y = normal(20, 6, 4).at[2].set(0.0), normal(21, 6)
    params = initial(net, jax.random.PRNGKey(0), x)

    def loss(p):
        return jnp.mean((net.apply(p, x) - y) ** 2)

    @jax.jit
    def step(p, s):
        value, g = jax.value_and_grad(loss)(p)
        u, s = tx.update(g, s)
        return optax.apply_updates(p, u), s, value

    return step, (params, tx.init(params))


@case(
    title="RMSNorm in float16 with eps=1e-8 (underflows to 0) on a zero token",
    source="google-deepmind/optax#1754 (same underflow), T5/LLaMA fp16 norms",
    primitive="mul",
    mechanism="0*inf",
    phase="forward",
    first_inf="rsqrt",
)
def rmsnorm_fp16_eps_underflow() -> Built:
    @jax.jit
    def rmsnorm(x, g):
        ms = jnp.mean(x * x, -1, keepdims=True)
        inv = lax.rsqrt(ms + 1e-8)
        return x * inv * g  # <-- culprit

    x = normal(22, 3, 8, dtype=jnp.float16).at[1].set(0)
    return rmsnorm, (x, jnp.ones(8, jnp.float16))


@case(
    title="weight normalisation of a kernel with an all-zero column",
    source="google/flax#1671",
    primitive="div",
    mechanism="0/0",
    phase="forward",
    first_inf="div",
    module="Net/WN_0",
    note="the inf is 0.5/sqrt(0) in the residual of the norm's derivative, before the division",
)
def weight_norm_zero_column() -> Built:
    class WN(nn.Module):
        n: int

        @nn.compact
        def __call__(self, x):
            v = self.param(
                "v",
                lambda k, s: nn.initializers.lecun_normal()(k, s).at[:, 1].set(0.0),
                (x.shape[-1], self.n),
            )
            g = self.param("g", nn.initializers.ones, (self.n,))
            w = g * (v / jnp.linalg.norm(v, axis=0))  # <-- culprit
            return x @ w

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(1)(nn.relu(WN(5)(x)))

    net = Net()
    x = normal(23, 3, 4)
    params = initial(net, jax.random.PRNGKey(0), x)
    return jax.value_and_grad(lambda p: net.apply(p, x).sum()), (params,)


@case(
    title="Dice loss without smoothing: empty mask and empty prediction",
    source="segmentation Dice-loss reports (no smooth term)",
    primitive="div",
    mechanism="0/0",
    phase="forward",
)
def dice_empty_mask() -> Built:
    class Seg(nn.Module):
        @nn.compact
        def __call__(self, x):
            h = nn.relu(nn.Conv(4, (3, 3))(x))
            return nn.relu(nn.Conv(1, (1, 1), bias_init=nn.initializers.constant(-1e3))(h))[..., 0]

    net, tx = Seg(), optax.adam(1e-3)
    x, m = normal(28, 2, 6, 6, 1), jnp.zeros((2, 6, 6))
    params = initial(net, jax.random.PRNGKey(0), x)

    def loss(p):
        y = net.apply(p, x)
        inter, tot = jnp.sum(y * m, (1, 2)), jnp.sum(y + m, (1, 2))
        return jnp.mean(1.0 - 2.0 * inter / tot)  # <-- culprit

    @jax.jit
    def step(p, s):
        value, g = jax.value_and_grad(loss)(p)
        u, s = tx.update(g, s)
        return optax.apply_updates(p, u), s, value

    return step, (params, tx.init(params))


@case(
    title="running variance with n/(n-1) correction at batch size 1: 0*inf",
    source="BatchNorm unbiased running variance with one sample (torch/haiku class)",
    primitive="mul",
    mechanism="0*inf",
    phase="forward",
    first_inf="div",
    module="RunBN",
    also_phases=("update",),
)
def batchnorm_batch1_unbiased() -> Built:
    class RunBN(nn.Module):
        @nn.compact
        def __call__(self, x):
            ra = self.variable("batch_stats", "var", jnp.ones, (x.shape[-1],))
            m = x.mean(0)
            v = ((x - m) ** 2).mean(0)
            n = jnp.asarray(x.shape[0], x.dtype)
            unbiased = v * (n / (n - 1.0))  # <-- culprit
            ra.value = 0.9 * ra.value + 0.1 * unbiased
            return (x - m) * lax.rsqrt(v + 1e-5)

    net = RunBN()
    x = normal(29, 1, 4)
    vs = {"batch_stats": {"var": jnp.ones(4)}}
    return jax.jit(partial(net.apply, mutable=["batch_stats"])), (vs, x)


CASES = (
    layernorm_no_eps,
    layernorm_eps_outside,
    rmsnorm_fp16_eps_underflow,
    weight_norm_zero_column,
    dice_empty_mask,
    batchnorm_batch1_unbiased,
)
