"""Runs -> at most ten instructive ones, each with the reason for its choice."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import polars as pl

from nanlab.grid.outcome import Outcome
from nanlab.reporting.causes import ROLES
from nanlab.reporting.critical import STABLE
from nanlab.reporting.layout import Layout
from nanlab.reporting.words import count
from nanlab.results.blame_text import blame_sentence

MAX_RUNS = 10
MAX_BLAMES = 4


class Instructive(NamedTuple):
    """A run's row of the table of runs, and why it is worth a look."""

    row: dict[str, Any]
    why: str


EXTREMES: tuple[tuple[str, pl.Expr, str, bool], ...] = (
    ("Most steps from inf to NaN.", pl.col("_gap") > 1, "_gap", True),
    ("Recovered from a fault.", pl.col("outcome") == Outcome.RECOVERED, "fault_step", False),
    ("Latest fault.", pl.col("fault_step") > 0, "fault_step", True),
    ("Not finite at its end, without any NaN.", pl.col("outcome") == Outcome.INF, "fault_step",
     False),
    ("Its fault depends on how the program was compiled.",
     pl.col("blame_status").is_in(["compiled-only", "rewritten-away"]), "fault_step", False),
    ("Lowest final loss.", pl.col("outcome") == Outcome.TRAINED, "final_loss", False),
    ("Largest final loss of a run that stayed finite.",
     pl.col("outcome").is_in([Outcome.DIVERGED, Outcome.STALLED])
     & pl.col("final_loss").is_not_null(), "final_loss", True),
)  # fmt: skip
"""Reason, condition, and the column to sort by, with True for the largest value first."""


def instructive_of(runs: pl.DataFrame, blames: pl.DataFrame, layout: Layout) -> list[Instructive]:
    """Return at most ten distinct runs, the same ones for the same tables."""
    found: dict[str, Instructive] = {}
    for picker in (_edge(runs, layout), _frequent(runs, blames), _seeds(runs, layout),
                   _extremes(runs)):  # fmt: skip
        for run_id, why in picker:
            if run_id not in found:
                row = runs.row(by_predicate=pl.col("run_id") == run_id, named=True)
                found[run_id] = Instructive(row=row, why=why)
    return list(found.values())[:MAX_RUNS]


Picked = Iterator[tuple[str, str]]


def _extremes(runs: pl.DataFrame) -> Picked:
    gaps = runs.with_columns((pl.col("nan_step") - pl.col("fault_step")).alias("_gap"))
    for why, condition, name, largest in EXTREMES:
        candidates = gaps.filter(condition)
        if candidates.height:
            order = candidates.sort(name, "run_id", descending=[largest, False], nulls_last=True)
            yield order["run_id"][0], why


def _edge(runs: pl.DataFrame, layout: Layout) -> Picked:
    """Neighbors along the main axis of which only one is stable; trained and nan if possible."""
    x = layout.x
    if not x.name or not x.is_number:
        return
    names = [*layout.facets, *layout.pooled, *([layout.y.name] if layout.y.name else [])]
    names += ["seed"] if "seed" in runs.columns else []
    ran = runs.filter(pl.col("outcome") != "crashed").sort(*names, x.name)
    shifted = [pl.col(name).shift(-1) for name in ("run_id", "outcome")]
    neighbors = ran.with_columns(
        (column.over(names) if names else column).name.prefix("next_") for column in shifted
    ).filter(pl.col("outcome").is_in(STABLE) & ~pl.col("next_outcome").is_in(STABLE))
    best = (pl.col("outcome") == "trained") & (pl.col("next_outcome") == "nan")
    order = neighbors.sort(best, x.name, "run_id", descending=[True, True, False])
    for stable, unstable in order.select("run_id", "next_run_id").head(1).rows():
        yield stable, f"Last stable value of {x.name}."
        yield unstable, f"First unstable value of {x.name} above it."


def _frequent(runs: pl.DataFrame, blames: pl.DataFrame) -> Picked:
    """The earliest run of each of the most frequent blames."""
    for blame in blames.head(MAX_BLAMES).iter_rows(named=True):
        alike = runs.filter(pl.col("blame_id") == blame["blame_id"]).sort("fault_step", "run_id")
        first, then = (blame_sentence(blame, role, line=False) for role in ROLES)
        sites = first if first == then else f"{first}; then {then}"
        for run_id in alike["run_id"].head(1):
            yield run_id, f"Earliest of {count(blame['runs'], 'run')} with one blame: {sites}."


def _seeds(runs: pl.DataFrame, layout: Layout) -> Picked:
    """A run that made a NaN where other seeds trained."""
    axes = [axis.name for axis in (layout.x, layout.y) if axis.name]
    names = [*layout.facets, *layout.pooled, *axes]
    if "seed" not in runs.columns or not names:
        return
    trained, nan = ((pl.col("outcome") == word).sum().over(names) for word in ("trained", "nan"))
    counted = runs.with_columns(trained.alias("_trained"), nan.alias("_nan"))
    split = counted.filter((pl.col("outcome") == "nan") & (pl.col("_trained") > 0))
    least = pl.min_horizontal("_trained", "_nan")
    order = split.sort(least, descending=True, maintain_order=True)
    for run_id, *counts in order.select("run_id", "_nan", "_trained").head(1).rows():
        yield run_id, f"Depends on the seed: {counts[0]:,} end in NaN, {counts[1]:,} train."
