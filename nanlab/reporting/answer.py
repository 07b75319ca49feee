"""Analysis -> the answer of a study: a sentence, and the numbers behind it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from nanlab.reporting.analysis import Analysis
from nanlab.reporting.causes import ROLES, SITE_NAMES
from nanlab.reporting.critical import critical_text
from nanlab.reporting.groups import choices_of
from nanlab.reporting.layout import information, parameters_of
from nanlab.reporting.words import count, exact, listed, number, percent, setting

MAX_VALUES = 6
"""Number of values of a choice that are compared."""
MAX_SHARES = 3
"""Of more values the sentence has the two with the smallest and the largest share."""
MAX_CASES = 12
"""Number of comparisons with theory among the numbers."""
MAX_PANELS = 2
"""Number of maps whose critical values are among the numbers."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The answer of a study.

    Attributes:
        sentence: the answer.
        numbers: (what, how much).
    """

    sentence: str
    numbers: list[tuple[str, str]]


Numbers = list[tuple[str, str]]


def answer_of(analysis: Analysis) -> Answer:
    """Return the comparison with theory where there is one, otherwise the share of failed runs."""
    x = analysis.layout.x.name
    is_map = bool(analysis.layout.y.name) and analysis.layout.y.is_number
    growths = [(g.crossing, g.theory.value) for g in analysis.growths if g.crossing and g.theory]
    layers = [abs(la.median - la.theory.value) for la in analysis.layers if la.theory]
    criticals = [
        each.low * (1 - 1e-9) <= each.theory.value <= each.high * (1 + 1e-9)
        for each in analysis.criticals
        if each.theory and each.low is not None and each.high is not None
    ]
    compared = ""
    if growths:
        off = max(abs(measured / theory - 1) for measured, theory in growths)
        sentence = (
            f"Gradients neither vanish nor explode with depth at theory's {x}, "
            f"within {100 * off:.2g} %."
        )
    elif layers:
        sentence = (
            f"{_failures(analysis)}; the first layer to overflow is that of theory, "
            f"within {count(math.ceil(max(layers)), 'layer')}."
        )
    elif criticals and not is_map:
        sentence = (
            f"Theory's largest stable {x} is within the measured interval in {sum(criticals)} of "
            f"{count(len(criticals), 'case')}."
        )
    else:
        compared = _compared(analysis)
        sentence = f"{_failures(analysis)}{_by_choice(analysis, compared)}{_mostly(analysis)}."
    numbers = [
        *_theory(analysis), *_counts(analysis), *_pairs(analysis, compared),
        *(_boundary(analysis) if is_map and len(analysis.layout.y.values) >= 3 else ()),
        *_causes(analysis),
    ]  # fmt: skip
    return Answer(sentence=sentence, numbers=numbers)


def _failures(analysis: Analysis) -> str:
    """Return `26 % of 720 runs fail`."""
    n, faults = analysis.runs.height, analysis.faults
    if not faults:
        return f"None of {count(n, 'run')} fails"
    return f"All {count(n, 'run')} fail" if faults == n else (
        f"{percent(faults, n)} of {count(n, 'run')} fail"
    )  # fmt: skip


def _by_choice(analysis: Analysis, name: str) -> str:
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
    if not causes:
        return ""
    always = len(causes) == 1 and causes[0].runs == analysis.faults
    return f", {'always' if always else 'most often'} by {causes[0].what}"


def _compared(analysis: Analysis) -> str:
    """Return the choice that the title names, otherwise the most informative one."""
    runs, title = analysis.runs, analysis.results.title.lower()
    words = title.replace("-", " ").split()
    names = [*choices_of(analysis.layout), *analysis.layout.pooled]
    if not names and not analysis.criticals:
        names = [n for n in parameters_of(runs) if n != "seed" and runs[n].n_unique() > 1]
    names = [name for name in names if runs[name].n_unique() <= MAX_VALUES] or names

    def is_in_title(name: str) -> bool:
        values = [str(v).lower() for v in runs[name].unique() if isinstance(v, str)]
        own = [*values, *name.rpartition(".")[2].lower().split("_")]
        return any(word in words or f"{word}s" in title for word in own)

    return max(names, key=lambda n: (is_in_title(n), information(runs, n)), default="")


def _theory(analysis: Analysis) -> Numbers:
    """Return what was measured and what theory predicts, case by case."""
    x, y = analysis.layout.x.name, analysis.layout.y.name
    numbers: Numbers = []
    for growth in analysis.growths:
        if growth.crossing is not None:
            theory = f"; theory {number(growth.theory.value, 4)}" if growth.theory else ""
            case = f", {setting(y, growth.row)}" if y else ""
            numbers.append((f"{x} without growth{case}", f"{number(growth.crossing)}{theory}"))
    for layer in analysis.layers:
        if layer.theory:
            numbers.append(
                (f"first layer to overflow, {layer.label}",
                 f"{number(layer.median)} (median, {layer.lowest:.0f} to {layer.highest:.0f} over "
                 f"{count(layer.runs, 'run')}); theory {number(layer.theory.value)}")
            )  # fmt: skip
    for each in analysis.criticals:
        if each.theory and each.low is not None and each.high is not None:
            case = [each.label, setting(y, each.row) if y else ""]
            numbers.append(
                (", ".join(filter(None, [f"largest stable {x}", *case])),
                 f"from {number(each.low, 4)} to {number(each.high, 4)}; "
                 f"theory {number(each.theory.value, 4)}")
            )  # fmt: skip
    return numbers[:MAX_CASES]


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
    values: Sequence[Any] = runs[name].unique(maintain_order=True).to_list() if name else []
    others = [c for c in parameters_of(runs) if c != name and runs[c].n_unique() > 1]
    if len(values) != 2 or None in values or not others or not analysis.faults:
        return []
    failed = runs.select(*others, name, pl.col("fault_step").is_not_null().alias("failed"))
    one, two = (failed.filter(pl.col(name) == value).drop(name) for value in values)
    pairs = one.join(two, on=others, how="inner", suffix="_2", nulls_equal=True)
    if 2 * pairs.height < runs.height:
        return []
    a, b = pairs["failed"], pairs["failed_2"]
    counts = [
        f"both fail in {(a & b).sum():,}",
        *(f"only {setting(name, value)} in {some.sum():,}"
          for value, some in zip(values, (a & ~b, b & ~a), strict=True)),
    ]  # fmt: skip
    return [(f"{count(pairs.height, 'pair')} that differ only in {name}", ", ".join(counts))]


def _boundary(analysis: Analysis) -> Numbers:
    """Return the critical values at both ends of the vertical axis, map by map."""
    x, y = analysis.layout.x.name, analysis.layout.y.name
    panels = sorted({each.panel for each in analysis.criticals})
    numbers: Numbers = []
    for panel in panels if len(panels) <= MAX_PANELS else ():
        rows = [each for each in analysis.criticals if each.panel == panel]
        ends = [f"{critical_text(c, 2)} at {y} = {exact(c.row)}" for c in (rows[0], rows[-1])]
        label = ", ".join(filter(None, (f"largest stable {x}", rows[0].label)))
        numbers.append((label, listed(ends)))
    return numbers


def _causes(analysis: Analysis) -> Numbers:
    numbers: Numbers = []
    for role in ROLES:
        causes = analysis.causes[role]
        total = sum(cause.runs for cause in causes)
        shares = [f"{cause.what} ({percent(cause.runs, total)})" for cause in causes[:2]]
        phases: dict[str, int] = {}
        for phase, n in ((phase, n) for c in causes for phase, n in c.phases.items() if phase):
            phases[phase] = phases.get(phase, 0) + n
        if phases:
            phase = max(phases, key=lambda each: phases[each])
            shares.append(f"in the {phase} phase ({percent(phases[phase], total)})")
        if causes:
            numbers.append((SITE_NAMES[role], ", ".join(shares)))
    return numbers
