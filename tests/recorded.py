"""Trainings of every kind for the recorder: each takes a `watch`, and batches of 8 numbers.

A batch with a negative number makes `sqrt` return a NaN, in the gradient as in the loss.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from flax.training.train_state import TrainState

FIRST = np.linspace(0.5, 1.5, 8, dtype=np.float32)


def batch_of(t: int) -> np.ndarray:
    return np.random.default_rng(t).uniform(0.5, 1.5, 8).astype(np.float32)


def loss_of(w: Any, batch: Any) -> Any:
    return jnp.mean(jnp.sqrt(batch * w["a"]) + w["b"] ** 2)  # <-- culprit


def params() -> Any:
    return {"a": jnp.linspace(1.0, 2.0, 8, dtype=jnp.float32), "b": jnp.float32(0.5)}


@dataclass
class Training:
    """`advance(batch)` makes a step; `state()` is the state as it is."""

    advance: Callable[[Any], Any]
    state: Callable[[], Any]


def on_device(batch: np.ndarray) -> Any:
    return jnp.asarray(batch.copy())  # JAX may read, or use, the loader's memory later


def single(watch, donate=(0,), wrap=lambda x: x):
    optimizer = optax.adam(1e-2)

    def step(state, batch):
        w, inner = state
        loss, g = jax.value_and_grad(loss_of)(w, batch)
        updates, inner = optimizer.update(g, inner, w)
        return (optax.apply_updates(w, updates), inner), {"loss": loss, "norm": optax.tree.norm(g)}

    f = watch(jax.jit(step, donate_argnums=donate))
    held = [(params(), optimizer.init(params()))]

    def advance(batch):
        held[0], metrics = f(held[0], wrap(batch))
        return metrics["loss"]

    return Training(advance, lambda: held[0])


def two_functions(watch):
    grad = watch(jax.jit(jax.value_and_grad(loss_of)))
    optimizer = optax.adam(1e-2)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def apply(w, inner, g):
        updates, inner = optimizer.update(g, inner, w)
        return optax.apply_updates(w, updates), inner

    apply = watch(apply)
    held = [params(), optimizer.init(params())]

    def advance(batch):
        loss, g = grad(held[0], batch)
        held[:] = apply(*held, g)
        return loss

    return Training(advance, lambda: held)


def accumulating(watch):
    """Gradients of two halves of a batch are added on the host, by eager operations."""
    grad = watch(jax.jit(jax.value_and_grad(loss_of)))
    apply = watch(jax.jit(lambda w, g: jax.tree.map(lambda a, b: a - 0.01 * b, w, g)))
    held = [params()]

    def advance(batch):
        (loss, one), (_, two) = grad(held[0], batch), grad(held[0], np.flip(batch).copy())
        held[0] = apply(held[0], jax.tree.map(jnp.add, one, two))
        return loss

    return Training(advance, lambda: held[0])


def eager_update(watch):
    """Only the gradient is compiled; the update is made by eager operations."""
    grad = watch(jax.jit(jax.value_and_grad(loss_of)))
    held = [params()]

    def advance(batch):
        loss, g = grad(held[0], batch)
        held[0] = jax.tree.map(lambda a, b: a - 0.01 * b, held[0], g)
        return loss

    return Training(advance, lambda: held[0])


def two_states(watch):
    """One jitted function updates two states in turn, as in a GAN."""

    @functools.partial(jax.jit, donate_argnums=0)
    def update(w, batch):
        loss, g = jax.value_and_grad(loss_of)(w, batch)
        return jax.tree.map(lambda a, b: a - 0.01 * b, w, g), loss

    update = watch(update)
    held = [params(), jax.tree.map(lambda x: 2 * x, params())]

    def advance(batch):
        held[0], _ = update(held[0], np.abs(batch))
        held[1], loss = update(held[1], batch)
        return loss

    return Training(advance, lambda: held)


def only_state(watch):
    @functools.partial(jax.jit, donate_argnums=0)
    def step(w, batch):
        g = jax.grad(loss_of)(w, batch)
        return jax.tree.map(lambda a, b: a - 0.01 * b, w, g)

    step = watch(step)
    held = [params()]

    def advance(batch):
        held[0] = step(held[0], batch)
        return held[0]["b"]

    return Training(advance, lambda: held[0])


def odd_arguments(watch):
    """Keys of both kinds, a static argument, None, keywords, a weak type, a Python number."""

    @functools.partial(jax.jit, donate_argnames=("state",), static_argnames=("mode",))
    def step(state, batch, mask, *, key, mode, scale, rate):
        w, raw = state
        raw, sub = jax.random.split(raw)
        kept = jax.random.bernoulli(key, 0.9, batch.shape) | (batch < 0)
        noise = jax.random.uniform(sub, batch.shape) * (mode == "noisy") * 0.1
        loss, g = jax.value_and_grad(loss_of)(w, (batch + noise) * kept + 0.5 * ~kept)
        w = jax.tree.map(lambda a, b: a - rate * scale * b, w, g)
        return (w, raw), loss

    step = watch(step)
    held = [(params(), jax.random.PRNGKey(1)), jax.random.key(0)]
    weak = jax.jit(lambda: 1.0)()

    def advance(batch):
        held[1], key = jax.random.split(held[1])
        held[0], loss = step(
            held[0], batch, None, key=key, mode="noisy", scale=weak, rate=0.01
        )  # fmt: skip
        return loss

    return Training(advance, lambda: held[0])


def typed_key_in_state(watch):
    @functools.partial(jax.jit, donate_argnums=0)
    def step(state, batch):
        w, key = state
        key, sub = jax.random.split(key)
        noisy = batch * jax.random.uniform(sub, batch.shape, minval=0.9)
        loss, g = jax.value_and_grad(loss_of)(w, noisy)
        return (jax.tree.map(lambda a, b: a - 0.01 * b, w, g), key), loss

    step = watch(step)
    held = [(params(), jax.random.key(3))]

    def advance(batch):
        held[0], loss = step(held[0], batch)
        return loss

    return Training(advance, lambda: held[0])


def train_state(watch):
    state = TrainState.create(apply_fn=loss_of, params=params(), tx=optax.adamw(1e-2))

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state, batch):
        loss, g = jax.value_and_grad(state.apply_fn)(state.params, batch)
        return state.apply_gradients(grads=g), loss

    step = watch(step)
    held = [state]

    def advance(batch):
        held[0], loss = step(held[0], batch)
        return loss

    return Training(advance, lambda: held[0])


class Net(nnx.Module):
    def __init__(self):
        self.a = nnx.Param(params()["a"])
        self.b = nnx.Param(params()["b"])

    def __call__(self, batch):
        return loss_of({"a": self.a[...], "b": self.b[...]}, batch)


def with_nnx(watch, donate=None):
    net = Net()
    optimizer = nnx.Optimizer(net, optax.adam(1e-2), wrt=nnx.Param)

    @functools.partial(nnx.jit, **({} if donate is None else {"donate_argnums": donate}))
    def step(net, optimizer, batch):
        loss, g = nnx.value_and_grad(lambda net: net(batch))(net)
        optimizer.update(net, g)
        return loss

    step = watch(step)
    return Training(lambda batch: step(net, optimizer, batch), lambda: nnx.state((net, optimizer)))


class Module(eqx.Module):
    a: Any
    b: Any
    name: str = eqx.field(static=True)

    def __call__(self, batch):
        return loss_of({"a": self.a, "b": self.b}, batch)


def with_equinox(watch, donate="none"):
    optimizer = optax.adam(1e-2)

    @functools.partial(eqx.filter_jit, donate=donate)
    def step(module, inner, batch):
        loss, g = eqx.filter_value_and_grad(lambda module: module(batch))(module)
        updates, inner = optimizer.update(g, inner, module)
        return eqx.apply_updates(module, updates), inner, loss

    step = watch(step)
    module = Module(**params(), name="net")
    held = [module, optimizer.init(eqx.filter(module, eqx.is_array))]

    def advance(batch):
        *held[:], loss = step(*held, on_device(batch))
        return loss

    return Training(advance, lambda: held)


def with_pmap(watch):
    devices = jax.local_devices()

    @functools.partial(jax.pmap, axis_name="d", donate_argnums=0)
    def step(w, batch):
        loss, g = jax.value_and_grad(loss_of)(w, batch)
        g = jax.lax.pmean(g, "d")
        return jax.tree.map(lambda a, b: a - 0.01 * b, w, g), jax.lax.pmean(loss, "d")

    step = watch(step)
    held = [jax.tree.map(lambda x: jnp.stack([x] * len(devices)), params())]

    def advance(batch):
        shards = np.stack([batch, *[np.abs(batch)] * (len(devices) - 1)])
        held[0], loss = step(held[0], shards)
        return loss[0]

    return Training(advance, lambda: held[0])


def sharded(watch):
    mesh = jax.make_mesh((len(jax.devices()),), ("d",))
    across = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("d"))
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    training = single(watch, wrap=lambda batch: jax.device_put(batch.copy(), across))

    def place(x):
        return jax.device_put(x, across if x.shape == (8,) else everywhere)

    cells = training.state.__closure__
    (held,) = (cell.cell_contents for cell in cells if isinstance(cell.cell_contents, list))
    held[0] = jax.tree.map(place, held[0])
    return training


def compiled(watch):
    def step(w, batch):
        loss, g = jax.value_and_grad(loss_of)(w, batch)
        return jax.tree.map(lambda a, b: a - 0.01 * b, w, g), loss

    jitted = jax.jit(step, donate_argnums=0)
    program = jitted.lower(params(), FIRST).compile()
    step = watch(program, source=jitted)
    held = [params()]

    def advance(batch):
        held[0], loss = step(held[0], batch)
        return loss

    return Training(advance, lambda: held[0])


TRAININGS = {
    "donated": single,
    "not donated": functools.partial(single, donate=()),
    "arrays of the device": functools.partial(single, wrap=on_device),
    "all donated": functools.partial(single, donate=(0, 1), wrap=on_device),
    "two functions": two_functions,
    "accumulating": accumulating,
    "eager update": eager_update,
    "two states": two_states,
    "only state": only_state,
    "odd arguments": odd_arguments,
    "typed key": typed_key_in_state,
    "TrainState": train_state,
    "nnx": with_nnx,
    "nnx, donated": functools.partial(with_nnx, donate=(0, 1)),
    "equinox": with_equinox,
    "equinox, donated": functools.partial(with_equinox, donate="all"),
    "pmap": with_pmap,
    "sharded": sharded,
    "compiled": compiled,
}


def unwatched(function: Any, source: Any = None) -> Any:
    return function


def bits(tree: Any) -> list[tuple[str, bytes]]:
    """The leaves of a tree as (type and shape, bytes)."""
    leaves = []
    for x in jax.tree.leaves(tree):
        if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x = jax.random.key_data(x)
        x = np.asarray(x)
        leaves.append((f"{x.dtype}{x.shape}", x.tobytes()))
    return leaves


QUICK = ("donated", "odd arguments", "equinox, donated", "sharded", "compiled")
"""These are tried in each run of the tests, all of them with `-m slow`."""
