"""Curves -> Matplotlib: small multiples of losses over steps, and of gradients over layers."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nanlab.reporting.analysis import Analysis
from nanlab.reporting.charts import add_legend, is_wide, line_style, make_log
from nanlab.reporting.curves import Panels
from nanlab.reporting.words import shortened

FRAME = 1000.0
"""The frame of the losses ends at this multiple of the median of the first losses."""
MAX_MARKED = 40
"""A curve with more points has no markers."""


def draw_losses(figure: Figure, analysis: Analysis) -> None:
    """Draw the loss over steps, for each map and row."""
    _draw_panels(figure, analysis.losses, "step", "loss")
    first = [curve.median[0] for _, panel in analysis.losses for curve in panel]
    # A loss that overflows would flatten all others.
    highest = FRAME * float(np.median(first))
    for axes in figure.axes:
        low, high = axes.get_ylim()
        axes.set(ylim=(low, highest if low < highest < high else high))


def draw_gradients(figure: Figure, analysis: Analysis) -> None:
    """Draw the gradients' norm over layers, for each map and row."""
    _draw_panels(figure, analysis.gradients, "layer", "gradient norm at step 0")


def _draw_panels(figure: Figure, panels: Panels, x: str, y: str) -> None:
    """Draw a median line and a band for each curve, over a logarithmic axis."""
    across = min(len(panels), 3 if is_wide(figure) else 2)
    down = -(-len(panels) // across)
    figure.set_figheight((1.7 if across > 1 else 2.2) * down + 0.5)
    grid: Any = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
    labels = list(dict.fromkeys(curve.label for _, curves in panels for curve in curves))
    for i, axes in enumerate(grid.flat):
        if i >= len(panels):
            axes.remove()
            continue
        for curve in panels[i][1]:
            style = line_style(labels.index(curve.label), label=curve.label or "all runs")
            style["marker"] = style["marker"] if len(curve.at) < MAX_MARKED else ""
            axes.plot(curve.at, curve.median, **style)
            axes.fill_between(
                curve.at, curve.low, curve.high, color=style["color"], alpha=0.15, lw=0
            )
        axes.set_title(shortened(panels[i][0]))
        make_log(axes, "y")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.label_outer()
        axes.tick_params(labelbottom=i + across >= len(panels))
    figure.supxlabel(x, fontsize=7)
    figure.supylabel(y, fontsize=7)
    add_legend(figure, figure.axes)
