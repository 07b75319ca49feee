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
        nans = beginnings(reading, points, NAN)
        if nans.events:
            return self._of_nan(reading, nans.events[0])
        if nans.unread:
            handed = self._handed_through(nans.unread[0])
            return Verdict(origin=handed, culprit=handed)
        infs = beginnings(reading, points, INF)
        if infs.events:
            return Verdict(origin=self.finding(reading, infs.events[0], INF), culprit=None)
        origin = self._handed_through(infs.unread[0]) if infs.unread else None
        return Verdict(origin=origin, culprit=None)

    def _of_nan(self, reading: Reading, event: Event) -> Verdict:
        """A culprit, and where the infs that it read began."""
        culprit = self.finding(reading, event, NAN)
        operands = [Point(v, event.iterations) for v in self._program.sites[event.site].operands]
        bad = [point for point in operands if reading.code(point) == INF]
        infs = beginnings(reading, bad if event.source == "made" else [], INF)
        if infs.events:
            return Verdict(origin=self.finding(reading, infs.events[0], INF), culprit=culprit)
        if infs.unread:
            # The culprit itself reads an inf from an argument or a constant.
            read = event._replace(source=self._source(infs.unread[0]))
            return Verdict(origin=self.finding(reading, read, INF), culprit=culprit)
        return Verdict(origin=culprit, culprit=culprit)

    def _source(self, point: Point) -> str:
        value = self._program.values[point.value]
        is_constant = value.site is None and value.argument is None
        return mechanism.CONSTANT if is_constant else mechanism.INPUT

    def _handed_through(self, point: Point) -> Finding:
        """A bad argument or constant that is an output as it is: no site makes or reads it."""
        return Finding(
            primitive="",
            phase=self._phase or "data",
            module="",
            source="",
            library="",
            function="",
            mechanism=self._source(point),
        )

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
