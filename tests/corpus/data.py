"""Data and indices that are bad when they come, and collectives over them."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from corpus.case import Built, case, initial, normal


@case(
    title="NaN-coded missing targets masked with where after the residual",
    source="jax-ml/jax#9040; time-series imputation losses",
    primitive=None,
    mechanism="input",
    phase="backward",
    note=(
        "no primitive emits it: the NaN enters with the data, survives in the residual pred-y and"
        " comes back in the backward pass as 0*NaN although the loss value is finite"
    ),
)
def masked_nan_targets() -> Built:
    net, tx = nn.Dense(2), optax.adam(1e-3)
    x = normal(60, 5, 3)
    y = normal(61, 5, 2).at[1, 0].set(jnp.nan)
    params = initial(net, jax.random.PRNGKey(0), x)

    def loss(p, x, y):
        err = net.apply(p, x) - y
        sq = err**2  # <-- culprit
        return jnp.sum(jnp.where(jnp.isnan(y), 0.0, sq)) / 9.0

    @jax.jit
    def step(p, s, x, y):
        value, g = jax.value_and_grad(loss)(p, x, y)
        u, s = tx.update(g, s)
        return optax.apply_updates(p, u), s, value

    return step, (params, tx.init(params), x, y)


@case(
    title="flax Embed with a token id beyond the vocabulary: gather fills with NaN",
    source="tensorflow/tfjs#705 class; jnp.take default mode='fill' returns NaN",
    primitive="gather",
    mechanism="fill",
    phase="forward",
    module="LM/emb",
    also=("select_n",),
)
def embedding_out_of_range() -> Built:
    class LM(nn.Module):
        @nn.compact
        def __call__(self, ids):
            h = nn.Embed(10, 6, name="emb")(ids)  # <-- culprit
            h = nn.gelu(nn.Dense(12)(h))
            return nn.Dense(10)(h)

    net, tx = LM(), optax.adamw(1e-3)
    ids = jnp.array([[1, 2, 3, 9], [4, 10, 0, 2]])
    params = initial(net, jax.random.PRNGKey(0), ids)

    def loss(p):
        lg = net.apply(p, ids[:, :-1])
        return optax.softmax_cross_entropy_with_integer_labels(
            lg, jnp.clip(ids[:, 1:], 0, 9)
        ).mean()

    @jax.jit
    def step(p, s):
        value, g = jax.value_and_grad(loss)(p)
        u, s = tx.update(g, s, p)
        return optax.apply_updates(p, u), s, value

    return step, (params, tx.init(params))


@case(
    title="a harmless NaN in an unselected branch precedes the real one",
    source="jax-ml/jax#5698 (spurious NaNs reported by debug_nans)",
    primitive="mul",
    decoy="log",
    causal_inf="div",
    mechanism="0*inf",
    phase="backward",
    note=(
        "first in time: log(negative) in a dropped branch, whose gradient is cut by "
        "stop_gradient; the NaN of the gradient comes from sqrt(0) two lines below"
    ),
)
def decoy_then_real() -> Built:
    @jax.jit
    def f(x, w):
        c = lax.stop_gradient(x)
        gate = jnp.where(c > 0, jnp.log(c), 0.0)  # <-- decoy
        r = jnp.sum(w * w)  # <-- culprit
        scale = jnp.sqrt(r)
        return jnp.sum(gate) + jnp.sum(x) * scale

    def g(x, w):
        return jax.grad(f, argnums=1)(x, w)

    return g, (jnp.array([1.0, 0.0, -2.0]), jnp.zeros(2))


@case(
    title="shard_map data-parallel loss: psum of an empty mask, 0/0 after the collective",
    source="data-parallel masked losses (per-replica empty batches)",
    primitive="div",
    mechanism="0/0",
    phase="forward",
    note="one-device mesh so that it runs anywhere",
)
def shard_map_masked_mean() -> Built:
    from jax.sharding import Mesh
    from jax.sharding import PartitionSpec as P

    mesh = Mesh(np.array(jax.devices()[:1]), ("dp",))

    def local(w, x, m):
        e = (x @ w) ** 2
        num, den = lax.psum(jnp.sum(e * m), "dp"), lax.psum(jnp.sum(m), "dp")
        return num / den  # <-- culprit

    f = jax.shard_map(local, mesh=mesh, in_specs=(P(), P("dp"), P("dp")), out_specs=P())
    return jax.jit(jax.value_and_grad(f)), (jnp.ones(3), normal(77, 4, 3), jnp.zeros(4))


@case(
    title="largest score per node, a node without edges: the fill stays",
    source="segment_max of an empty segment (class)",
    origin="constant",
    mechanism="constant",
    phase="forward",
)
def empty_segment_maximum() -> Built:
    def best(scores, nodes):
        return jax.ops.segment_max(scores, nodes, 3)  # <-- origin

    return jax.jit(best), (jnp.array([0.5, 0.1, 0.7]), jnp.array([0, 2, 2]))


CASES = (
    masked_nan_targets,
    embedding_out_of_range,
    decoy_then_real,
    shard_map_masked_mean,
    empty_segment_maximum,
)
