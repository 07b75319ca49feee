"""Two tables of runs -> what differs between them, run by run: outcomes, numbers, blames, lines."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import polars as pl

from nanlab.grid.parameters import PARAMETERS
from nanlab.results.schema import ENDING

IDENTITY = ("primitive", "phase", "module", "mechanism", "function")
"""What makes a site the same one; its line and its file's path are information, not identity."""
LINES = ("source", "library")
ROLES = ("origin", "culprit")
ASPECTS = ("outcome", "numbers", "blame", "lines")
"""What may be the same of a run: how it ended; every number, to the bit; the identity of origin
and culprit; their lines."""


@dataclass(frozen=True, kw_only=True)
class RunComparison:
    """Two tables of runs, matched.

    Attributes:
        pairs: a row a run that both have: the columns of the first table, those of the second
            under `_now`, and `same_outcome`, `same_numbers`, `same_blame`, `same_lines`.
        only_before, only_now: how many runs just one of them has.
    """

    pairs: pl.DataFrame
    only_before: int
    only_now: int

    def same(self, aspect: str) -> int:
        """In how many runs this aspect, one of ASPECTS, is the same."""
        return int(self.pairs.get_column(f"same_{aspect}").sum())

    def differing(self, *aspects: str) -> pl.DataFrame:
        """The pairs that differ in one of these aspects."""
        same = [pl.col(f"same_{aspect}") for aspect in aspects]
        return self.pairs.filter(~pl.all_horizontal(same))


def compare_runs(before: pl.DataFrame, now: pl.DataFrame, *, on: Sequence[str]) -> RunComparison:
    """Match the runs of two tables, and see what is the same.

    Args:
        before, now: tables as `runs.parquet` holds them.
        on: the columns that tell which runs belong together, together unique in each table.

    Raises:
        ValueError: they are not unique.
    """
    for table in (before, now):
        if table.select(on).is_duplicated().any():
            raise ValueError(f"several runs share {', '.join(on)}")
    pairs = before.join(now, on=list(on), how="inner", suffix="_now", nulls_equal=True,
                        maintain_order="left")  # fmt: skip
    told = [c for c in before.columns if c in now.columns and c not in on]
    numbers = [name for name in ENDING if name in told and name != "outcome"]
    groups = {
        "outcome": ["outcome"],
        "numbers": numbers,
        "blame": [f"{role}_{part}" for role in ROLES for part in IDENTITY],
        "lines": [f"{role}_{part}" for role in ROLES for part in LINES],
    }
    same = [
        pl.all_horizontal(pl.col(name).eq_missing(pl.col(f"{name}_now")) for name in names).alias(
            f"same_{aspect}"
        )
        for aspect, names in groups.items()
    ]
    return RunComparison(
        pairs=pairs.with_columns(same),
        only_before=before.height - pairs.height,
        only_now=now.height - pairs.height,
    )


def failing(pairs: pl.DataFrame) -> pl.DataFrame:
    """The pairs of which one run at least had a fault."""
    return pairs.filter(pl.any_horizontal(pl.col("fault_step", "fault_step_now").is_not_null()))


def completed(runs: pl.DataFrame, names: Iterable[str]) -> pl.DataFrame:
    """The runs with a column for each of these parameters: its default where none is told."""
    absent = [n for n in names if n not in runs.columns and n in PARAMETERS]
    return runs.with_columns(pl.lit(PARAMETERS[name].default).alias(name) for name in absent)
