"""Results of runs -> the rows of `runs` and `blames`."""

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
from nanlab.results.files import without_apostrophes
from nanlab.results.schema import BLAME, BLAMES, RESULT, SITE, types_of


def site_columns(role: str, site: Site | None) -> dict[str, str | None]:
    """Return a site as columns `origin_...` or `culprit_...`; iterations as "2;0"."""
    if site is None:
        return dict.fromkeys(f"{role}_{name}" for name in (*SITE, "iterations"))
    columns = {f"{role}_{name}": str(getattr(site, name)) for name in SITE}
    return {**columns, f"{role}_iterations": ";".join(map(str, site.iterations))}


def result_frame(rows: Mapping[str, Sequence[Any]]) -> pl.DataFrame:
    """Return rows of RESULT from columns, with null for every NaN or inf.

    Readers of Parquet and CSV do not agree on what a NaN in a table is.
    """
    frame = pl.DataFrame({name: rows[name] for name in RESULT}, schema=RESULT)
    floats = [name for name, kind in RESULT.items() if kind == pl.Float64]
    finite = [pl.when(pl.col(name).is_finite()).then(pl.col(name)).alias(name) for name in floats]
    return frame.with_columns(finite)


def crashed_frame(run_ids: Sequence[str]) -> pl.DataFrame:
    """Return rows of RESULT for runs whose chunk crashed."""
    empty: dict[str, Sequence[Any]] = {name: [None] * len(run_ids) for name in RESULT}
    return result_frame(
        {**empty, "run_id": run_ids, "outcome": [Outcome.CRASHED.value] * len(run_ids)}
    )


def with_blame_ids(results: pl.DataFrame) -> pl.DataFrame:
    """Return RESULT with `blame_id`: 8 hex digits, a hash of the columns of both sites."""
    blames = results.select(list(BLAME)).unique(maintain_order=True)
    blames = blames.filter(~pl.all_horizontal(pl.all().is_null()))
    ids = [hashlib.sha256(json.dumps(row).encode()).hexdigest()[:8] for row in blames.rows()]
    named = blames.with_columns(pl.Series("blame_id", ids, dtype=pl.String))
    return results.join(named, on=list(BLAME), how="left", nulls_equal=True, maintain_order="left")


def blames_frame(results: pl.DataFrame) -> pl.DataFrame:
    """Return a row for each distinct blame of consecutive runs, most frequent first."""
    failed = results.filter(pl.col("blame_id").is_not_null())
    counted = failed.group_by("blame_id", maintain_order=True).agg(
        pl.len().cast(pl.Int64).alias("runs"),
        (pl.col("blame_status") == Status.REPRODUCED).sum().cast(pl.Int64).alias("reproduced"),
        pl.col("run_id").first().alias("example_run"),
        *(pl.col(name).first() for name in BLAME),
    )
    return counted.sort(["runs", "blame_id"], descending=[True, False])


def merged_blames(frames: Iterable[pl.DataFrame]) -> pl.DataFrame:
    """Merge the frames that `blames_frame` returned for consecutive slices of runs."""
    counts = [pl.col("runs").sum(), pl.col("reproduced").sum()]
    others = pl.all().exclude("blame_id", "runs", "reproduced").first()
    merged = pl.concat(frames).group_by("blame_id", maintain_order=True).agg(*counts, others)
    return merged.sort(["runs", "blame_id"], descending=[True, False])


def with_witnesses(blames: pl.DataFrame, said: Mapping[str, Mapping[str, Any]]) -> pl.DataFrame:
    """Return the blames with the answers of the witnesses, `said`, by blame_id."""
    unasked = WitnessAnswer.NOT_ASKED.value
    nothing = {"origin_witness": unasked, "culprit_witness": unasked}
    answers = [said.get(blame_id, nothing) for blame_id in blames.get_column("blame_id")]
    worst = [
        max(
            (answer[name] for name in nothing if answer[name] is not None),
            key=lambda word: WitnessAnswer(word).rank,
            default=unasked,
        )
        for answer in answers
    ]
    return blames.with_columns(
        *(pl.Series(name, [a[name] for a in answers], dtype=pl.String) for name in nothing),
        pl.Series("witness", worst, dtype=pl.String),
    )


def results_of_runs(runs: pl.DataFrame, blames: pl.DataFrame) -> pl.DataFrame:
    """Return the rows of RESULT that finished tables were made from."""
    iterations = [name for name in BLAME if name.endswith("_iterations")]
    joined = runs.join(blames.select("blame_id", *iterations), on="blame_id", how="left")
    return joined.select([pl.col(name).cast(kind) for name, kind in RESULT.items()])


def read_blames(path: Path) -> pl.DataFrame:
    """Read `blames.csv`; a quoted "" is an empty text, an empty field is null."""
    kinds = types_of(BLAMES)
    names = path.read_text(encoding="utf-8").split("\n", 1)[0].split(",")
    schema = {name: kinds.get(name, pl.String) for name in names}
    return without_apostrophes(pl.read_csv(path, schema=schema))


def parameter_series(values: Sequence[Any]) -> pl.Series:
    """Return a parameter's values as a column of one type."""
    # A batch size is a number or "full".
    if any(isinstance(v, str) for v in values) and not all(isinstance(v, str) for v in values):
        values = [None if v is None else str(v) for v in values]
    return pl.Series(values)
