"""Analysis -> the answer of a study: a sentence, and the numbers behind it."""

from __future__ import annotations

import math
from typing import NamedTuple

import polars as pl

from nanlab.reporting.analysis import Analysis
from nanlab.reporting.causes import ROLES, SITE_NAMES
from nanlab.reporting.critical import critical_text
from nanlab.reporting.groups import choices_of
from nanlab.reporting.layout import information, parameters_of
from nanlab.reporting.words import count, exact, number, percent, setting

MAX_SHARES = 3
"""Of more values the sentence has the two with the smallest and the largest share."""
MAX_CASES = 12
"""Number of comparisons with theory among the numbers."""
MAX_PANELS = 2
"""Number of maps whose critical values are among the numbers."""

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
    """Return the comparison with theory where there is one, otherwise the share of failed runs."""
    x = analysis.layout.x.name
    is_map = bool(analysis.layout.y.name) and analysis.layout.y.is_number
    growths = [g.crossing / g.theory.value for g in analysis.growths if g.crossing and g.theory]
    layers = [abs(la.median - la.theory.value) for la in analysis.layers if la.theory]
    inside = [
        c.low * (1 - 1e-9) <= c.theory.value <= c.high * (1 + 1e-9)
        for c in analysis.criticals
        if c.theory and c.low is not None and c.high is not None
    ]
    n, faults, choice = analysis.runs.height, analysis.faults, ""
    failures = f"{percent(faults, n)} of {count(n, 'run')} fail"
    if faults in (0, n):
        failures = f"All {count(n, 'run')} fail" if faults else f"None of {count(n, 'run')} fails"
    if growths:
        off = 100 * max(abs(ratio - 1) for ratio in growths)
        sentence = f"Gradients neither vanish nor explode at theory's {x}, within {off:.2g} %."
    elif layers:
        off = count(math.ceil(max(layers)), "layer")
        sentence = f"{failures}; the first layer to overflow is that of theory, within {off}."
    elif inside and not is_map:
        sentence = (
            f"Theory's largest stable {x} is within the measured interval in {sum(inside)} of "
            f"{count(len(inside), 'case')}."
        )
    else:
        choice = _choice(analysis)
        sentence = f"{failures}{_shares(analysis, choice)}{_mostly(analysis)}."
    edges = _boundary(analysis) if is_map else []
    numbers = [*_theory(analysis), *_counts(analysis), *_pairs(analysis, choice), *edges]
    return Answer(sentence, [*numbers, *_causes(analysis)])


def _choice(analysis: Analysis) -> str:
    """Return the most informative of the compared choices, "" if there is none."""
    runs = analysis.runs
    names = [*choices_of(analysis.layout), *analysis.layout.pooled]
    if not names and not analysis.criticals:
        names = [n for n in parameters_of(runs) if n != "seed" and runs[n].n_unique() > 1]
    return max(names, key=lambda name: information(runs, name), default="")


def _shares(analysis: Analysis, name: str) -> str:
    """Return ` (34 % with relu, 18 % with tanh)`, or the two extremes of many values."""
    if not name or not analysis.faults:
        return ""
    faults = pl.col("fault_step").is_not_null().sum().alias("faults")
    rows = analysis.runs.group_by(name, maintain_order=True).agg(faults, pl.len()).rows()
    if len(rows) > MAX_SHARES:
        rows.sort(key=lambda row: row[1] / row[2])
        rows = [rows[0], rows[-1]]
    shares = [f"{percent(faults, n)} with {setting(name, value)}" for value, faults, n in rows]
    return f" ({', '.join(shares)})"


def _mostly(analysis: Analysis) -> str:
    causes = analysis.causes["origin"]
    often = "always" if len(causes) == 1 and causes[0].runs == analysis.faults else "most often"
    return f", {often} by {causes[0].what}" if causes else ""


def _theory(analysis: Analysis) -> Numbers:
    """Return what was measured and what theory predicts, case by case."""
    x, y = analysis.layout.x.name, analysis.layout.y.name

    def case(what: str, label: str, row: object) -> str:
        return ", ".join(filter(None, (what, label, setting(y, row) if y else "")))

    cases = [
        (case(f"{x} without growth", "", g.row), number(g.crossing), g.theory)
        for g in analysis.growths if g.crossing is not None
    ] + [
        (f"first layer to overflow, {la.label}", f"{number(la.median)} (median, {la.lowest:.0f} "
         f"to {la.highest:.0f} over {count(la.runs, 'run')})", la.theory)
        for la in analysis.layers
    ] + [
        (case(f"largest stable {x}", c.label, c.row),
         f"from {number(c.low, 4)} to {number(c.high, 4)}", c.theory)
        for c in analysis.criticals if c.value is not None
    ]  # fmt: skip
    return [(what, f"{measured}; theory {number(theory.value, 4)}")
            for what, measured, theory in cases if theory][:MAX_CASES]  # fmt: skip


def _counts(analysis: Analysis) -> Numbers:
    n, faults = analysis.runs.height, analysis.faults
    nans = analysis.outcomes().get("nan", 0)
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


def _boundary(analysis: Analysis) -> Numbers:
    """Return the critical values at both ends of the vertical axis, map by map."""
    x, y = analysis.layout.x.name, analysis.layout.y.name
    numbers: Numbers = []
    panels = sorted({c.panel for c in analysis.criticals})
    for panel in panels if len(panels) <= MAX_PANELS else ():
        rows = [c for c in analysis.criticals if c.panel == panel]
        ends = [f"{critical_text(c, 2)} at {y} = {exact(c.row)}" for c in (rows[0], rows[-1])]
        label = ", ".join(filter(None, (f"largest stable {x}", rows[0].label)))
        numbers.append((label, " and ".join(ends)))
    return numbers


def _causes(analysis: Analysis) -> Numbers:
    numbers: Numbers = []
    for role in ROLES:
        causes = analysis.causes[role]
        total = sum(cause.runs for cause in causes)
        shares = [f"{cause.what} ({percent(cause.runs, total)})" for cause in causes[:2]]
        phases = [phase for cause in causes for phase in cause.phases if phase]
        by_phase = {p: sum(cause.phases.get(p, 0) for cause in causes) for p in phases}
        if by_phase:
            phase, n = max(by_phase.items(), key=lambda item: item[1])
            shares.append(f"in the {phase} phase ({percent(n, total)})")
        if causes:
            numbers.append((SITE_NAMES[role], ", ".join(shares)))
    return numbers
