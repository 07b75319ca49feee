"""How outcomes changed between two studies -> a figure: a square for each pair of outcomes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nanlab.reporting.figures import STYLE, WIDTHS, matplotlib_or_say, save_figure

SAME, OTHER = "#d9d9d9", "#b2182b"
"""Where nothing changed, and where the most did."""


def write_changes(
    folder: Path, outcomes: Sequence[str], counts: np.ndarray, names: tuple[str, str]
) -> None:
    """Write `outcomes-1col.svg` and `.pdf`, the same bytes for the same counts.

    Args:
        folder: where they go; it is there.
        outcomes: the outcomes that occur.
        counts: (outcomes, outcomes), how many runs ended so before (rows) and so now (columns).
        names: of the two studies.

    Raises:
        NoMatplotlib: it is not installed.
    """
    rc_context, Figure = matplotlib_or_say("the figure")
    with rc_context(STYLE):
        width = WIDTHS["1col"]
        figure = Figure(figsize=(width, 0.8 * width), dpi=72, layout="constrained")
        axes = figure.subplots()
        axes.imshow(_colors(counts))
        ticks = list(outcomes)
        axes.set_xticks(range(len(ticks)), ticks, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(ticks)), ticks)
        axes.set_xlabel(f"outcome in {names[1]}")
        axes.set_ylabel(f"outcome in {names[0]}")
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        for (row, column), count in np.ndenumerate(counts):
            if count:
                dark = row != column and _share(counts)[row, column] > 0.5
                axes.text(
                    column, row, f"{count:,}", ha="center", va="center",
                    color="white" if dark else "black",
                )  # fmt: skip
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        changed = int(counts.sum() - np.trace(counts))
        said = f"{changed:,} of {int(counts.sum()):,} runs have another outcome."
        save_figure(figure, folder / "outcomes-1col", f"{names[0]} and {names[1]}", said)


def _share(counts: np.ndarray) -> np.ndarray:
    """Each count by its logarithm, 0 for none to 1 for the most off the diagonal."""
    off = counts * (1 - np.eye(len(counts)))
    return np.log1p(off) / max(np.log1p(off.max()), 1e-9)


def _colors(counts: np.ndarray) -> Any:
    from matplotlib.colors import to_rgb

    share = _share(counts)[..., None]
    colors = (1 - share) * np.ones(3) + share * np.array(to_rgb(OTHER))
    same = np.eye(len(counts), dtype=bool)
    colors[same] = np.where(np.diag(counts)[:, None] > 0, np.array(to_rgb(SAME)), 1.0)
    return colors
