"""Runs and a layout -> groups: the choices that are compared, each with its runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import polars as pl

from nanlab.reporting.layout import Layout, information
from nanlab.reporting.words import settings_label

MAX_GROUPS = 6


def choices_of(layout: Layout) -> list[str]:
    """Return the parameters that are compared: those of the maps, and an axis without numbers."""
    axes = (layout.x, layout.y)
    return [*layout.facets, *(a.name for a in axes if a.name and not a.is_number)]


def groups_of(runs: pl.DataFrame, layout: Layout) -> list[tuple[str, pl.DataFrame]]:
    """Return (label, runs) for at most MAX_GROUPS combinations of the most informative choices."""
    names = choices_of(layout)
    while names and runs.select(names).n_unique() > MAX_GROUPS:
        names.remove(min(names, key=lambda name: (information(runs, name), name)))
    if not names:
        return [("", runs)]
    return [(settings_label(names, key), frame) for key, frame in divided(runs, names)]


def divided(
    runs: pl.DataFrame, names: Sequence[str]
) -> Iterable[tuple[tuple[Any, ...], pl.DataFrame]]:
    """Return (values, runs) for each combination of parameters, in the order of the rows."""
    return runs.group_by(list(names), maintain_order=True) if names else [((), runs)]


def rows_of(runs: pl.DataFrame, layout: Layout) -> list[tuple[int, Any, pl.DataFrame]]:
    """Return (panel, row, runs) in order; row is None where there is no vertical axis."""
    y, n = layout.y, len(layout.facets)
    found = [
        (layout.panels.index(key[:n]), key[n] if y.name else None, frame)
        for key, frame in divided(runs, [*layout.facets, *([y.name] if y.name else [])])
    ]
    order = {value: i for i, value in enumerate(y.values)}
    return sorted(found, key=lambda line: (line[0], order.get(line[1], 0)))
