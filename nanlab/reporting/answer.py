"""Analysis -> the answer of a study: a sentence, and the numbers behind it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import polars as pl

from nanlab.reporting.analysis import Analysis
from nanlab.reporting.captions import critical_name
from nanlab.reporting.causes import ROLES, SITE_NAMES
from nanlab.reporting.critical import Critical, critical_text
from nanlab.reporting.groups import choices_of
from nanlab.reporting.layout import information, parameters_of
from nanlab.reporting.theory import Prediction
from nanlab.reporting.words import count, number, percent, setting

MAX_SHARES = 3
"""Of more values the sentence has the two with the smallest and the largest share."""
MAX_CASES = 12
"""Number of values of a search, or comparisons with theory, among the numbers."""

Numbers = list[tuple[str, str]]


class Answer(NamedTuple):
    """The answer of a study.

    Attributes:
        sentence: the answer.
        numbers: (what, how much).
    """

    sentence: str
    numbers: Numbers


def answer_of(analysis: Analysis) -> Answer:
    """Return what the study was made to find, in a sentence, and a few numbers."""
    choice = _choice(analysis)
    found = (_searched(analysis) or _areas(analysis) or _growths(analysis) or _layers(analysis)
             or _criticals(analysis) or _shares(analysis, choice))  # fmt: skip
    counts = [*_counts(analysis), *([] if analysis.results.finer else _pairs(analysis, choice))]
    return Answer(found.sentence, [*found.numbers, *counts, *_causes(analysis)])


def _case(analysis: Analysis, what: str, label: str, row: object) -> str:
    y = analysis.layout.y.name
    return ", ".join(filter(None, (what, label, setting(y, row) if y else "")))


def _extremes(items: Sequence[str]) -> str:
    return ", ".join(items if len(items) <= MAX_SHARES else (items[0], items[-1]))


def _searched(analysis: Analysis) -> Answer | None:
    """Return the values that a search found: `... is 1.9 to 2.3 with relu, 14 to 16 with tanh`."""
    if not (analysis.results.finer and analysis.criticals):
        return None
    name, y, by_choice = critical_name(analysis), analysis.layout.y, dict[str, list[Critical]]()
    for c in analysis.criticals:
        own = "" if y.is_number or not y.name else setting(y.name, c.row)
        by_choice.setdefault(", ".join(filter(None, (c.label, own))), []).append(c)
    parts: list[tuple[float, str]] = []
    for label, criticals in by_choice.items():
        first, last = (end(criticals, key=lambda c: (c.bound, c.side == "above"))
                       for end in (min, max))  # fmt: skip
        ends = dict.fromkeys(critical_text(c, 2) for c in (first, last))
        # One point of the other axes, or the extremes of several.
        text = critical_text(first, 4) + _range(first) if first is last else " to ".join(ends)
        parts.append((first.bound, text + (f" with {label}" if label else "")))
    if len(parts) > MAX_SHARES:
        parts.sort(key=lambda part: part[0])
    texts = _extremes([text for _, text in parts])
    numbers = [
        (_case(analysis, name, c.label, c.row), _against(critical_text(c, 4) + _range(c), c.theory))
        for c in analysis.criticals[:MAX_CASES]
    ]
    left = len(analysis.criticals) - MAX_CASES
    numbers += [(f"{left:,} more", "tables/critical.md, boundaries.csv")] if left > 0 else []
    simple = sum(c.mixed for c in analysis.criticals)
    if simple:
        n = sum(c.seeds for c in analysis.criticals)
        numbers.append(("training starts and stops several times there",
                        f"at {simple:,} of {count(n, 'point')}"))  # fmt: skip
    return Answer(f"The {name} is {texts}.", numbers)


def _range(c: Critical) -> str:
    over = f" over {count(c.seeds, 'seed')}" if c.seeds > 1 else ""
    ends = ("beyond the axis" if end is None else number(end, 4) for end in (c.low, c.high))
    return f" ({' to '.join(ends)}{over})" if c.value is not None else over


def _areas(analysis: Analysis) -> Answer | None:
    """Return the share of a refined plane that trains."""
    areas = analysis.areas
    if not areas:
        return None
    texts = [f"{100 * share['trains']:.0f} %" + (f" with {label}" if label else "")
             for label, share in sorted(areas, key=lambda a: a[1]["trains"])]  # fmt: skip
    x, y = analysis.layout.x.name, analysis.layout.y.name
    numbers = [
        (", ".join(filter(None, ("area of the plane", label))),
         f"{100 * a['trains']:.1f} % trains, {100 * a['fails']:.1f} % fails, "
         f"{100 * a['boundary']:.1f} % is in cells on the boundary")
        for label, a in areas[:MAX_CASES]
    ]  # fmt: skip
    return Answer(f"Of the plane of {x} and {y}, {_extremes(texts)} trains.", numbers)


def _against(measured: str, theory: Prediction | None) -> str:
    return f"{measured}; theory {number(theory.value, 4)}" if theory else measured


def _growths(analysis: Analysis) -> Answer | None:
    """Return where gradients neither vanish nor explode, and how far that is from theory."""
    growths, x = [g for g in analysis.growth if g.crossing], analysis.layout.x.name
    if not growths:
        return None
    off = [abs(g.crossing / g.theory.value - 1) for g in growths if g.crossing and g.theory]
    ends = dict.fromkeys(number(end(g.crossing or 0 for g in growths)) for end in (min, max))
    where, within = f"{x} = {' to '.join(ends)}", ""
    if len(off) == len(growths):
        where, of_theory = (where, " of theory") if len(ends) == 1 else (f"theory's {x}", "")
        within = f", within {100 * max(off):.2g} %{of_theory}"
    sentence = f"Gradients neither vanish nor explode at {where}{within}"
    cases: Numbers = []
    for g in growths[:MAX_CASES]:
        ends = f"{number(g.crossings[0])} to {number(g.crossings[-1])}"
        over = f" ({ends} over {len(g.crossings)} of {count(g.seeds, 'seed')})"
        cases.append((_case(analysis, f"{x} without growth", "", g.row),
                      _against(number(g.crossing) + over, g.theory)))  # fmt: skip
    return Answer(f"{sentence}.", cases)


def _layers(analysis: Analysis) -> Answer | None:
    """Return how far the first layer to overflow is from theory's."""
    known = [la for la in analysis.layers if la.theory]
    if not known:
        return None
    off = math.ceil(max(abs(la.median - la.theory.value) for la in known if la.theory))
    numbers = [
        (f"first layer to overflow, {la.label}",
         _against(f"{number(la.median)} (median, {la.lowest:.0f} to {la.highest:.0f} over "
                  f"{count(la.runs, 'run')})", la.theory))
        for la in known[:MAX_CASES]
    ]  # fmt: skip
    return Answer(f"The first layer to overflow is that of theory, within {off} layers.", numbers)


def _criticals(analysis: Analysis) -> Answer | None:
    """Return how often theory's critical value lies in the measured interval."""
    y, name = analysis.layout.y, critical_name(analysis)
    inside, cases = list[bool](), Numbers()
    for c in analysis.criticals:
        if c.theory and c.low is not None and c.high is not None:
            inside.append(c.low * (1 - 1e-9) <= c.theory.value <= c.high * (1 + 1e-9))
            between = f"from {number(c.low, 4)} to {number(c.high, 4)}"
            cases.append((_case(analysis, name, c.label, c.row), _against(between, c.theory)))
    if not inside or (y.name and y.is_number):
        return None
    sentence = (
        f"Theory's {name} is within the measured interval in {sum(inside)} of "
        f"{count(len(inside), 'case')}."
    )
    return Answer(sentence, cases[:MAX_CASES])


def _choice(analysis: Analysis) -> str:
    """Return the most informative of the compared choices, "" if there is none."""
    runs = analysis.runs
    names = [*choices_of(analysis.layout), *analysis.layout.pooled]
    if not names and not analysis.criticals:
        names = [n for n in parameters_of(runs) if n != "seed" and runs[n].n_unique() > 1]
    return max(names, key=lambda name: information(runs, name), default="")


def _shares(analysis: Analysis, name: str) -> Answer:
    """Return `34 % of runs fail with relu, 18 % with tanh`, or the extremes of many values."""
    n, faults = analysis.runs.height, analysis.faults
    if faults in (0, n):
        all_ = f"All {count(n, 'run')} fail." if faults else f"None of {count(n, 'run')} fails."
        return Answer(all_, [])
    if not name or analysis.results.finer:
        return Answer(f"{percent(faults, n)} of {count(n, 'run')} fail.", [])
    failed = pl.col("fault_step").is_not_null().sum().alias("faults")
    rows = analysis.runs.group_by(name, maintain_order=True).agg(failed, pl.len()).rows()
    if len(rows) > MAX_SHARES:
        rows.sort(key=lambda row: row[1] / row[2])
    shares = [f"{percent(k, whole)} with {setting(name, value)}" for value, k, whole in rows]
    return Answer(_extremes(shares).replace(" with", " of runs fail with", 1) + ".", [])


def _counts(analysis: Analysis) -> Numbers:
    n, faults = analysis.runs.height, analysis.faults
    nans = analysis.outcomes().get("nan", 0)
    if analysis.results.finer:
        return [("runs with an inf or a NaN", f"{faults:,} of {n:,}, placed by the search")]
    numbers = [("runs with an inf or a NaN", f"{faults:,} of {n:,} ({percent(faults, n)})")]
    if faults:
        numbers.append(("runs that end in NaN", f"{nans:,} of {n:,} ({percent(nans, n)})"))
    elif (norms := analysis.runs["grad_norm_max"].drop_nulls()).len():
        numbers.append(("largest gradient norm", number(norms.max())))
    return numbers


def _pairs(analysis: Analysis, name: str) -> Numbers:
    """Return how often both or one of two runs fail that differ only in one choice."""
    runs = analysis.runs
    values = runs[name].unique(maintain_order=True).to_list() if name else []
    others = [c for c in parameters_of(runs) if c != name and runs[c].n_unique() > 1]
    if len(values) != 2 or None in values or not others or not analysis.faults:
        return []
    failed = runs.select(*others, name, pl.col("fault_step").is_not_null().alias("failed"))
    one, two = (failed.filter(pl.col(name) == value).drop(name) for value in values)
    pairs = one.join(two, on=others, how="inner", suffix="_2", nulls_equal=True)
    if 2 * pairs.height < runs.height:
        return []
    a, b = pairs["failed"], pairs["failed_2"]
    only = [f"only {setting(name, value)} in {alone.sum():,}"
            for value, alone in zip(values, (a & ~b, b & ~a), strict=True)]  # fmt: skip
    what = f"{count(pairs.height, 'pair')} that differ only in {name}"
    return [(what, ", ".join([f"both fail in {(a & b).sum():,}", *only]))]


def _causes(analysis: Analysis) -> Numbers:
    """Return the most frequent cause of the first inf or NaN, and of the first NaN."""
    numbers: Numbers = []
    for role in ROLES:
        causes = analysis.causes[role]
        total = sum(cause.runs for cause in causes)
        shares = [f"{cause.what} ({percent(cause.runs, total)})" for cause in causes[:2]]
        if causes:
            numbers.append((SITE_NAMES[role], ", ".join(shares)))
    return numbers
