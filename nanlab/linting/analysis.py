"""Program, abstract arguments -> abstract values, dangers: the abstract interpreter."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from nanlab.blame.program.program import Equation, Frame, Program
from nanlab.blame.vocabulary import Mechanism
from nanlab.linting import loops
from nanlab.linting.abstract import (
    MOST_ELEMENTS,
    NEVER,
    Abstract,
    May,
    anything,
    constant,
    flushed,
)
from nanlab.linting.axes import COPIES
from nanlab.linting.danger import Danger
from nanlab.linting.floats import (
    Mask,
    can_be_nan,
    float_type,
    integer_range,
    is_complex,
    is_float,
    rounded,
)
from nanlab.linting.guards import Guards
from nanlab.linting.here import Here
from nanlab.linting.rules.complexes import COMPLEX
from nanlab.linting.rules.table import RULES, STEEP, UNREPEATABLE

NARROW = 1e6
"""A type whose largest number is below this one overflows without growth: float16, float8."""


class Parts(NamedTuple):
    """Parts of the domain, which the benchmark switches off in turn.

    Attributes:
        relations: relations between values.
        guards: evaluation of a branch under its predicate.
        elements: one interval for each element.
        growth: whether overflow of sums and products in a wide type counts as an inf.
    """

    relations: bool = True
    guards: bool = True
    elements: bool = True
    growth: bool = False


ALL_PARTS = Parts()


@dataclass(kw_only=True)
class ValueResults:
    """What an analysis found.

    Attributes:
        outputs: what the program's results may be.
        dangers: how equations may make an inf or a NaN, by number.
        growth: equations whose result may overflow by growth, by number.
        meetings: equations at which infs may become NaN: mechanism, and the makers of the infs.
        checked: equations at which a danger was looked for.
        unknown: equations without a rule.
    """

    outputs: list[Abstract] = field(default_factory=list[Abstract])
    dangers: dict[int, Danger] = field(default_factory=dict[int, Danger])
    growth: dict[int, Danger] = field(default_factory=dict[int, Danger])
    meetings: dict[int, tuple[Mechanism, set[int]]] = field(
        default_factory=dict[int, tuple[Mechanism, set[int]]]
    )
    checked: set[int] = field(default_factory=set[int])
    unknown: set[int] = field(default_factory=set[int])

    @property
    def reaching(self) -> set[int]:
        """The makers whose bad values may reach an output."""
        return {maker for output in self.outputs for maker in output.bad.makers}


class RangeAnalysis:
    """Runs a program on abstract values.

    Args:
        program: the program.
        parts: the parts of the domain to use.
        muted: equations that make no inf or NaN, as if they were cured; they are still reported.

    Attributes:
        program: the program.
        parts: the parts of the domain in use.
        muted: equations that make no inf or NaN.
        env: what each value may be, by number; in a loop, in its last iteration.
        results: what was found.
        chosen: results of a `cond`, by number: its predicate, and the result of each branch.
    """

    def __init__(
        self, program: Program, parts: Parts = ALL_PARTS, muted: Collection[int] = ()
    ) -> None:
        self.program, self.parts, self.muted = program, parts, muted
        self.env: dict[int, Abstract] = {}
        self.results = ValueResults()
        self.chosen: dict[int, tuple[int, dict[int, Abstract]]] = {}
        self.guards = Guards(self)
        self._roots: dict[int, int] = {}
        self._first: dict[tuple[object, ...], int] = {}
        self._copies = set[int]()
        self._is_quiet = False

    def run(self, arguments: Sequence[Abstract]) -> ValueResults:
        """Run the program on these arguments."""
        with np.errstate(all="ignore"):
            given = [flushed(argument) for argument in arguments]
            self.results.outputs = self.run_frame(self.program.frames[0], given)
        return self.results

    def run_frame(self, frame: Frame, arguments: Sequence[Abstract]) -> list[Abstract]:
        """Run a frame and return its results."""
        self._forget_copies(frame)
        self.env.update(zip(frame.arguments, arguments, strict=True))
        for index in frame.equations:
            equation = self.program.equations[index]
            operands = [self.of(value) for value in equation.operands]
            if equation.opened is None:
                results = self.evaluate(equation, operands)
            else:
                results = loops.run_opened(self, equation, operands)
            self.env.update(zip(equation.results, results, strict=True))
        return [self.of(value) for value in frame.results]

    def of(self, value: int) -> Abstract:
        """Return what a value may be."""
        known = self.env.get(value)
        if known is None:
            info = self.program.values[value]
            is_known = info.is_constant and not hasattr(info.constant, "_base_array")
            known = constant(info.constant, info.dtype) if is_known else None
            known = known or anything(info.shape, info.dtype)
            self.env[value] = known
        return known

    def evaluate(
        self, equation: Equation, operands: Sequence[Abstract], *, is_quiet: bool = False
    ) -> list[Abstract]:
        """Return what the results of an equation may be; a quiet evaluation records nothing."""
        if not equation.results:
            return []
        before, self._is_quiet = self._is_quiet, self._is_quiet or is_quiet
        here = Here(self, equation)
        rule = RULES.get(equation.primitive)
        values = [self.program.values[v] for v in (*equation.operands, *equation.results)]
        if any(is_complex(value.dtype) for value in values):
            rule = COMPLEX.get(equation.primitive)
        if rule is None:
            results = self._unknown(here, operands)
        else:
            found = rule(here, *operands)
            results = found if isinstance(found, list) else [found]
        finished = [self._finished(here, result) for result in results]
        self._is_quiet = before
        return finished

    def _unknown(self, here: Here, operands: Sequence[Abstract]) -> list[Abstract]:
        """Return any finite values, and NaN if an operand may be bad."""
        if not self._is_quiet:
            self.results.unknown.add(here.equation.index)
        makers = frozenset(m for operand in operands for m in operand.bad.makers)
        results: list[Abstract] = []
        for index in range(len(here.equation.results)):
            shape, dtype = here.result_type(index)
            nan = May(np.ones((), bool), makers if can_be_nan(dtype) else frozenset())
            results.append(anything(shape, dtype, nan=nan))
        return results

    def _finished(self, here: Here, value: Abstract) -> Abstract:
        """Return a result as its type has it: rounded, overflowed, flushed to zero."""
        if is_float(value.dtype):
            if here.equation.primitive in STEEP and not here.is_widening:
                self.check(here.equation.index)
            value = self._in_type(here, value)
        elif not is_complex(value.dtype):
            value = _wrapped(value)
        if not self.parts.relations:
            value = replace(value, bounds=(), peak=None, nonzero=False)
        largest = max(value.lo.size, value.hi.size, value.bad.where.size)
        is_uniform = not self.parts.elements or largest > MOST_ELEMENTS
        return value.uniform() if is_uniform else value

    def _in_type(self, here: Here, value: Abstract) -> Abstract:
        kind = float_type(value.dtype)
        value = flushed(value)
        empty = value.empty
        most = kind.largest * (1 + kind.epsilon / 4)
        over, under = (value.hi > most) & ~empty, (value.lo < -most) & ~empty
        posinf, neginf, nan = value.posinf, value.neginf, value.nan
        if over.any() or under.any():
            made = self.overflow(here, value, over | under)
            if kind.has_inf:
                posinf, neginf = posinf | made & over, neginf | made & under
            else:
                nan = nan | made
        lo = rounded(np.clip(value.lo, -kind.largest, kind.largest), value.dtype)
        hi = rounded(np.clip(value.hi, -kind.largest, kind.largest), value.dtype)
        if empty.any():
            lo, hi = np.where(empty, np.inf, lo), np.where(empty, -np.inf, hi)
        return flushed(replace(value, lo=lo, hi=hi, posinf=posinf, neginf=neginf, nan=nan))

    def overflow(self, here: Here, value: Abstract | None, where: Mask) -> May:
        """Record that an equation may overflow, as a danger or as growth."""
        value = anything(here.shape, here.dtype) if value is None else value
        largest = float_type(value.dtype).largest
        is_certain = bool(((value.lo > largest) | (value.hi < -largest)).any())
        is_danger = here.equation.primitive in STEEP or largest < NARROW or is_certain
        danger = Danger(mechanism=Mechanism.OVERFLOW, value=value, is_growth=not is_danger)
        if is_danger:
            self.record(here.equation.index, danger)
        elif not self._is_quiet:
            self.results.growth[here.equation.index] = danger
        if not is_danger and not self.parts.growth:
            return NEVER
        return self.made(here.equation.index, where)

    # Records.

    def made(self, equation: int, where: Mask) -> May:
        """Return bad values that an equation makes."""
        return NEVER if equation in self.muted else May(where, frozenset({equation}))

    def record(self, equation: int, danger: Danger) -> None:
        """Record how an equation may make an inf or a NaN; the first danger describes it."""
        if not self._is_quiet:
            self.results.dangers.setdefault(equation, danger)

    def check(self, equation: int) -> None:
        """Record that a danger is looked for at an equation."""
        if not self._is_quiet:
            self.results.checked.add(equation)

    def record_meeting(self, equation: int, mechanism: Mechanism, makers: frozenset[int]) -> None:
        """Record at which equation infs may become NaN."""
        if not self._is_quiet:
            _, known = self.results.meetings.setdefault(equation, (mechanism, set()))
            known |= makers

    # Copies of a value.

    def root(self, value: int) -> int:
        """Return the value that this one is a copy of, or that is computed in the same way."""
        if value not in self._roots:
            source = self._source(value)
            self._roots[value] = value if source == value else self.root(source)
        return self._roots[value]

    def _source(self, value: int) -> int:
        info, maker = self.program.values[value], self.program.computed_by(value)
        if info.is_constant and info.shape == () and is_float(info.dtype):
            number = float(np.asarray(info.constant))
            return self._first.setdefault((str(info.dtype), number), value)
        if maker is None or maker.eqn.effects:
            return value
        if self._is_copy(maker):
            return maker.operands[0]
        if maker.primitive not in RULES or maker.primitive in UNREPEATABLE:
            return value
        operands = tuple(self.root(operand) for operand in maker.operands)
        key = (maker.frame, maker.primitive, operands, str(maker.eqn.params))
        return self._first.setdefault((*key, maker.results.index(value)), value)

    def _is_copy(self, equation: Equation) -> bool:
        if equation.primitive == "convert_element_type":
            source, result = equation.operands[0], equation.results[0]
            return self.program.values[source].dtype == self.program.values[result].dtype
        return equation.primitive in COPIES and len(equation.results) == 1

    def identify_result(self, equation: Equation, operand: int) -> None:
        """Record that a result is a copy of an operand, unless it is one under a guard alone."""
        if not self._is_quiet:
            self._copies.add(equation.results[0])
            self.identify(equation.results[0], self.root(equation.operands[operand]))

    def _forget_copies(self, frame: Frame) -> None:
        """Forget which results were copies in the last iteration: in the next they may be none."""
        results = {v for e in self._equations(frame) for v in e.results} if self._copies else set()
        if results.isdisjoint(self._copies):
            return
        self._copies -= results
        self._roots = {v: root for v, root in self._roots.items() if v not in results}
        self._first = {key: v for key, v in self._first.items() if v not in results}

    def _equations(self, frame: Frame) -> Iterator[Equation]:
        for index in frame.equations:
            equation = self.program.equations[index]
            yield equation
            for inner in equation.frames:
                yield from self._equations(self.program.frames[inner])

    def identify(self, value: int, source: int) -> None:
        """Record that a value is a copy of another one."""
        self._roots[value] = source


def _wrapped(value: Abstract) -> Abstract:
    """Return an integer value; one that leaves its type may be anything in it."""
    least, most = integer_range(value.dtype)
    outside = (value.lo < least) | (value.hi > most)
    if not outside.any():
        return value
    lo, hi = np.where(outside, least, value.lo), np.where(outside, most, value.hi)
    return replace(value, lo=lo, hi=hi)
