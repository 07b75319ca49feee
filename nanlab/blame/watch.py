"""Calls of jitted functions -> the verdict of the first faulty one."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from threading import local
from types import MethodType
from typing import Any

import jax
import jax.numpy as jnp

from nanlab.backend import jaxpr as _jax
from nanlab.blame.explain.verdict import Verdict
from nanlab.blame.pinpoint import pinpoint


class Found(BaseException):
    """A watched call is at fault. No `except Exception` of the watched program stops it.

    Attributes:
        name: of the jitted function.
        call: how often that was called, as an outermost call, this one included.
        verdict: what is wrong with it.
    """

    def __init__(self, name: str, call: int, verdict: Verdict) -> None:
        super().__init__(name, call)
        self.name, self.call, self.verdict = name, call, verdict


class Lost(BaseException):
    """A watched call is at fault, and looking at it failed; the cause says how."""

    def __init__(self, name: str, call: int) -> None:
        super().__init__(name, call)
        self.name, self.call = name, call


class Watch:
    """Counts and checks outermost jitted calls.

    Attributes:
        calls: how many there were.
        donating: functions whose donation was switched off.
    """

    def __init__(self) -> None:
        self.calls = 0
        self._calls_of: Counter[str] = Counter()
        self.donating: list[str] = []
        self._jit = jax.jit
        self._here = local()
        self._has_nan = self._jit(lambda leaves: [_holds(leaf, jnp.isnan) for leaf in leaves])
        self._has_inf = self._jit(lambda leaves: [_holds(leaf, jnp.isinf) for leaf in leaves])

    @contextmanager
    def watching(self) -> Generator[None]:
        """While this is open, what `jax.jit` makes is watched, and donates nothing."""
        jax.jit = self._watched_jit
        try:
            yield
        finally:
            jax.jit = self._jit

    def _watched_jit(self, *args: Any, **options: Any) -> Any:
        donated = [options.pop(name, None) for name in ("donate_argnums", "donate_argnames")]
        made: Any = self._jit(*args, **options)
        if not hasattr(made, "lower"):  # jit(static_argnames=...) makes a decorator
            return lambda function: self._watched(made(function), donated)
        return self._watched(made, donated)

    def _watched(self, jitted: Any, donated: list[Any]) -> Watched:
        if any(each not in (None, ()) for each in donated):
            self.donating.append(_name(jitted))
        return Watched(self, jitted)

    def call(self, jitted: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a jitted function; raise `Found` if it is an outermost call and at fault."""
        is_inner = getattr(self._here, "inside", False) or _jax.holds_tracer((args, kwargs))
        if is_inner:
            return jitted(*args, **kwargs)
        self._here.inside = True
        try:
            self.calls += 1
            self._calls_of[_name(jitted)] += 1
            result = jitted(*args, **kwargs)
            self._check(jitted, args, kwargs, result)
        finally:
            self._here.inside = False
        return result

    def _check(self, jitted: Any, args: Any, kwargs: Any, result: Any) -> None:
        leaves = _inexact(result)
        has_nan = any(self._has_nan(leaves))
        if not has_nan and not any(self._has_inf(leaves)):
            return
        name = _name(jitted)
        try:
            verdict = pinpoint(jitted, *args, **kwargs)
        except Exception as error:
            raise Lost(name, self._calls_of[name]) from error
        main = verdict.culprit or verdict.origin
        # An inf that is handed on is one that somebody asked for, as a first "best loss" is.
        is_meant = not has_nan and main is not None and main.mechanism in ("input", "constant")
        if not is_meant:
            raise Found(name, self._calls_of[name], verdict)


class Watched:
    """A jitted function whose outermost calls are checked."""

    def __init__(self, watch: Watch, jitted: Any) -> None:
        self._watch, self._jitted = watch, jitted
        functools.update_wrapper(self, jitted)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function."""
        return self._watch.call(self._jitted, args, kwargs)

    def __get__(self, instance: Any, owner: type | None = None) -> Callable[..., Any]:
        return self if instance is None else MethodType(self, instance)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._jitted, name)


def _name(jitted: Any) -> str:
    return getattr(jitted, "__qualname__", None) or repr(jitted)


def _inexact(tree: Any) -> list[Any]:
    leaves = (leaf for leaf in jax.tree.leaves(tree) if hasattr(leaf, "dtype"))
    return [leaf for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.inexact)]


def _holds(leaf: Any, test: Callable[[Any], Any]) -> Any:
    return jnp.any(test(leaf))
