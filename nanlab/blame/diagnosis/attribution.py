"""Reading -> Blame: the origin and the culprit of one lane's fault, with their locations."""

from __future__ import annotations

import linecache
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from nanlab.backend.finiteness import INF, NAN, has_infinity
from nanlab.blame.diagnosis import location, mechanism
from nanlab.blame.diagnosis.causal_walk import Event, beginnings, causal_path
from nanlab.blame.diagnosis.reading import Reading
from nanlab.blame.program.point import Point
from nanlab.blame.program.program import Equation, Program
from nanlab.blame.site import Site
from nanlab.blame.source_path import from_package_root
from nanlab.blame.vocabulary import Mechanism, Phase


@dataclass(frozen=True, kw_only=True)
class Blame:
    """The sites of one lane's fault.

    Attributes:
        origin: site of the first inf or NaN, or None.
        culprit: site of the first NaN, or None.
    """

    origin: Site | None
    culprit: Site | None


class Causes(NamedTuple):
    """The events at which the bad values of some outputs began, or None."""

    origin: Event | None
    culprit: Event | None


_FORWARD = (Phase.INIT, Phase.DATA, Phase.FORWARD)


def site_at(equation: Equation, phase: Phase, mechanism: Mechanism, **fields: Any) -> Site:
    """Return the site of an equation; `fields` are further fields, such as `iterations`."""
    frame, library = location.user_frame(equation), location.library_frame(equation)
    return Site(
        primitive=equation.primitive,
        phase=phase,
        module=location.module_of(equation.scopes, equation.callers),
        source=f"{from_package_root(frame.file)}:{frame.line}" if frame else "",
        function=frame.function if frame else "",
        file=frame.file if frame else "",
        line=frame.line if frame else 0,
        code=_code(frame.file, frame.line) if frame else "",
        library=f"{from_package_root(library.file)}:{library.line}" if library else "",
        mechanism=mechanism,
        **fields,
    )


class CauseFinder:
    """Finds the causes of faults in one program.

    Args:
        program: the program that the readings are of.
        phase: phase of all its equations; None to infer it for each.
    """

    def __init__(self, program: Program, *, phase: Phase | None = None) -> None:
        self._program = program
        self._phase = phase

    def blame(self, reading: Reading, outputs: Sequence[int]) -> Blame:
        """Return the sites that made `outputs` bad; outputs are values of the top frame."""
        causes = self.causes(reading, [Point(value) for value in outputs])
        origin, culprit = (event and self.site(reading, event) for event in causes)
        return Blame(origin=origin, culprit=culprit)

    def causes(self, reading: Reading, outputs: Sequence[Point]) -> Causes:
        """Return the events at which the bad values of `outputs`, top-level points, began."""
        nans = beginnings(reading, outputs, NAN).events
        if not nans:
            infs = beginnings(reading, outputs, INF).events
            return Causes(origin=infs[0] if infs else None, culprit=None)
        culprit = nans[0]
        if culprit.equation is None or not culprit.is_computed:
            entry = self._entry(reading, outputs, culprit)
            return Causes(origin=entry, culprit=entry)
        operands = self._program.equations[culprit.equation].operands
        read = [Point(value, culprit.iterations) for value in operands]
        infs = beginnings(reading, [p for p in read if reading.code(p) == INF], INF).events
        origin = infs[0] if infs else culprit
        if origin.equation is None:
            # The culprit itself reads an inf from an argument or a constant.
            origin = origin._replace(equation=culprit.equation, iterations=culprit.iterations)
        return Causes(origin=origin, culprit=culprit)

    def _entry(self, reading: Reading, outputs: Sequence[Point], read: Event) -> Event:
        """Return where a NaN that was passed in enters the pass whose outputs are bad."""
        # A NaN that the forward pass masks can return in the backward pass. Then no forward output
        # is bad, and the equation that reads the NaN first did no harm.
        makers = [self._program.values[p.value].equation for p in outputs if reading.code(p) == NAN]
        if any(maker is None or self.phase(maker) in _FORWARD for maker in makers):
            return read
        for point in causal_path(reading, outputs, read):
            equation = self._program.computed_by(point.value)
            if equation is not None and self.phase(equation.index) not in _FORWARD:
                return read._replace(equation=equation.index, iterations=point.iterations)
        return read

    def site(self, reading: Reading, event: Event, **contents: Any) -> Site:
        """Return the site of an event; `contents` are further fields, such as `operands`."""
        if event.equation is None:
            return Site(
                primitive="", phase=self._phase or Phase.DATA, module="", source="",
                function="", library="", mechanism=Mechanism(event.source),
            )  # fmt: skip
        equation = self._program.equations[event.equation]
        return site_at(
            equation,
            self.phase(event.equation),
            self._mechanism(reading, event, equation),
            iterations=event.iterations,
            **contents,
        )

    def _mechanism(self, reading: Reading, event: Event, equation: Equation) -> Mechanism:
        if not event.is_computed:
            return Mechanism(event.source)
        detail = reading.detail(equation, event.iterations)

        def has(values: Sequence[int], code: int) -> bool:
            return any(reading.code(Point(v, event.iterations)) == code for v in values)

        if event.worst == NAN or has(equation.results, NAN):
            has_inf = all(has_infinity(self._program.values[v].dtype) for v in equation.results)
            operand_inf = has(equation.operands, INF)
            return mechanism.nan_mechanism(equation.primitive, operand_inf, detail, has_inf=has_inf)
        return mechanism.inf_mechanism(equation.primitive, detail)

    def phase(self, equation: int) -> Phase:
        """Return the phase of an equation."""
        return self._phase or self._phases[equation]

    @cached_property
    def _phases(self) -> dict[int, Phase]:
        return location.phases_of(self._program)


def _code(file: str, line: int) -> str:
    linecache.checkcache(file)  # a notebook's or an interactive session's source may have changed
    return linecache.getline(file, line).strip()
