"""Runs, Claim -> strata: what each seed shows, a number a seed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from nanlab.ledger.claim import Claim, Contrast, LedgerError, Measure
from nanlab.parameters import PARAMETERS, is_own

FAILED = ("nan", "inf", "recovered")
"""The outcomes of a run that had a fault."""

EVERY = "all runs"


@dataclass(frozen=True, kw_only=True)
class Stratum:
    """What the seeds of one stratum show.

    Attributes:
        key: its parameters and their values, in words.
        values: (seeds,) a difference or a share of each seed, in the seeds' order.
        with_, without: means of the measure on each side; of a share only the first.
        runs_with, runs_without: how many runs there are on each side.
        placebo: of a cure: what its values are measured against, in words.
    """

    key: Mapping[str, str]
    values: np.ndarray
    with_: float
    without: float | None
    runs_with: int
    runs_without: int
    placebo: str = ""

    @property
    def name(self) -> str:
        """The same in one line."""
        return ", ".join(f"{name} {value}" for name, value in self.key.items()) or EVERY


def completed(runs: pl.DataFrame, names: Iterable[str]) -> pl.DataFrame:
    """The runs with a column for each of these parameters: its default where none is told."""
    absent = [n for n in names if n not in runs.columns and n in PARAMETERS]
    return runs.with_columns(pl.lit(PARAMETERS[name].default).alias(name) for name in absent)


def matching(runs: pl.DataFrame, values: Mapping[str, Any]) -> pl.DataFrame:
    """The runs whose parameters have these values, or one of several."""
    runs = completed(runs, values)
    for name, value in values.items():
        wanted = value if isinstance(value, list | tuple) else [value]
        runs = runs.filter(pl.col(name).is_in(list(wanted)))
    return runs


def measured(measure: Measure) -> pl.Expr:
    """Whether it is true of a run, as 0.0 or 1.0."""
    true = pl.lit(True)
    if measure.outcome:
        true = true & pl.col("outcome").is_in(list(measure.outcome))
    for name, value in measure.equals.items():
        wanted = value if isinstance(value, list | tuple) else [value]
        true = true & pl.col(name).is_in(list(wanted))
    if measure.column:
        number = pl.col(measure.column)
        number = number / pl.col(measure.to) if measure.to else number
        if measure.above is not None:
            true = true & (number > measure.above)
        if measure.below is not None:
            true = true & (number < measure.below)
    return true.fill_null(False).cast(pl.Float64)


def strata_of(claim: Claim, runs: pl.DataFrame) -> list[Stratum]:
    """What each stratum of a claim's runs shows.

    Raises:
        LedgerError: there is nothing to compare.
    """
    runs = matching(completed(runs, claim.strata), claim.where)
    runs = runs.filter(pl.col("outcome") != "crashed").with_columns(
        measured(claim.measure).alias("_true"),
        pl.col("outcome").is_in(FAILED).alias("_failed"),
    )
    if claim.contrast is None:
        found = _shares(claim, runs)
    elif claim.contrast.of_failed:
        found = _cures(claim, claim.contrast, runs)
    else:
        found = _effects(claim, claim.contrast, runs)
    if not found:
        raise LedgerError(f"claim {claim.id}: no runs to compare in its study")
    return found


def _shares(claim: Claim, runs: pl.DataFrame) -> list[Stratum]:
    runs = runs.filter(pl.col("_failed")) if claim.of_failed else runs
    found: list[Stratum] = []
    for key, part in _parts(claim, runs):
        values = _of_seeds(part, pl.col("_true"))
        found.append(
            Stratum(
                key=key, values=values, with_=_mean(part, "_true"), without=None,
                runs_with=part.height, runs_without=0,
            )
        )  # fmt: skip
    return found


def _effects(claim: Claim, contrast: Contrast, runs: pl.DataFrame) -> list[Stratum]:
    pairs = _paired(contrast, runs)
    return [
        Stratum(
            key=key,
            values=_of_seeds(part, pl.col("_true") - pl.col("_true_without")),
            with_=_mean(part, "_true"),
            without=_mean(part, "_true_without"),
            runs_with=part.height,
            runs_without=part.get_column("run_id_without").n_unique(),
        )
        for key, part in _parts(claim, pairs)
    ]


def _cures(claim: Claim, contrast: Contrast, runs: pl.DataFrame) -> list[Stratum]:
    """What a cure does for the runs that failed without it, beyond what each placebo does."""
    failed = _paired(contrast, runs).filter(pl.col("_failed_without"))
    placebos = {"a fresh seed": _with_fresh_seed(contrast, runs)}
    for move in contrast.placebos:
        told = ", ".join(f"{name} {steps:+d}" for name, steps in move.items())
        moved = _moved(_without_side(contrast, runs), move)
        placebos[told] = moved.select("run_id", pl.col("_true").alias("_true_placebo"))
    found: list[Stratum] = []
    for told, tried in placebos.items():
        both = failed.join(tried, left_on="run_id_without", right_on="run_id", how="inner")
        if failed.height and not both.height:
            raise LedgerError(f"claim {claim.id}: placebo {told} leaves the grid for every run")
        for key, part in _parts(claim, both):
            found.append(
                Stratum(
                    key=key,
                    values=_of_seeds(part, pl.col("_true") - pl.col("_true_placebo")),
                    with_=_mean(part, "_true"),
                    without=_mean(part, "_true_placebo"),
                    runs_with=part.height,
                    runs_without=part.height,
                    placebo=told,
                )
            )
    return found


def _paired(contrast: Contrast, runs: pl.DataFrame) -> pl.DataFrame:
    """Each run of the side `with` beside the run that differs from it in the factor alone."""
    if contrast.move:
        return _moved(runs, contrast.move, keep_all=True)
    factor = list(dict.fromkeys((*contrast.with_, *contrast.without)))
    sides = [matching(completed(runs, factor), side) for side in (contrast.with_, contrast.without)]
    rest = [name for name in _parameters(sides[0]) if name not in factor]
    told = ["run_id", "_true", "_failed"]
    other = sides[1].select(*rest, *told, *(name for name in factor if name not in rest))
    pairs = sides[0].join(other, on=rest, how="inner", suffix="_without", nulls_equal=True)
    return pairs.filter(pl.col("run_id") != pl.col("run_id_without"))


def _without_side(contrast: Contrast, runs: pl.DataFrame) -> pl.DataFrame:
    return runs if contrast.move else matching(completed(runs, contrast.without), contrast.without)


def _moved(runs: pl.DataFrame, move: Mapping[str, int], *, keep_all: bool = False) -> pl.DataFrame:
    """The runs that lie so many values of an axis away from each run.

    Returns:
        The columns of the moved run, and `run_id_without`, `_true_without`, `_failed_without` of
        the one that it was moved from; without `keep_all`, `run_id` is that one's.
    """
    axes = list(move)
    places = runs.with_columns(
        (pl.col(name).rank("dense").cast(pl.Int64) - 1).alias(f"_at_{name}") for name in axes
    )
    rest = [name for name in _parameters(runs) if name not in axes]
    start = places.select(
        *rest, "run_id", "_true", "_failed",
        *((pl.col(f"_at_{name}") + steps).alias(f"_at_{name}") for name, steps in move.items()),
    )  # fmt: skip
    on = [*rest, *(f"_at_{name}" for name in axes)]
    pairs = places.join(start, on=on, how="inner", suffix="_without", nulls_equal=True)
    return pairs if keep_all else pairs.with_columns(pl.col("run_id_without").alias("run_id"))


def _with_fresh_seed(contrast: Contrast, runs: pl.DataFrame) -> pl.DataFrame:
    """For each run of the side `without`, how the same point ends under the next seed."""
    side = _without_side(contrast, runs)
    seeds = sorted(side.get_column("seed").unique().to_list())
    if len(seeds) < 2:
        raise LedgerError("a cure needs two seeds or more")
    after = dict(zip(seeds, [*seeds[1:], seeds[0]], strict=True))
    rest = [name for name in _parameters(side) if name != "seed"]
    next_ = side.with_columns(pl.col("seed").replace_strict(after).alias("_next"))
    other = side.select(*rest, pl.col("seed").alias("_next"), pl.col("_true").alias("_placebo"))
    both = next_.join(other, on=[*rest, "_next"], how="inner", nulls_equal=True)
    return both.select("run_id", pl.col("_placebo").alias("_true_placebo"))


def _parameters(runs: pl.DataFrame) -> list[str]:
    return [name for name in runs.columns if name in PARAMETERS or is_own(name)]


def _parts(claim: Claim, runs: pl.DataFrame) -> list[tuple[dict[str, str], pl.DataFrame]]:
    """The runs of each stratum, in the order of their values."""
    if not claim.strata:
        return [({}, runs)] if runs.height else []
    parts = runs.sort(claim.strata).partition_by(*claim.strata, as_dict=True, maintain_order=True)
    return [
        ({n: _value(v) for n, v in zip(claim.strata, values, strict=True)}, part)
        for values, part in parts.items()
    ]


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _of_seeds(runs: pl.DataFrame, value: pl.Expr) -> np.ndarray:
    """The mean of each seed, in the seeds' order."""
    each = runs.group_by("seed").agg(value.mean().alias("_value")).sort("seed")
    return each.get_column("_value").to_numpy()


def _mean(runs: pl.DataFrame, name: str) -> float:
    # As a share of whole numbers: sums of them do not depend on the order.
    return math.fsum(runs.get_column(name).to_list()) / max(runs.height, 1)
