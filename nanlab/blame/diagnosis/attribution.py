"""Reading -> blame: the origin and the culprit of one lane, each with its place."""

from __future__ import annotations

import linecache
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from nanlab.backend.finiteness import INF, NAN, has_infinity
from nanlab.blame.diagnosis import location, mechanism
from nanlab.blame.diagnosis.causal_walk import Event, beginnings, way
from nanlab.blame.diagnosis.reading import Reading
from nanlab.blame.program.point import Point
from nanlab.blame.program.program import Equation, Program
from nanlab.blame.site import Site
from nanlab.blame.source_path import written
from nanlab.blame.vocabulary import Mechanism, Phase


@dataclass(frozen=True, kw_only=True)
class Blame:
    """What one lane's codes say; None where there is none."""

    origin: Site | None
    culprit: Site | None


class Causes(NamedTuple):
    """Where the bad values in some outputs began; None where there is none."""

    origin: Event | None
    culprit: Event | None


_FORWARD = (Phase.INIT, Phase.DATA, Phase.FORWARD)


class CauseFinder:
    """Tells the causes of one program's faults.

    Args:
        program: the program whose readings are judged.
        phase: what to call every site's phase, None to tell them apart.
    """

    def __init__(self, program: Program, *, phase: Phase | None = None) -> None:
        self._program = program
        self._phase = phase

    def blame(self, reading: Reading, outputs: Sequence[int]) -> Blame:
        """The findings of what is bad in `outputs` (values of the top frame)."""
        causes = self.causes(reading, outputs)
        origin, culprit = (event and self.site(reading, event) for event in causes)
        return Blame(origin=origin, culprit=culprit)

    def causes(self, reading: Reading, outputs: Sequence[int]) -> Causes:
        """The origin and the culprit of what is bad in `outputs` (values of the top frame)."""
        points = [Point(value) for value in outputs]
        nans = beginnings(reading, points, NAN).events
        if not nans:
            infs = beginnings(reading, points, INF).events
            return Causes(origin=infs[0] if infs else None, culprit=None)
        culprit = nans[0]
        if culprit.equation is None or culprit.source != "made":
            entry = self._entry(reading, points, culprit)
            return Causes(origin=entry, culprit=entry)
        operands = self._program.equations[culprit.equation].operands
        read = [Point(value, culprit.iterations) for value in operands]
        infs = beginnings(reading, [p for p in read if reading.code(p) == INF], INF).events
        origin = infs[0] if infs else culprit
        if origin.equation is None:
            # The culprit itself reads an inf from an argument or a constant.
            origin = origin._replace(equation=culprit.equation, iterations=culprit.iterations)
        return Causes(origin=origin, culprit=culprit)

    def _entry(self, reading: Reading, outputs: list[Point], read: Event) -> Event:
        """Where a NaN that came in enters the pass whose outputs are bad.

        A NaN that the forward pass masks can come back in the backward pass: no result of the
        forward pass is bad then, and its first reader there did no harm.
        """
        makers = [self._program.values[p.value].equation for p in outputs if reading.code(p) == NAN]
        if any(equation is None or self.phase(equation) in _FORWARD for equation in makers):
            return read
        for point in way(reading, outputs, read):
            equation = self._program.values[point.value].equation
            is_opened = equation is None or self._program.equations[equation].opened is not None
            if equation is not None and not is_opened and self.phase(equation) not in _FORWARD:
                return read._replace(equation=equation, iterations=point.iterations)
        return read

    def site(self, reading: Reading, event: Event, **contents: Any) -> Site:
        """Return where an event happened; `contents` are further fields, such as `operands`."""
        if event.equation is None:
            return Site(
                primitive="", phase=self._phase or Phase.DATA, module="", source="",
                function="", library="", mechanism=Mechanism(event.source),
            )  # fmt: skip
        equation = self._program.equations[event.equation]
        frame, library = location.user_frame(equation), location.library_frame(equation)
        return Site(
            primitive=equation.primitive,
            phase=self.phase(event.equation),
            module=location.module_of(equation.scopes, equation.callers),
            source=f"{written(frame.file)}:{frame.line}" if frame else "",
            function=frame.function if frame else "",
            file=frame.file if frame else "",
            line=frame.line if frame else 0,
            code=_code(frame.file, frame.line) if frame else "",
            library=f"{written(library.file)}:{library.line}" if library else "",
            mechanism=self._mechanism(reading, event, equation),
            iterations=event.iterations,
            **contents,
        )

    def _mechanism(self, reading: Reading, event: Event, equation: Equation) -> Mechanism:
        if event.source != "made":
            return Mechanism(event.source)
        detail = reading.detail(equation, event.iterations)

        def holds(values: Sequence[int], code: int) -> bool:
            return any(reading.code(Point(v, event.iterations)) == code for v in values)

        if event.worst == NAN or holds(equation.results, NAN):
            has_inf = all(has_infinity(self._program.values[v].dtype) for v in equation.results)
            operand_inf = holds(equation.operands, INF)
            return mechanism.nan_mechanism(equation.primitive, operand_inf, detail, has_inf=has_inf)
        return mechanism.inf_mechanism(equation.primitive, detail)

    def phase(self, equation: int) -> Phase:
        """Return the phase of an equation."""
        return self._phase or self._phases[equation]

    @cached_property
    def _phases(self) -> dict[int, Phase]:
        return location.phases_of(self._program)


def _code(file: str, line: int) -> str:
    linecache.checkcache(file)  # a notebook's or a session's file may have changed
    return linecache.getline(file, line).strip()
