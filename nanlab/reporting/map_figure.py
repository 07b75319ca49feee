"""Analysis -> Matplotlib: the maps of outcomes, small multiples to fit the width of the figure."""

from __future__ import annotations

from textwrap import wrap
from typing import Any

from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from nanlab.reporting.analysis import Analysis
from nanlab.reporting.charts import LETTERS_PER_INCH, THEORY_DASHES, is_wide, set_ticks, ticks
from nanlab.reporting.words import COLORS, name_of

MAX_OUTLINED = 400
"""Cells of a map with more of them have no outline."""


def draw_outcomes(figure: Figure, analysis: Analysis) -> None:
    """Draw every map, its cells divided by outcome, with theory's boundary and a legend."""
    layout = analysis.layout
    n, wide = len(layout.panels), is_wide(figure)
    across = min(n, (3 if n == 3 else 4) if wide else 2)
    down = -(-n // across)
    rows = len(layout.y.values) if layout.y.scale == "ordinal" else 10
    height = min(0.86 * figure.get_figwidth() / across, 0.45 + 0.22 * max(1, rows), 2.6)
    figure.set_figheight(height * down + 0.75 + 0.12 * down)
    grid: Any = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
    left, right, bottom, top = analysis.maps.extent()
    for panel, axes in enumerate(grid.flat):
        if panel >= n:
            axes.remove()
            continue
        _draw_map(axes, analysis, panel)
        # A long name may be broken after an underscore.
        words = layout.panel_label(layout.panels[panel]).replace("_", "_ ")
        lines = wrap(words, int(0.8 * LETTERS_PER_INCH * figure.get_figwidth() / across))
        title = "\n".join(line.replace("_ ", "_") for line in lines)
        axes.set(xlim=(left, right), ylim=(bottom, top), title=title)
        set_ticks(axes, "x", ticks(layout.x, 5 if across > 1 else 10 if wide else 7))
        most = 12 if layout.y.scale == "ordinal" else 5
        set_ticks(axes, "y", ticks(layout.y, most) if layout.y.name else [])
        axes.label_outer()
        if panel + across >= n:
            axes.tick_params(labelbottom=True)
    if layout.x.name:
        figure.supxlabel(name_of(layout.x.name), fontsize=7)
    if layout.y.name:
        figure.supylabel(name_of(layout.y.name), fontsize=7)
    _add_legend(figure, analysis)


def _draw_map(axes: Axes, analysis: Analysis, panel: int) -> None:
    for outcome, boxes in analysis.maps.boxes(panel).items():
        color, corners = COLORS[outcome], [_corners(*box) for box in boxes]
        axes.add_collection(PolyCollection(corners, facecolors=color, edgecolors=color, lw=0.1))
    cells = analysis.maps.of_panel(panel)
    if len(cells) <= MAX_OUTLINED and not analysis.layout.finer:
        outlines = [_corners(c.left, c.right, c.bottom, c.top) for c in cells]
        axes.add_collection(PolyCollection(outlines, facecolors="none", edgecolors="white", lw=0.4))
    for boundary in analysis.boundaries:
        for points in boundary.lines() if boundary.panel == panel else ():
            x, y = zip(*points, strict=True)
            axes.plot(x, y, color="white", lw=1.8, solid_capstyle="butt")
            axes.plot(x, y, color="black", lw=0.9, ls=THEORY_DASHES)
    axes.spines[["left", "bottom"]].set_visible(False)


def _corners(left: float, right: float, bottom: float, top: float) -> list[tuple[float, float]]:
    return [(left, bottom), (right, bottom), (right, top), (left, top)]


def _add_legend(figure: Figure, analysis: Analysis) -> None:
    handles: list[Any] = [
        Patch(color=COLORS[outcome], label=f"{outcome} {n:,}")
        for outcome, n in analysis.outcomes().items()
    ]
    if analysis.boundaries:
        handles.append(Line2D([], [], color="black", lw=0.9, ls=THEORY_DASHES, label="theory"))
    figure.legend(
        handles=handles, loc="outside upper center", ncols=6 if is_wide(figure) else 3,
        handlelength=1.0, handleheight=1.0, columnspacing=1.0, handletextpad=0.4,
    )  # fmt: skip
