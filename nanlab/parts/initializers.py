"""Tables of initializers: (key, shape) -> float32 weights, which `init_scale` multiplies.

Draws are float32 in every precision, so that runs with equal seeds start from the same draws,
rounded. A shape's last axis is the layer's outputs; fan_in is the product of the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nanlab.backend.lazy import jax, jnp
from nanlab.parts.entry import Entry

if TYPE_CHECKING:
    from jax import Array
    from jaxtyping import Float32

    from nanlab.backend.keys import RandomKey

    Draw = Float32[Array, " ..."]


@dataclass(frozen=True)
class Initializer(Entry):
    """An initializer of weights; `draw` is (key, shape) -> float32."""

    draw: Callable[[RandomKey, tuple[int, ...]], Draw]


@dataclass(frozen=True)
class BiasInitializer(Entry):
    """An initializer of biases; `draw` is (key, shape, fan_in of the layer) -> float32."""

    draw: Callable[[RandomKey, tuple[int, ...], int], Draw]
    knobs: tuple[str, ...] = ("bias_scale",)


def _drawn(
    build: Callable[[], Callable[..., Array]],
) -> Callable[[RandomKey, tuple[int, ...]], Draw]:
    """Return the draw of an initializer of `jax.nn.initializers`, built at its first use."""
    return lambda key, shape: build()(key, shape, jnp.float32)


def fan_in(shape: tuple[int, ...]) -> int:
    """Return the number of inputs of each unit of a layer with a kernel of this shape."""
    return math.prod(shape[:-1])


def _within(key: RandomKey, shape: tuple[int, ...], bound: float) -> Draw:
    return jax.random.uniform(key, shape, jnp.float32, -bound, bound)


def _delta_orthogonal(key: RandomKey, shape: tuple[int, ...]) -> Draw:
    # A dense kernel counts as a convolution of size 1. JAX's initializer has orthonormal rows and
    # needs no more inputs than outputs; with more, draw the transpose, with orthonormal columns.
    *sides, inputs, outputs = shape if len(shape) > 2 else (1, *shape)
    few, many = sorted((inputs, outputs))
    drawn = _drawn(lambda: jax.nn.initializers.delta_orthogonal())(key, (*sides, few, many))
    return (drawn if few == inputs else jnp.swapaxes(drawn, -1, -2)).reshape(shape)


INITIALIZERS: dict[str, Initializer] = {
    "lecun_normal": Initializer(
        "Truncated normal of variance 1 / fan_in.",
        "LeCun et al. 1998; jax.nn.initializers.lecun_normal",
        _drawn(lambda: jax.nn.initializers.lecun_normal()),
    ),
    "lecun_uniform": Initializer(
        "Uniform of variance 1 / fan_in.",
        "LeCun et al. 1998; jax.nn.initializers.lecun_uniform",
        _drawn(lambda: jax.nn.initializers.lecun_uniform()),
    ),
    "glorot_normal": Initializer(
        "Truncated normal of variance 2 / (fan_in + fan_out), also called Xavier.",
        "Glorot and Bengio 2010; jax.nn.initializers.glorot_normal",
        _drawn(lambda: jax.nn.initializers.glorot_normal()),
    ),
    "glorot_uniform": Initializer(
        "Uniform of variance 2 / (fan_in + fan_out), also called Xavier.",
        "Glorot and Bengio 2010; jax.nn.initializers.glorot_uniform",
        _drawn(lambda: jax.nn.initializers.glorot_uniform()),
    ),
    "he_normal": Initializer(
        "Truncated normal of variance 2 / fan_in, also called Kaiming.",
        "He et al. 2015; jax.nn.initializers.he_normal",
        _drawn(lambda: jax.nn.initializers.he_normal()),
    ),
    "he_uniform": Initializer(
        "Uniform of variance 2 / fan_in, also called Kaiming.",
        "He et al. 2015; jax.nn.initializers.he_uniform",
        _drawn(lambda: jax.nn.initializers.he_uniform()),
    ),
    "he_fan_out": Initializer(
        "Truncated normal of variance 2 / fan_out.",
        "He et al. 2015; jax.nn.initializers.variance_scaling",
        _drawn(lambda: jax.nn.initializers.variance_scaling(2.0, "fan_out", "truncated_normal")),
    ),
    "he_fan_avg": Initializer(
        "Truncated normal of variance 4 / (fan_in + fan_out).",
        "jax.nn.initializers.variance_scaling",
        _drawn(lambda: jax.nn.initializers.variance_scaling(2.0, "fan_avg", "truncated_normal")),
    ),
    "normal": Initializer(
        "Normal of standard deviation 1, so `init_scale` is the deviation.",
        "jax.nn.initializers.normal",
        _drawn(lambda: jax.nn.initializers.normal(1.0)),
    ),
    "truncated_normal": Initializer(
        "Normal, truncated at 2 deviations; `init_scale` is the deviation before that.",
        "jax.nn.initializers.truncated_normal",
        _drawn(lambda: jax.nn.initializers.truncated_normal(1.0)),
    ),
    "normal_fan_in": Initializer(
        "Normal of variance 1 / fan_in, not truncated: mean-field scaling.",
        "Poole et al. 2016",
        lambda key, shape: jax.random.normal(key, shape, jnp.float32) / math.sqrt(fan_in(shape)),
    ),
    "uniform": Initializer(
        "Uniform from -1 to 1, so `init_scale` is the bound.",
        "nanlab",
        lambda key, shape: _within(key, shape, 1.0),
    ),
    "uniform_fan_in": Initializer(
        "Uniform from -1/sqrt(fan_in) to 1/sqrt(fan_in), PyTorch's default.",
        "torch.nn.Linear",
        lambda key, shape: _within(key, shape, 1.0 / math.sqrt(fan_in(shape))),
    ),
    "orthogonal": Initializer(
        "A random orthogonal matrix.",
        "Saxe et al. 2014; jax.nn.initializers.orthogonal",
        _drawn(lambda: jax.nn.initializers.orthogonal()),
    ),
    "delta_orthogonal": Initializer(
        "A convolution's center orthogonal, the rest 0; in a dense layer, orthogonal.",
        "Xiao et al. 2018; jax.nn.initializers.delta_orthogonal",
        _delta_orthogonal,
    ),
    "constant": Initializer(
        "Every weight 1, so `init_scale` is the weight.",
        "jax.nn.initializers.constant",
        lambda key, shape: jnp.ones(shape, jnp.float32),
    ),
    "zeros": Initializer(
        "Every weight 0.",
        "jax.nn.initializers.zeros",
        lambda key, shape: jnp.zeros(shape, jnp.float32),
    ),
}

BIAS_INITIALIZERS: dict[str, BiasInitializer] = {
    "zeros": BiasInitializer(
        "Every bias 0.",
        "jax.nn.initializers.zeros",
        lambda key, shape, fan: jnp.zeros(shape, jnp.float32),
        knobs=(),
    ),
    "constant": BiasInitializer(
        "Every bias 1, so `bias_scale` is the bias.",
        "jax.nn.initializers.constant",
        lambda key, shape, fan: jnp.ones(shape, jnp.float32),
    ),
    "normal": BiasInitializer(
        "Normal of standard deviation 1, so `bias_scale` is the deviation.",
        "Poole et al. 2016",
        lambda key, shape, fan: jax.random.normal(key, shape, jnp.float32),
    ),
    "uniform_fan_in": BiasInitializer(
        "Uniform from -1/sqrt(fan_in) to 1/sqrt(fan_in), PyTorch's default.",
        "torch.nn.Linear",
        lambda key, shape, fan: _within(key, shape, 1.0 / math.sqrt(fan)),
    ),
}
