"""Calls before a fault, in the replay -> what was inside: activations, gradients, a hidden inf.

Each call runs once more by a program that also returns how large every value is. It is another
program than the user's, so a value may differ in its last bits; the training is not touched.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nanlab.backend.dispatch import traced_leaves
from nanlab.blame.diagnosis.location import module_of, phases_of, user_frame
from nanlab.blame.program.interpreter import bind_equation
from nanlab.blame.program.program import Equation, flatten_closed
from nanlab.blame.site import Site
from nanlab.blame.vocabulary import Phase
from nanlab.recorder.run_up import headroom_of, magnitudes
from nanlab.recorder.tape import TapeEntry
from nanlab.recorder.watched import WatchedFunction


class _Measured(NamedTuple):
    """A call and what was measured in it: logarithms of magnitudes and of norms, base 10."""

    entry: TapeEntry
    program: MeasuringProgram
    sizes: Any


class Inside:
    """Looks into the calls of one function.

    Args:
        watched: the function.
        first: number of the first call to look into.
    """

    def __init__(self, watched: WatchedFunction, first: int) -> None:
        self._watched, self._first = watched, first
        self._programs: dict[int, tuple[Any, MeasuringProgram]] = {}
        self._calls: list[_Measured] = []

    def measure(self, entry: TapeEntry, leaves: list[Any]) -> None:
        """Look into a call, without waiting.

        Raises:
            LookupError: the function's program cannot be read.
        """
        if entry.watched is not self._watched or entry.number < self._first:
            return
        args, kwargs = entry.plan.tree.unflatten(leaves)
        arguments = traced_leaves(entry.watched.jitted, args, kwargs)
        if arguments is None:
            raise LookupError(f"{entry.watched.name} is no plain function of jax.jit")
        traced = entry.watched.jitted.trace(*args, **kwargs)
        if id(traced.jaxpr) not in self._programs:
            self._programs[id(traced.jaxpr)] = traced.jaxpr, MeasuringProgram(traced)
        program = self._programs[id(traced.jaxpr)][1]
        self._calls.append(_Measured(entry, program, program.run(*arguments)))

    def rows(self) -> dict[int, dict[str, Any]]:
        """Return for each call what `Fault.run_up` says of its inside, by the call's number."""
        regular = self._regular()
        return {call.entry.number: call.program.row(call.sizes, regular) for call in self._calls}

    def _regular(self) -> set[int]:
        """Return the values that are not finite in the first call, such as masks: these are meant.

        None of them if only one call was looked into.
        """
        if len(self._calls) < 2:
            return set()
        return set(_bad(self._calls[0]))

    def began(self, origin: Site | None) -> str:
        """Return since when a value inside was not finite, if that was before the faulty call.

        Args:
            origin: where the fault began in the faulty call; the same place comes first.
        """
        regular = self._regular()
        first: tuple[TapeEntry, Equation] | None = None
        for call in self._calls[:-1]:
            entry, program, _ = call
            found = [program.equations[i] for i in _bad(call) if i not in regular]
            same = [e for e in found if origin is not None and _is_at(e, origin)]
            if found and (first is None or (same and not _is_at(first[1], origin))):
                first = entry, (same or found)[0]
        if first is None:
            return ""
        entry, equation = first
        ago = self._calls[-1].entry.step - entry.step
        return (
            f"an inf or a NaN was inside since step {entry.step}, {ago} step{'s' * (ago != 1)} "
            f"before: {equation.primitive} at {_place_of(equation)}; no state showed it"
        )


class MeasuringProgram:
    """A traced call that also returns how large its values are.

    Loops and branches count as one operation; only its results are measured.
    """

    def __init__(self, traced: Any) -> None:
        self._program = program = flatten_closed(traced.jaxpr, traced.out_info)
        order = [program.equations[i] for i in program.frames[0].equations]
        values, phases = program.values, phases_of(program)
        measured = [(e, v) for e in order for v in e.results if values[v].can_be_bad]
        self._values = [v for _, v in measured]
        self.equations = [e for e, _ in measured]
        self._order, self._dtypes = order, list[Any]()
        # Gradients: what the backward pass computes and others take.
        backward = {v for e in order if phases[e.index] == Phase.BACKWARD for v in e.results}
        taken = {v for e in order if phases[e.index] != Phase.BACKWARD for v in e.operands}
        taken |= set(program.frames[0].results)
        self._gradients = [i for i, v in enumerate(self._values) if v in backward & taken]
        self._forward: dict[str, list[int]] = {}
        for i, e in enumerate(self.equations):
            if phases[e.index] == Phase.FORWARD:
                layer = module_of(e.scopes, e.callers) or _place_of(e)
                self._forward.setdefault(layer, []).append(i)
        self.run = jax.jit(self._run)

    def _run(self, *arguments: Any) -> tuple[Any, Any]:
        program = self._program
        known: dict[int, Any] = dict(zip(program.frames[0].arguments, arguments, strict=True))

        def read(value: int) -> Any:
            return known[value] if value in known else program.values[value].constant

        for equation in self._order:
            results = bind_equation(equation, [read(v) for v in equation.operands])
            known.update(zip(equation.results, results, strict=True))
        measured = [known[v] for v in self._values]
        self._dtypes = [x.dtype for x in measured]
        largest = magnitudes([x if x.size else jnp.zeros(1, x.dtype) for x in measured])[0]
        return largest, magnitudes([measured[i] for i in self._gradients])[1]

    def row(self, sizes: Any, regular: set[int]) -> dict[str, Any]:
        """Return what `Fault.run_up` says of a call's inside."""
        largest, norms = (np.asarray(x) for x in sizes)
        headroom = headroom_of(largest, self._dtypes)
        usual = np.array([i not in regular for i in range(len(largest))], bool)
        layers = {
            layer: float(10 ** max(largest[i] for i in places if usual[i]))
            for layer, places in self._forward.items()
            if any(usual[i] for i in places)
        }
        norm = float(np.sqrt(np.sum(10 ** (2 * norms.astype(np.float64)))))
        least = int(np.argmin(np.where(usual, headroom, np.inf))) if usual.any() else 0
        return {
            "inside": float(headroom[least]) if usual.any() else np.inf,
            "at": _place_of(self.equations[least]) if usual.any() else "",
            "gradient norm": norm,
            "layers": layers,
        }


def _bad(call: _Measured) -> list[int]:
    """Return the values of a call that hold an inf or a NaN; a size of -inf is log(0)."""
    return np.flatnonzero(~(np.asarray(call.sizes[0]) < np.inf)).tolist()


def _place_of(equation: Equation) -> str:
    frame = user_frame(equation)
    place = "" if frame is None else f"{Path(frame.file).name}:{frame.line}"
    module = module_of(equation.scopes, equation.callers)
    return f"{place} ({module})" if module and place else place or module or equation.primitive


def _is_at(equation: Equation, site: Site | None) -> bool:
    frame = user_frame(equation)
    return (
        site is not None
        and frame is not None
        and (equation.primitive, frame.line) == (site.primitive, site.line)
    )
