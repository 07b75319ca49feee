"""Runs -> the ten most instructive: for each a sentence that says why it is worth a look."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import polars as pl

from nanlab.reporting.causes import ROLES, blame_sentence
from nanlab.reporting.critical import STABLE
from nanlab.reporting.layout import Layout
from nanlab.reporting.words import count, exact, number

MOST = 10
MOST_BLAMES = 4


@dataclass(frozen=True, kw_only=True)
class Instructive:
    """A run and why.

    Attributes:
        row: of the runs' table.
        why: a sentence.
    """

    row: dict[str, Any]
    why: str


Picked = Iterator[tuple[dict[str, Any], str]]


def instructive_of(runs: pl.DataFrame, blames: pl.DataFrame, layout: Layout) -> list[Instructive]:
    """At most ten different runs, always the same ones for the same tables."""
    pickers: tuple[Callable[[pl.DataFrame, pl.DataFrame, Layout], Picked], ...] = (
        _edge, _frequent, _seeds_differ, _longest_infection, _recovered, _latest,
        _without_nan, _not_reproduced, _best, _worst_finite,
    )  # fmt: skip
    found: dict[str, Instructive] = {}
    for picker in pickers:
        for row, why in picker(runs, blames, layout):
            found.setdefault(row["run_id"], Instructive(row=row, why=why))
    return list(found.values())[:MOST]


def _first(frame: pl.DataFrame, by: list[str], descending: list[bool]) -> dict[str, Any] | None:
    if not frame.height:
        return None
    ordered = frame.sort([*by, "run_id"], descending=[*descending, False], nulls_last=True)
    return ordered.row(0, named=True)


def _edge(runs: pl.DataFrame, blames: pl.DataFrame, layout: Layout) -> Picked:
    """Neighbors along the main axis, one trained and one with a NaN, else stable and not."""
    x = layout.x
    if not x.name or not x.is_number:
        return
    names = [*layout.facets, *layout.pooled, *([layout.y.name] if layout.y.name else [])]
    names += ["seed"] if "seed" in runs.columns else []
    ordered = runs.filter(pl.col("outcome") != "crashed").sort(*names, x.name)
    here = ordered.with_columns(
        (pl.col(c).shift(-1).over(names) if names else pl.col(c).shift(-1)).alias(f"_{c}")
        for c in ("run_id", "outcome", x.name)
    )
    stable = pl.col("outcome").is_in(STABLE) & ~pl.col("_outcome").is_in(STABLE)
    best = ((pl.col("outcome") == "trained") & (pl.col("_outcome") == "nan")).alias("_best")
    turns = here.filter(stable & pl.col("_outcome").is_not_null()).with_columns(best)
    pair = _first(turns, ["_best", x.name], [True, True])
    if pair is None:
        return
    after = runs.filter(pl.col("run_id") == pair["_run_id"]).row(0, named=True)
    near, words = exact(pair[f"_{x.name}"]), (pair["outcome"], after["outcome"])
    yield (
        _whole(runs, pair),
        (f"The edge: it is {words[0]}, and with {x.name} = {near} the same run is {words[1]}."),
    )
    yield (
        after,
        f"The other side of the edge: with {x.name} = {exact(pair[x.name])} it is {words[0]}.",
    )


def _frequent(runs: pl.DataFrame, blames: pl.DataFrame, layout: Layout) -> Picked:
    for blame in blames.head(MOST_BLAMES).iter_rows(named=True):
        some = runs.filter(pl.col("blame_id") == blame["blame_id"])
        row = _first(some, ["fault_step"], [False])
        if row is None:
            continue
        first, then = (blame_sentence(blame, role, line=False) for role in ROLES)
        end = "" if first == then else "; then no NaN" if then == "no NaN" else f"; then {then}"
        yield row, f"The earliest of {count(blame['runs'], 'run')} that fail alike: {first}{end}."


def _seeds_differ(runs: pl.DataFrame, blames: pl.DataFrame, layout: Layout) -> Picked:
    if "seed" not in runs.columns:
        return
    axes = [a.name for a in (layout.x, layout.y) if a.name]
    names = [*layout.facets, *layout.pooled, *axes]
    if not names:
        return
    cells = runs.group_by(names, maintain_order=True).agg(
        (pl.col("outcome") == "trained").sum().alias("well"),
        (pl.col("outcome") == "nan").sum().alias("ill"),
    )
    split = cells.with_columns(pl.min_horizontal("well", "ill").alias("least"))
    split = split.filter(pl.col("least") > 0).sort("least", descending=True, maintain_order=True)
    if not split.height:
        return
    key = split.head(1).select(names)
    some = runs.join(key, on=names, how="semi", nulls_equal=True, maintain_order="left")
    well, ill = split["well"][0], split["ill"][0]
    for row in some.filter(pl.col("outcome") == "nan").head(1).iter_rows(named=True):
        yield (
            row,
            (
                f"Luck of the seed: of the runs with its settings {number(ill)} made a NaN and "
                f"{number(well)} trained."
            ),
        )


def _longest_infection(runs: pl.DataFrame, blames: pl.DataFrame, layout: Layout) -> Picked:
    late = runs.with_columns((pl.col("nan_step") - pl.col("fault_step")).alias("gap"))
    row = _first(late.filter(pl.col("gap") > 1), ["gap"], [True])
    if row is not None:
        yield (
            _whole(runs, row),
            (f"The longest way from inf to NaN: {count(row['gap'], 'step')} after its fault."),
        )


def _recovered(runs: pl.DataFrame, blames: pl.DataFrame, layout: Layout) -> Picked:
    row = _first(runs.filter(pl.col("outcome") == "recovered"), ["fault_step"], [False])
    if row is not None:
        yield row, f"It had a fault at step {row['fault_step']:,} and was finite again at the end."


def _latest(runs: pl.DataFrame, blames: pl.DataFrame, layout: Layout) -> Picked:
    row = _first(runs.filter(pl.col("fault_step").is_not_null()), ["fault_step"], [True])
    if row is not None and row["fault_step"] > 0:
        yield row, f"The latest fault, at step {row['fault_step']:,} of {row['steps']:,}."


def _without_nan(runs: pl.DataFrame, blames: pl.DataFrame, layout: Layout) -> Picked:
    row = _first(runs.filter(pl.col("outcome") == "inf"), ["fault_step"], [False])
    if row is not None:
        yield row, "Not finite at the end, and yet it never made a NaN."


def _not_reproduced(runs: pl.DataFrame, blames: pl.DataFrame, layout: Layout) -> Picked:
    some = runs.filter(pl.col("blame_status").is_in(["compiled-only", "rewritten-away"]))
    row = _first(some, ["fault_step"], [False])
    if row is not None:
        yield row, f"Its fault depends on how the program was compiled ({row['blame_status']})."


def _best(runs: pl.DataFrame, blames: pl.DataFrame, layout: Layout) -> Picked:
    row = _first(runs.filter(pl.col("outcome") == "trained"), ["final_loss"], [False])
    if row is not None:
        yield row, f"The lowest final loss of all, {number(row['final_loss'])}."


def _worst_finite(runs: pl.DataFrame, blames: pl.DataFrame, layout: Layout) -> Picked:
    finite = runs.filter(pl.col("outcome").is_in(["diverged", "stalled"]))
    row = _first(finite.filter(pl.col("final_loss").is_not_null()), ["final_loss"], [True])
    if row is not None:
        yield (
            row,
            f"The largest final loss of a run that stayed finite, {number(row['final_loss'])}.",
        )


def _whole(runs: pl.DataFrame, row: dict[str, Any]) -> dict[str, Any]:
    return runs.filter(pl.col("run_id") == row["run_id"]).row(0, named=True)
