"""Loops and branches -> what their results may be; loops run until nothing is added."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING

import numpy as np

from nanlab.blame.program.program import Equation, Frame, Program
from nanlab.linting.abstract import Abstract, anything, joined, within
from nanlab.linting.floats import Mask

if TYPE_CHECKING:
    from nanlab.linting.analysis import RangeAnalysis

EXACT_EQUATIONS = 800
"""A loop of at most this number of equations, all iterations together, is followed exactly."""

MOST_ROUNDS = 12
"""Runs of a loop's body before a number that still changes may be anything."""

_SIZES = np.array([0, 1e-30, 1e-8, 1e-6, 1e-3, 1, 10, 1e2, 1e3, 1e4, 1e6, 1e9, 1e12, 1e18, 1e30])
_STEPS = np.unique(np.concatenate([[-np.inf], -_SIZES, _SIZES, [np.inf]]))
"""Numbers at which widening stops."""


def run_opened(
    analysis: RangeAnalysis, equation: Equation, operands: Sequence[Abstract]
) -> list[Abstract]:
    """Return what the results of a loop or a branching may be."""
    assert equation.opened is not None
    runs = {"scan": _scan, "while": _while, "cond": _cond, "shard_map": _shard_map}
    return runs[equation.opened.kind](analysis, equation, operands)


def _shard_map(
    analysis: RangeAnalysis, equation: Equation, operands: Sequence[Abstract]
) -> list[Abstract]:
    values = analysis.program.values
    body = analysis.program.frames[equation.frames[0]]
    shards = [
        operand.uniform(values[argument].shape)
        for operand, argument in zip(operands, body.arguments, strict=True)
    ]
    found = analysis.run_frame(body, shards)
    return [r.uniform(values[v].shape) for r, v in zip(found, equation.results, strict=True)]


def _cond(
    analysis: RangeAnalysis, equation: Equation, operands: Sequence[Abstract]
) -> list[Abstract]:
    guards, index = analysis.guards, operands[0]
    predicate = guards.source(equation.operands[0])
    outside = equation.operands[1:]
    branches = [k for k in range(len(equation.frames)) if index.least <= k <= index.greatest]
    results: dict[int, list[Abstract]] = {}
    for branch in branches or range(len(equation.frames)):
        body = analysis.program.frames[equation.frames[branch]]
        arguments = list(operands[1:])
        if len(equation.frames) == 2:
            facts = guards.facts(predicate, truth=bool(branch))
            arguments = [guards.under(v, a, facts) for v, a in zip(outside, arguments, strict=True)]
        for position, value in enumerate(outside):
            analysis.identify(body.arguments[position], analysis.root(value))
            # The forward pass has taken the same branch.
            earlier, by_branch = analysis.chosen.get(analysis.root(value), (None, {}))
            if earlier == predicate and branch in by_branch:
                arguments[position] = by_branch[branch]
        results[branch] = [r.alone() for r in analysis.run_frame(body, arguments)]
    for position, value in enumerate(equation.results):
        analysis.chosen[value] = (predicate, {k: r[position] for k, r in results.items()})
    return [joined(*values) for values in zip(*results.values(), strict=True)]


def _scan(
    analysis: RangeAnalysis, equation: Equation, operands: Sequence[Abstract]
) -> list[Abstract]:
    opened, values = equation.opened, analysis.program.values
    assert opened is not None
    body = analysis.program.frames[equation.frames[0]]
    consts, carried = opened.consts, opened.consts + opened.carry
    _identify_consts(analysis, equation, 0)
    slices = [_slice(operand) for operand in operands[carried:]]
    length = equation.eqn.params["length"]
    stacked: list[Abstract] = []

    def run(carry: list[Abstract]) -> list[Abstract]:
        results = analysis.run_frame(body, [*operands[:consts], *carry, *slices])
        rows = [row.alone() for row in results[opened.carry :]]
        stacked[:] = [joined(a, b) for a, b in zip(stacked, rows, strict=True)] if stacked else rows
        return results[: opened.carry]

    first = list(operands[consts:carried])
    if length * _size(analysis.program, body) <= EXACT_EQUATIONS:
        carry = [value.alone() for value in first]
        for _ in range(length):
            carry = [value.alone() for value in run(carry)]
    else:
        carry = _stable(run, first, length)
    infos = [values[v] for v in equation.results[opened.carry :]]
    if not stacked and infos:
        return [*carry, *(anything(info.shape, info.dtype) for info in infos)]
    rows = [
        row.map(lambda array: np.asarray(array)[None], info.shape)
        for row, info in zip(stacked, infos, strict=True)
    ]
    return [*carry, *rows]


def _while(
    analysis: RangeAnalysis, equation: Equation, operands: Sequence[Abstract]
) -> list[Abstract]:
    opened = equation.opened
    assert opened is not None and opened.condition is not None
    body = analysis.program.frames[equation.frames[0]]
    before = opened.condition[1]
    inner = operands[before:]
    _identify_consts(analysis, equation, before)

    def run(carry: list[Abstract]) -> list[Abstract]:
        return analysis.run_frame(body, [*inner[: opened.consts], *carry])

    return _stable(run, list(inner[opened.consts :]), None)


def _identify_consts(analysis: RangeAnalysis, equation: Equation, before: int) -> None:
    assert equation.opened is not None
    arguments = analysis.program.frames[equation.frames[0]].arguments
    for position in range(equation.opened.consts):
        source = analysis.root(equation.operands[before + position])
        analysis.identify(arguments[position], source)


def _size(program: Program, frame: Frame) -> int:
    """Return the number of equations that a run of a frame evaluates."""
    size = len(frame.equations)
    for index in frame.equations:
        equation = program.equations[index]
        rounds = {"scan": equation.eqn.params.get("length", 1), "while": MOST_ROUNDS}
        times = rounds.get(equation.opened.kind, 1) if equation.opened else 0
        size += times * sum(_size(program, program.frames[inner]) for inner in equation.frames)
    return size


def _slice(stack: Abstract) -> Abstract:
    """Return what a row of a scanned array may be."""
    shape = stack.shape[1:]

    def anywhere(mask: Mask) -> Mask:
        return np.asarray(mask.any(axis=0))

    return Abstract(
        shape,
        stack.dtype,
        stack.lo.min(axis=0, initial=np.inf),
        stack.hi.max(axis=0, initial=-np.inf),
        stack.posinf.map(anywhere),
        stack.neginf.map(anywhere),
        stack.nan.map(anywhere),
        nonzero=stack.nonzero,
    )


def _stable(
    run: Callable[[list[Abstract]], list[Abstract]], carry: list[Abstract], length: int | None
) -> list[Abstract]:
    """Run a loop's body until its carry covers what the body makes of it."""
    carry = [value.alone() for value in carry]
    for turn in count():
        if turn == length:
            break
        after = [value.alone() for value in run(carry)]
        if all(within(new, old) for new, old in zip(after, carry, strict=True)):
            break
        extend = joined if turn < 1 else _widened if turn < MOST_ROUNDS else _widest
        carry = [extend(old, new) for old, new in zip(carry, after, strict=True)]
    return carry


def _widest(old: Abstract, new: Abstract) -> Abstract:
    """Return what covers both; where an end moves, every element may be anything."""
    if within(new, old):
        return old
    both, top = joined(old, new).uniform(), anything(old.shape, old.dtype).uniform()
    return replace(both, lo=top.lo, hi=top.hi)


def _widened(old: Abstract, new: Abstract) -> Abstract:
    """Return what covers both; an end that moves goes on to the next of a few numbers."""
    both = joined(old, new)
    top = anything(both.shape, both.dtype)
    below = _STEPS[np.maximum(np.searchsorted(_STEPS, both.lo, "right") - 1, 0)]
    above = _STEPS[np.minimum(np.searchsorted(_STEPS, both.hi, "left"), len(_STEPS) - 1)]
    lo = np.where((both.lo < old.lo) & ~both.empty, np.maximum(below, top.least), both.lo)
    hi = np.where((both.hi > old.hi) & ~both.empty, np.minimum(above, top.greatest), both.hi)
    return replace(both, lo=lo, hi=hi)
