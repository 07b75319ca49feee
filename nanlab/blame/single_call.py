"""Call -> what its values held: the program as it is, instrumented, and a second time for more."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from nanlab.backend import jaxpr as _jax
from nanlab.backend.finiteness import code_of
from nanlab.blame.diagnosis.large_programs import behind, coarse_values
from nanlab.blame.diagnosis.reading import Reading
from nanlab.blame.probes.callbacks import Effects, has_effects
from nanlab.blame.probes.capture import Capture
from nanlab.blame.probes.codes import Probe
from nanlab.blame.probes.values import ValueProbe, is_small
from nanlab.blame.program.call import Call
from nanlab.blame.program.interpreter import bind_equation
from nanlab.blame.program.point import Point
from nanlab.blame.program.program import flatten_closed


class SingleCall:
    """Runs one call's program, compiled, as often as there is something to see.

    Args:
        call: the call.

    Attributes:
        program: its program.
    """

    def __init__(self, call: Call) -> None:
        self._call = call
        self.program = flatten_closed(call.closed, call.traced.out_info)
        self._effects = Effects(self.program) if has_effects(self.program) else None

    def _bind(self) -> Any:
        return bind_equation if self._effects is None else self._effects.replay()

    def first(self) -> tuple[list[int], Reading]:
        """The codes of the compiled function's outputs, and the instrumented program's reading."""
        arrays = self._call.arrays
        if self._effects is not None:
            # The plain program has the effects: it has to be run before they are replayed.
            plain = jax.jit(self._effects.recording()).lower(*arrays).compile()
            outputs = codes_of(plain(*arrays))
            return outputs, self._reading()
        lowered = self._call.traced.lower()
        with ThreadPoolExecutor(1) as other:
            # XLA compiles outside Python's lock: both at once.
            try:
                compiled = other.submit(lowered.compile).result
            except RuntimeError:  # the interpreter is shutting down, and starts no threads
                compiled = lowered.compile
            reading = self._reading()
            return codes_of(compiled()(*arrays)), reading

    def simplified(self) -> Reading | None:
        """The instrumented program's reading as XLA simplifies it, if `first`'s was not."""
        return self._reading(is_simplified=True) if is_small(self.program) else None

    def _reading(self, *, is_simplified: bool = False) -> Reading:
        arrays, top = self._call.arrays, self.program.frames[0]
        given = [arrays_on_host(array) for array in arrays]
        if is_small(self.program):
            keeper = ValueProbe(self.program, self._bind())
            lowered = jax.jit(lambda *leaves: keeper(*leaves)[1]).lower(*arrays)
            compiled = lowered.compile() if is_simplified else _quick(lowered)
            return Reading(keeper, *keeper.codes(_records(compiled(*arrays)), given))
        probe = Probe(self.program, self._bind(), coarse_values(self.program))
        results, codes = jax.jit(probe)(*arrays)
        values = dict(zip(top.arguments, given, strict=True))
        values |= zip(top.results, map(arrays_on_host, jax.tree.leaves(results)), strict=True)
        return Reading(probe, _records(codes), values)

    def behind(self, reading: Reading, bad: list[int]) -> Reading:
        """The reading, and if it is coarse, what lies before the first bad values.

        Args:
            reading: of the first look.
            bad: the outputs to walk back from, by number.
        """
        if not reading.probe.is_coarse or not bad:
            return reading
        points = behind(reading, [Point(value) for value in bad])
        return replace(reading, looked_at=self.fetch(points))

    def fetch(self, points: list[Point]) -> dict[Point, np.ndarray]:
        """What these points hold, from a run of their own."""
        if not points:
            return {}
        capture = Capture(self.program, points, self._bind())
        arrays = jax.jit(capture)(*self._call.arrays)
        return dict(zip(points, map(arrays_on_host, arrays), strict=True))


def _quick(lowered: Any) -> Any:
    """Compile what runs once, and not for long: it is not worth LLVM's time.

    Nor is it simplified, so that it computes as the program does op by op: XLA makes a product
    with a mask a selection, and 0 * inf is then no NaN.
    """
    options = {"xla_disable_hlo_passes": "algsimp"}
    if jax.default_backend() == "cpu":
        options["xla_backend_optimization_level"] = "0"
    # What a TPU's compiler takes is untried.
    return lowered.compile(options if jax.default_backend() in ("cpu", "gpu") else None)


def _records(codes: Any) -> dict[str, np.ndarray]:
    return {name: np.asarray(code) for name, code in codes.items()}


def codes_of(tree: Any) -> list[int]:
    """FINITE, INF or NAN of each leaf."""
    return [code_of(arrays_on_host(leaf)) for leaf in jax.tree.leaves(tree)]


def arrays_on_host(leaf: Any) -> np.ndarray:
    """An array as NumPy's; of typed random keys their bits."""
    if isinstance(leaf, jax.Array) and _jax.is_key(leaf):
        leaf = jax.random.key_data(leaf)
    return np.asarray(leaf)
