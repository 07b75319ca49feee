"""Call -> codes and arrays: the program run as it is, instrumented, and again for more detail."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from operator import mul
from typing import Any

import jax
import numpy as np

from nanlab.backend import jaxpr as _jax
from nanlab.backend.finiteness import FINITE, code_of
from nanlab.blame.diagnosis.contents import Contents, contents
from nanlab.blame.diagnosis.large_programs import coarse_values, points_to_fetch
from nanlab.blame.diagnosis.reading import Reading
from nanlab.blame.probes.callbacks import Effects, has_effects
from nanlab.blame.probes.capture import Capture
from nanlab.blame.probes.codes import Probe
from nanlab.blame.probes.values import ValueProbe, is_small
from nanlab.blame.program.call import Call
from nanlab.blame.program.interpreter import Bind, bind_equation
from nanlab.blame.program.point import Point
from nanlab.blame.program.program import Program
from nanlab.blame.vocabulary import Status


class SingleCall:
    """Runs the compiled program of one call, plain and instrumented.

    Args:
        call: the call.
        program: the program of the call.

    Attributes:
        program: the program of the call.
        notes: what has to be known of its outputs.
    """

    def __init__(self, call: Call, program: Program) -> None:
        self._call = call
        self.program = program
        self.notes: list[str] = []
        self._is_judged = [
            call.judged is None or i in call.judged for i in range(len(call.outputs))
        ]
        self._effects = Effects(self.program) if has_effects(self.program) else None

    def _bind(self) -> Bind:
        return bind_equation if self._effects is None else self._effects.replay()

    def run(self) -> tuple[list[int], Reading]:
        """Return the codes of the compiled function's outputs that count, and the reading.

        An output that does not count (`Call.judged`) has the code of a finite one.
        """
        arrays = self._call.arrays
        if self._effects is not None:
            # The side effects happen in the plain program, which must run before the replay.
            plain = jax.jit(self._effects.recording()).lower(*arrays).compile()
            outputs = self._judged(codes_of(plain(*arrays)))
            return outputs, self._reading()
        lowered = self._call.traced.lower()
        with ThreadPoolExecutor(1) as executor:
            # XLA compiles outside Python's lock: both programs at once.
            try:
                compiled = executor.submit(lowered.compile).result
            except RuntimeError:  # the interpreter is shutting down, and starts no threads
                compiled = lowered.compile
            reading = self._reading()
            return self._judged(codes_of(compiled()(*arrays))), reading

    def _judged(self, codes: list[int]) -> list[int]:
        if not any(map(mul, codes, self._is_judged)):
            self._is_judged = [True] * len(codes)
        named = zip(self._call.outputs, codes, self._is_judged, strict=True)
        others = [name for name, code, counts in named if code and not counts]
        if others:
            self.notes.append(f"not finite either, but no state: {', '.join(others)}")
        return list(map(mul, codes, self._is_judged))

    def shown(self, reading: Reading) -> list[int]:
        """Return the codes of the outputs that count in a reading, after `run`."""
        codes = [reading.code(Point(value)) for value in self.program.frames[0].results]
        return list(map(mul, codes, self._is_judged))

    def simplified(self) -> Reading | None:
        """Return the reading with XLA's simplifications, if those of `run` were off."""
        return self._reading(is_simplified=True) if is_small(self.program) else None

    def _reading(self, *, is_simplified: bool = False) -> Reading:
        arrays, top = self._call.arrays, self.program.frames[0]
        arguments = [array_on_host(array) for array in arrays]
        if is_small(self.program):
            probe = ValueProbe(self.program, self._bind())
            lowered = jax.jit(lambda *leaves: probe(*leaves)[1]).lower(*arrays)
            # A long scan takes its time where it is not optimized.
            is_long = any(equation.is_closed for equation in self.program.equations)
            is_quick = not (is_simplified or is_long)
            compiled = _compile_quickly(lowered) if is_quick else lowered.compile()
            return Reading(probe, *probe.codes(_records(compiled(*arrays)), arguments))
        probe = Probe(self.program, self._bind(), coarse_values(self.program))
        results, codes = jax.jit(probe)(*arrays)
        values = dict(zip(top.arguments, arguments, strict=True))
        values |= zip(top.results, map(array_on_host, jax.tree.leaves(results)), strict=True)
        return Reading(probe, _records(codes), values)

    def refined(self, reading: Reading, outputs: Sequence[Point]) -> Reading:
        """Return a reading that includes what precedes the first bad values, if it was coarse."""
        if not reading.probe.is_coarse or not outputs:
            return reading
        return replace(reading, fetched=self.fetch_arrays(points_to_fetch(reading, outputs)))

    def fetch_arrays(self, points: list[Point]) -> dict[Point, np.ndarray]:
        """Run the program again and return the arrays at these points."""
        if not points:
            return {}
        capture = Capture(self.program, points, self._bind())
        arrays = jax.jit(capture)(*self._call.arrays)
        return dict(zip(points, map(array_on_host, arrays), strict=True))

    def bad_arguments(self, first: int | None) -> list[Contents]:
        """Return the arguments that are not finite, the one of value `first` before the others."""
        arguments = self.program.frames[0].arguments
        named = zip(self._call.names, map(array_on_host, self._call.arrays), arguments, strict=True)
        bad = [(name, x, value) for name, x, value in named if code_of(x) != FINITE]
        numbers = ((name, np.asarray(x), -1) for name, x in self._call.numbers.items())
        bad += [(name, x, value) for name, x, value in numbers if not np.isfinite(x)]
        bad.sort(key=lambda argument: argument[2] != first)
        return [contents(name, x) for name, x, _ in bad]


def _compile_quickly(lowered: jax.stages.Lowered) -> jax.stages.Compiled:
    """Compile what runs once and briefly, without optimization."""
    # Nor is it simplified, so that it computes as the program does op by op: XLA turns a product
    # with a mask into a selection, in which 0 * inf is no NaN.
    options: dict[str, Any] = {"xla_disable_hlo_passes": "algsimp"}
    if jax.default_backend() == "cpu":
        options["xla_backend_optimization_level"] = "0"
    # Untested on TPU, whose compiler may not accept these options.
    return lowered.compile(options if jax.default_backend() in ("cpu", "gpu") else None)


def _records(codes: Any) -> dict[str, np.ndarray]:
    return {name: np.asarray(code) for name, code in codes.items()}


def codes_of(tree: Any) -> list[int]:
    """Return FINITE, INF or NAN for each leaf."""
    return [code_of(array_on_host(leaf)) for leaf in jax.tree.leaves(tree)]


def array_on_host(leaf: Any) -> np.ndarray:
    """Return an array as a NumPy array; of typed random keys, the bits."""
    if isinstance(leaf, jax.Array) and _jax.is_key(leaf):
        leaf = jax.random.key_data(leaf)
    return np.asarray(leaf)


def status_of(compiled: list[int], shown: list[int]) -> tuple[Status, list[bool]]:
    """Return the verdict's status, and for which outputs to look for causes."""
    if compiled == shown:
        is_bad = [code != FINITE for code in shown]
        return (Status.REPRODUCED if any(is_bad) else Status.CLEAN), is_bad
    if any(compiled):
        both = [a != FINITE and b != FINITE for a, b in zip(compiled, shown, strict=True)]
        return Status.COMPILED_ONLY, both
    return Status.REWRITTEN_AWAY, [code != FINITE for code in shown]
