"""A computation that JAX runs -> what it is called, who called it, and its verdict."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import FunctionType
from typing import Any, NamedTuple

import jax
import numpy as np

from nanlab.backend.dispatch import current_scopes, trace_closed
from nanlab.backend.finiteness import NAN
from nanlab.blame.explain.verdict import Verdict
from nanlab.blame.pinpoint import pinpoint, pinpoint_call
from nanlab.blame.program.call import OUTPUT, Call
from nanlab.blame.site import Site
from nanlab.blame.watch.caller import (
    Caller,
    caller_here,
    pmapped_call,
    residual_outputs,
    wrapper_call,
)
from nanlab.blame.watch.replays import Replay

# Operations that hold a program of the user's: what they return is judged as a call's.
_PROGRAMS = {"scan", "while", "cond", "call_exported"}
_CHANGED = "computed again from the same arguments, the outputs were not bad in the same way"


class _Flat(NamedTuple):
    """An argument as it was when it was handed in; the program may change containers later."""

    leaves: list[Any]
    tree: Any


@dataclass(frozen=True, kw_only=True)
class JitCall:
    """A call of a jitted function, as Python sees it.

    Attributes:
        function: the function that was jitted.
        args: its arguments.
        kwargs: its keyword arguments.
        options: returns its static arguments, as options of `jax.jit`.
    """

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    options: Callable[[], dict[str, Any]]

    def stored(self) -> JitCall:
        """Return the call with its containers as they are now."""
        options = self.options()
        count = len(self.args)
        static = {i % count if count else i for i in _several(options["static_argnums"])}
        names = set(_several(options["static_argnames"]))
        return JitCall(
            function=self.function,
            args=tuple(x if i in static else _flat(x) for i, x in enumerate(self.args)),
            kwargs={k: x if k in names else _flat(x) for k, x in self.kwargs.items()},
            options=lambda: options,
        )


def _several(numbers: Any) -> Sequence[Any]:
    return (numbers,) if isinstance(numbers, int | str) else tuple(numbers or ())


def _flat(argument: Any) -> Any:
    return argument if isinstance(argument, jax.Array) else _Flat(*jax.tree.flatten(argument))


def _tree(stored: Any, saved: Mapping[int, Any]) -> Any:
    """Return an argument again, with the copies of what was donated or may have been changed."""
    if not isinstance(stored, _Flat):
        return saved.get(id(stored), stored)
    return jax.tree.unflatten(stored.tree, [saved.get(id(x), x) for x in stored.leaves])


@dataclass(kw_only=True)
class Computation:
    """One program that JAX runs.

    Attributes:
        closed: its jaxpr; None if it is not known.
        arguments: the leaves that it is run on.
        name: JAX's name for it.
        donated: for each argument whether it is donated.
        call: the jitted call that it belongs to; None for what a transformation runs eagerly.
        is_compiled: whether it was compiled ahead of time.
        caller: the user's line that made it.
        is_prompt: whether what is known about it is lost when the call returns.
        saved: returns the copies of arguments, by the identity of what was handed in.
        later: calls that have donated its arguments since, maybe.
        residuals: indices of the outputs that only a derivative needs.
        internal: the identities of these outputs.
    """

    closed: Any
    arguments: Sequence[Any]
    name: str
    donated: Sequence[bool]
    call: JitCall | None = None
    is_compiled: bool = False
    caller: Caller | None = None
    is_prompt: bool = False
    saved: Callable[[], Mapping[int, Any]] = dict
    later: list[Replay] = field(default_factory=list[Replay])
    residuals: frozenset[int] = frozenset()
    internal: frozenset[int] = frozenset()
    _wrapper: JitCall | None = None
    _scopes: str = ""
    _mapped: tuple[str, list[tuple[str, Any]]] = ("", [])

    @functools.cached_property
    def is_operation(self) -> bool:
        """Whether it is one of JAX's own operations, or a piece of a transformed function."""
        if self.is_compiled:
            return False
        if self.call is None:
            return True
        function: Any = self.call.function
        if getattr(function, "_apply_primitive", False):
            return self.name not in _PROGRAMS
        module = str(getattr(function, "__module__", ""))
        is_jaxs = module == "jax" or module.startswith("jax.")
        # A user's jax.jit(jnp.log) holds a function that is jitted itself.
        return is_jaxs and not self._is_pmapped and not hasattr(function, "lower")

    @functools.cached_property
    def _is_pmapped(self) -> bool:
        module = str(getattr(self.call and self.call.function, "__module__", ""))
        return module.startswith("jax.") and module.endswith(".pmap")

    @property
    def kind(self) -> str:
        """What it is, as in `WatchedFault`."""
        if self.is_compiled:
            return "compiled function"
        if self.call is None:
            return "piece"
        if self.is_operation or hasattr(self.call.function, "_apply_primitive"):
            return "operation"
        return "pmapped function" if self._is_pmapped else "jitted function"

    @property
    def qualified_name(self) -> str:
        """The function's name with its class or the function around it."""
        if self.call is None:
            return self.name
        if self._is_pmapped:
            return self._mapped[0] or self.name
        return str(getattr(self.call.function, "__qualname__", None) or self.name)

    def locate(self) -> None:
        """Note what the Python stack says, which another call will have changed."""
        self.caller = caller_here()
        if self.call is None:
            self._scopes = "" if self.is_compiled else current_scopes()
            self.residuals = frozenset() if self.is_compiled else residual_outputs()
        elif self._is_pmapped:
            self.is_prompt, self._mapped = True, pmapped_call(self.call.function)
        elif not self.is_operation:
            function = self.call.function
            owner = function if isinstance(function, FunctionType) else type(function)
            library = str(owner.__module__).partition(".")[0]
            wrapped = wrapper_call() if library in ("equinox", "flax") else None
            if wrapped is not None:
                # NNX changes its objects in place when the call has returned.
                self.is_prompt = library == "flax"
                own, args, kwargs = wrapped
                self._wrapper = JitCall(
                    function=own,
                    args=tuple(map(_flat, args)) if library == "equinox" else args,
                    kwargs={k: _flat(x) for k, x in kwargs.items()},
                    options=dict,
                )
            self.call = self.call.stored()

    def named_arguments(self) -> dict[str, Any]:
        """Return its arguments that are arrays or numbers, by their names."""
        saved, call = self.saved(), self._wrapper or self.call
        if call is None or self.is_operation:
            arrays = [saved.get(id(x), x) for x in self.arguments]
            info = getattr(getattr(self.closed, "jaxpr", self.closed), "debug_info", None)
            names = [*(getattr(info, "arg_names", None) or ())]
            names += [f"args[{i}]" for i in range(len(names), len(arrays))]
            named = dict(zip(names, arrays, strict=False))
        else:
            args = [_tree(x, saved) for x in call.args]
            kwargs = {k: _tree(x, saved) for k, x in call.kwargs.items()}
            try:
                bound: Any = inspect.signature(call.function).bind(*args, **kwargs).arguments
            except (TypeError, ValueError):
                bound = {"args": args, **kwargs}
            flat = jax.tree_util.tree_leaves_with_path(bound)
            named = {path[0].key + jax.tree_util.keystr(path[1:]): leaf for path, leaf in flat}
        return {
            name: x if hasattr(x, "dtype") else np.asarray(x)
            for name, x in named.items()
            if hasattr(x, "dtype") or isinstance(x, int | float | complex)
        }

    def verdict(self, code: int) -> tuple[Verdict | None, str]:
        """Return what is wrong with it, and why that is not known or not sure.

        The user's function is traced again, so that its modules and arguments have their names.
        If that fails, or is finite, the jaxpr that was run is looked at.

        Args:
            code: INF or NAN, what its outputs hold.
        """
        verdict, problem = None, "its program is not known"
        for attempt in (self._traced_again, self._as_run):
            try:
                verdict = attempt()
            except Exception as error:
                problem = f"{type(error).__name__}: {error}".strip().partition("\n")[0]
                continue
            if verdict is not None:
                problem = _CHANGED
                if verdict.fault and (code != NAN or verdict.nan_outputs):
                    return self._placed(verdict), ""
        return verdict, problem

    def _placed(self, verdict: Verdict) -> Verdict:
        """Give an operation the line of its call: its own trace may be of an earlier one."""
        caller = self.caller if self.is_operation else None
        if caller is None:
            return verdict

        def placed(site: Site | None) -> Site | None:
            if site is None or site.file:
                return site
            return replace(
                site,
                source=caller.place,
                file=caller.file,
                line=caller.line,
                function=caller.function,
                code=caller.code,
            )

        origin = placed(verdict.origin)
        is_one = verdict.origin is verdict.culprit
        return replace(
            verdict, origin=origin, culprit=origin if is_one else placed(verdict.culprit)
        )

    def _traced_again(self) -> Verdict | None:
        if self.call is None or self.is_operation or self._is_pmapped:
            return None
        call, saved = self._wrapper or self.call, self.saved()
        args = [_tree(x, saved) for x in call.args]
        kwargs = {k: _tree(x, saved) for k, x in call.kwargs.items()}
        own: Any = call.function
        if self._wrapper is not None:
            if self.is_prompt and saved:
                args, kwargs = jax.tree.map(lambda x: saved.get(id(x), x), (args, kwargs))
            return pinpoint(own, *args, **kwargs)

        # A function that JAX has not seen: of a known one it has a trace, without the modules.
        @functools.wraps(own)
        def function(*args: Any, **kwargs: Any) -> Any:
            return own(*args, **kwargs)

        return pinpoint(jax.jit(function, **call.options()), *args, **kwargs)

    def _as_run(self) -> Verdict | None:
        if self.closed is None:
            return None
        saved = self.saved()
        arguments = [saved.get(id(x), x) for x in self.arguments]
        traced, arrays, names = trace_closed(self.closed, arguments, self._scopes)
        names = self._pmapped_names() or list(names)
        names += [f"args[{i}]" for i in range(len(names), len(arrays))]
        outputs = jax.tree.leaves(traced.out_info)
        one = len(outputs) == 1
        return pinpoint_call(
            Call(
                traced=traced,
                arrays=arrays,
                names=[name or f"args[{i}]" for i, name in enumerate(names)],
                numbers={},
                outputs=[OUTPUT if one else f"{OUTPUT}[{i}]" for i in range(len(outputs))],
            )
        )

    def _pmapped_names(self) -> list[str]:
        names = {
            id(leaf): start + jax.tree_util.keystr(path)
            for start, tree in self._mapped[1]
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        }
        return [names.get(id(x), "") for x in self.arguments] if names else []
