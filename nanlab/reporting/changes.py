"""Figure of how outcomes changed between two studies: a square for each pair of outcomes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int
from matplotlib import rc_context
from matplotlib.colors import LinearSegmentedColormap, ListedColormap
from matplotlib.figure import Figure

from nanlab.reporting.figures import STYLE, WIDTHS, fix_layout, save_figure

SAME = ListedColormap(["#d9d9d9"])
OTHER = LinearSegmentedColormap.from_list("changes", ["#ffffff", "#b2182b"])
"""Colors of no change, and from no run to the most frequent change."""


def write_changes(
    folder: Path,
    outcomes: Sequence[str],
    counts: Int[np.ndarray, "outcomes outcomes"],
    names: tuple[str, str],
) -> None:
    """Write `outcomes-1col.svg` and `.pdf`, reproducible to the byte.

    Args:
        folder: an existing folder.
        outcomes: the outcomes that occur.
        counts: the number of runs by outcome before (rows) and now (columns).
        names: the names of the two studies.
    """
    with rc_context(STYLE):
        width = WIDTHS["1col"]
        figure = Figure(figsize=(width, 0.8 * width), dpi=72, layout="constrained")
        axes = figure.subplots()
        share = np.log1p(np.where(np.eye(len(counts), dtype=bool), 0, counts))
        share = share / max(float(share.max()), 1e-9)
        axes.imshow(np.where(np.diag(np.diag(counts)) > 0, 1.0, np.nan), cmap=SAME)
        axes.imshow(np.where(share > 0, share, np.nan), cmap=OTHER, vmin=0.0, vmax=1.0)
        labels = list(outcomes)
        axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(labels)), labels)
        axes.set(xlabel=f"outcome in {names[1]}", ylabel=f"outcome in {names[0]}")
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        for (row, column), n in np.ndenumerate(counts):
            if n:
                color = "white" if share[row, column] > 0.5 else "black"
                axes.text(column, row, f"{n:,}", ha="center", va="center", color=color)
        fix_layout(figure)
        changed = int(counts.sum() - np.trace(counts))
        description = f"{changed:,} of {int(counts.sum()):,} runs have another outcome."
        save_figure(figure, folder / "outcomes-1col", f"{names[0]} and {names[1]}", description)
