"""Two tables of runs -> the differences, run by run: outcomes, numbers, blames, lines."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import polars as pl

from nanlab.grid.defaults import missing_defaults
from nanlab.results.schema import ENDING, ROLES

IDENTITY = ("primitive", "phase", "module", "mechanism", "function")
"""Columns that identify a site; its line and its file's path do not, as edits move them."""
LINES = ("source", "library")


@dataclass(frozen=True, kw_only=True)
class RunComparison:
    """Two tables of runs, matched.

    Each run has four aspects: `outcome`; `numbers`, to the bit; `blame`, the identities of origin
    and culprit; `lines`, their source lines.

    Attributes:
        pairs: a row for each run in both tables: the columns of the first, those of the second
            with suffix `_now`, and a boolean `same_ASPECT` for each aspect.
        only_before, only_now: number of runs in only one of the tables.
    """

    pairs: pl.DataFrame
    only_before: int
    only_now: int

    def same(self, aspect: str) -> int:
        """Return the number of runs in which this aspect is the same."""
        return int(self.pairs.get_column(f"same_{aspect}").sum())

    def differing(self, *aspects: str) -> pl.DataFrame:
        """Return the pairs that differ in one of these aspects."""
        same = [pl.col(f"same_{aspect}") for aspect in aspects]
        return self.pairs.filter(~pl.all_horizontal(same))


def compare_runs(before: pl.DataFrame, now: pl.DataFrame, *, on: Sequence[str]) -> RunComparison:
    """Match the runs of two tables and compare them.

    Args:
        before: the first table, as in `runs.parquet`.
        now: the second table.
        on: the columns to match by, together unique in each table.

    Returns:
        The matched pairs and the number of runs without a match.

    Raises:
        ValueError: the columns are not unique.
    """
    for table in (before, now):
        if table.select(on).is_duplicated().any():
            raise ValueError(f"several runs share {', '.join(on)}")
    pairs = before.join(now, on=list(on), how="inner", suffix="_now", nulls_equal=True,
                        maintain_order="left")  # fmt: skip
    aspects = {
        "outcome": ["outcome"],
        "numbers": [name for name in ENDING if f"{name}_now" in pairs and name != "outcome"],
        "blame": [f"{role}_{part}" for role in ROLES for part in IDENTITY],
        "lines": [f"{role}_{part}" for role in ROLES for part in LINES],
    }
    same = [
        pl.all_horizontal(pl.col(name).eq_missing(pl.col(f"{name}_now")) for name in names).alias(
            f"same_{aspect}"
        )
        for aspect, names in aspects.items()
    ]
    return RunComparison(
        pairs=pairs.with_columns(same),
        only_before=before.height - pairs.height,
        only_now=now.height - pairs.height,
    )


def failing(pairs: pl.DataFrame) -> pl.DataFrame:
    """Return the pairs in which at least one run had a fault."""
    return pairs.filter(pl.any_horizontal(pl.col("fault_step", "fault_step_now").is_not_null()))


def completed(runs: pl.DataFrame, names: Iterable[str]) -> pl.DataFrame:
    """Return the runs with a column for each of these parameters, its default where absent."""
    defaults = missing_defaults(names, runs.columns)
    return runs.with_columns(pl.lit(value).alias(name) for name, value in defaults.items())
