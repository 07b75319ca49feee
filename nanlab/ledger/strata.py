"""Runs, Claim -> strata: what each seed shows, a number a seed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from nanlab.grid.outcome import FAILED
from nanlab.grid.parameters import PARAMETERS, is_user_defined
from nanlab.ledger.claim import Claim, Contrast, LedgerError, Measure
from nanlab.results.compare import completed

"""The outcomes of a run that had a fault."""

EVERY = "all runs"


@dataclass(frozen=True, kw_only=True)
class Stratum:
    """What the seeds of one stratum show.

    Attributes:
        key: its parameters and their values, in words.
        values: (seeds,) a difference or a share of each seed, in the seeds' order; none where there
            is nothing to compare, as where no run fails without a cure.
        with_, without: means of the measure on each side; of a share only the first.
        runs_with, runs_without: how many runs there are on each side.
        finite_with, finite_without: the share of the runs of each side that had no fault.
        placebo: of a cure: what its values are measured against, in words.
    """

    key: Mapping[str, str]
    values: np.ndarray
    with_: float
    without: float | None
    runs_with: int
    runs_without: int
    finite_with: float | None = None
    finite_without: float | None = None
    placebo: str = ""

    @property
    def name(self) -> str:
        """The same in one line."""
        return ", ".join(f"{name} {value}" for name, value in self.key.items()) or EVERY


class StratumComparison(NamedTuple):
    """Pairs of runs: of each the run of one side, and the other's columns under `_without`."""

    key: Mapping[str, str]
    pairs: pl.DataFrame
    placebo: str


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
    runs = _about(claim, runs)
    if claim.contrast is None:
        found = _shares(claim, runs)
    else:
        found = [_difference(*each) for each in _compared(claim, claim.contrast, runs)]
    if not found:
        raise LedgerError(f"claim {claim.id}: no runs to compare in its study")
    return found


def compared(claim: Claim, runs: pl.DataFrame) -> list[StratumComparison]:
    """The pairs of runs that an effect or null claim rests on, of each stratum (and placebo)."""
    assert claim.contrast is not None
    return _compared(claim, claim.contrast, _about(claim, runs))


def _about(claim: Claim, runs: pl.DataFrame) -> pl.DataFrame:
    runs = matching(completed(runs, claim.strata), claim.where)
    return runs.filter(pl.col("outcome") != "crashed").with_columns(
        measured(claim.measure).alias("_true"),
        pl.col("outcome").is_in(FAILED).alias("_failed"),
    )


def _shares(claim: Claim, runs: pl.DataFrame) -> list[Stratum]:
    counted = runs.filter(pl.col("_failed")) if claim.of_failed else runs
    return [
        Stratum(
            key=key, values=_of_seeds(part, pl.col("_true")), with_=_mean(part, "_true"),
            without=None, runs_with=part.height, runs_without=0,
        )
        for key, part in _parts(claim, counted, every=runs)
    ]  # fmt: skip


def _compared(claim: Claim, contrast: Contrast, runs: pl.DataFrame) -> list[StratumComparison]:
    pairs = _paired(contrast, runs)
    if not contrast.of_failed:
        return [StratumComparison(*part, "") for part in _parts(claim, pairs, every=pairs)]
    found: list[StratumComparison] = []
    failed = pairs.filter(pl.col("_failed_without"))
    for words, tried in _placebos(contrast, runs).items():
        beside = failed.drop("_true_without", "_failed_without").join(
            tried, left_on="run_id_without", right_on="run_id", how="inner"
        )
        if failed.height and not beside.height:
            raise LedgerError(f"claim {claim.id}: placebo {words} leaves the grid for every run")
        found += [StratumComparison(*part, words) for part in _parts(claim, beside, every=pairs)]
    return found


def _placebos(contrast: Contrast, runs: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """What is tried instead of a cure, in words -> how it ends for each run without the cure."""
    side = _without_side(contrast, runs)
    placebos = {"a fresh seed": _with_fresh_seed(side)}
    for move in contrast.placebos:
        words = ", ".join(f"{name} {steps:+d}" for name, steps in move.items())
        placebos[words] = _moved(side, move)
    if contrast.random_of:
        placebos["a random direction"] = _drawn(side, contrast.random_of)
    told = [pl.col(name).alias(f"{name}_without") for name in ("_true", "_failed")]
    return {words: tried.select("run_id", *told) for words, tried in placebos.items()}


def _difference(key: Mapping[str, str], pairs: pl.DataFrame, placebo: str) -> Stratum:
    return Stratum(
        key=key,
        values=_of_seeds(pairs, pl.col("_true") - pl.col("_true_without")),
        with_=_mean(pairs, "_true"),
        without=_mean(pairs, "_true_without"),
        runs_with=pairs.height,
        runs_without=pairs.get_column("run_id_without").n_unique(),
        finite_with=_mean(pairs, ~pl.col("_failed")),
        finite_without=_mean(pairs, ~pl.col("_failed_without")),
        placebo=placebo,
    )


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


def _drawn(side: pl.DataFrame, moves: Sequence[Mapping[str, int]]) -> pl.DataFrame:
    """Of each run one of the moves that stay in the grid.

    It is drawn by the run's name, a hash: the same each time, and independent of how runs end.
    """
    tried = pl.concat(
        _moved(side, move).select("run_id", "_true", "_failed", pl.lit(number).alias("_move"))
        for number, move in enumerate(moves)
    ).sort("run_id", "_move")
    drawn = pl.col("run_id").str.slice(0, 8).str.to_integer(base=16) % pl.len().over("run_id")
    return tried.filter(pl.col("_move").rank("ordinal").over("run_id") - 1 == drawn)


def _with_fresh_seed(side: pl.DataFrame) -> pl.DataFrame:
    """How each of these runs ends under the next seed: `_true` and `_failed` beside its run_id."""
    seeds = sorted(side.get_column("seed").unique().to_list())
    if len(seeds) < 2:
        raise LedgerError("a cure needs two seeds or more")
    after = dict(zip(seeds, [*seeds[1:], seeds[0]], strict=True))
    rest = [name for name in _parameters(side) if name != "seed"]
    next_ = side.select(*rest, "run_id", pl.col("seed").replace_strict(after).alias("_next"))
    other = side.select(*rest, pl.col("seed").alias("_next"), "_true", "_failed")
    return next_.join(other, on=[*rest, "_next"], how="inner", nulls_equal=True)


def _parameters(runs: pl.DataFrame) -> list[str]:
    return [name for name in runs.columns if name in PARAMETERS or is_user_defined(name)]


def _parts(
    claim: Claim, runs: pl.DataFrame, *, every: pl.DataFrame
) -> list[tuple[dict[str, str], pl.DataFrame]]:
    """The runs of each stratum that `every` has, in the order of their values, none if need be."""
    if not claim.strata:
        return [({}, runs)] if every.height else []
    strata = every.select(claim.strata).unique().sort(claim.strata)
    parts = runs.partition_by(*claim.strata, as_dict=True, maintain_order=True)
    return [
        ({n: _value(v) for n, v in zip(claim.strata, values, strict=True)},
         parts.get(values, runs.clear()))
        for values in strata.rows()
    ]  # fmt: skip


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _of_seeds(runs: pl.DataFrame, value: pl.Expr) -> np.ndarray:
    """The mean of each seed, in the seeds' order."""
    each = runs.group_by("seed").agg(value.mean().alias("_value")).sort("seed")
    return each.get_column("_value").to_numpy()


def _mean(runs: pl.DataFrame, told: str | pl.Expr) -> float:
    # As a share of whole numbers: sums of them do not depend on the order.
    expression = pl.col(told) if isinstance(told, str) else told
    numbers = runs.select(expression.cast(pl.Float64).alias("_told")).get_column("_told")
    return math.fsum(numbers.to_list()) / max(runs.height, 1)
