"""Hooks around every program that JAX runs; no function of the user is replaced or wrapped.

A jitted function's first call goes through Python (`_run_python_pjit`), which compiles and runs a
program (`_pjit_call_impl_python`) and then teaches JAX's C++ fast path to do so without Python
(`_get_fastpath_data`). Eager operations, `pmap` and `export` take the same way. The hooks stand
around the first two, and the fast path learns nothing meanwhile. So functions stay what they are,
whoever composes, compares, inspects or pickles them, and modules that imported `jax.jit` before
are seen too. It is the same in JAX 0.10 and 0.12; ahead-of-time compiled programs alone go
another way (`jax.stages.Compiled`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from nanlab.backend.jaxpr import (
    DISPATCH,
    SOURCES,
    clear_fast_paths,
    is_traced,
    jaxpr_as_fun,
    require_jax,
)

_HOOKED = ("_run_python_pjit", "_pjit_call_impl_python", "_get_fastpath_data")


@contextmanager
def dispatch_hooked(
    called: Callable[..., Any], executed: Callable[..., Any], is_direct: Callable[[], bool]
) -> Generator[None]:
    """Route every program that JAX runs through two functions while this is open.

    Args:
        called: `called(go, function, args, kwargs, options)` around a jitted call that computes;
            `options()` are its static arguments. Returns `go()`.
        executed: `executed(go, jaxpr, arguments, name, donated)` around a program's run. Returns
            `go()`, whose first item is the flat results.
        is_direct: whether the program that runs may take the fast path from now on.
    """
    require_jax(10, "nanlab.debug")
    run, execute, fast = own = [getattr(DISPATCH, name) for name in _HOOKED]

    def run_hooked(inferred: Any, flat: Any, function: Any, args: Any, kwargs: Any) -> Any:
        __tracebackhide__ = True
        go = partial(run, inferred, flat, function, args, kwargs)
        if is_traced(flat):
            return go()
        caller = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]

        def options() -> dict[str, Any]:
            info = caller.f_locals["jit_info"]
            return {name: getattr(info, name) for name in ("static_argnums", "static_argnames")}

        return called(go, function, args, kwargs, options)

    def execute_hooked(*arguments: Any, **params: Any) -> Any:
        __tracebackhide__ = True
        go = partial(execute, *arguments, **params)
        return executed(go, params["jaxpr"], arguments, params["name"], params["donated_invars"])

    def fast_hooked(*args: Any, **kwargs: Any) -> Any:
        return fast(*args, **kwargs) if is_direct() else None

    def install(functions: Sequence[Callable[..., Any]]) -> None:
        for name, function in zip(_HOOKED, functions, strict=True):
            setattr(DISPATCH, name, function)
        clear_fast_paths()

    install((run_hooked, execute_hooked, fast_hooked))
    try:
        yield
    finally:
        install(own)


def current_scopes() -> str:
    """Return the named scopes and transformations around what runs or is traced now."""
    return str(SOURCES.current_name_stack())


def trace_closed(
    closed: Any, arguments: Sequence[Any], scopes: str = ""
) -> tuple[Any, list[Any], Sequence[str]]:
    """Trace a closed jaxpr again: (traced, its arguments as arrays, their names)."""
    avals: list[Any] = closed.in_avals
    arrays = [
        x if isinstance(x, Array) else jnp.asarray(x, aval.dtype)
        for x, aval in zip(arguments, avals, strict=True)
    ]
    info = getattr(closed, "jaxpr", closed).debug_info
    run = jax.named_scope(scopes)(jaxpr_as_fun(closed)) if scopes else jaxpr_as_fun(closed)
    return jax.jit(run).trace(*arrays), arrays, info.arg_names or ()


def donated_names(jitted: Any) -> tuple[Sequence[int], Sequence[str]] | None:
    """Return the donated arguments of a jitted function, by index and by name; None if unknown."""
    info = getattr(jitted, "_jit_info", None)
    if info is None:
        return None
    return tuple(info.donate_argnums or ()), tuple(info.donate_argnames or ())
