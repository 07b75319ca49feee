"""Name scopes for modules that are plain objects, as Linen names its modules.

Flax NNX and Equinox leave no trace of a module in the jaxpr. While a function is traced, each
module's `__call__` gets a named scope: the module's field name in its parent, or its class name.
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
    """Wrap the calls of modules of all imported libraries in named scopes."""
    names: dict[int, str] = {}
    patched: list[tuple[type, Any]] = []
    try:
        for library, base in _BASES:
            if library in sys.modules:
                for cls in _subclasses(getattr(sys.modules[library], base)):
                    # A library's private wrappers (Equinox's _JitWrapper) are not layers.
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
        # Each transformation creates the objects again: their parent names them at every call.
        # The parent's fields stay alive during the call, so that their ids are not reused.
        fields = dict(_fields(self))
        names.update(fields)
        with jax.named_scope(names.get(id(self), type(self).__name__)):
            return original.__get__(self, type(self))(*args, **kwargs)

    return call


def _fields(module: Any) -> Iterator[tuple[int, str]]:
    for name, value in vars(module).items():
        yield from _named(name, value)


def _named(name: str, value: Any) -> Iterator[tuple[int, str]]:
    if isinstance(value, Sequence) and not isinstance(value, str):
        for index, item in enumerate(value):
            yield from _named(f"{name}_{index}", item)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _named(f"{name}_{key}", item)
    elif callable(value):
        yield id(value), name
