"""Runs, Claim -> strata, with one number for each seed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Float

from nanlab.grid.outcome import FAILED
from nanlab.ledger.claim import Claim, LedgerError
from nanlab.ledger.contrast import Contrast
from nanlab.ledger.measures import Question, condition_of
from nanlab.ledger.pairs import FACTOR, as_list, matching, paired, placebos, stratum_text
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


def strata_of(
    claim: Claim, question: Question, runs: pl.DataFrame
) -> tuple[list[Stratum], list[Stratum], list[Stratum]]:
    """Measure each stratum of a claim, as one all strata that decide, and each factor by itself.

    Args:
        claim: the claim.
        question: what is measured.
        runs: the table of runs of its studies.

    Returns:
        The strata; the whole; and, if the contrast has names, all strata of each name, those beyond
        the claim too. Of a cure each of these is there once for each placebo.

    Raises:
        LedgerError: there is nothing to compare.
    """
    runs = _relevant(claim, question, runs)
    if claim.contrast is None:
        one = claim.model_copy(update={"strata": (), "beyond": {}})
        found, whole, factors = _shares(claim, runs), _shares(one, _within(claim, runs)), []
    else:
        compared = _compared(claim, claim.contrast, runs)
        found = [_difference(claim, *each) for each in compared]
        pairs: dict[str, list[pl.DataFrame]] = {}
        for each in compared:
            pairs.setdefault(each.placebo, []).append(_within(claim, each.pairs))
        whole = [_difference(claim, {}, pl.concat(parts), name) for name, parts in pairs.items()]
        factors = _of_factors(claim, compared)
    if not found:
        raise LedgerError(f"claim {claim.id}: no runs to compare in its study")
    return found, whole, factors


def _of_factors(claim: Claim, compared: Sequence[StratumComparison]) -> list[Stratum]:
    """Measure each name of the side `with` over all strata, those beyond the claim too."""
    of_placebos: dict[str, list[pl.DataFrame]] = {}
    for each in compared:
        of_placebos.setdefault(each.placebo, []).append(each.pairs)
    return [
        _difference(claim, {FACTOR: str(name)}, part, placebo)
        for placebo, parts in of_placebos.items()
        for (name,), part in pl.concat(parts).partition_by(FACTOR, as_dict=True).items()
        if name is not None
    ]


def _within(claim: Claim, runs: pl.DataFrame) -> pl.DataFrame:
    """Return the runs whose strata do not go beyond the claim."""
    for name, values in claim.beyond.items():
        runs = runs.filter(~pl.col(name).is_in(as_list(values)))
    return runs


def compared(claim: Claim, question: Question, runs: pl.DataFrame) -> list[StratumComparison]:
    """Return the pairs of runs behind an effect or null claim, by stratum (and placebo)."""
    assert claim.contrast is not None
    return _compared(claim, claim.contrast, _relevant(claim, question, runs))


def _relevant(claim: Claim, question: Question, runs: pl.DataFrame) -> pl.DataFrame:
    names = [name for name in (*claim.strata, "task") if name != FACTOR]
    runs = matching(completed(runs, names), claim.where)
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
        key.get(name) in [stratum_text(value) for value in as_list(values)]
        for name, values in claim.beyond.items()
    )


def _cells(runs: pl.DataFrame) -> int:
    counts: list[int] = runs.group_by("seed").len().get_column("len").to_list()
    return max(counts, default=0)


def _compared(claim: Claim, contrast: Contrast, runs: pl.DataFrame) -> list[StratumComparison]:
    pairs = paired(contrast, runs)
    if not contrast.of_failed:
        return [StratumComparison(*part, "") for part in _parts(claim, pairs, every=pairs)]
    found: list[StratumComparison] = []
    failed = pairs.filter(pl.col("_failed_without"))
    for words, tried in placebos(contrast, runs).items():
        treated = failed.drop("_true_without", "_failed_without").join(
            tried, left_on="run_id_without", right_on="run_id", how="inner"
        )
        if failed.height and not treated.height:
            raise LedgerError(f"claim {claim.id}: placebo {words} leaves the grid for every run")
        found += [StratumComparison(*part, words) for part in _parts(claim, treated, every=pairs)]
    return found


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


def _parts(
    claim: Claim, runs: pl.DataFrame, *, every: pl.DataFrame
) -> list[tuple[dict[str, str], pl.DataFrame]]:
    """Return the runs of each stratum that occurs in `every`, sorted, possibly none."""
    if not claim.strata:
        return [({}, runs)] if every.height else []
    strata = every.select(claim.strata).unique().sort(claim.strata)
    parts = runs.partition_by(*claim.strata, as_dict=True, maintain_order=True)
    return [
        ({n: stratum_text(v) for n, v in zip(claim.strata, values, strict=True)},
         parts.get(values, runs.clear()))
        for values in strata.rows()
    ]  # fmt: skip


def _of_seeds(runs: pl.DataFrame, value: pl.Expr) -> Float[np.ndarray, " seeds"]:
    """Return the mean of each seed, in the seeds' order."""
    each = runs.group_by("seed").agg(value.mean().alias("_value")).sort("seed")
    return each.get_column("_value").to_numpy()


def _mean(seeds: Float[np.ndarray, " seeds"]) -> float | None:
    # fsum is exact, so the mean does not depend on the order.
    return math.fsum(seeds.tolist()) / len(seeds) if len(seeds) else None
