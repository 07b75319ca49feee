"""Predicates -> facts, and values evaluated again where these facts hold.

In `where(x > 0, log(x), 0)` the logarithm is used only where x > 0: there it is evaluated again,
with x as the predicate leaves it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nanlab.blame.program.program import Equation
from nanlab.linting.abstract import NEVER, Abstract, interval
from nanlab.linting.axes import COPIES, MOVES
from nanlab.linting.floats import next_number
from nanlab.linting.rules.table import ELEMENTWISE

if TYPE_CHECKING:
    from nanlab.linting.analysis import RangeAnalysis

DEPTH = 9
"""Number of operations between a predicate's operand and the guarded value."""

_NEGATED = {"lt": "ge", "le": "gt", "gt": "le", "ge": "lt", "eq": "ne", "ne": "eq"}
_SWAPPED = {"lt": "gt", "le": "ge", "gt": "lt", "ge": "le", "eq": "eq", "ne": "ne"}


class Fact(NamedTuple):
    """What is known of a value where a predicate holds.

    Attributes:
        value: number of the value.
        relation: "lt", "le", "gt", "ge", "eq" or "ne" to the limit; "finite" or "not nan".
        limit: what the value is compared with, one interval for all elements.
        excludes_nan: whether the value is no NaN.
    """

    value: int
    relation: str
    limit: Abstract | None = None
    excludes_nan: bool = False


class Guards:
    """Facts from the predicates of a program.

    Args:
        analysis: the analysis of the program.
    """

    def __init__(self, analysis: RangeAnalysis) -> None:
        self._analysis = analysis

    def source(self, predicate: int) -> int:
        """Return the value that a predicate is a copy of, in whatever shape and type."""
        while (maker := self._analysis.program.computed_by(predicate)) is not None:
            if maker.primitive == "clamp":
                predicate = maker.operands[1]
            elif maker.primitive in (*COPIES, *MOVES, "convert_element_type"):
                predicate = maker.operands[0]
            else:
                break
        return predicate

    def facts(self, predicate: int, *, truth: bool) -> list[Fact]:
        """Return what is known where a predicate is true, or where it is false."""
        if not self._analysis.parts.guards:
            return []
        return list(self._facts(predicate, truth, 6))

    def _facts(self, predicate: int, truth: bool, depth: int) -> Iterator[Fact]:
        source, program = self.source(predicate), self._analysis.program
        if program.values[source].dtype == np.bool_:
            known = interval((), np.bool_, float(truth), float(truth))
            yield Fact(self._analysis.root(source), "eq", known)
        maker = program.computed_by(source)
        if maker is None or not depth:
            return
        name = maker.primitive
        if name == "not":
            yield from self._facts(maker.operands[0], not truth, depth - 1)
        elif name == ("and" if truth else "or"):
            for operand in maker.operands:
                yield from self._facts(operand, truth, depth - 1)
        elif name == "is_finite" and truth:
            yield Fact(self._analysis.root(maker.operands[0]), "finite")
        elif name in _NEGATED:
            yield from self._comparison(maker, truth)

    def _comparison(self, maker: Equation, truth: bool) -> Iterator[Fact]:
        of, root = self._analysis.of, self._analysis.root
        left, right = maker.operands
        relation = maker.primitive if truth else _NEGATED[maker.primitive]
        if root(left) == root(right):
            if relation == "eq":  # x != x is true of NaN alone
                yield Fact(root(left), "not nan")
            return
        # A comparison with NaN is false, and != is true.
        excludes_nan = truth != (maker.primitive == "ne")
        for value, other, name in ((left, right, relation), (right, left, _SWAPPED[relation])):
            fact = Fact(root(value), name, of(other).uniform(()), excludes_nan)
            yield fact
            yield from self._of_magnitude(fact)

    def _of_magnitude(self, fact: Fact) -> Iterator[Fact]:
        """Yield that x is not zero where |x| or x² is above a number that is not negative."""
        maker = self._analysis.program.computed_by(fact.value)
        is_even = maker is not None and (
            maker.primitive in ("abs", "square")
            or (maker.primitive == "integer_pow" and maker.eqn.params["y"] % 2 == 0)
        )
        if maker is None or not is_even or fact.limit is None or fact.limit.bad:
            return
        least = fact.limit.least
        is_above = (fact.relation == "gt" and least >= 0) or (fact.relation == "ge" and least > 0)
        is_not_zero = fact.relation == "ne" and fact.limit.is_point and least == 0
        if is_above or is_not_zero:
            zero = replace(fact.limit, lo=np.zeros(()), hi=np.zeros(()))
            yield Fact(self._analysis.root(maker.operands[0]), "ne", zero)

    def under(
        self, value: int, known: Abstract, facts: Sequence[Fact], depth: int = DEPTH
    ) -> Abstract:
        """Return what a value may be where the facts hold.

        Args:
            value: number of the value.
            known: what it may be anywhere.
            facts: what is known there.
            depth: number of operations that are evaluated again, one after the other.

        Returns:
            What it may be there.
        """
        if not facts:
            return known
        by_value: dict[int, list[Fact]] = {}
        for fact in facts:
            by_value.setdefault(fact.value, []).append(fact)
        found = _Reevaluation(self._analysis, by_value).of(value, depth)
        return known if found is None else found


class _Reevaluation:
    """Values evaluated again under facts; None for a value that the facts leave as it is."""

    def __init__(self, analysis: RangeAnalysis, facts: dict[int, list[Fact]]) -> None:
        self._analysis, self._facts = analysis, facts
        self._known: dict[int, Abstract | None] = {}

    def of(self, value: int, depth: int) -> Abstract | None:
        """Return what a value may be, through at most `depth` operations."""
        if value not in self._known:
            self._known[value] = None
            self._known[value] = self._of(value, depth)
        return self._known[value]

    def _of(self, value: int, depth: int) -> Abstract | None:
        before = self._analysis.of(value)
        own = self._facts.get(self._analysis.root(value))
        if own is not None:
            for fact in own:
                before = _restricted(before, fact)
            return before
        maker = self._analysis.program.computed_by(value)
        if maker is None or not depth or maker.primitive not in ELEMENTWISE:
            return None
        operands = [self.of(operand, depth - 1) for operand in maker.operands]
        if all(operand is None for operand in operands):
            return None
        known = [
            self._analysis.of(number) if operand is None else operand
            for number, operand in zip(maker.operands, operands, strict=True)
        ]
        results = self._analysis.evaluate(maker, known, is_quiet=True)
        return _both(before, results[maker.results.index(value)])


def _both(before: Abstract, after: Abstract) -> Abstract:
    """Return what lies in both."""
    return replace(
        after,
        lo=np.maximum(before.lo, after.lo),
        hi=np.minimum(before.hi, after.hi),
        posinf=after.posinf & before.posinf.where,
        neginf=after.neginf & before.neginf.where,
        nan=after.nan & before.nan.where,
    )


def _restricted(value: Abstract, fact: Fact) -> Abstract:
    """Return what a value may be where a fact holds."""
    if fact.relation == "finite":
        return replace(value, posinf=NEVER, neginf=NEVER, nan=NEVER)
    if fact.relation == "not nan":
        return replace(value, nan=NEVER)
    limit = fact.limit
    assert limit is not None
    if fact.excludes_nan:
        value = replace(value, nan=NEVER)
    if limit.nan and not fact.excludes_nan:
        return value  # the limit may be NaN, and then it says nothing
    if fact.relation in ("gt", "ge"):
        return _above(value, limit, is_strict=fact.relation == "gt")
    if fact.relation in ("lt", "le"):
        mirrored = _above(_negative(value), _negative(limit), is_strict=fact.relation == "lt")
        return _negative(mirrored)
    if fact.relation == "eq":
        return replace(
            value,
            lo=np.maximum(value.lo, limit.least),
            hi=np.minimum(value.hi, limit.greatest),
            posinf=value.posinf if limit.posinf else NEVER,
            neginf=value.neginf if limit.neginf else NEVER,
        )
    return _different(value, limit)


def _above(value: Abstract, limit: Abstract, *, is_strict: bool) -> Abstract:
    if limit.neginf:
        only_neginf = limit.least > limit.greatest and not limit.posinf
        return replace(value, neginf=NEVER) if is_strict and only_neginf else value
    least = limit.least
    if least == np.inf:  # the limit is +inf
        return replace(value, lo=np.inf, hi=-np.inf, neginf=NEVER)
    if is_strict:
        least = next_number(least, value.dtype, +1)
    return replace(value, lo=np.maximum(value.lo, least), neginf=NEVER)


def _negative(value: Abstract) -> Abstract:
    return replace(value, lo=-value.hi, hi=-value.lo, posinf=value.neginf, neginf=value.posinf)


def _different(value: Abstract, limit: Abstract) -> Abstract:
    if limit.least > limit.greatest:  # the limit is infinite
        return replace(
            value,
            posinf=value.posinf if limit.neginf else NEVER,
            neginf=value.neginf if limit.posinf else NEVER,
        )
    if not limit.is_point:
        return value
    number = limit.least
    return replace(
        value,
        lo=np.where(value.lo == number, next_number(number, value.dtype, +1), value.lo),
        hi=np.where(value.hi == number, next_number(number, value.dtype, -1), value.hi),
        nonzero=value.nonzero or number == 0,
    )
