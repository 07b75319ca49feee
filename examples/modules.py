"""Training steps of other frameworks in a grid: Linen with a TrainState, NNX and Equinox.

    python -m nanlab.sweep examples/modules.toml

Each function wraps an ordinary training step in the two pure functions that nanlab runs: trained
arrays go into the state, everything fixed stays outside.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen, nnx
from flax.training.train_state import TrainState

import nanlab

WIDTH = 16
RNG = np.random.default_rng(0)
INPUTS = RNG.standard_normal((256, 8)).astype(np.float32)
TARGETS = np.sin(INPUTS.sum(axis=1, keepdims=True)).astype(np.float32)


def _batch(key):
    rows = jax.random.randint(key, (32,), 0, len(INPUTS))
    return jnp.asarray(INPUTS)[rows], jnp.asarray(TARGETS)[rows]


def with_linen() -> nanlab.Problem:
    """Use Linen, Optax and Flax's TrainState, as model libraries' examples do."""

    class Net(linen.Module):
        @linen.compact
        def __call__(self, x):
            x = linen.relu(linen.Dense(WIDTH)(x))
            return linen.Dense(1)(x)

    net = Net()

    def train_state(params, knobs):
        return TrainState.create(apply_fn=net.apply, params=params, tx=optax.adam(knobs["lr"]))

    def init(knobs, key):
        params = net.init(key, jnp.asarray(INPUTS[:1]))
        params = jax.tree.map(lambda p: p * knobs["init_scale"], params)
        state = train_state(params, knobs)
        return state.params, state.opt_state

    def step(carry, knobs, key):
        x, y = _batch(key)
        params, opt_state = carry
        state = train_state(params, knobs).replace(opt_state=opt_state)

        def loss_of(params):
            return jnp.mean(jnp.square(state.apply_fn(params, x) - y))

        loss, gradient = jax.value_and_grad(loss_of)(state.params)
        with jax.named_scope("update"):
            state = state.apply_gradients(grads=gradient)
        return (state.params, state.opt_state), nanlab.Metrics(loss)

    return nanlab.Problem(init=init, step=step, knobs={"lr": 0.01, "init_scale": 1.0})


def with_nnx() -> nanlab.Problem:
    """Use NNX: the module is split into its fixed structure and its state."""

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.first = nnx.Linear(8, WIDTH, rngs=rngs)
            self.second = nnx.Linear(WIDTH, 1, rngs=rngs)

        def __call__(self, x):
            return self.second(nnx.relu(self.first(x)))

    structure = nnx.graphdef(Net(nnx.Rngs(0)))

    def init(knobs, key):
        state = nnx.state(Net(nnx.Rngs(key)), nnx.Param)
        return nnx.to_pure_dict(jax.tree.map(lambda p: p * knobs["init_scale"], state))

    def step(params, knobs, key):
        x, y = _batch(key)

        def loss_of(params):
            net = nnx.merge(structure, nnx.State(params))
            return jnp.mean(jnp.square(net(x) - y))

        loss, gradient = jax.value_and_grad(loss_of)(params)
        with jax.named_scope("update"):
            params = jax.tree.map(lambda p, g: p - knobs["lr"] * g, params, gradient)
        return params, nanlab.Metrics(loss)

    return nanlab.Problem(init=init, step=step, knobs={"lr": 0.01, "init_scale": 1.0})


def with_equinox() -> nanlab.Problem:
    """Use Equinox: the arrays of a model are its state, the rest is fixed."""

    def model_of(key):
        return eqx.nn.MLP(8, 1, WIDTH, depth=1, key=key, dtype=jnp.float32)

    _, fixed = eqx.partition(model_of(jax.random.key(0)), eqx.is_array)

    def init(knobs, key):
        arrays, _ = eqx.partition(model_of(key), eqx.is_array)
        return jax.tree.map(lambda p: p * knobs["init_scale"], arrays)

    def step(arrays, knobs, key):
        x, y = _batch(key)

        def loss_of(arrays):
            model = eqx.combine(arrays, fixed)
            return jnp.mean(jnp.square(jax.vmap(model)(x) - y))

        loss, gradient = jax.value_and_grad(loss_of)(arrays)
        with jax.named_scope("update"):
            arrays = jax.tree.map(lambda p, g: p - knobs["lr"] * g, arrays, gradient)
        return arrays, nanlab.Metrics(loss)

    return nanlab.Problem(init=init, step=step, knobs={"lr": 0.01, "init_scale": 1.0})
