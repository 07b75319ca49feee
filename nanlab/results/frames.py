"""Results of runs -> tidy tables: the columns, and the files that people read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from nanlab.blame.site import Site
from nanlab.blame.vocabulary import Status, WitnessAnswer
from nanlab.grid.outcome import Outcome
from nanlab.results.schema import BLAME, RESULT, SITE


def site_columns(role: str, site: Site | None) -> dict[str, str | None]:
    """A site as columns `origin_...` or `culprit_...`; iterations as "2;0"."""
    if site is None:
        return dict.fromkeys(f"{role}_{name}" for name in (*SITE, "iterations"))
    columns = {f"{role}_{name}": str(getattr(site, name)) for name in SITE}
    return {**columns, f"{role}_iterations": ";".join(map(str, site.iterations))}


def result_frame(rows: Mapping[str, Sequence[Any]]) -> pl.DataFrame:
    """Rows of RESULT from columns; a NaN or an inf among the floats becomes null.

    A loss that never was finite has nothing to tell, and readers of Parquet and CSV do not agree
    on what a NaN in a table is.
    """
    frame = pl.DataFrame({name: rows[name] for name in RESULT}, schema=RESULT)
    floats = [name for name, kind in RESULT.items() if kind == pl.Float64]
    finite = [pl.when(pl.col(name).is_finite()).then(pl.col(name)).alias(name) for name in floats]
    return frame.with_columns(finite)


def crashed_frame(run_ids: Sequence[str]) -> pl.DataFrame:
    """Rows of RESULT for runs whose chunk the software failed."""
    empty: dict[str, Sequence[Any]] = {name: [None] * len(run_ids) for name in RESULT}
    return result_frame(
        {**empty, "run_id": run_ids, "outcome": [Outcome.CRASHED.value] * len(run_ids)}
    )


def with_blame_ids(results: pl.DataFrame) -> pl.DataFrame:
    """RESULT with `blame_id`: 8 hex digits, a hash of everything told of origin and culprit."""
    told = results.select(list(BLAME)).unique(maintain_order=True)
    told = told.filter(~pl.all_horizontal(pl.all().is_null()))
    ids = [_short_hash(json.dumps(row)) for row in told.rows()]
    named = told.with_columns(pl.Series("blame_id", ids, dtype=pl.String))
    return results.join(named, on=list(BLAME), how="left", nulls_equal=True, maintain_order="left")


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def blames_frame(results: pl.DataFrame) -> pl.DataFrame:
    """A row for each distinct blame: most frequent first, its example the first run of the grid.

    Args:
        results: rows of RESULT with `blame_id`, in the grid's order.
    """
    failed = results.filter(pl.col("blame_id").is_not_null())
    counted = failed.group_by("blame_id", maintain_order=True).agg(
        pl.len().cast(pl.Int64).alias("runs"),
        (pl.col("blame_status") == Status.REPRODUCED).sum().cast(pl.Int64).alias("reproduced"),
        pl.col("run_id").first().alias("example_run"),
        *(pl.col(name).first() for name in BLAME),
    )
    return counted.sort(["runs", "blame_id"], descending=[True, False])


def merged_blames(frames: Iterable[pl.DataFrame]) -> pl.DataFrame:
    """One table of blames, as `blames_frame` makes it, of those of runs that follow each other."""
    every = pl.concat(frames)
    counts = [pl.col("runs").sum(), pl.col("reproduced").sum()]
    others = pl.all().exclude("blame_id", "runs", "reproduced").first()
    merged = every.group_by("blame_id", maintain_order=True).agg(*counts, others)
    return merged.sort(["runs", "blame_id"], descending=[True, False])


def with_witnesses(blames: pl.DataFrame, said: Mapping[str, Mapping[str, Any]]) -> pl.DataFrame:
    """The blames with what the witnesses said, by blame_id; "not-asked" where none was."""

    def column(name: str) -> pl.Series:
        words = [
            said[i][name] if i in said else WitnessAnswer.NOT_ASKED.value
            for i in blames.get_column("blame_id")
        ]
        return pl.Series(name, words, dtype=pl.String)

    both = blames.with_columns(column("origin_witness"), column("culprit_witness"))
    worst = [
        max(
            (w for w in pair if w is not None),
            key=lambda word: WitnessAnswer(word).rank,
            default=WitnessAnswer.NOT_ASKED.value,
        )
        for pair in both.select("origin_witness", "culprit_witness").rows()
    ]
    return both.with_columns(pl.Series("witness", worst, dtype=pl.String))


def results_of_runs(runs: pl.DataFrame, blames: pl.DataFrame) -> pl.DataFrame:
    """Rows of RESULT from finished tables: what `runs` was made of."""
    iterations = [name for name in BLAME if name.endswith("_iterations")]
    told = runs.join(blames.select("blame_id", *iterations), on="blame_id", how="left")
    return told.select([pl.col(name).cast(kind) for name, kind in RESULT.items()])


def read_blames(path: Path) -> pl.DataFrame:
    """`blames.csv`; a quoted "" is an empty text, and nothing at all is null."""
    numbers = {"runs": pl.Int64, "reproduced": pl.Int64}
    names = path.read_text(encoding="utf-8").split("\n", 1)[0].split(",")
    schema = {name: numbers.get(name, pl.String) for name in names}
    return pl.read_csv(path, schema=schema)


def parameter_series(values: Sequence[Any]) -> pl.Series:
    """A parameter's values as a column of one type."""
    # A batch size is a number or "full": one column has one type.
    if any(isinstance(v, str) for v in values) and not all(isinstance(v, str) for v in values):
        values = [None if v is None else str(v) for v in values]
    return pl.Series(values)
