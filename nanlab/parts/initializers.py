"""Name -> initializer, a function of (key, shape) that draws float32 weights before `init_scale`.

Draws are float32 whatever the run's precision, so that runs of one seed in several precisions
start from the same draws, rounded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from nanlab._lazy import jax, jnp

if TYPE_CHECKING:
    from jax import Array

Initializer = Callable[["Array", tuple[int, ...]], "Array"]

INITIALIZERS: dict[str, Initializer] = {
    "lecun_normal": lambda key, shape: jax.nn.initializers.lecun_normal()(key, shape, jnp.float32),
    "lecun_uniform": lambda key, shape: jax.nn.initializers.lecun_uniform()(
        key, shape, jnp.float32
    ),
    "glorot_normal": lambda key, shape: jax.nn.initializers.glorot_normal()(
        key, shape, jnp.float32
    ),
    "glorot_uniform": lambda key, shape: jax.nn.initializers.glorot_uniform()(
        key, shape, jnp.float32
    ),
    "he_normal": lambda key, shape: jax.nn.initializers.he_normal()(key, shape, jnp.float32),
    "he_uniform": lambda key, shape: jax.nn.initializers.he_uniform()(key, shape, jnp.float32),
    "normal": lambda key, shape: jax.nn.initializers.normal(1.0)(key, shape, jnp.float32),
    "constant": lambda key, shape: jnp.ones(shape, jnp.float32),
}
