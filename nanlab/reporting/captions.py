"""Analysis -> captions: what each figure and table shows, with the study's id, runs and seeds."""

from __future__ import annotations

from nanlab.reporting.analysis import Analysis
from nanlab.reporting.critical import MOST_ROWS, is_thinned
from nanlab.reporting.layout import is_learning_rate
from nanlab.reporting.words import count, listed, name_of

FIGURES = ("outcomes", "critical", "growth", "layers", "steps", "survival", "causes")
"""Every figure there may be, in the order of the report."""

HEADINGS = {
    "outcomes": "How the runs ended",
    "critical": "Up to where runs are stable",
    "growth": "Gradients and depth",
    "layers": "Where in the network it begins",
    "steps": "When runs fail",
    "survival": "How long runs last",
    "causes": "What made the inf and the NaN",
    "instructive": "Instructive runs",
}


def figures_of(analysis: Analysis) -> list[str]:
    """The figures that this study has something to show in."""
    shown = {
        "outcomes": True,
        "critical": bool(analysis.criticals) and bool(analysis.layout.y.name),
        "growth": bool(analysis.growths),
        "layers": bool(analysis.layers),
        "steps": bool(analysis.steps),
        "survival": bool(analysis.survivals),
        "causes": any(analysis.causes.values()),
    }
    return [name for name in FIGURES if shown[name]]


def made_of(analysis: Analysis) -> str:
    """`Study quickstart-72d6ed54: 720 runs, 4 seeds.`"""
    results = analysis.results
    missing = f" of {results.planned:,}, the others are missing" if results.missing else ""
    runs = count(results.runs.height, "run")
    return f"Study {results.study_id}: {runs}{missing}, {count(results.seeds, 'seed')}."


def caption(analysis: Analysis, name: str) -> str:
    """The caption of a figure or table."""
    return f"{_SAYS[name](analysis)} {made_of(analysis)}"


def critical_name(analysis: Analysis) -> str:
    """`largest stable learning rate`, or of whatever the horizontal axis has."""
    name = analysis.layout.x.name
    return "largest stable " + ("learning rate" if is_learning_rate(name) else name)


def _outcomes(analysis: Analysis) -> str:
    layout = analysis.layout
    axes = listed([name_of(axis.name) for axis in (layout.x, layout.y) if axis.name])
    where = f" over {axes}" if axes else ""
    sentences = [
        f"How runs ended{where}. Each cell is divided from left to right by how its runs ended."
    ]
    held = ["the seed"] if "seed" in analysis.runs.columns and analysis.results.seeds > 1 else []
    held += list(layout.pooled)
    if held:
        sentences.append(f"Its runs differ in {listed(held)}.")
    if analysis.maps.together != (1, 1):
        x, y = analysis.maps.together
        sentences.append(f"A cell holds {x} x {y} neighboring values.")
    if layout.x.name in layout.finer:
        sentences.append("Cells meet halfway between the values that were tried.")
    told = [f"{p.label} ({p.source})" for b in analysis.boundaries for p in b.predictions]
    if told:
        sentences.append(f"Dashed: theory, {listed(list(dict.fromkeys(told)))}.")
    return " ".join(sentences)


def _critical(analysis: Analysis) -> str:
    theory = any(each.theory for each in analysis.criticals)
    told = " Black: theory." if theory else ""
    return f"{_critical_table(analysis)} Triangles: beyond the values that were tried.{told}"


def _critical_table(analysis: Analysis) -> str:
    seeds = any(each.seeds > 1 for each in analysis.criticals)
    intervals = (
        "Intervals: 95 %, by bootstrap over seeds, from the last stable value's mean to that of "
        "the first unstable one, so that the grid's spacing is part of them."
        if seeds
        else "Intervals: from the last stable value to the first unstable one."
    )
    mean = ", mean over seeds" if seeds else ""
    y = analysis.layout.y
    some = (
        f" Of the {len(y.values):,} values of {y.name}, {MOST_ROWS} are shown, evenly spaced."
        if is_thinned(analysis.layout)
        else ""
    )
    return (
        f"The {critical_name(analysis)}: the middle between the last value at which a run stays "
        f"finite without diverging and the first at which it does not{mean}. {intervals}{some}"
    )


def _growth(analysis: Analysis) -> str:
    return (
        "By how much the norm of the biases' gradient grows in a layer towards the output, at "
        "initialization: ln of the factor, mean over seeds; bars from the smallest to the largest "
        "of the seeds. Above 0 gradients vanish towards the input, below 0 they explode. "
        "Dashed: where theory has 0 (Poole et al. 2016; Schoenholz et al. 2017)."
    )


def _layers(analysis: Analysis) -> str:
    theory = any(layer.theory for layer in analysis.layers)
    told = " Open squares: theory, ln(largest number)/ln(gain)." if theory else ""
    return (
        "The hidden layer, counted from 0, in which the first inf or NaN was made: median and "
        f"range over the runs.{told}"
    )


def _steps(analysis: Analysis) -> str:
    theory = any(steps.theory for steps in analysis.steps)
    told = " Line: theory, where the loss of plain gradient descent overflows." if theory else ""
    return (
        "The step of the first fault (filled) and of the first NaN (open), counted from 0, plus "
        f"1.{told}"
    )


def _survival(analysis: Analysis) -> str:
    return (
        "Share of runs without a fault after so many steps: Kaplan-Meier estimates; runs without "
        "a fault are censored at their last step. Bands: 95 %, log-log. They are over the grid's "
        "runs, and say nothing of other learning rates or weights."
    )


def _causes(analysis: Analysis) -> str:
    return (
        "What made the first inf or NaN of each failing run, and what its first NaN: mechanism "
        "and primitive, colored by phase."
    )


def _instructive(analysis: Analysis) -> str:
    return "Runs that are worth a look."


def _counts(analysis: Analysis) -> str:
    return "How the runs ended, by group."


_SAYS = {
    "outcomes": _outcomes,
    "critical": _critical,
    "critical-table": _critical_table,
    "growth": _growth,
    "layers": _layers,
    "steps": _steps,
    "survival": _survival,
    "causes": _causes,
    "instructive": _instructive,
    "counts": _counts,
}
