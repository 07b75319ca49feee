"""A running program -> reports of its jitted functions, each at its first call."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax

from nanlab.backend.dispatch import dispatch_hooked, trace_closed
from nanlab.blame.program.call import OUTPUT, Call
from nanlab.blame.watch.computation import Computation, JitCall
from nanlab.linting.arguments import fits
from nanlab.linting.lint import lint_call
from nanlab.linting.report import Report


class Linted(NamedTuple):
    """A jitted function and its report, or why there is none."""

    name: str
    report: Report | None
    problem: str = ""


class ScriptLint:
    """Lints every jitted function that a program calls, before its first call runs.

    Args:
        assume: ranges by the name of an argument, of every function that has it.

    Attributes:
        linted: the functions, in the order of their first calls.
        names: names of the arguments of all functions.
    """

    def __init__(self, assume: Mapping[str, Any] | None = None) -> None:
        self.linted: list[Linted] = []
        self.names: dict[str, None] = {}
        self._assume = dict(assume or {})
        self._seen: dict[int, Any] = {}
        self._call: JitCall | None = None
        self._is_busy = False

    @contextmanager
    def watching(self) -> Generator[None]:
        """Lint what is called while this is open."""
        with dispatch_hooked(self._called, self._executed, lambda: self._is_busy):
            yield

    def _called(
        self,
        go: Callable[[], Any],
        function: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: Callable[[], dict[str, Any]],
    ) -> Any:
        if not self._is_busy:
            self._call = JitCall(function=function, args=args, kwargs=kwargs, options=options)
        try:
            return go()
        finally:
            self._call = None

    def _executed(
        self,
        go: Callable[[Sequence[Any]], Any],
        closed: Any,
        arguments: Sequence[Any],
        name: str,
        donated: Sequence[bool],
    ) -> Any:
        call, self._call = self._call, None
        if call is None or self._is_busy or id(call.function) in self._seen:
            return go(arguments)
        computation = Computation(
            closed=closed, arguments=arguments, name=name, donated=donated, call=call
        )
        self._seen[id(call.function)] = call.function  # keeps its id from being used again
        if not computation.is_operation:
            self._lint(computation)
        return go(arguments)

    def _lint(self, computation: Computation) -> None:
        self._is_busy = True
        name = computation.qualified_name
        try:
            call = _call_of(computation)
            self.names |= dict.fromkeys(call.names)
            own = {k: v for k, v in self._assume.items() if any(fits(k, n) for n in call.names)}
            self.linted.append(Linted(name, lint_call(call, own)))
        except Exception as error:  # a program that the user runs must go on
            text = str(error)
            if not isinstance(error, ValueError):  # a list of problems has a line each
                text = text.partition("\n")[0]
            problem = " ".join(f"{type(error).__name__}: {text}".split())
            self.linted.append(Linted(name, None, problem))
        finally:
            self._is_busy = False


def _call_of(computation: Computation) -> Call:
    traced, arrays, known = trace_closed(computation.closed, computation.arguments)
    names = [*known, *(f"args[{i}]" for i in range(len(known), len(arrays)))]
    outputs = jax.tree.leaves(traced.out_info)
    return Call(
        traced=traced,
        arrays=arrays,
        names=[name or f"args[{i}]" for i, name in enumerate(names)],
        numbers={},
        outputs=[f"{OUTPUT}[{i}]" for i in range(len(outputs))],
    )
