"""The update: optimizers, schedules, loss scaling, learning rates that are too high."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import lax

from corpus.case import Built, case, f32, initial, normal


@case(
    title="optax.adam on float16 embeddings: eps=1e-8 is 0 in fp16, unused rows are 0/0",
    source="google-deepmind/optax#1754",
    primitive="div",
    mechanism="0/0",
    phase="update",
)
def adam_fp16_unused_row() -> Built:
    class Bag(nn.Module):
        @nn.compact
        def __call__(self, ids):
            e = nn.Embed(6, 4, dtype=jnp.float16, param_dtype=jnp.float16)(ids)
            return nn.Dense(1, dtype=jnp.float16, param_dtype=jnp.float16)(e.mean(1))[:, 0]

    net, tx = Bag(), optax.adam(1e-3)
    ids = jnp.array([[0, 1, 2], [2, 3, 1]])
    params = initial(net, jax.random.PRNGKey(0), ids)

    def loss(p):
        return jnp.mean((net.apply(p, ids) - jnp.float16(1)) ** 2)

    @jax.jit
    def step(p, s):
        value, g = jax.value_and_grad(loss)(p)
        u, s = tx.update(g, s, p)  # <-- culprit
        return optax.apply_updates(p, u), s, value

    return step, (params, tx.init(params))


@case(
    title="optax.clip_by_global_norm(0.0) on zero gradients",
    source="google-deepmind/optax#1752",
    primitive="div",
    mechanism="0/0",
    phase="update",
)
def clip_norm_zero_max() -> Built:
    tx = optax.chain(optax.clip_by_global_norm(0.0), optax.sgd(0.1))
    params = {"w": jnp.ones(3)}

    @jax.jit
    def step(p, s):
        g = jax.grad(lambda q: jnp.sum(0.0 * q["w"]))(p)
        u, s = tx.update(g, s, p)  # <-- culprit
        return optax.apply_updates(p, u), s

    return step, (params, tx.init(params))


@case(
    title="optax.adafactor in float16: eps 1e-30 underflows, factored rms is 0/0",
    source="google-deepmind/optax#1754/#1789 class (factored variant)",
    primitive="div",
    mechanism="0/0",
    phase="update",
    also=("pow",),
)
def adafactor_fp16_zero_grad() -> Built:
    tx = optax.adafactor(1e-3, min_dim_size_to_factor=4)
    params = {"w": normal(35, 4, 4, dtype=jnp.float16)}

    def loss(p, x):
        return jnp.mean(jax.nn.relu(x @ p["w"] - jnp.float16(100)))

    @jax.jit
    def step(p, s, x):
        g = jax.grad(loss)(p, x)
        u, s = tx.update(g, s, p)  # <-- culprit
        return optax.apply_updates(p, u), s

    return step, (params, tx.init(params), normal(36, 3, 4, dtype=jnp.float16))


@case(
    title="hand-written LAMB: trust ratio |w|/|u| of a zero-initialised bias with zero update",
    source="stockeh/mlx-optimizers#36; mosaicml/composer#967",
    primitive="div",
    mechanism="0/0",
    phase="update",
)
def lamb_trust_ratio() -> Built:
    def lamb(p, g):
        u = g / (jnp.sqrt(g * g) + 1e-6)
        ratio = jnp.linalg.norm(p) / jnp.linalg.norm(u)  # <-- culprit
        return p - 1e-2 * ratio * u

    params = {"w": normal(37, 3, 4), "b": jnp.zeros(4)}
    x = normal(38, 5, 3)

    @jax.jit
    def step(p):
        g = jax.grad(lambda q: jnp.mean((x @ q["w"]) ** 2) + 0.0 * jnp.sum(q["b"]))(p)
        return jax.tree.map(lamb, p, g)

    return step, (params,)


@case(
    title="dynamic loss scale keeps growing until the scale itself is inf",
    source="google/flax#2547",
    primitive="mul",
    mechanism="0*inf",
    phase="update",
    first_inf="mul",
    iterations=(34,),
    note=(
        "scale 2^16 * 10^k overflows float32 in step 33 (it becomes inf for step 34); the scaled "
        "loss and its gradient are inf in step 34 and inf * (1/inf) is NaN"
    ),
)
def dynamic_scale_to_inf() -> Built:
    def train(x0):
        def step(c, _):
            x, scale = c
            g = jax.grad(lambda q: q * scale)(x)
            g = g * (1.0 / scale)  # <-- culprit
            return (x - 1e-3 * g, scale * 10.0), g

        return lax.scan(step, (x0, f32(65536.0)), None, length=40)

    return jax.jit(train), (f32(1.0),)


@case(
    title="gradient descent on unnormalised features: diverges, then inf-inf",
    source="austineaero/Remaining-Useful-Life-RUL-Estimation#19 class (unscaled features)",
    primitive="sub",
    mechanism="inf-inf",
    phase="update",
    first_inf="mul",
    causal_inf="dot_general",
    iterations=(17,),
    also=("dot_general", "add", "mul"),
    note="the first inf is the squared residual (loss only) at step 9; the weights follow later",
)
def sgd_lr_too_high() -> Built:
    x = jnp.abs(normal(43, 6, 2)) * 100.0
    y = normal(44, 6)

    def loss(w):
        r = x @ w - y
        return jnp.mean(r * r)

    def train(w0):
        def step(w, _):
            value, g = jax.value_and_grad(loss)(w)
            w = w - 0.01 * g  # <-- culprit
            return w, value

        return lax.scan(step, w0, None, length=60)

    return jax.jit(train), (jnp.zeros(2),)


@case(
    title="lax.switch selects a decay branch that divides by (total-warmup)=0",
    source="LR schedules with warmup_steps == total_steps (optax users)",
    primitive="div",
    mechanism="0/0",
    phase="update",
    also_phases=("forward",),
)
def switch_schedule_branch() -> Built:
    def constant(t, w, n):
        return f32(1e-3)

    def cosine(t, w, n):
        frac = (t - w) / (n - w)  # <-- culprit
        return 1e-3 * 0.5 * (1.0 + jnp.cos(jnp.pi * frac))

    @jax.jit
    def lr(kind, t, w, n):
        return lax.switch(kind, [constant, cosine, lambda t, w, n: 1e-3 / (1.0 + t)], t, w, n)

    return lr, (jnp.int32(1), f32(100.0), f32(100.0), f32(100.0))


@case(
    title="a static loss scale: the loss is finite, its float16 gradient is not",
    source="NVIDIA/apex#318 (gradient overflow)",
    origin="convert_element_type",
    mechanism="overflow",
    phase="backward",
)
def loss_scale_too_large() -> Built:
    def scaled(w, x):
        h = (x @ w).astype(jnp.float32)  # <-- origin
        return jnp.sum(h) * 2.0**17

    w = jnp.full((2, 3), 1e-3, jnp.float16)
    return jax.jit(jax.value_and_grad(scaled)), (w, jnp.ones((4, 2), jnp.float16))


@case(
    title="Adam's second moment of one huge gradient: the step is zero from then on",
    source="second moments that overflow after a gradient spike (class)",
    origin="integer_pow",
    mechanism="overflow",
    phase="update",
    note="the parameters stay finite: only the optimizer's state is inf",
)
def adam_moment_overflow() -> Built:
    tx = optax.adam(1e-3)

    def loss(w, x):
        return jnp.sum(x @ w)

    @jax.jit
    def step(w, state, x):
        value, gradient = jax.value_and_grad(loss)(w, x)
        updates, state = tx.update(gradient, state, w)  # <-- origin
        return optax.apply_updates(w, updates), state, value

    w = jnp.ones(3) * 1e-3
    return step, (w, tx.init(w), normal(83, 4, 3).at[2, 1].set(1e21))


@case(
    title="a learning rate in the wrong unit: the update leaves the range",
    source="sgd with an unclipped gradient and a huge step (class)",
    origin="mul",
    mechanism="overflow",
    phase="update",
)
def sgd_update_overflow() -> Built:
    @jax.jit
    def step(w, x):
        gradient = jax.grad(lambda v: jnp.sum((x @ v) ** 2))(w)
        return jax.tree.map(lambda p, g: p - 1e25 * g, w, gradient)  # <-- origin

    return step, (jnp.ones(3), 1e7 * jnp.abs(normal(84, 4, 3)))


@case(
    title="gradient norm reported before clipping: its squares overflow",
    source="global norms of spiking gradients (class)",
    origin="reduce_sum",
    mechanism="overflow",
    phase="forward",
    note="the clipped gradient is finite: it is divided by inf",
)
def global_norm_overflow() -> Built:
    @jax.jit
    def clip(gradients):
        norm = optax.tree.norm(gradients)  # <-- origin
        return jax.tree.map(lambda g: g / jnp.maximum(norm, 1.0), gradients), norm

    return clip, ({"w": jnp.full((4, 4), 1e19), "b": jnp.ones(4)},)


CASES = (
    adam_fp16_unused_row,
    clip_norm_zero_max,
    adafactor_fp16_zero_grad,
    lamb_trust_ratio,
    dynamic_scale_to_inf,
    sgd_lr_too_high,
    switch_schedule_branch,
    loss_scale_too_large,
    adam_moment_overflow,
    sgd_update_overflow,
    global_norm_overflow,
)
