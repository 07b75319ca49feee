"""Name scopes for modules that are plain objects, as Linen names its modules.

Flax NNX and Equinox leave no trace of a module in the jaxpr. While a function is traced, each
module's `__call__` gets a named scope: the module's field name in its parent, or its class name.
Scopes that other libraries open (einsum's formula, a solver's parts) are no modules and are left
out.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ContextDecorator, contextmanager
from typing import Any

import jax

from nanlab.backend.jaxpr import SOURCES
from nanlab.blame.source_path import from_package_root, is_installed, is_nanlab

_BASES = (("flax.nnx", "Module"), ("equinox", "Module"))
_CALL = "__call__"
_LAYERS = ("flax/", "equinox/nn/", "haiku/", "penzai/", "keras/")
"""Libraries whose classes and scopes are layers."""


@contextmanager
def modules_named() -> Generator[None]:
    """Wrap the calls of modules of all imported libraries in named scopes."""
    names: dict[int, str] = {}
    patched: list[tuple[type, Any]] = []
    extend = SOURCES.extend_name_stack
    SOURCES.extend_name_stack = _without_libraries(extend)
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
        SOURCES.extend_name_stack = extend
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
        run = original.__get__(self, type(self))
        if id(self) not in names and not _is_layer(type(self)):
            return run(*args, **kwargs)
        names.update(fields)
        with jax.named_scope(names.get(id(self), type(self).__name__)):
            return run(*args, **kwargs)

    return call


def _is_layer(cls: type) -> bool:
    module = sys.modules.get(cls.__module__)
    is_nnx = any(base.__module__.startswith("flax.") for base in cls.__mro__)
    return is_nnx or not _is_of_library(getattr(module, "__file__", None) or "")


def _is_of_library(file: str) -> bool:
    """Return whether a file is of an installed library that defines no layers."""
    is_users = not file or is_nanlab(file) or not is_installed(file)
    return not (is_users or from_package_root(file).startswith(_LAYERS))


class _NoScope(ContextDecorator):
    def __enter__(self) -> None:
        return None

    def __exit__(self, *error: object) -> None:
        return None


def _without_libraries(extend: Callable[[str], Any]) -> Callable[[str], Any]:
    """Return JAX's context of a named scope, without effect where a library opens it."""

    def extended(name: str) -> Any:
        frame = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
        caller = frame.f_back
        # JAX marks recomputation without these two functions.
        is_named = frame.f_code.co_name in ("named_scope", "named_call")
        if is_named and caller is not None and _is_of_library(caller.f_code.co_filename):
            return _NoScope()
        return extend(name)

    return extended


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
