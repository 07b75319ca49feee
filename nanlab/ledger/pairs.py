"""Runs, Contrast -> pairs of runs that differ in one factor, and of a cure's placebos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from nanlab.grid.parameters import PARAMETERS, is_user_defined
from nanlab.ledger.claim import LedgerError
from nanlab.ledger.contrast import Contrast
from nanlab.results.compare import completed


def matching(runs: pl.DataFrame, values: Mapping[str, Any]) -> pl.DataFrame:
    """Return the runs whose parameters have these values, or one of several values."""
    runs = completed(runs, values)
    for name, value in values.items():
        column, wanted = pl.col(name), as_list(value)  # batch sizes are text next to "full"
        if runs.schema[name] == pl.String or any(isinstance(each, str) for each in wanted):
            column, wanted = column.cast(pl.String), [stratum_text(each) for each in wanted]
        runs = runs.filter(column.is_in(wanted))
    return runs


def as_list(value: Any) -> list[Any]:
    """Return one value or several as a list."""
    return list(value) if isinstance(value, list | tuple) else [value]


def stratum_text(value: Any) -> str:
    """Return a value as strata name it."""
    return f"{value:g}" if isinstance(value, float) else str(value)


FACTOR = "factor"
"""The column of pairs with the name of the side `with`; as a stratum, it tells remedies apart."""


def paired(contrast: Contrast, runs: pl.DataFrame) -> pl.DataFrame:
    """Pair each run of the side `with` with the run that differs only in the factor."""
    if contrast.move:
        return _named(contrast, _moved(runs, contrast.move, keep_all=True))
    without, is_one = contrast.without, not isinstance(contrast.with_, tuple)
    runs = completed(runs, [*without, *(n for side in contrast.alternatives for n in side)])
    apart = matching(runs, contrast.swapped) if contrast.swapped else runs.clear()
    rest = runs.join(apart, on="run_id", how="anti") if apart.height else runs
    pairs = [
        _paired_with(part, *sides, {*side, *(without if is_one else ())})
        for side in contrast.alternatives
        for part, sides in ((rest, (side, without)), (apart, (without, side)))
        if part.height
    ]
    return _named(contrast, pl.concat(pairs, how="diagonal") if pairs else runs.clear())


def _named(contrast: Contrast, pairs: pl.DataFrame) -> pl.DataFrame:
    """Return pairs with the name of the side `with`, null if none of the names fits."""
    name = pl.lit(None, pl.String)
    for word, values in reversed(contrast.names.items()):
        fits = [pl.col(parameter).is_in(as_list(value)) for parameter, value in values.items()]
        name = pl.when(pl.all_horizontal(fits)).then(pl.lit(word)).otherwise(name)
    return pairs.with_columns(name.alias(FACTOR))


def _paired_with(
    runs: pl.DataFrame, with_: Mapping[str, Any], without: Mapping[str, Any], factor: set[str]
) -> pl.DataFrame:
    """Pair the runs of two sides by all parameters but those of the factor."""
    rest = [name for name in _parameters(runs) if name not in factor]
    ends = [n for n in _parameters(runs) if n in factor] + ["run_id", "_true", "_failed"]
    other = matching(runs, without).select(
        *rest, *(pl.col(name).alias(f"{name}_without") for name in ends)
    )
    pairs = matching(runs, with_).join(other, on=rest, how="inner", nulls_equal=True)
    return pairs.filter(pl.col("run_id") != pl.col("run_id_without"))


def _without_side(contrast: Contrast, runs: pl.DataFrame) -> pl.DataFrame:
    return runs if contrast.move else matching(completed(runs, contrast.without), contrast.without)


def _moved(runs: pl.DataFrame, move: Mapping[str, int], *, keep_all: bool = False) -> pl.DataFrame:
    """Pair each run with the one that is shifted along some axes.

    Returns:
        The columns of the shifted run, and `run_id_without`, `_true_without`, `_failed_without` of
        the original; without `keep_all`, `run_id` is that of the original too.
    """
    axes = list(move)
    ranked = runs.with_columns(
        (pl.col(name).rank("dense").cast(pl.Int64) - 1).alias(f"_at_{name}") for name in axes
    )
    rest = [name for name in _parameters(runs) if name not in axes]
    start = ranked.select(
        *rest, "run_id", "_true", "_failed",
        *((pl.col(f"_at_{name}") + steps).alias(f"_at_{name}") for name, steps in move.items()),
    )  # fmt: skip
    on = [*rest, *(f"_at_{name}" for name in axes)]
    pairs = ranked.join(start, on=on, how="inner", suffix="_without", nulls_equal=True)
    return pairs if keep_all else pairs.with_columns(pl.col("run_id_without").alias("run_id"))


def _drawn(side: pl.DataFrame, moves: Sequence[Mapping[str, int]]) -> pl.DataFrame:
    """Pair each run with a random one of the moves that stay in the grid."""
    # The draw is a function of the run's id, a hash: reproducible, independent of the outcomes.
    tried = pl.concat(
        _moved(side, move).select("run_id", "_true", "_failed", pl.lit(number).alias("_move"))
        for number, move in enumerate(moves)
    ).sort("run_id", "_move")
    drawn = pl.col("run_id").str.slice(0, 8).str.to_integer(base=16) % pl.len().over("run_id")
    return tried.filter(pl.col("_move").rank("ordinal").over("run_id") - 1 == drawn)


def _with_fresh_seed(side: pl.DataFrame) -> pl.DataFrame:
    """Return each run's id with `_true` and `_failed` of the same run under the next seed."""
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


def placebos(contrast: Contrast, runs: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """Return for each placebo, as text, how the runs without the cure end under it."""
    side = _without_side(contrast, runs)
    placebos = {"a fresh seed": _with_fresh_seed(side)}
    for move in contrast.placebos:
        words = ", ".join(f"{name} {steps:+d}" for name, steps in move.items())
        placebos[words] = _moved(side, move)
    if contrast.random_of:
        placebos["a random direction"] = _drawn(side, contrast.random_of)
    ends = [pl.col(name).alias(f"{name}_without") for name in ("_true", "_failed")]
    return {words: tried.select("run_id", *ends) for words, tried in placebos.items()}
