"""A float64 program near a failing input -> what its outputs tend to."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from nanlab.curing.inputs import DIRECTIONS, STEPS, Inputs, is_varied
from nanlab.curing.limits import (
    Limit,
    Limits,
    Results,
    exact_limit,
    is_known,
    limit_along,
    numbers,
    opened,
)
from nanlab.curing.reference import Found, Reference

SHIFTS = (1e-6, 1e-8, 1e-10, 1e-12)
"""What is put in place of 0 at a pole."""


def limits_of(
    reference: Reference | None,
    inputs: Inputs,
    failing: Sequence[np.ndarray],
    largest: Sequence[float],
) -> Limits:
    """Run a program in float64 at the failing input and near it.

    Args:
        reference: the program; None if it does not run in float64.
        inputs: its failing arguments, and arguments like these.
        failing: its outputs in its own types.
        largest: the largest number of each output's type.

    Returns:
        What the outputs tend to.
    """
    if reference is None:
        return Limits(None)
    at = reference(inputs.leaves, 0.0)
    here, is_steep = numbers(at.outputs), float(at.steepest) > min(largest, default=math.inf)
    bad = [~np.isfinite(x) for x in failing]
    if all((is_known(x, top) | ~b).all() for x, b, top in zip(here, bad, largest, strict=True)):
        exact = [exact_limit(x, top) for x, top in zip(here, largest, strict=True)]
        return Limits(exact, is_steep=is_steep)
    rows = _rows(reference, inputs, at)
    shifts = [numbers(reference(inputs.leaves, shift).outputs) for shift in SHIFTS]
    shifted: Results = []
    for index, (x, top) in enumerate(zip(here, largest, strict=True)):
        moved = np.array([[row[index] for row in shifts]])
        nothing = np.full(x.shape, np.nan)
        ends = limit_along(nothing, moved, top, nothing)
        shifted.append((ends.low + ends.high) / 2)
    limits = _limits(here, rows, largest, shifted)
    doubtful = [
        b & np.isfinite(x.low) & ~x.exact & ~x.open for x, b in zip(limits, bad, strict=True)
    ]
    if any(x.any() for x in doubtful):
        for other, others in _others(reference, inputs, at, rows):
            found = _limits(numbers(other.outputs), others, largest, shifted)
            is_open = [a & b.open for a, b in zip(doubtful, found, strict=True)]
            if other is at:  # more directions, in which it may grow
                limits = [
                    opened(x, mask & np.isnan(y.low), to=np.nan)
                    for x, y, mask in zip(limits, found, doubtful, strict=True)
                ]
            limits = [opened(x, mask) for x, mask in zip(limits, is_open, strict=True)]
    return Limits(limits, is_steep=is_steep)


def _rows(
    reference: Reference, inputs: Inputs, at: Found, leaves: Sequence[Any] | None = None, *,
    masks: bool = False,
) -> list[list[Results]]:  # fmt: skip
    """Return outputs near some arguments, by direction and step."""
    rows: list[list[Results]] = []
    for direction in range(DIRECTIONS):
        found = [
            reference(inputs.nearby(direction, step, leaves, masks=masks), 0.0) for step in STEPS
        ]
        # Where -inf is a mask that depends on the input, what is nearby is another function.
        if _has_masks_of(at, found[-1]):
            rows.append([numbers(near.outputs) for near in found])
    return rows


def _others(
    reference: Reference, inputs: Inputs, at: Found, rows: list[list[Results]]
) -> Iterator[tuple[Found, list[list[Results]]]]:
    """Yield further evidence that a limit depends on the direction.

    A weighted mean without weights tends to 1 if all numbers are 1, and to anything between them
    if they are not; tp / (tp + fp) tends to 1 if fp is taken for a mask that stays.

    Args:
        reference: the program.
        inputs: its failing arguments, and arguments like these.
        at: its outputs there.
        rows: its outputs near these.

    Yields:
        Outputs at arguments that may fail too, and near these.
    """
    if any(is_varied(x, masks=True) and not is_varied(x) for x in inputs.leaves):
        yield at, [*rows, *_rows(reference, inputs, at, masks=True)]
    for leaves in inputs.siblings():
        other = reference(leaves, 0.0)
        yield other, _rows(reference, inputs, other, leaves)


def _limits(
    here: Results, rows: list[list[Results]], largest: Sequence[float], shifted: Results
) -> list[Limit]:
    unknown = [[np.full(x.shape, np.nan) for x in here]] * len(STEPS)
    limits: list[Limit] = []
    for index, (x, top) in enumerate(zip(here, largest, strict=True)):
        near = np.array([[row[index] for row in direction] for direction in rows or [unknown]])
        limits.append(limit_along(x, near, top, shifted[index]))
    return limits


def _has_masks_of(here: Found, near: Found) -> bool:
    pairs = zip(here.masks, near.masks, strict=True)
    return not any(bool(((a % 2 == 1) & (a // 2 != b // 2)).any()) for a, b in pairs)
