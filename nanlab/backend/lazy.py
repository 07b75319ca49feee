"""Stand-ins for modules that are imported at their first use.

A grid is validated against the tables in `parts/` alone, and importing JAX takes seconds, so those
files import JAX, Flax, Optax and scikit-learn from here.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__all__ = ["datasets", "jax", "jnp", "nn", "optax"]


class _Lazy:
    """A module that is imported when one of its attributes is first used."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(import_module(self._name), attribute)


if TYPE_CHECKING:
    import jax
    import jax.numpy as jnp
    import optax
    from flax import linen as nn
    from sklearn import datasets
else:
    datasets = _Lazy("sklearn.datasets")
    jax = _Lazy("jax")
    jnp = _Lazy("jax.numpy")
    nn = _Lazy("flax.linen")
    optax = _Lazy("optax")
