"""An axis -> ticks: where they stand, in positions, and what they say."""

from __future__ import annotations

import math

from nanlab.reporting.layout import ReportAxis
from nanlab.reporting.words import number


def ticks(axis: ReportAxis, most: int) -> list[tuple[float, str]]:
    """At most about so many ticks of an axis."""
    if axis.scale == "ordinal":
        every = -(-len(axis.values) // most)
        places = range(0, len(axis.values), every)
        return [(float(i), axis.labels[i]) for i in places]
    ends = axis.position(axis.values[0]), axis.position(axis.values[-1])
    return log_ticks(*ends, most) if axis.scale == "log" else linear_ticks(*ends, most)


def log_ticks(low: float, high: float, most: int) -> list[tuple[float, str]]:
    """Powers of ten between two positions, also 2 and 5 times them where they are few."""
    first, last = math.ceil(low - 1e-9), math.floor(high + 1e-9)
    if last - first < 1:
        round_ = [(k, m) for k in range(first - 1, last + 1) for m in (1, 2, 5)]
        places = [(k + math.log10(m), f"{m * 10.0**k:g}") for k, m in round_]
        return [(at, label) for at, label in places if low - 1e-9 <= at <= high + 1e-9][:most]
    every = -(-(last - first + 1) // most)
    return [(float(k), power_of_ten(k)) for k in range(first, last + 1) if (k - first) % every == 0]


def linear_ticks(low: float, high: float, most: int) -> list[tuple[float, str]]:
    """Round numbers between two."""
    step = _round_step((high - low) / max(1, most - 1))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [(k * step, number(round(k * step, 12))) for k in range(first, last + 1)]


def _round_step(rough: float) -> float:
    unit = 10.0 ** math.floor(math.log10(rough)) if rough > 0 else 1.0
    return next(unit * k for k in (1, 2, 2.5, 5, 10) if unit * k >= rough * (1 - 1e-9))


def power_of_ten(k: int) -> str:
    """`0.01`, `100`, `1e-5`: letters that every font has, and the fonts in a PDF stay small."""
    return f"{10.0**k:g}" if -3 <= k <= 3 else f"1e{k}"
