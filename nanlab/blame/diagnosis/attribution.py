"""Reading -> Blame: the origin and the culprit of one lane's fault, with their locations."""

from __future__ import annotations

import linecache
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from nanlab.backend.finiteness import INF, NAN, as_numbers, has_infinity
from nanlab.blame.diagnosis import location, mechanism
from nanlab.blame.diagnosis.causal_walk import Beginnings, Event, beginnings, causal_path
from nanlab.blame.diagnosis.contents import contributing_elements, first_bad
from nanlab.blame.diagnosis.elements import (
    LARGEST_ELEMENTS,
    Mask,
    bad_elements,
    detail_at,
    feeding,
    first_of,
)
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
        library_code=_code(library.file, library.line) if library else "",
        mechanism=mechanism,
        **fields,
    )


class CauseFinder:
    """Finds the causes of faults in one program.

    Args:
        program: the program that the readings are of.
        phase: phase of all its equations; None to infer it for each.
        phases: phases of its equations, where they are known.
    """

    def __init__(
        self,
        program: Program,
        *,
        phase: Phase | None = None,
        phases: Mapping[int, Phase] | None = None,
    ) -> None:
        self._program = program
        self._phase = phase
        self._known_phases = phases

    def blame(self, reading: Reading, outputs: Sequence[int]) -> Blame:
        """Return the sites that made `outputs` bad; outputs are values of the top frame."""
        causes = self.causes(reading, [Point(value) for value in outputs])
        origin, culprit = (event and self.site(reading, event) for event in causes)
        return Blame(origin=origin, culprit=culprit)

    def causes(self, reading: Reading, outputs: Sequence[Point]) -> Causes:
        """Return the events at which the bad values of `outputs`, top-level points, began."""
        walk = beginnings(reading, outputs, NAN)
        if not walk.events:
            infs = beginnings(reading, outputs, INF)
            origin = infs.events[0] if infs.events else None
            return Causes(origin=origin and self._with_element(origin, infs), culprit=None)
        culprit = walk.events[0]
        if culprit.equation is None or not culprit.is_computed:
            entry = self._with_element(self._entry(reading, outputs, culprit), walk)
            return Causes(origin=entry, culprit=entry)
        culprit = self._with_element(culprit, walk)
        masks = self._infs_read(reading, culprit)
        infs = beginnings(reading, masks, INF, {p: m for p, m in masks.items() if m is not None})
        if not infs.events:
            return Causes(origin=culprit, culprit=culprit)
        origin = self._with_element(infs.events[0], infs)
        if origin.equation is None:
            # The culprit itself reads an inf from an argument or a constant.
            origin = origin._replace(equation=culprit.equation, iterations=culprit.iterations)
        return Causes(origin=origin, culprit=culprit)

    def at_elements(self, reading: Reading, causes: Causes) -> Causes:
        """Return the causes where more arrays are known: an inf that is not behind is no origin."""
        origin, culprit = (event and self._at_bad_element(reading, event) for event in causes)
        if origin is None or culprit is None or origin == culprit or not culprit.is_computed:
            return Causes(origin, culprit)
        return Causes(origin if self._infs_read(reading, culprit) else culprit, culprit)

    def _at_bad_element(self, reading: Reading, event: Event) -> Event:
        if event.equation is None or event.element is not None:
            return event
        equation = self._program.equations[event.equation]
        if self._program.n_shard_maps(equation.frame) or not equation.results:
            return event
        result = reading.array(Point(equation.results[0], event.iterations))
        return event if result is None else event._replace(element=first_bad(result, event.worst))

    def _with_element(self, event: Event, walk: Beginnings) -> Event:
        """Add an element through which an event reached where the walk began."""
        if event.equation is None:
            return event
        results = self._program.equations[event.equation].results
        mask = walk.masks.get(Point(results[0], event.iterations)) if results else None
        return event if mask is None else event._replace(element=first_of(mask))

    def _infs_read(self, reading: Reading, culprit: Event) -> dict[Point, Mask | None]:
        """Return the operands with an inf behind the culprit's element; and where, if known."""
        assert culprit.equation is not None
        equation = self._program.equations[culprit.equation]
        points = [Point(value, culprit.iterations) for value in equation.operands]
        arrays = [reading.array(p) for p in points]
        known = [x for x in arrays if x is not None and x.size <= LARGEST_ELEMENTS]
        if culprit.element is None or len(known) < len(arrays):
            return {p: None for p in points if reading.code(p) == INF}
        shape = self._program.values[equation.results[0]].shape
        one = np.zeros(shape, bool)
        one[culprit.element] = True
        found: dict[Point, Mask | None] = {}
        masks = feeding(equation, known, 0, one)
        for point, array, mask in zip(points, known, masks, strict=True):
            infs = bad_elements(array, INF) & ~bad_elements(array, NAN)
            infs = infs if mask is None else infs & mask
            if infs.any():
                before = found.get(point)
                found[point] = infs if before is None else infs | before
        return found

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
        at_element = self._at_element(reading, event, equation)
        if at_element is not None:
            is_nan, operand_inf, detail = at_element
        else:
            detail = reading.detail(equation, event.iterations)

            def has(values: Sequence[int], code: int) -> bool:
                return any(reading.code(Point(v, event.iterations)) == code for v in values)

            is_nan, operand_inf = has(equation.results, NAN), has(equation.operands, INF)
        if event.worst == NAN or is_nan:
            has_inf = all(has_infinity(self._program.values[v].dtype) for v in equation.results)
            return mechanism.nan_mechanism(equation.primitive, operand_inf, detail, has_inf=has_inf)
        return mechanism.inf_mechanism(equation.primitive, detail)

    def _at_element(
        self, reading: Reading, event: Event, equation: Equation
    ) -> tuple[bool, bool, int] | None:
        """Return whether the event's element is NaN, reads an inf, and the detail there."""
        if event.element is None or self._program.n_shard_maps(equation.frame):
            return None
        values = (*equation.operands, equation.results[0])
        arrays = [reading.array(Point(v, event.iterations)) for v in values]
        *operands, result = [as_numbers(x) for x in arrays if x is not None]
        if len(operands) + 1 < len(values):
            return None
        elements = contributing_elements(equation, operands, event.element)
        read = [x for x in elements if x is not None]
        if len(read) < len(elements):
            return None
        there = np.asarray(result[event.element])
        infs = any(bool(np.isinf(x).any()) for x in read if x.dtype.kind in "fc")
        return bool(np.isnan(there)), infs, detail_at(equation, read, there)

    def phase(self, equation: int) -> Phase:
        """Return the phase of an equation."""
        return self._phase or self._phases[equation]

    @cached_property
    def _phases(self) -> Mapping[int, Phase]:
        return self._known_phases or location.phases_of(self._program)


def _code(file: str, line: int) -> str:
    linecache.checkcache(file)  # a notebook's or an interactive session's source may have changed
    return linecache.getline(file, line).strip()
