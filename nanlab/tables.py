"""Results of runs -> tidy tables: the columns, and the files that people read."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from nanlab.blame.judge import Finding
from nanlab.blame.witness import NOT_ASKED, WORDS
from nanlab.parameters import PARAMETERS
from nanlab.parts.listing import BESIDE_OPTION, readers
from nanlab.plan import Plan

FINDING = tuple(field.name for field in fields(Finding) if field.name != "iterations")
"""What is told of a site, in the tables' order."""

ENDING: dict[str, Any] = {
    "outcome": pl.String,
    "fault_step": pl.Int64,
    "nan_step": pl.Int64,
    "initial_loss": pl.Float64,
    "best_loss": pl.Float64,
    "final_loss": pl.Float64,
    "final_accuracy": pl.Float64,
    "grad_norm_max": pl.Float64,
    "nonfinite_gradient_steps": pl.Int64,
}
BLAME: dict[str, Any] = {
    f"{role}_{name}": pl.String
    for role in ("origin", "culprit")
    for name in (*FINDING, "iterations")
}
RESULT: dict[str, Any] = {"run_id": pl.String, **ENDING, **BLAME, "blame_status": pl.String}
"""What a chunk keeps of a run; null where there is nothing to tell."""


def finding_columns(role: str, finding: Finding | None) -> dict[str, str | None]:
    """A finding as columns `origin_...` or `culprit_...`; iterations as "2;0"."""
    if finding is None:
        return dict.fromkeys(f"{role}_{name}" for name in (*FINDING, "iterations"))
    told = {name: value for name, value in asdict(finding).items() if name != "iterations"}
    told["iterations"] = ";".join(str(i) for i in finding.iterations)
    return {f"{role}_{name}": value for name, value in told.items()}


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
    return result_frame({**empty, "run_id": run_ids, "outcome": ["crashed"] * len(run_ids)})


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
        (pl.col("blame_status") == "reproduced").sum().cast(pl.Int64).alias("reproduced"),
        pl.col("run_id").first().alias("example_run"),
        *(pl.col(name).first() for name in BLAME),
    )
    return counted.sort(["runs", "blame_id"], descending=[True, False])


def with_witnesses(blames: pl.DataFrame, said: Mapping[str, Mapping[str, Any]]) -> pl.DataFrame:
    """The blames with what the witnesses said, by blame_id; NOT_ASKED where none was."""

    def column(name: str) -> pl.Series:
        words = [said[i][name] if i in said else NOT_ASKED for i in blames.get_column("blame_id")]
        return pl.Series(name, words, dtype=pl.String)

    both = blames.with_columns(column("origin_witness"), column("culprit_witness"))
    worst = [
        max((w for w in pair if w is not None), key=WORDS.index, default=NOT_ASKED)
        for pair in both.select("origin_witness", "culprit_witness").rows()
    ]
    return both.with_columns(pl.Series("witness", worst, dtype=pl.String))


def runs_frame(plan: Plan, results: pl.DataFrame, blames: pl.DataFrame) -> pl.DataFrame:
    """The table of runs, in the grid's order.

    Args:
        plan: what was asked.
        results: rows of RESULT with `blame_id`, one for each run of the plan, in any order.
        blames: with witnesses.
    """
    return told_frame(asked_frame(plan), results, blames)


def asked_frame(plan: Plan) -> pl.DataFrame:
    """What is asked of each run: `run_id`, `group_id`, parameters; in the grid's order."""
    groups = np.empty(len(plan), object)
    for group in plan.groups:
        groups[group.runs] = group.group_id
    told_of = [name for name in plan.columns if _is_told(name, plan)]
    return pl.DataFrame(
        {
            "run_id": list(plan.run_ids),
            "group_id": list(groups),
            **{name: _parameter(plan.columns[name]) for name in told_of},
        }
    )


def told_frame(asked: pl.DataFrame, results: pl.DataFrame, blames: pl.DataFrame) -> pl.DataFrame:
    """The table of runs from what was asked of them and what came; nulls where nothing came yet."""
    told = results.join(blames.select("blame_id", "witness"), on="blame_id", how="left")
    # "steps" is both a parameter and a result's neighbor; it stands among the results.
    parameters = [name for name in asked.columns if name != "steps"]
    ending = list(ENDING)
    before, after = ending[:3], ending[3:]
    blamed = [name for name in BLAME if not name.endswith("_iterations")]
    order = [*parameters, *before, "steps", *after, *blamed, "blame_id", "blame_status", "witness"]
    return asked.join(told, on="run_id", how="left", maintain_order="left").select(order)


def _is_told(name: str, plan: Plan) -> bool:
    """Whether a parameter has a column: some run uses it, or sets it to another value."""
    parameter, column = PARAMETERS[name], plan.columns[name]
    if any(value not in (None, parameter.default) for value in set(column.tolist())):
        return True
    if parameter.role == "option":
        return False
    if name in BESIDE_OPTION:
        return _is_told(BESIDE_OPTION[name], plan)
    chosen = {key: set(plan.columns[key].tolist()) for key in readers(name) if key in plan.columns}
    return not readers(name) or any(chosen[key] & set(readers(name)[key]) for key in chosen)


def _parameter(column: np.ndarray) -> pl.Series:
    values = column.tolist()
    # A batch size is a number or "full": one column has one type.
    if any(isinstance(v, str) for v in values) and not all(isinstance(v, str) for v in values):
        values = [None if v is None else str(v) for v in values]
    return pl.Series(values)


def results_of_runs(runs: pl.DataFrame, blames: pl.DataFrame) -> pl.DataFrame:
    """Rows of RESULT from finished tables: what `runs_frame` was made of."""
    iterations = [name for name in BLAME if name.endswith("_iterations")]
    told = runs.join(blames.select("blame_id", *iterations), on="blame_id", how="left")
    return told.select([pl.col(name).cast(kind) for name, kind in RESULT.items()])


def read_blames(path: Path) -> pl.DataFrame:
    """`blames.csv`; a quoted "" is an empty text, and nothing at all is null."""
    numbers = {"runs": pl.Int64, "reproduced": pl.Int64}
    names = path.read_text(encoding="utf-8").split("\n", 1)[0].split(",")
    schema = {name: numbers.get(name, pl.String) for name in names}
    return pl.read_csv(path, schema=schema)


def write_atomically(path: Path, write: Any) -> None:
    """Write a file beside `path`, flush it to the disk, then put it in its place."""
    partial = path.with_name(path.name + ".partial")
    try:
        write(partial)
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_tables(
    folder: Path, runs: pl.DataFrame, blames: pl.DataFrame, *, csv_runs: int
) -> list[str]:
    """Write `runs.parquet`, `runs.csv` and `blames.csv`; the names of those written."""
    written = ["runs.parquet", "blames.csv"]
    write_atomically(folder / "runs.parquet", lambda p: write_parquet(runs, p))
    if runs.height <= csv_runs:
        written.append("runs.csv")
        write_atomically(folder / "runs.csv", lambda p: _write_csv(runs, p))
    else:
        (folder / "runs.csv").unlink(missing_ok=True)
    write_atomically(folder / "blames.csv", lambda p: _write_csv(blames, p))
    return written


def write_parquet(frame: pl.DataFrame, path: Path) -> None:
    """Write a Parquet file; a full disk is an OSError (of polars' own writer it is not)."""
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    path.write_bytes(buffer.getbuffer())


def _write_csv(frame: pl.DataFrame, path: Path) -> None:
    # An empty text is quoted, nothing at all is not: so the two can be told apart.
    path.write_bytes(frame.write_csv(quote_style="necessary").encode())


def categorical_columns(plan: Plan) -> Iterable[str]:
    """The parameters with a few values that are no number: how a study is looked at."""
    for name, column in plan.columns.items():
        values = set(column.tolist()) - {None}
        if len(values) > 1 and {type(value) for value in values} <= {str, bool}:
            yield name
