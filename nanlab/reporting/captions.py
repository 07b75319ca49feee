"""Headings and captions of figures and tables, with the study's id, runs and seeds."""

from __future__ import annotations

from nanlab.grid.search import FINDS
from nanlab.reporting.analysis import Analysis
from nanlab.reporting.critical import MAX_ROWS, is_thinned
from nanlab.reporting.curves import MAX_LINES, MAX_PANELS
from nanlab.reporting.layout import is_learning_rate
from nanlab.reporting.rendering import rendered
from nanlab.reporting.theory import Prediction
from nanlab.reporting.words import number

HEADINGS = {
    "outcomes": "Outcomes", "critical": "Stability boundary", "losses": "Loss",
    "growth": "Gradient growth with depth", "gradients": "Gradients by layer",
    "layers": "Layer of the first inf or NaN", "steps": "Fault steps", "survival": "Survival",
    "causes": "Causes of the first inf and the first NaN", "instructive": "Instructive runs",
    "blames": "Most frequent blames", "parameters": "Parameters",
}  # fmt: skip
"""Headings of the figures, in the report's order, then of the tables below them."""
FIGURES = tuple(HEADINGS)[:9]


def headings_of(analysis: Analysis) -> dict[str, str]:
    """Return HEADINGS; that of the critical values is what a search finds."""
    name = critical_name(analysis)
    is_search = "search" in analysis.results.resolved
    return HEADINGS | ({"critical": name[0].upper() + name[1:]} if is_search else {})


def figures_of(analysis: Analysis) -> list[str]:
    """Return the names of the figures that this study has data for."""
    has_data = {"outcomes": True, "critical": analysis.criticals and analysis.layout.y.name,
                "causes": any(analysis.causes.values())}  # fmt: skip
    return [name for name in FIGURES if has_data.get(name, getattr(analysis, name, None))]


def critical_name(analysis: Analysis) -> str:
    """Return `largest stable learning rate`, or what a search finds."""
    x, resolved = analysis.layout.x.name, analysis.results.resolved
    name = "learning rate" if is_learning_rate(x) else x
    if "search" not in resolved:
        return f"largest stable {name}"
    end, _, what = resolved["search"].get("finds", FINDS[0]).partition(" ")
    return f"{end} {name} {what}"


def theories_of(analysis: Analysis, name: str) -> tuple[list[Prediction], list[Prediction]]:
    """Return the predictions that a figure marks, and those beyond the range of its data."""
    known: list[tuple[Prediction | None, float, float]] = []
    if name == "growth":
        known = [(g.theory, g.values[0], g.values[-1]) for g in analysis.growth]
    elif name == "layers" and analysis.layers:
        deepest = max(layer.highest for layer in analysis.layers)
        known = [(layer.theory, 0, 2 * deepest + 1) for layer in analysis.layers]
    elif name == "critical":
        x = analysis.layout.x.values
        known = [(c.theory, x[0], x[-1]) for c in analysis.criticals]
    predictions = [(p, low <= p.value <= high) for p, low, high in known if p]
    marked, beyond = ([p for p, inside in predictions if inside == wanted] for wanted in (1, 0))
    return marked, beyond


def caption(analysis: Analysis, what: str, *, table: bool = False) -> str:
    """Return the caption of a figure, of the table of that name, or another sentence.

    The other sentences of captions.txt.j2 are `study`, `definition`, `placed` and `missing`.
    """
    layout, results = analysis.layout, analysis.results
    marked, beyond = theories_of(analysis, what)
    theory = {f"{p.label} ({p.source})": 0 for b in analysis.boundaries for p in b.predictions}
    axes = results.manifest.get("search", {}).get("axes", [])
    text = rendered(
        "captions.txt", a=analysis, what=what, is_table=table, sought=critical_name(analysis),
        is_log=axes[0]["scale"] == "log" if axes else layout.x.scale == "log",
        pooled=[*(["seed"] if results.seeds > 1 else []), *layout.pooled],
        boundaries=list(theory), thinned=is_thinned(layout), max_rows=MAX_ROWS,
        open_ended=any(c.side != "between" for c in analysis.criticals),
        marked=list(dict.fromkeys(p.source for p in marked)),
        beyond=[number(value, 4) for value in sorted({p.value for p in beyond})],
        max_lines=MAX_LINES, max_panels=MAX_PANELS,
    )  # fmt: skip
    return " ".join(text.split())
