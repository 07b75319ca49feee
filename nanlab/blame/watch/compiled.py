"""Hooks around programs that are compiled ahead of time: `jit(f).lower(x).compile()(x)`."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import jax
from jax.stages import Compiled, Lowered, Traced


@contextmanager
def compiled_hooked(executed: Callable[..., Any]) -> Generator[None]:
    """Route every call of a compiled program through a function while this is open.

    Args:
        executed: `executed(go, executable, leaves, program)`; `leaves` are its arguments',
            `program` is (jaxpr, name), None if it was lowered before or loaded from a file.
            Returns `go(leaves)`.
    """
    lower, compile_, own_call = Traced.lower, Lowered.compile, Compiled.__call__
    programs: WeakKeyDictionary[Any, tuple[Any, str]] = WeakKeyDictionary()

    def lowered(traced: Any, *args: Any, **kwargs: Any) -> Any:
        result = lower(traced, *args, **kwargs)
        programs[result] = traced.jaxpr, traced.fun_name
        return result

    def compiled(lowering: Any, *args: Any, **kwargs: Any) -> Any:
        result = compile_(lowering, *args, **kwargs)
        if lowering in programs:
            programs[result] = programs[lowering]
        return result

    def called(executable: Any, *args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True

        leaves, tree = jax.tree.flatten((args, kwargs))

        def go(arguments: Sequence[Any]) -> Any:
            own_args, own_kwargs = jax.tree.unflatten(tree, arguments)
            return own_call(executable, *own_args, **own_kwargs)

        return executed(go, executable, leaves, programs.get(executable))

    with ExitStack() as stack:
        hooks = ((Traced, "lower", lowered), (Lowered, "compile", compiled))
        for owner, name, method in (*hooks, (Compiled, "__call__", called)):
            stack.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, method)
        yield


def donated_leaves(executable: Any) -> list[bool]:
    """Return for each argument leaf of a compiled program whether it is donated."""

    def is_info(node: Any) -> bool:
        return hasattr(node, "donated")

    return [info.donated for info in jax.tree.leaves(executable.args_info, is_leaf=is_info)]
