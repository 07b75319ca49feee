"""Headings and captions of figures and tables, with the study's id, runs and seeds."""

from __future__ import annotations

from nanlab.reporting.analysis import Analysis
from nanlab.reporting.critical import MAX_ROWS, is_thinned
from nanlab.reporting.layout import is_learning_rate
from nanlab.reporting.words import count, listed

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
    "critical": "Midpoint between the last value at which a run stays finite without diverging and "
    "the first at which it does not; intervals from the last stable to the first unstable value, "
    "so that they include the grid's spacing.",
    "growth": "Growth of the norm of the biases' gradient per layer towards the output, at "
    "initialization: ln of the factor, mean and range over seeds. Above 0 gradients vanish towards "
    "the input, below 0 they explode. Dashed: where theory has 0 (Poole et al. 2016; Schoenholz et "
    "al. 2017).",
    "layers": "Hidden layer, counted from 0, of the first inf or NaN: median and range over runs. "
    "Squares: theory, ln(largest number)/ln(gain).",
    "steps": "Step of the first fault (filled) and of the first NaN (open), counted from 1. Line, "
    "if any: theory, the overflow of the loss in gradient descent.",
    "survival": "Share of runs without a fault after a number of steps: Kaplan-Meier estimates, "
    "censored at a run's last step, with 95 % log-log intervals. They describe the runs of this "
    "grid, not other learning rates or weights.",
    "causes": "Mechanism and primitive of the first inf or NaN and of the first NaN of each "
    "failed run.",
    "instructive": "At most ten runs, each with the reason for its choice.",
    "blames": "Distinct blames, most frequent first.",
    "parameters": "Parameters that vary, and those that all runs share.",
}
ONLY_FIGURES = {
    "critical": "Triangles: beyond the values that were run. Black, if any: theory.",
    "causes": "Colors: phases.",
}
"""What the caption of a figure says in addition to that of the table."""


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
    sentences = [CAPTIONS[name]]
    if name == "outcomes":
        sentences = ["Number of runs by outcome."] if table else [*sentences, *_of_maps(analysis)]
    elif name == "critical":
        if any(c.seeds > 1 for c in analysis.criticals):
            sentences.append("Means over seeds, with 95 % bootstrap intervals.")
        if is_thinned(analysis.layout):
            n = len(analysis.layout.y.values)
            sentences.append(f"{MAX_ROWS} of the {n:,} rows, evenly spaced.")
    elif name == "blames":
        sentences.append(f"{analysis.results.blames.height:,} in all.")
    if name in ONLY_FIGURES and not table:
        sentences.append(ONLY_FIGURES[name])
    return " ".join((*sentences, study_line(analysis)))


def critical_name(analysis: Analysis) -> str:
    """Return `largest stable learning rate`, or that of another horizontal axis."""
    name = analysis.layout.x.name
    return "largest stable " + ("learning rate" if is_learning_rate(name) else name)


def _of_maps(analysis: Analysis) -> list[str]:
    layout, notes = analysis.layout, list[str]()
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
