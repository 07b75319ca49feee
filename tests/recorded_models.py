"""Networks for the recorder: recurrent, convolutional, attention, half precision.

As in `recorded`, a batch is 8 numbers, and one below zero makes `features` return a NaN.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax.training.dynamic_scale import DynamicScale
from flax.training.train_state import TrainState
from recorded import FIRST, Training


def features(batch: Any) -> Any:
    """Eight numbers -> a row of 8 for each."""
    return jnp.sqrt(batch)[:, None] * jnp.sin(jnp.arange(1, 9) * batch[:, None])  # <-- culprit


class Recurrent(nn.Module):
    @nn.compact
    def __call__(self, rows: Any) -> Any:
        outputs = nn.RNN(nn.OptimizedLSTMCell(16))(rows[..., None])
        return nn.Dense(1)(outputs[:, -1])


class Convolutional(nn.Module):
    @nn.compact
    def __call__(self, rows: Any) -> Any:
        x = nn.Conv(8, (3,))(rows[..., None])
        x = nn.relu(nn.BatchNorm(use_running_average=False, momentum=0.9)(x))
        return nn.Dense(1)(x.reshape(len(rows), -1))


class Attention(nn.Module):
    width: int = 16
    depth: int = 2
    tokens: int = 8

    @nn.compact
    def __call__(self, rows: Any) -> Any:
        x = nn.Dense(self.width)(rows[..., : self.tokens, None])
        x = x + self.param("place", nn.initializers.normal(0.02), (self.tokens, self.width))
        for _ in range(self.depth):
            x = x + nn.MultiHeadDotProductAttention(4)(nn.LayerNorm()(x))
            hidden = nn.gelu(nn.Dense(4 * self.width)(nn.LayerNorm()(x)))
            x = x + nn.Dense(self.width)(hidden)
        return nn.Dense(1)(nn.LayerNorm()(x).mean(-2))


def network(watch: Any, model: nn.Module, donate: Any = 0) -> Training:
    """A regression with a `TrainState`, whose statistics are state too if the model has them."""
    variables = model.init(jax.random.key(0), features(FIRST))
    statistics = {k: v for k, v in variables.items() if k != "params"}
    state = TrainState.create(
        apply_fn=model.apply, params=variables["params"], tx=optax.adamw(1e-2)
    )

    @functools.partial(jax.jit, donate_argnums=donate)
    def step(state, batch):
        state, statistics = state

        def loss_of(params):
            own = {"params": params, **statistics}
            out, new = state.apply_fn(own, features(batch), mutable=list(statistics))
            return jnp.mean((out[:, 0] - batch) ** 2), new

        (loss, new), gradients = jax.value_and_grad(loss_of, has_aux=True)(state.params)
        norm = optax.tree.norm(gradients)
        return (state.apply_gradients(grads=gradients), dict(new)), {"loss": loss, "norm": norm}

    step, states = watch(step), [(state, statistics)]

    def advance(batch):
        states[0], metrics = step(states[0], batch)
        return metrics["loss"]

    return Training(advance, lambda: states[0])


def half_precision(watch: Any) -> Training:
    """float16 with dynamic scaling, which begins so high that it overflows: that is meant."""
    model, optimizer = Attention(), optax.sgd(1e-2)
    params = model.init(jax.random.key(0), features(FIRST))["params"]

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state, batch):
        params, inner, scale, mean = state

        def loss_of(params):
            half = jax.tree.map(lambda x: x.astype(jnp.float16), params)
            out = model.apply({"params": half}, jnp.abs(batch).astype(jnp.float16)[:, None] * rows)
            return jnp.mean((out[:, 0].astype(jnp.float32) - jnp.abs(batch)) ** 2)

        rows = jnp.sin(jnp.arange(1, 9, dtype=jnp.float16))
        scale, is_finite, loss, gradients = scale.value_and_grad(loss_of)(params)
        updates, new_inner = optimizer.update(gradients, inner, params)
        new = optax.apply_updates(params, updates)
        params, inner = jax.tree.map(
            functools.partial(jnp.where, is_finite), (new, new_inner), (params, inner)
        )
        mean = 0.9 * mean + 0.1 * features(batch).mean(0)  # which the scaling does not guard
        return (params, inner, scale, mean), {"loss": loss, "norm": optax.tree.norm(gradients)}

    step = watch(step)
    scale = DynamicScale(growth_interval=5, scale=jnp.float32(2.0**24))
    states = [(params, optimizer.init(params), scale, jnp.zeros(8))]

    def advance(batch):
        states[0], metrics = step(states[0], batch)
        return metrics["loss"]

    return Training(advance, lambda: states[0])


MODELS = {
    "LSTM": functools.partial(network, model=Recurrent()),
    "CNN with BatchNorm": functools.partial(network, model=Convolutional()),
    "transformer": functools.partial(network, model=Attention()),
    "float16 with dynamic scaling": half_precision,
}
LARGE = functools.partial(network, model=Attention(width=600, depth=7))
"""A transformer of some 30 million parameters."""


class Gated(nn.Module):
    """A transformer with a causal mask of -inf, and a gate whose inf a division hides at first."""

    @nn.compact
    def __call__(self, rows: Any, level: Any) -> Any:
        x = nn.Dense(16, name="embed")(rows[..., None])
        mask = jnp.where(jnp.tri(rows.shape[-1], dtype=bool), 0.0, -jnp.inf)
        q, k, v = (nn.Dense(16, name=name)(x) for name in ("query", "key", "value"))
        x = x + nn.softmax(q @ k.swapaxes(-1, -2) + mask) @ v
        gate = 1 / (1 + jnp.exp(-level))  # <-- hidden
        return nn.Dense(1, name="out")(x.mean(-2)) + jax.lax.stop_gradient(
            gate * jnp.exp(-level - 6)  # zero times an inf, six steps later
        )


def gated(watch: Any) -> Training:
    """The level of the gate falls by 1 in each step, from -60 on."""
    model, optimizer = Gated(), optax.adam(1e-3)
    params = model.init(jax.random.key(0), features(FIRST), jnp.float32(0))["params"]

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state, batch):
        params, inner, level = state

        def loss_of(params):
            out = model.apply({"params": params}, features(batch), level)
            return jnp.mean((out[:, 0] - batch) ** 2)

        loss, gradients = jax.value_and_grad(loss_of)(params)
        updates, inner = optimizer.update(gradients, inner, params)
        norm = optax.tree.norm(gradients)
        state = optax.apply_updates(params, updates), inner, level - 1
        return state, {"loss": loss, "norm": norm}

    step, states = watch(step), [(params, optimizer.init(params), jnp.float32(-60))]

    def advance(batch):
        states[0], metrics = step(states[0], batch)
        return metrics["loss"]

    return Training(advance, lambda: states[0])
