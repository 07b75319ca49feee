"""Module name -> a stand-in that imports the module at its first use.

A wrong grid is answered from the tables in `parts/` alone, and importing JAX takes seconds:
so the tables' files name JAX, Flax and Optax through here.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__all__ = ["jax", "jnp", "nn", "optax"]


class _Lazy:
    """A module that is imported when an attribute of it is first asked for."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(import_module(self._name), attribute)


if TYPE_CHECKING:
    import jax
    import jax.numpy as jnp
    import optax
    from flax import linen as nn
else:
    jax = _Lazy("jax")
    jnp = _Lazy("jax.numpy")
    nn = _Lazy("flax.linen")
    optax = _Lazy("optax")
