"""Hooks around every program that JAX runs; no function of the user is replaced or wrapped.

A jitted function's first call goes through Python (`_run_python_pjit`), which compiles and runs a
program (`_pjit_call_impl_python`) and then teaches JAX's C++ fast path to do so without Python
(`_get_fastpath_data`). Eager operations, `pmap` and `export` take the same way. The hooks stand
around the first two, and the fast path learns nothing meanwhile. So functions stay what they are,
whoever composes, compares, inspects or pickles them, and modules that imported `jax.jit` before
are seen too. A program that ran once is then run by a fast path of the hooks' own. It is the same
in JAX 0.10 and 0.12; ahead-of-time compiled programs alone go another way (`jax.stages.Compiled`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from types import FrameType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from nanlab.backend.jaxpr import (
    DISPATCH,
    SOURCES,
    clear_fast_paths,
    is_traced,
    jaxpr_as_fun,
    require_jax,
)

_NotOnOneDevice = DISPATCH.stages.DeviceAssignmentMismatchError
_HOOKED = (
    "_run_python_pjit",
    "_pjit_call_impl_python",
    "_get_fastpath_data",
    "_infer_input_type",
)
_ARRAY = DISPATCH.xc.ArrayImpl
# Leaves of a call among which JAX need not look for references to the same mutable array.
_PLAIN = {_ARRAY, np.ndarray, np.float32, np.int32, bool, int, float, complex}
# Types of arrays that are stored.
_TYPES = 1 << 16
# Fast paths of the hooks' own that are stored; each holds its program.
_STORED = 4096


class _FastPaths:
    """Programs that have run once, by what JAX inferred about their call."""

    def __init__(self, learn: Callable[..., Any]) -> None:
        self._learn = learn
        self._of: dict[int, tuple[Any, Callable[..., Any]]] = {}

    def get(self, inferred: Any) -> Callable[..., Any] | None:
        """Return the program's fast path; None if it has none, or may not take it now."""
        config = DISPATCH.config
        if config.debug_nans.value or config.debug_infs.value:
            return None
        stored = self._of.get(id(inferred))
        return stored[1] if stored is not None and stored[0] is inferred else None

    def add(self, inferred: Any, ran: Any, execute: Callable[..., Any]) -> None:
        """Build a fast path after the first run, if JAX itself would."""
        _, results, _, flat, jaxpr, compiled, profiler, constants = ran
        params = inferred.params
        if compiled is None or jaxpr is not params["jaxpr"]:
            return
        tree, effects = jax.tree.structure(results), jaxpr.effects
        about = (compiled, tree, flat, results, effects, jaxpr.consts, profiler, constants)
        if self._learn(*about) is None:
            return
        while len(self._of) >= _STORED:
            self._of.pop(next(iter(self._of)), None)
        run = self._path(jaxpr, params["name"], partial(execute, **params))
        self._of[id(inferred)] = inferred, run

    def _path(self, jaxpr: Any, name: str, execute: Callable[..., Any]) -> Callable[..., Any]:
        def missed(*arguments: Any) -> Any:
            results, compiled, profiler, constants = execute(*arguments)
            tree, effects = jax.tree.structure(results), jaxpr.effects
            about = (compiled, tree, arguments, results, effects, jaxpr.consts, profiler, constants)
            return results, self._learn(*about), False

        def key(*_: Any) -> None:
            """Stand for the program in the cache."""

        cpp, pxla = DISPATCH._jax, DISPATCH.pxla
        cache, keys = cpp.PjitFunctionCache(capacity=16), pxla.JitGlobalCppCacheKeys()
        registry = DISPATCH.tree_util.dispatch_registry
        return cpp.pjit(name, key, missed, [], [], keys, registry, pxla.cc_shard_arg, cache)


def _run_directly(
    path: Callable[..., Any], inferred: Any, flat: Any, executed: Callable[..., Any]
) -> tuple[Any, ...]:
    """Run a program by its fast path; returns what `_run_python_pjit` does."""
    params, tree = inferred.params, inferred.out_tree

    def go(arguments: Sequence[Any]) -> Any:
        return path(*arguments), None, None, ()

    jaxpr, donated = params["jaxpr"], params["donated_invars"]
    results = executed(go, jaxpr, flat, params["name"], donated)[0]
    outputs = jax.tree.unflatten(tree, results)
    return outputs, results, tree, flat, jaxpr, None, None, []


def _static_arguments(caller: FrameType) -> dict[str, Any]:
    info = caller.f_locals["jit_info"]
    return {name: getattr(info, name) for name in ("static_argnums", "static_argnames")}


@contextmanager
def dispatch_hooked(
    called: Callable[..., Any], executed: Callable[..., Any], is_direct: Callable[[], bool]
) -> Generator[None]:
    """Route every program that JAX runs through two functions while this is open.

    Args:
        called: `called(go, function, args, kwargs, options)` around a jitted call that computes;
            `options()` are its static arguments. Returns `go()`.
        executed: `executed(go, jaxpr, arguments, name, donated)` around a program's run. Returns
            `go(arguments)`, whose first item is the flat results.
        is_direct: whether the program that runs may take JAX's fast path from now on.
    """
    require_jax(10, "nanlab.debug")
    run, execute, fast, types = own = [getattr(DISPATCH, name) for name in _HOOKED]
    paths = _FastPaths(fast)

    def run_hooked(inferred: Any, flat: Any, function: Any, args: Any, kwargs: Any) -> Any:
        __tracebackhide__ = True
        if is_traced(flat):
            return run(inferred, flat, function, args, kwargs)
        caller = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]

        def go() -> Any:
            path = paths.get(inferred)
            if path is not None:
                with suppress(_NotOnOneDevice):  # nothing ran, and JAX words the error in `run`
                    return _run_directly(path, inferred, flat, executed)
            ran = run(inferred, flat, function, args, kwargs)
            paths.add(inferred, ran, execute)
            return ran

        return called(go, function, args, kwargs, partial(_static_arguments, caller))

    def execute_hooked(*arguments: Any, **params: Any) -> Any:
        __tracebackhide__ = True

        def go(arguments: Sequence[Any]) -> Any:
            return execute(*arguments, **params)

        return executed(go, params["jaxpr"], arguments, params["name"], params["donated_invars"])

    def fast_hooked(*args: Any, **kwargs: Any) -> Any:
        return fast(*args, **kwargs) if is_direct() else None

    _install((run_hooked, execute_hooked, fast_hooked, _InputTypes(types).of))
    try:
        yield
    finally:
        _install(own)


class _InputTypes:
    """What JAX infers about the leaves of a call, several times quicker.

    Arrays that a program returned share their type object from call to call.

    Args:
        infer: JAX's own way.
    """

    def __init__(self, infer: Callable[..., tuple[Any, ...]]) -> None:
        self._infer = infer
        # Identity of a type -> the type, and its equal that JAX has met first.
        self._of: dict[int, tuple[Any, Any]] = {}
        self._equal: dict[Any, Any] = {}

    def of(self, function: Any, about: Any, leaves: Sequence[Any]) -> tuple[Any, ...]:
        """Return the types of the leaves of a function's call."""
        if not {*map(type, leaves)} <= _PLAIN:
            return self._infer(function, about, leaves)
        find, named, unknown = self._of.get, jax.sharding.NamedSharding, (None, None)
        try:
            return tuple(
                [
                    found
                    if type(x) is _ARRAY
                    and (found := find(id(x.aval), unknown)[1]) is not None
                    and type(x.sharding) is not named
                    else self._add(x)
                    for x in leaves
                ]
            )
        except (OverflowError, TypeError):  # JAX words these
            return self._infer(function, about, leaves)

    def _add(self, leaf: Any) -> Any:
        inferred = DISPATCH.core.shaped_abstractify(leaf)
        if type(leaf) is not _ARRAY or (inferred is not leaf.aval and inferred != leaf.aval):
            return inferred
        if len(self._of) >= _TYPES:
            self._of.clear()
            self._equal.clear()
        equal = self._equal.setdefault(inferred, inferred)
        self._of[id(leaf.aval)] = leaf.aval, equal
        return equal


def _install(functions: Sequence[Callable[..., Any]]) -> None:
    for name, function in zip(_HOOKED, functions, strict=True):
        setattr(DISPATCH, name, function)
    clear_fast_paths()


def settings() -> tuple[Any, ...]:
    """Return the values of JAX's settings that this thread runs programs with."""
    return DISPATCH.config.config_ext.trace_context()


def has_local_settings() -> bool:
    """Return whether a `with` block of this thread, such as `jax.enable_x64`, sets one of JAX's."""
    config = DISPATCH.config
    kind, unset = config.config_ext.Config, config.config_ext.unset
    return any(x.get_local() is not unset for x in vars(config).values() if isinstance(x, kind))


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


def traced_leaves(jitted: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any] | None:
    """Return the leaves of a call that a jitted function traces, in the order of its jaxpr.

    None if that is unknown, or if the function has shardings of its own.
    """
    info = getattr(jitted, "_jit_info", None)
    if info is None or not hasattr(jitted, "trace"):
        return None
    shardings = (*info.in_shardings_leaves, *info.out_shardings_leaves)
    if any(isinstance(x, jax.sharding.Sharding) for x in shardings):
        return None
    indices, names = info.static_argnums or (), info.static_argnames or ()
    own = [x for i, x in enumerate(args) if not {i, i - len(args)} & set(indices)]
    return jax.tree.leaves((own, {k: v for k, v in kwargs.items() if k not in names}))
