"""Programs that have a NaN or an inf and no fault: a detective that blames a line here is wrong."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import lax

from corpus.case import Built, case, f32, initial, normal


@case(
    title="inf * bool-mask.astype(float): NaN op by op, none once compiled",
    source="control; same source as segment_softmax_masked (deepmodeling/deepmd-kit#5717)",
    decoy="mul",
    first_inf="exp",
    reaches_output=True,
    rewritten_away=True,
    note=(
        "XLA rewrites x*convert(pred) to select(pred, x, 0): an op-by-op replay reports a NaN "
        "which the compiled program never has; a tool should say so instead of blaming this line"
    ),
)
def ctl_xla_mask_to_select() -> Built:
    @jax.jit
    def seg_softmax(data, seg, mask):
        m = jax.ops.segment_max(jnp.where(mask, data, -1e9), seg, 2)
        e = jnp.exp(data - m[seg])
        e = e * mask.astype(e.dtype)  # <-- decoy
        z = jax.ops.segment_sum(e, seg, 2)
        return e / z[seg]

    return seg_softmax, (
        jnp.array([0.1, 0.3, 200.0, 1.0]),
        jnp.array([0, 0, 0, 1]),
        jnp.array([True, True, False, True]),
    )


@case(
    title="healthy flax MLP + Adam train step",
    source="control",
)
def ctl_healthy_mlp_step() -> Built:
    class MLP(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3)(nn.LayerNorm()(nn.relu(nn.Dense(16)(x))))

    net, tx = MLP(), optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3))
    x, y = normal(70, 8, 5), jnp.arange(8) % 3
    params = initial(net, jax.random.PRNGKey(0), x)

    @jax.jit
    def step(p, s):
        value, g = jax.value_and_grad(
            lambda q: optax.softmax_cross_entropy_with_integer_labels(net.apply(q, x), y).mean()
        )(p)
        u, s = tx.update(g, s, p)
        return optax.apply_updates(p, u), s, value

    return step, (params, tx.init(params))


@case(
    title="causal attention with -inf mask, no row fully masked, gradient",
    source="control",
)
def ctl_causal_mask_inf() -> Built:
    @jax.jit
    def loss(q, k, v):
        s = q @ k.T / 2.0
        s = jnp.where(jnp.tril(jnp.ones(s.shape, bool)), s, -jnp.inf)
        return jnp.sum((jax.nn.softmax(s) @ v) ** 2)

    return jax.grad(loss), (normal(71, 5, 4), normal(72, 5, 4), normal(73, 5, 4))


@case(
    title="an inner jitted function returns a NaN that the caller ignores",
    source="control",
    decoy="log",
)
def ctl_nan_unused_inner_output() -> Built:
    @jax.jit
    def stats(x):
        bad = jnp.log(-jnp.abs(x) - 1.0)  # <-- decoy
        return x * 2.0, bad

    def f(x):
        y, _ = stats(x)
        return y + 1.0

    return f, (jnp.array([1.0, 2.0]),)


@case(
    title="NaN already in the batch, propagates to the loss",
    source="control (bad data)",
    mechanism="input",
    reaches_output=True,
)
def ctl_nan_input_propagates() -> Built:
    net = nn.Dense(4)
    x = normal(74, 3, 5).at[1, 2].set(jnp.nan)
    params = initial(net, jax.random.PRNGKey(0), x)
    return jax.jit(lambda p, x: jnp.mean(net.apply(p, x) ** 2)), (params, x)


@case(
    title="jnp.nanmean over data with NaN markers",
    source="control",
)
def ctl_nanmean() -> Built:
    def f(x):
        return jnp.nanmean(x, axis=0)

    return f, (jnp.array([[1.0, jnp.nan], [3.0, 4.0]]),)


@case(
    title="lax.cond whose other branch would divide 0 by 0",
    source="control",
)
def ctl_cond_unsafe_not_taken() -> Built:
    @jax.jit
    def f(x):
        return lax.cond(x == 0.0, lambda v: v, lambda v: jnp.sin(v) / v, x)

    return jax.grad(f), (f32(0.0),)


@case(
    title="buffer created with NaN on purpose, fully overwritten in a scan",
    source="control",
)
def ctl_nan_filled_buffer() -> Built:
    @jax.jit
    def f(xs):
        buf = jnp.full((4,), jnp.nan)

        def body(b, ix):
            i, x = ix
            return b.at[i].set(x), None

        return lax.scan(body, buf, (jnp.arange(4), xs))[0]

    return f, (jnp.arange(4.0),)


@case(
    title="forward-mode derivative through the where trap is fine (reverse mode is not)",
    source="control; jax-ml/jax#654 (jacfwd differs from jacrev)",
    first_inf="div",
)
def ctl_jacfwd_where() -> Built:
    def f(x):
        return jnp.where(x > 0, jnp.sqrt(x), 0.0)

    return jax.jacfwd(f), (f32(0.0),)


@case(
    title="control: a naive sigmoid of a very negative logit is 1/inf, which is right",
    source="control; pytorch/pytorch#2211",
    first_inf="exp",
)
def ctl_one_over_inf() -> Built:
    def sigmoid(x):
        return 1.0 / (1.0 + jnp.exp(-x))

    return jax.jit(sigmoid), (jnp.array([-200.0, 0.0, 3.0]),)


@case(
    title="control: distances filled with inf before the nearest is taken",
    source="control; nearest neighbours that leave the point itself out",
)
def ctl_inf_in_minimum() -> Built:
    @jax.jit
    def nearest(points):
        gaps = jnp.abs(points[:, None] - points[None])
        return jnp.min(jnp.where(jnp.eye(points.size, dtype=bool), jnp.inf, gaps), axis=1)

    return nearest, (jnp.array([0.0, 1.0, 4.0]),)


CASES = (
    ctl_xla_mask_to_select,
    ctl_healthy_mlp_step,
    ctl_causal_mask_inf,
    ctl_nan_unused_inner_output,
    ctl_nan_input_propagates,
    ctl_nanmean,
    ctl_cond_unsafe_not_taken,
    ctl_nan_filled_buffer,
    ctl_jacfwd_where,
    ctl_one_over_inf,
    ctl_inf_in_minimum,
)
