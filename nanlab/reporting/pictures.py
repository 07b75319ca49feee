"""Analysis -> Matplotlib: how each figure is drawn, to fit the width that the figure has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np

from nanlab.blame.vocabulary import Phase
from nanlab.reporting.analysis import Analysis
from nanlab.reporting.causes import ROLES, SAID, SiteRole
from nanlab.reporting.charts import Chart, Series
from nanlab.reporting.lines import Boundary
from nanlab.reporting.ticks import ticks
from nanlab.reporting.words import COLORS, LINES, PHASE_COLORS, name_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDE = 5.0
"""Inches from which on a figure is a page wide."""
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (8, 2)), (0, (3, 1)))
MARKS = ("o", "s", "^", "D", "v", "P", "X", "*")
MOST_CAUSES = 8
MOST_BARS = 16
"""With more series in a chart than these their bars are left to the table."""
LETTERS_AN_INCH = 15


def _is_wide(figure: Figure) -> bool:
    return bool(figure.get_figwidth() >= WIDE)


def _ticks(axes: Axes, at: Sequence[tuple[float, str]], which: str) -> None:
    places, labels = [place for place, _ in at], [label for _, label in at]
    if which == "y":
        axes.set_yticks(places, labels)
        return
    axes.set_xticks(places, labels)
    if sum(map(len, labels)) + 2 * len(labels) > LETTERS_AN_INCH * axes.bbox.width / 72:
        axes.tick_params(axis="x", rotation=45)
        for text in axes.get_xticklabels():
            text.set(ha="right", rotation_mode="anchor")


def draw_outcomes(figure: Figure, analysis: Analysis) -> None:
    """Small multiples of maps, cells divided by outcome, with theory's boundary and a legend."""
    layout, maps = analysis.layout, analysis.maps
    n = len(layout.panels)
    across = min(n, (4 if n != 3 else 3) if _is_wide(figure) else 2)
    down = -(-n // across)
    left, right, bottom, top = maps.extent()
    rows = len(layout.y.values) if layout.y.scale == "ordinal" else 10
    each = min(0.86 * figure.get_figwidth() / across, 0.45 + 0.22 * max(1, rows), 2.6)
    figure.set_figheight(each * down + 0.75 + 0.12 * down)
    grid: Any = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
    for panel, axes in enumerate(grid.flat):
        if panel >= n:
            axes.remove()
            continue
        _draw_map(axes, analysis, panel)
        letters = int(0.8 * LETTERS_AN_INCH * figure.get_figwidth() / across)
        # A long name may be divided after an underscore.
        words = layout.panel_label(layout.panels[panel]).replace("_", "_ ")
        title = "\n".join(line.replace("_ ", "_") for line in wrap(words, letters))
        axes.set(xlim=(left, right), ylim=(bottom, top), title=title)
        _ticks(axes, ticks(layout.x, 5 if across > 1 else 10 if _is_wide(figure) else 7), "x")
        most = 12 if layout.y.scale == "ordinal" else 5
        _ticks(axes, ticks(layout.y, most) if layout.y.name else [], "y")
        axes.label_outer()
        if panel + across >= n:
            axes.tick_params(labelbottom=True)
    if layout.x.name:
        figure.supxlabel(name_of(layout.x.name), fontsize=7)
    if layout.y.name:
        figure.supylabel(name_of(layout.y.name), fontsize=7)
    _legend_of_outcomes(figure, analysis)


def _draw_map(axes: Axes, analysis: Analysis, panel: int) -> None:
    from matplotlib.collections import PolyCollection

    for outcome, some in analysis.maps.boxes(panel).items():
        color, corners = COLORS[outcome], [_corners(*box) for box in some]
        axes.add_collection(PolyCollection(corners, facecolors=color, edgecolors=color, lw=0.1))
    cells = analysis.maps.of_panel(panel)
    if len(cells) <= 400:
        frames = [_corners(c.left, c.right, c.bottom, c.top) for c in cells]
        axes.add_collection(PolyCollection(frames, facecolors="none", edgecolors="white", lw=0.4))
    for boundary in analysis.boundaries:
        if boundary.panel == panel:
            _draw_boundary(axes, boundary)
    axes.spines[["left", "bottom"]].set_visible(False)


def _corners(left: float, right: float, bottom: float, top: float) -> list[tuple[float, float]]:
    return [(left, bottom), (right, bottom), (right, top), (left, top)]


def _draw_boundary(axes: Axes, boundary: Boundary) -> None:
    lines = [boundary.points]
    if boundary.rows:
        lines = [[(x, row - 0.5), (x, row + 0.5)] for x, row in boundary.points]
    for points in lines:
        x, y = zip(*points, strict=True)
        axes.plot(x, y, color="white", lw=1.8, solid_capstyle="butt")
        axes.plot(x, y, color="black", lw=0.9, ls=(0, (3, 1.5)))


def _legend_of_outcomes(figure: Figure, analysis: Analysis) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [
        Patch(color=COLORS[outcome], label=f"{outcome} {n:,}")
        for outcome, n in analysis.outcomes().items()
    ]
    if analysis.boundaries:
        handles.append(Line2D([], [], color="black", lw=0.9, ls=(0, (3, 1.5)), label="theory"))
    figure.legend(
        handles=handles, loc="outside upper center", ncols=6 if _is_wide(figure) else 3,
        handlelength=1.0, handleheight=1.0, columnspacing=1.0, handletextpad=0.4,
    )  # fmt: skip


def draw_chart(figure: Figure, chart: Chart) -> None:
    """A chart with its legend above it."""
    figure.set_figheight(2.9 if _is_wide(figure) else 2.3)
    if chart.rows:
        figure.set_figheight(0.7 + 0.24 * chart.rows)
    axes = figure.subplots()
    axes.set(xlim=(chart.x.low, chart.x.high), ylim=(chart.y.low, chart.y.high),
             xlabel=chart.x.title, ylabel=chart.y.title)  # fmt: skip
    _ticks(axes, chart.x.ticks, "x")
    _ticks(axes, chart.y.ticks, "y")
    if chart.rows:
        axes.grid(axis="y", lw=0.3, color="#cccccc")
    if chart.zero:
        axes.axhline(0.0, color="black", lw=0.5)
    for at, color in chart.verticals:
        axes.axvline(at, color=_color(color), ls=(0, (3, 1.5)), lw=0.8)
    for series in chart.series:
        _draw_series(axes, series, bars_too=len(chart.series) <= MOST_BARS)
    drawn = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    labels = [series.label for series in chart.series if series.label]
    labels.sort(key=lambda label: label == "theory")
    if labels and labels != ["all runs"]:
        letters = LETTERS_AN_INCH * figure.get_figwidth()
        columns = max(1, min(len(labels), int(letters / (max(map(len, labels)) + 6))))
        figure.legend([drawn[label] for label in labels], labels, loc="outside upper center",
                      ncols=columns, handlelength=2.4, title=chart.legend or None)  # fmt: skip
        # A line of the legend is about an eighth of an inch.
        rows = -(-len(labels) // columns) + bool(chart.legend)
        figure.set_figheight(figure.get_figheight() + 0.13 * rows)


def _color(number: int) -> str:
    return "black" if number < 0 else LINES[number % len(LINES)]


_MARKS: Mapping[str, str] = {"square": "s", "up": "^", "down": "v", "dash": "_", "none": ""}


def _draw_series(axes: Axes, series: Series, *, bars_too: bool) -> None:
    color, number = _color(series.color), series.color % len(DASHES)
    full = series.mark in ("full", "open")
    style: dict[str, Any] = {
        "color": color,
        "label": series.label or None,
        "marker": MARKS[number] if full and series.color >= 0 else _MARKS.get(series.mark, "o"),
        "ms": {"dash": 11, "square": 6}.get(series.mark, 3),
        "mfc": color if series.mark == "full" else "none",
        "mew": 0.7,
        "ls": (DASHES[number] if series.color >= 0 else "-") if series.shape in ("line", "step")
        else "none",
    }  # fmt: skip
    if series.shape == "step":
        axes.step(series.x, series.y, where="post", **style)
        axes.fill_between(series.x, series.low, series.high, step="post", color=color, alpha=0.18,
                          lw=0)  # fmt: skip
    elif series.shape == "ranges":
        axes.hlines(series.y, series.low, series.high, color=color, lw=2.2)
        axes.plot(series.x, series.y, **style)
    elif len(series.low) and bars_too:
        values = np.asarray(series.y)
        bars = np.abs(np.stack([np.asarray(series.low), np.asarray(series.high)]) - values)
        axes.errorbar(series.x, values, yerr=bars, elinewidth=0.7, capsize=1.5, **style)
    else:
        axes.plot(series.x, series.y, lw=0.8, **style)


def draw_causes(figure: Figure, analysis: Analysis) -> None:
    """Bars by mechanism and primitive, colored by phase: first inf or NaN, and first NaN."""
    from matplotlib.patches import Patch

    shown: list[SiteRole] = [role for role in ROLES if analysis.causes[role]]
    wide = _is_wide(figure)
    bars = [len(analysis.causes[role][:MOST_CAUSES]) for role in shown]
    grid: Any
    if wide:
        figure.set_figheight(0.85 + 0.2 * max(bars))
        grid = figure.subplots(1, len(shown), squeeze=False).flat
    else:
        figure.set_figheight(0.85 * len(shown) + 0.17 * sum(bars))
        grid = figure.subplots(
            len(shown), 1, squeeze=False, gridspec_kw={"height_ratios": [b + 1.0 for b in bars]}
        ).flat
    phases: set[str] = set()
    for role, axes in zip(shown, grid, strict=True):
        causes = analysis.causes[role][:MOST_CAUSES]
        for place, cause in enumerate(causes):
            left = 0
            for phase, n in cause.phases.items():
                axes.barh(place, n, left=left, color=PHASE_COLORS.get(phase, "#cccccc"))
                phases.add(phase)
                left += n
            axes.text(left, place, f" {cause.runs:,}", va="center", fontsize=6)
        axes.set_yticks(range(len(causes)), [cause.what for cause in causes])
        axes.set(title=SAID[role], xlabel="runs")
        axes.invert_yaxis()
        axes.margins(x=0.14)
    handles = [Patch(color=PHASE_COLORS[p], label=p or "no phase") for p in (*Phase, "")
               if p in phases]  # fmt: skip
    figure.legend(handles=handles, loc="outside lower center", ncols=5, handlelength=1.0)
