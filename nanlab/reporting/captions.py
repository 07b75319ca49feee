"""Headings and captions of figures and tables, with the study's id, runs and seeds."""

from __future__ import annotations

from nanlab.reporting.analysis import Analysis
from nanlab.reporting.critical import MAX_ROWS, is_thinned
from nanlab.reporting.layout import is_learning_rate
from nanlab.reporting.words import count, listed, name_of

HEADINGS = {
    "outcomes": "Outcomes",
    "critical": "Stability boundary",
    "growth": "Gradient growth with depth",
    "layers": "Layer of the first inf or NaN",
    "steps": "Fault steps",
    "survival": "Survival",
    "causes": "Causes of the first inf and the first NaN",
    "instructive": "Instructive runs",
    "blames": "Most frequent blames",
    "parameters": "Parameters",
}
"""Headings of the figures, in the report's order, then of the tables below them."""

CAPTIONS = {
    "outcomes": "Each cell is divided from left to right by the outcomes of its runs.",
    "counts": "Number of runs by outcome.",
    "critical": "Midpoint between the last value at which a run stays finite without diverging and "
    "the first at which it does not.",
    "growth": "Growth of the norm of the biases' gradient per layer towards the output, at "
    "initialization: ln of the factor, mean and range over seeds. Above 0 gradients vanish towards "
    "the input, below 0 they explode. Dashed: where theory has 0 (Poole et al. 2016; Schoenholz et "
    "al. 2017).",
    "layers": "Hidden layer, counted from 0, of the first inf or NaN: median and range over runs.",
    "steps": "Step of the first fault (filled) and of the first NaN (open), counted from 1.",
    "survival": "Share of runs without a fault after a number of steps: Kaplan-Meier estimates, "
    "censored at a run's last step, with 95 % log-log intervals. They describe the runs of this "
    "grid, not other learning rates or weights.",
    "causes": "Mechanism and primitive of the first inf or NaN and of the first NaN of each "
    "failed run.",
    "instructive": "At most ten runs, each with the reason for its choice.",
    "blames": "Distinct blames: operations of the first inf or NaN and of the first NaN.",
    "parameters": "Parameters that vary, and those that all runs share.",
}


def figures_of(analysis: Analysis) -> list[str]:
    """Return the names of the figures that this study has data for."""
    has_data = {
        "outcomes": True,
        "critical": bool(analysis.criticals) and bool(analysis.layout.y.name),
        "growth": bool(analysis.growths),
        "layers": bool(analysis.layers),
        "steps": bool(analysis.steps),
        "survival": bool(analysis.survivals),
        "causes": any(analysis.causes.values()),
    }
    return [name for name, has in has_data.items() if has]


def study_line(analysis: Analysis) -> str:
    """Return the line `Study quickstart-72d6ed54: 720 runs, 4 seeds.`."""
    results = analysis.results
    missing = f" of {results.planned:,}, the others are missing" if results.missing else ""
    runs = count(results.runs.height, "run")
    return f"Study {results.study_id}: {runs}{missing}, {count(results.seeds, 'seed')}."


def caption(analysis: Analysis, name: str, *, table: bool = False) -> str:
    """Return the caption of a figure, or of the table of that name."""
    notes = {"outcomes": _outcomes, "critical": _critical, "layers": _layers, "steps": _steps}
    sentences = [CAPTIONS[name], *(notes[name](analysis, table) if name in notes else ())]
    if name == "causes" and not table:
        sentences.append("Colors: phases.")
    return " ".join((*sentences, study_line(analysis)))


def critical_name(analysis: Analysis) -> str:
    """Return `largest stable learning rate`, or that of another horizontal axis."""
    name = analysis.layout.x.name
    return "largest stable " + ("learning rate" if is_learning_rate(name) else name)


def _outcomes(analysis: Analysis, _table: bool) -> list[str]:
    layout, notes = analysis.layout, list[str]()
    axes = [name_of(axis.name) for axis in (layout.x, layout.y) if axis.name]
    if axes:
        notes.append(f"Axes: {listed(axes)}.")
    pooled = [*(["seed"] if analysis.results.seeds > 1 else []), *layout.pooled]
    if pooled:
        notes.append(f"The runs of a cell differ in {listed(pooled)}.")
    x, y = analysis.maps.merged
    if (x, y) != (1, 1):
        notes.append(f"A cell covers {x} x {y} neighboring values.")
    if layout.x.name in layout.finer:
        notes.append("Cells meet halfway between the values that were run.")
    theory = {f"{p.label} ({p.source})": 0 for b in analysis.boundaries for p in b.predictions}
    if theory:
        notes.append(f"Dashed: theory, {listed(list(theory))}.")
    return notes


def _critical(analysis: Analysis, table: bool) -> list[str]:
    if any(each.seeds > 1 for each in analysis.criticals):
        interval = (
            "Mean over seeds; 95 % bootstrap intervals over seeds, from the last stable value to "
            "the first unstable one, so that they include the grid's spacing."
        )
    else:
        interval = "Intervals: from the last stable value to the first unstable one."
    notes = [interval]
    y = analysis.layout.y
    if is_thinned(analysis.layout):
        notes.append(f"{MAX_ROWS} of the {len(y.values):,} values of {y.name}, evenly spaced.")
    if not table:
        notes.append("Triangles: beyond the values that were run.")
    if not table and any(each.theory for each in analysis.criticals):
        notes.append("Black: theory.")
    return notes


def _layers(analysis: Analysis, _table: bool) -> list[str]:
    theory = any(layer.theory for layer in analysis.layers)
    return ["Open squares: theory, ln(largest number)/ln(gain)."] if theory else []


def _steps(analysis: Analysis, _table: bool) -> list[str]:
    theory = any(steps.theory for steps in analysis.steps)
    return ["Line: theory, the overflow of the loss in gradient descent."] if theory else []
