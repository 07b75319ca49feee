"""Runs and a layout -> groups: the choices that are compared with each other, a frame for each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import polars as pl

from nanlab.reporting.layout import Layout, information
from nanlab.reporting.words import setting

MOST_GROUPS = 6


def choices_of(layout: Layout) -> list[str]:
    """The parameters whose values are compared: those of the maps, and an axis without numbers."""
    axes = (layout.x, layout.y)
    return [*layout.facets, *(a.name for a in axes if a.name and not a.is_number)]


def groups_of(
    runs: pl.DataFrame, layout: Layout, *, most: int = MOST_GROUPS
) -> list[tuple[str, pl.DataFrame]]:
    """(label, runs) for each combination of choices; the least telling choices are left out.

    One group with the label "" where there is nothing to compare.
    """
    names = choices_of(layout)
    while names and runs.select(names).n_unique() > most:
        names.remove(min(names, key=lambda name: (information(runs, name), name)))
    if not names:
        return [("", runs)]
    return [(_label(names, key), frame) for key, frame in divided(runs, names)]


def divided(
    runs: pl.DataFrame, names: Sequence[str]
) -> Iterable[tuple[tuple[Any, ...], pl.DataFrame]]:
    """(values, runs) for each combination of parameters, in the grid's order; all for none."""
    return runs.group_by(list(names), maintain_order=True) if names else [((), runs)]


def _label(names: list[str], key: tuple[Any, ...]) -> str:
    told = [setting(name, value) for name, value in zip(names, key, strict=True)]
    return ", ".join(word for value, word in zip(key, told, strict=True) if value is not None)
