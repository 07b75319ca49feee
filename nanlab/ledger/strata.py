"""Runs, Claim -> strata, with one number for each seed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Float

from nanlab.grid.outcome import FAILED
from nanlab.grid.parameters import PARAMETERS, is_user_defined
from nanlab.ledger.claim import Claim, LedgerError
from nanlab.ledger.contrast import Contrast
from nanlab.ledger.measures import Question, condition_of
from nanlab.results.compare import completed

EVERY = "all runs"


@dataclass(frozen=True, kw_only=True)
class Stratum:
    """The measurements of one stratum.

    Attributes:
        key: parameters and values of the stratum, as text.
        values: difference or share of each seed, in their order; empty if there is nothing to
            compare, for example if no run fails without a cure.
        with_seeds: mean of the measure on the side with the factor, of each seed.
        without_seeds: mean on the other side, None for a share.
        runs_with: number of runs on the side with the factor.
        runs_without: number of runs on the other side.
        cells: largest number of pairs, or of runs of a share, with one seed.
        decides: whether it belongs to what the claim's sentence says.
        placebo: placebo of a cure that the values are relative to, as text.
    """

    key: Mapping[str, str]
    values: Float[np.ndarray, " seeds"]
    with_seeds: Float[np.ndarray, " seeds"]
    without_seeds: Float[np.ndarray, " seeds"] | None
    runs_with: int
    runs_without: int
    cells: int
    decides: bool = True
    placebo: str = ""

    @property
    def with_(self) -> float | None:
        """Mean over seeds of the side with the factor; None if there is nothing to compare."""
        return _mean(self.with_seeds)

    @property
    def without(self) -> float | None:
        """Mean over seeds of the other side; None for a share."""
        return None if self.without_seeds is None else _mean(self.without_seeds)

    @property
    def name(self) -> str:
        """The stratum in one line."""
        return ", ".join(f"{name} {value}" for name, value in self.key.items()) or EVERY


class StratumComparison(NamedTuple):
    """Pairs of runs: the columns of one side, and those of the other with suffix `_without`."""

    key: Mapping[str, str]
    pairs: pl.DataFrame
    placebo: str


def matching(runs: pl.DataFrame, values: Mapping[str, Any]) -> pl.DataFrame:
    """Return the runs whose parameters have these values, or one of several values."""
    runs = completed(runs, values)
    for name, value in values.items():
        column, wanted = pl.col(name), _listed(value)  # batch sizes are text next to "full"
        if runs.schema[name] == pl.String or any(isinstance(each, str) for each in wanted):
            column, wanted = column.cast(pl.String), [_value(each) for each in wanted]
        runs = runs.filter(column.is_in(wanted))
    return runs


def strata_of(
    claim: Claim, question: Question, runs: pl.DataFrame
) -> tuple[list[Stratum], list[Stratum]]:
    """Measure each stratum of a claim, and as one all strata that decide.

    Args:
        claim: the claim.
        question: what is measured.
        runs: the table of runs of its studies.

    Returns:
        The strata, or those of each placebo of a cure; and the whole, or one for each placebo.

    Raises:
        LedgerError: there is nothing to compare.
    """
    runs = _relevant(claim, question, runs)
    if claim.contrast is None:
        one = claim.model_copy(update={"strata": (), "beyond": {}})
        found, whole = _shares(claim, runs), _shares(one, _within(claim, runs))
    else:
        compared = _compared(claim, claim.contrast, runs)
        found = [_difference(claim, *each) for each in compared]
        pairs: dict[str, list[pl.DataFrame]] = {}
        for each in compared:
            pairs.setdefault(each.placebo, []).append(_within(claim, each.pairs))
        whole = [_difference(claim, {}, pl.concat(parts), name) for name, parts in pairs.items()]
    if not found:
        raise LedgerError(f"claim {claim.id}: no runs to compare in its study")
    return found, whole


def _within(claim: Claim, runs: pl.DataFrame) -> pl.DataFrame:
    """Return the runs whose strata do not go beyond the claim."""
    for name, values in claim.beyond.items():
        runs = runs.filter(~pl.col(name).is_in(_listed(values)))
    return runs


def compared(claim: Claim, question: Question, runs: pl.DataFrame) -> list[StratumComparison]:
    """Return the pairs of runs behind an effect or null claim, by stratum (and placebo)."""
    assert claim.contrast is not None
    return _compared(claim, claim.contrast, _relevant(claim, question, runs))


def _relevant(claim: Claim, question: Question, runs: pl.DataFrame) -> pl.DataFrame:
    runs = matching(completed(runs, [*claim.strata, "task"]), claim.where)
    return runs.filter(pl.col("outcome") != "crashed").with_columns(
        condition_of(claim, question).alias("_true"),
        pl.col("outcome").is_in(FAILED).alias("_failed"),
    )


def _shares(claim: Claim, runs: pl.DataFrame) -> list[Stratum]:
    counted = runs.filter(pl.col("_failed")) if claim.of_failed else runs
    found: list[Stratum] = []
    for key, part in _parts(claim, counted, every=runs):
        shares = _of_seeds(part, pl.col("_true"))
        found.append(
            Stratum(
                key=key, values=shares, with_seeds=shares, without_seeds=None,
                runs_with=part.height, runs_without=0, cells=_cells(part),
                decides=_decides(claim, key),
            )
        )  # fmt: skip
    return found


def _decides(claim: Claim, key: Mapping[str, str]) -> bool:
    return not any(
        key.get(name) in [_value(value) for value in _listed(values)]
        for name, values in claim.beyond.items()
    )


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _cells(runs: pl.DataFrame) -> int:
    counts: list[int] = runs.group_by("seed").len().get_column("len").to_list()
    return max(counts, default=0)


def _compared(claim: Claim, contrast: Contrast, runs: pl.DataFrame) -> list[StratumComparison]:
    pairs = _paired(contrast, runs)
    if not contrast.of_failed:
        return [StratumComparison(*part, "") for part in _parts(claim, pairs, every=pairs)]
    found: list[StratumComparison] = []
    failed = pairs.filter(pl.col("_failed_without"))
    for words, tried in _placebos(contrast, runs).items():
        treated = failed.drop("_true_without", "_failed_without").join(
            tried, left_on="run_id_without", right_on="run_id", how="inner"
        )
        if failed.height and not treated.height:
            raise LedgerError(f"claim {claim.id}: placebo {words} leaves the grid for every run")
        found += [StratumComparison(*part, words) for part in _parts(claim, treated, every=pairs)]
    return found


def _placebos(contrast: Contrast, runs: pl.DataFrame) -> dict[str, pl.DataFrame]:
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


def _difference(claim: Claim, key: Mapping[str, str], pairs: pl.DataFrame, placebo: str) -> Stratum:
    with_, without = (_of_seeds(pairs, pl.col(name)) for name in ("_true", "_true_without"))
    return Stratum(
        key=key,
        values=with_ - without,
        with_seeds=with_,
        without_seeds=without,
        runs_with=pairs.height,
        runs_without=pairs.get_column("run_id_without").n_unique(),
        cells=_cells(pairs),
        decides=_decides(claim, key),
        placebo=placebo,
    )


def _paired(contrast: Contrast, runs: pl.DataFrame) -> pl.DataFrame:
    """Pair each run of the side `with` with the run that differs only in the factor."""
    if contrast.move:
        return _moved(runs, contrast.move, keep_all=True)
    without, is_one = contrast.without, not isinstance(contrast.with_, tuple)
    runs = completed(runs, [*without, *(n for side in contrast.alternatives for n in side)])
    pairs = [
        _paired_with(runs, side, without, {*side, *(without if is_one else ())})
        for side in contrast.alternatives
    ]
    return pl.concat(pairs, how="diagonal")


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


def _parts(
    claim: Claim, runs: pl.DataFrame, *, every: pl.DataFrame
) -> list[tuple[dict[str, str], pl.DataFrame]]:
    """Return the runs of each stratum that occurs in `every`, sorted, possibly none."""
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


def _of_seeds(runs: pl.DataFrame, value: pl.Expr) -> Float[np.ndarray, " seeds"]:
    """Return the mean of each seed, in the seeds' order."""
    each = runs.group_by("seed").agg(value.mean().alias("_value")).sort("seed")
    return each.get_column("_value").to_numpy()


def _mean(seeds: Float[np.ndarray, " seeds"]) -> float | None:
    # fsum is exact, so the mean does not depend on the order.
    return math.fsum(seeds.tolist()) / len(seeds) if len(seeds) else None
