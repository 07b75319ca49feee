"""Analysis -> the answer: two sentences made from the numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import polars as pl

from nanlab.grid.outcome import Outcome
from nanlab.reporting.analysis import Analysis
from nanlab.reporting.causes import SAID, SiteRole, shares
from nanlab.reporting.critical import Critical
from nanlab.reporting.depth import Growth, Layer
from nanlab.reporting.groups import choices_of
from nanlab.reporting.layout import information, is_learning_rate, parameters_of
from nanlab.reporting.words import count, exact, listed, number, percent, setting

MOST_TOLD = 6
"""So many values of a choice are told in a sentence."""
PASSES = {"forward": "the forward pass", "backward": "the backward pass", "update": "the update",
          "init": "the initial state", "data": "the data"}  # fmt: skip


def answer_of(analysis: Analysis) -> tuple[str, str]:
    """What came out, and by which arithmetic; or what theory is compared with."""
    if any(g.crossing is not None for g in analysis.growths):
        return _of_growths(analysis), _of_rates(analysis)
    if any(layer.theory for layer in analysis.layers):
        return _of_layers(analysis), _arithmetic(analysis)
    if any(c.theory and c.value is not None for c in analysis.criticals) and not _two(analysis):
        return _of_theory(analysis), _arithmetic(analysis)
    return _outcomes(analysis), _arithmetic(analysis)


def _two(analysis: Analysis) -> bool:
    return bool(analysis.layout.y.name) and analysis.layout.y.is_number


def _of_growths(analysis: Analysis) -> str:
    told = [g for g in analysis.growths if g.crossing is not None]
    x, y = analysis.layout.x.name, analysis.layout.y.name
    values = listed([f"{number(g.crossing)}{_at(y, g.row)}" for g in told])
    sentence = f"Gradients neither vanish nor explode with depth at {x} = {values}"
    return f"{sentence}{_off(told)}."


def _at(name: str, value: Any) -> str:
    return f" for {name} = {number(value)}" if name else ""


def _off(told: Sequence[Growth]) -> str:
    pairs = [(g.crossing, g.theory.value) for g in told if g.theory is not None]
    if len(pairs) < len(told):
        return ""
    off = max(abs(found / theory - 1.0) for found, theory in pairs if found is not None)
    values = listed([number(value, 4) for _, value in pairs])
    return f"; theory says {values}, and they differ by {_at_most(off)} at most"


def _at_most(share: float) -> str:
    return f"{100 * share:.2g} %"


def _of_rates(analysis: Analysis) -> str:
    rates = [rate for g in analysis.growths for rate in (g.rates.max(), g.rates.min())]
    x = analysis.layout.x.name
    vanish, explode = -math.expm1(-max(rates)), math.expm1(-min(rates))
    faults = analysis.faults
    none = "none of" if not faults else f"{faults:,} of"
    return (
        f"On the way from the output to the input their norms shrink by up to "
        f"{100 * vanish:.2g} % a layer where {x} is smaller, and grow by up to "
        f"{100 * explode:.2g} % a layer where it is larger; {none} the "
        f"{count(analysis.runs.height, 'run')} came to an inf or a NaN."
    )


def _of_layers(analysis: Analysis) -> str:
    def one(layer: Layer) -> str:
        spread = f", {layer.lowest:.0f} to {layer.highest:.0f} over {layer.runs:,} runs"
        theory = f", near {number(layer.theory.value)} in theory" if layer.theory else ""
        return f"{number(layer.median)} for {layer.label} (median{spread}{theory})"

    told = [one(layer) for layer in analysis.layers]
    return f"{_failed(analysis)}, and counted from 0 the first layer to overflow is {listed(told)}."


def _of_theory(analysis: Analysis) -> str:
    x = analysis.layout.x.name
    told = [c for c in analysis.criticals if c.theory and c.low is not None and c.high is not None]

    def one(each: Critical) -> str:
        group = listed([w for w in (each.label, _row(analysis, each)) if w])
        bounds = f"up to {number(each.low, 4)} and no longer at {number(each.high, 4)}"
        return f"{bounds}{f' for {group}' if group else ''}"

    theory = listed([number(c.theory.value, 4) for c in told if c.theory])
    return (
        f"Runs are stable with {x} {listed([one(c) for c in told])}, where theory says {theory}; "
        f"{_small(_failed(analysis))}{_when(analysis)}."
    )


def _when(analysis: Analysis) -> str:
    """From when to when the faults and the NaN come, where one line of runs is looked at."""
    if len(analysis.steps) != 1 or len(analysis.steps[0].values) < 2:
        return ""
    steps, x = analysis.steps[0], analysis.layout.x.name

    def one(i: int) -> str:
        nan = "" if math.isnan(steps.nan[i]) else f" and the NaN at step {steps.nan[i]:,.0f}"
        return f"at step {steps.fault[i]:,.0f}{nan} with {x} = {exact(float(steps.values[i]))}"

    slow, fast = int(steps.fault.argmax()), int(steps.fault.argmin())
    return f"; the fault comes {one(slow)} at the latest, {one(fast)} at the earliest"


def _row(analysis: Analysis, each: Critical) -> str:
    y = analysis.layout.y
    if not y.name or each.row is None:
        return ""
    return setting(y.name, each.row)


def _small(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]


def _failed(analysis: Analysis) -> str:
    """`188 of 720 runs (26 %) came to an inf or a NaN, 180 of them to a NaN`."""
    n, faults = analysis.runs.height, analysis.faults
    nans = int((analysis.runs["outcome"] == "nan").sum())
    if not faults:
        outcomes = analysis.outcomes()
        ended = [f"{k:,} {outcome}" for outcome, k in outcomes.items()]
        all_ended = f"all {n:,} {next(iter(outcomes))}"
        told = all_ended if len(outcomes) == 1 else listed(ended)
        return f"None of the {count(n, 'run')} came to an inf or a NaN: {told}"
    some = f"All {count(n, 'run')}" if faults == n else (
        f"{faults:,} of {count(n, 'run')} ({percent(faults, n)})"
    )  # fmt: skip
    if nans == faults:
        return f"{some} came to a NaN"
    if not nans:
        return f"{some} came to an inf, none to a NaN"
    return f"{some} came to an inf or a NaN, {nans:,} of them to a NaN"


def _outcomes(analysis: Analysis) -> str:
    parts = [_failed(analysis)]
    name = _compared(analysis)
    if name and len(analysis.outcomes()) > 1:
        parts.append(_by_choice(analysis, name))
    edge = _edge(analysis)
    if edge:
        parts.append(edge)
    return "; ".join(parts) + "."


def _compared(analysis: Analysis) -> str:
    """The choice that the title asks about, else the most telling one."""
    runs, title = analysis.runs, analysis.results.title.lower()
    names = [*choices_of(analysis.layout), *analysis.layout.pooled]
    if not names:
        if analysis.criticals:
            return ""
        names = [n for n in parameters_of(runs) if n != "seed" and runs[n].n_unique() > 1]
    few = [n for n in names if runs[n].n_unique() <= MOST_TOLD] or names
    if not few:
        return ""

    def asked(name: str) -> bool:
        values = [str(v).lower() for v in runs[name].unique() if isinstance(v, str)]
        words = [*values, *name.rpartition(".")[2].lower().split("_")]
        return any(word in title.replace("-", " ").split() or f"{word}s" in title for word in words)

    return max(few, key=lambda name: (asked(name), information(runs, name)))


def _by_choice(analysis: Analysis, name: str) -> str:
    runs = analysis.runs
    values = runs[name].unique(maintain_order=True).to_list()
    if len(values) == 2 and None not in values and analysis.faults:
        paired = _paired(runs, name, values)
        if paired:
            return paired
    word = "fault" if analysis.faults else _telling(runs, name)
    hit = pl.col("fault_step").is_not_null() if analysis.faults else pl.col("outcome") == word
    counted = runs.group_by(name, maintain_order=True).agg(hit.sum().alias("k"), pl.len())
    told = [(value, k, n) for value, k, n in counted.rows()]
    if len(told) > MOST_TOLD:
        told.sort(key=lambda row: row[1] / row[2])
        told = [told[0], told[-1]]
    parts = [f"{k:,} of {n:,} with {setting(name, value)}" for value, k, n in told]
    return f"{word}: {listed(parts)}" if word != "fault" else f"these are {listed(parts)}"


def _telling(runs: pl.DataFrame, name: str) -> str:
    """The outcome whose share varies most over the values of a parameter."""

    def spread(outcome: str) -> float:
        shares = runs.group_by(name).agg((pl.col("outcome") == outcome).mean().alias("s"))["s"]
        return float(shares.max()) - float(shares.min())  # type: ignore[arg-type]

    return max(Outcome, key=spread)


def _paired(runs: pl.DataFrame, name: str, values: Sequence[Any]) -> str:
    """Of runs that differ in one choice only: how often both fail, or one of them alone."""
    others = [c for c in parameters_of(runs) if c != name and runs[c].n_unique() > 1]
    if not others:
        return ""
    told = runs.select(*others, name, pl.col("fault_step").is_not_null().alias("bad"))
    one, two = (told.filter(pl.col(name) == value).drop(name) for value in values)
    pairs = one.join(two, on=others, how="inner", suffix="_2", nulls_equal=True)
    if 2 * pairs.height < runs.height:
        return ""
    both = int((pairs["bad"] & pairs["bad_2"]).sum())
    first = int((pairs["bad"] & ~pairs["bad_2"]).sum())
    second = int((~pairs["bad"] & pairs["bad_2"]).sum())
    a, b = (setting(name, value) for value in values)
    return (
        f"of {count(pairs.height, 'pair')} alike in all but {name} both fail in {both:,}, "
        f"only {a} in {first:,} and only {b} in {second:,}"
    )


def _edge(analysis: Analysis) -> str:
    """From where to where the largest stable learning rate goes along the vertical axis."""
    told, y = analysis.criticals, analysis.layout.y
    if not told or not _two(analysis) or len(y.values) < 3:
        return ""
    x = analysis.layout.x.name
    what = "the largest stable learning rate" if is_learning_rate(x) else f"the largest stable {x}"
    panels = sorted({each.panel for each in told})
    if len(panels) > 2:
        return ""
    parts: list[str] = []
    for panel in panels:
        some = [each for each in told if each.panel == panel]
        first, last = some[0], some[-1]
        label = f" with {first.label}" if first.label else ""
        parts.append(f"from {_value(first)} to {_value(last)}{label}")
    ends = f"{y.name} goes from {exact(y.values[0])} to {exact(y.values[-1])}"
    return f"as {ends}, {what} goes {listed(parts)}"


def _value(each: Critical) -> str:
    return f"{each.side} {number(each.bound, 2)}" if each.value is None else number(each.value, 2)


def _arithmetic(analysis: Analysis) -> str:
    if not analysis.faults:
        return _without_faults(analysis)
    first = _made(analysis, "origin")
    then = _made(analysis, "culprit")
    if not first and not then:
        return "No run names the arithmetic that made its fault."
    return f"{first}{'; ' if first and then else ''}{_small(then) if first else then}."


def _made(analysis: Analysis, role: SiteRole) -> str:
    causes = analysis.causes[role]
    told = sum(cause.runs for cause in causes)
    if not told:
        return "no run made a NaN" if role == "culprit" and analysis.causes["origin"] else ""
    top = causes[:2]
    if len(top) == 1:
        what = f"always {top[0].what}"
    else:
        what = listed([f"{cause.what} ({percent(cause.runs, told)})" for cause in top])
        what = f"most often {what}"
    phases = shares(analysis.runs, f"{role}_phase")
    phase, n = phases[0]
    where = f"{percent(n, told)} of them in {PASSES.get(phase, phase)}"
    if n == told:
        where = f"{'all' if len(top) > 1 else ''} in {PASSES.get(phase, phase)}".strip()
    return f"The {SAID[role]} of a run is {what}, {where}"


def _without_faults(analysis: Analysis) -> str:
    runs = analysis.runs
    losses = runs["final_loss"].drop_nulls()
    norms = runs["grad_norm_max"].drop_nulls()
    if not losses.len() or not norms.len():
        return "So there is no fault to blame on any arithmetic."
    return (
        f"So no arithmetic is to be blamed: final losses lie between {number(losses.min())} and "
        f"{number(losses.max())}, and the largest gradient norm of any run is "
        f"{number(norms.max())}."
    )
