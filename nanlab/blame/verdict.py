"""Reading -> verdict: the origin and the culprit of one lane, each with its place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from nanlab.blame import mechanism, places
from nanlab.blame.cause import Event, Point, Reading, beginnings
from nanlab.blame.sites import Program
from nanlab.codes import INF, NAN


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One site as it is told: what, in which pass and layer, on which line, by which arithmetic.

    Attributes:
        primitive, phase, module: as DESIGN's vocabulary has them; module is "" outside modules,
            primitive "" for an argument or a constant that is an output as it is.
        source: "file:line" of the innermost frame outside installed libraries, "" if none.
        library: "file:line" of the library's frame that it called, "" if none.
        function: the qualified name of the source frame's function.
        mechanism: the arithmetic.
        iterations: of the loops around the site, outermost first.
    """

    primitive: str
    phase: str
    module: str
    source: str
    library: str
    function: str
    mechanism: str
    iterations: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What one lane's codes say; None where there is none."""

    origin: Finding | None
    culprit: Finding | None


class Judge:
    """Tells the findings of one program.

    Args:
        program: the program whose readings are judged.
        phase: what to call every site's phase, None to tell them apart.
    """

    def __init__(self, program: Program, *, phase: str | None = None) -> None:
        self._program = program
        self._phase = phase

    def verdict(self, reading: Reading, outputs: Sequence[int]) -> Verdict:
        """The origin and the culprit of what is bad in `outputs` (values of the top frame)."""
        points = [Point(value) for value in outputs]
        made_nan = beginnings(reading, points, NAN)
        if not made_nan:
            handed_nan = self._handed_through(reading, points, NAN)
            if handed_nan is not None:
                return Verdict(origin=handed_nan, culprit=handed_nan)
            made_inf = beginnings(reading, points, INF)
            handed_inf = self._handed_through(reading, points, INF)
            origin = self.finding(reading, made_inf[0], INF) if made_inf else handed_inf
            return Verdict(origin=origin, culprit=None)
        first = made_nan[0]
        culprit = self.finding(reading, first, NAN)
        operands = [Point(v, first.iterations) for v in self._program.sites[first.site].operands]
        infs = [point for point in operands if reading.code(point) == INF]
        earlier = beginnings(reading, infs, INF) if first.source == "made" else []
        if earlier:
            return Verdict(origin=self.finding(reading, earlier[0], INF), culprit=culprit)
        if infs and first.source == "made":
            return Verdict(origin=self._read_by(first, reading, infs[0]), culprit=culprit)
        return Verdict(origin=culprit, culprit=culprit)

    def _handed_through(
        self, reading: Reading, points: Sequence[Point], worst: int
    ) -> Finding | None:
        """A bad argument or constant that is an output as it is: no site makes or reads it."""
        bad = [point for point in points if reading.code(point) >= worst]
        values = [self._program.values[point.value] for point in bad]
        value = next((value for value in values if value.site is None), None)
        if value is None:
            return None
        return Finding(
            primitive="",
            phase=self._phase or "data",
            module="",
            source="",
            library="",
            function="",
            mechanism=mechanism.CONSTANT if value.argument is None else mechanism.INPUT,
        )

    def _read_by(self, event: Event, reading: Reading, inf: Point) -> Finding:
        """An inf that the culprit itself reads from an argument or a constant."""
        value = self._program.values[inf.value]
        source = "constant" if value.argument is None else "input"
        return self.finding(reading, event._replace(source=source), INF)

    def finding(self, reading: Reading, event: Event, worst: int) -> Finding:
        """An event in words."""
        site = self._program.sites[event.site]
        user, library = places.user_frame(site), places.library_frame(site)
        return Finding(
            primitive=site.primitive,
            phase=self._phase or self._phases[event.site],
            module=places.module_of(site.scopes),
            source=f"{places.written(user.file)}:{user.line}" if user else "",
            library=f"{places.written(library.file)}:{library.line}" if library else "",
            function=user.function if user else "",
            mechanism=self._mechanism(reading, event, worst),
            iterations=event.iterations,
        )

    def _mechanism(self, reading: Reading, event: Event, worst: int) -> str:
        if event.source != "made":
            return event.source
        site = self._program.sites[event.site]
        detail = reading.detail(site, event.iterations)

        def holds(values: Sequence[int], code: int) -> bool:
            return any(reading.code(Point(v, event.iterations)) == code for v in values)

        if worst == NAN or holds(site.results, NAN):
            return mechanism.nan_mechanism(site.primitive, holds(site.operands, INF), detail)
        return mechanism.inf_mechanism(site.primitive, detail)

    @cached_property
    def _phases(self) -> dict[int, str]:
        return places.phases_of(self._program)
