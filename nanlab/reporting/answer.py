"""Analysis -> the answer of a study: a sentence, and the numbers behind it."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import polars as pl

from nanlab.reporting.analysis import Analysis
from nanlab.reporting.captions import critical_name
from nanlab.reporting.causes import SITE_NAMES
from nanlab.reporting.critical import Critical, critical_text
from nanlab.reporting.groups import choices_of
from nanlab.reporting.layout import information, parameters_of
from nanlab.reporting.rendering import rendered
from nanlab.reporting.words import setting

MAX_SHARES = 3
"""Of more values the sentence has the two with the smallest and the largest share."""
MAX_CASES = 12
"""Number of values of a search, or comparisons with theory, among the numbers."""


class StudyAnswer(NamedTuple):
    """The answer of a study.

    Attributes:
        sentence: the answer.
        numbers: (what, how much).
    """

    sentence: str
    numbers: list[tuple[str, str]]


def answer_of(analysis: Analysis) -> StudyAnswer:
    """Return what the study was made to find, in a sentence, and a few numbers."""
    runs, layout, choice = analysis.runs, analysis.layout, _choice(analysis)
    compared = [c for c in analysis.criticals if c.theory and c.low is not None and c.high]
    inside = [c.low * (1 - 1e-9) <= c.theory.value <= c.high * (1 + 1e-9)
              for c in compared if c.theory and c.low is not None and c.high]  # fmt: skip
    crossings = [g.crossing / g.theory.value - 1
                 for g in analysis.growth if g.crossing and g.theory]  # fmt: skip
    layers = [la.median - la.theory.value for la in analysis.layers if la.theory]
    text = rendered(
        "answer.txt", a=analysis, most=MAX_CASES, sought=critical_name(analysis),
        x=layout.x.name, y=layout.y.name, panels=[layout.panel_label(p) for p in layout.panels],
        critical_text=critical_text, site_names=SITE_NAMES, searched=_searched(analysis),
        compared=[] if layout.y.name and layout.y.is_number else compared, inside=sum(inside),
        off=max(map(abs, crossings), default=0), choice=choice, shares=_shares(analysis, choice),
        layers_off=math.ceil(max(map(abs, layers), default=0)), runs=runs.height,
        nans=analysis.outcomes().get("nan", 0), largest=runs["grad_norm_max"].max(),
        pairs=_pairs(analysis, choice),
    )  # fmt: skip
    sentence, *numbers = [line.strip() for line in text.splitlines() if line.strip()]
    pairs = (line.partition("\t") for line in numbers)
    return StudyAnswer(sentence, [(what, value.strip()) for what, _, value in pairs])


def _searched(analysis: Analysis) -> list[tuple[str, list[Critical]]]:
    """Return what a search found by choice, each from the smallest to the largest value."""
    y, found = analysis.layout.y, dict[str, list[Critical]]()
    for c in analysis.criticals if analysis.results.finer else ():
        own = "" if y.is_number or not y.name else setting(y.name, c.row)
        found.setdefault(", ".join(filter(None, (c.label, own))), []).append(c)
    for criticals in found.values():
        criticals.sort(key=lambda c: (c.bound, ("below", "between", "above").index(c.side)))
    by_choice = list(found.items())
    few = len(by_choice) <= MAX_SHARES
    return by_choice if few else sorted(by_choice, key=lambda item: item[1][0].bound)


def _choice(analysis: Analysis) -> str:
    """Return the most informative of the compared choices, "" if there is none."""
    runs = analysis.runs
    names = [*choices_of(analysis.layout), *analysis.layout.pooled]
    if not names and not analysis.criticals:
        names = [n for n in parameters_of(runs) if n != "seed" and runs[n].n_unique() > 1]
    return max(names, key=lambda name: information(runs, name), default="")


def _shares(analysis: Analysis, name: str) -> list[tuple[Any, int, int]]:
    """Return value, failed runs and runs; [] for an adaptive sample."""
    if not name or analysis.results.finer:
        return []
    failed = pl.col("fault_step").is_not_null().sum().alias("faults")
    rows = analysis.runs.group_by(name, maintain_order=True).agg(failed, pl.len()).rows()
    return rows if len(rows) <= MAX_SHARES else sorted(rows, key=lambda row: row[1] / row[2])


def _pairs(analysis: Analysis, name: str) -> dict[str, Any]:
    """Return how often both or one of two runs fail that differ only in one choice."""
    runs = analysis.runs
    values = runs[name].unique(maintain_order=True).to_list() if name else []
    others = [c for c in parameters_of(runs) if c != name and runs[c].n_unique() > 1]
    if len(values) != 2 or None in values or not others or not analysis.faults:
        return {}
    failed = runs.select(*others, name, pl.col("fault_step").is_not_null().alias("failed"))
    one, two = (failed.filter(pl.col(name) == value).drop(name) for value in values)
    pairs = one.join(two, on=others, how="inner", suffix="_2", nulls_equal=True)
    a, b = pairs["failed"], pairs["failed_2"]
    only = [f"{alone.sum():,}" for alone in (a & ~b, b & ~a)]
    found = {"n": pairs.height, "values": values, "both": f"{(a & b).sum():,}", "only": only}
    return found if 2 * pairs.height >= runs.height else {}
