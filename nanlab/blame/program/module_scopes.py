"""Modules that are plain objects -> named scopes around their calls, as Linen has them.

Flax NNX and Equinox leave no trace of a module in the jaxpr. While a function is traced, each
module's `__call__` gets a scope: its field's name in the module that holds it, or its class's.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import jax

_BASES = (("flax.nnx", "Module"), ("equinox", "Module"))
_CALL = "__call__"


@contextmanager
def modules_named() -> Generator[None]:
    """While this is open, modules of the libraries that are imported name their calls."""
    names: dict[int, str] = {}
    patched: list[tuple[type, Any]] = []
    try:
        for library, base in _BASES:
            if library in sys.modules:
                for cls in _subclasses(getattr(sys.modules[library], base)):
                    # A library's own wrappers (Equinox's _JitWrapper) are no layers.
                    if _CALL in vars(cls) and not cls.__name__.startswith("_"):
                        patched.append((cls, vars(cls)[_CALL]))
                        type.__setattr__(cls, _CALL, _scoped(vars(cls)[_CALL], names))
        yield
    finally:
        for cls, original in patched:
            type.__setattr__(cls, _CALL, original)


def _subclasses(base: type) -> set[type]:
    found: set[type] = set()
    stack = [base]
    while stack:
        cls = stack.pop()
        if cls not in found:
            found.add(cls)
            stack += cls.__subclasses__()
    return found


def _scoped(original: Any, names: dict[int, str]) -> Callable[..., Any]:
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        # Objects are made anew by each transformation: what they are called is told afresh by
        # whoever holds them.
        held = dict(_fields(self))
        names.update(held)
        with jax.named_scope(names.get(id(self), type(self).__name__)):
            return original.__get__(self, type(self))(*args, **kwargs)

    return call


def _fields(module: Any) -> Iterator[tuple[int, str]]:
    for name, value in vars(module).items():
        yield from _named(name, value)


def _named(name: str, value: Any) -> Iterator[tuple[int, str]]:
    if isinstance(value, Sequence) and not isinstance(value, str):
        for place, item in enumerate(value):
            yield from _named(f"{name}_{place}", item)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _named(f"{name}_{key}", item)
    elif callable(value):
        yield id(value), name
