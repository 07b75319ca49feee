"""Results folder, table -> a Polars frame that explains its columns."""

from __future__ import annotations

import warnings
from pathlib import Path

import polars as pl


class LoadError(Exception):
    """A table cannot be loaded; the message is a sentence for the user."""


def load(folder: str | Path, table: str = "runs") -> pl.DataFrame:
    """Load a table of a study.

    Missing values are null, never NaN: the fault step of a run that did not fail, a loss that was
    never finite. `frame.nanlab.columns` lists type, unit and meaning of every column;
    `frame.nanlab.unit("fault_step")` and `frame.nanlab.meaning("fault_step")` those of one.

    Of a study that is still running, the finished runs are loaded, with a warning that says how
    many are missing.

    Args:
        folder: the study's folder, such as "results/quickstart".
        table: "runs", "blames", "curves", "boundaries" (of a [search]) or "cells" (of a [refine]).

    Returns:
        The table.

    Raises:
        LoadError: there is no such folder or table, or it cannot be read.
    """
    from nanlab.results.errors import ReportError
    from nanlab.results.schema import TABLES
    from nanlab.results.snapshot import when_still

    folder = Path(folder)
    if table not in TABLES:
        raise LoadError(f"{table}: there is no such table; one of {', '.join(TABLES)}")
    if (folder / "claims.csv").is_file():
        raise LoadError(
            f"{folder}: this is a ledger; load one of its studies, such as {_study_in(folder)}, or "
            f"read {folder / 'claims.csv'} with polars.read_csv"
        )
    try:
        return when_still(folder, lambda: _table(folder, table))
    except ReportError as error:
        raise LoadError(str(error)) from error


def _study_in(folder: Path) -> Path:
    return min((path.parent for path in folder.glob("*/manifest.json")), default=folder / "A01")


def _table(folder: Path, table: str) -> pl.DataFrame:
    from nanlab.results.read import read_running, running_grid
    from nanlab.results.schema import TABLES
    from nanlab.results.snapshot import snapshot

    resolved = running_grid(folder)
    if resolved is None:
        name = f"{table}.{'csv' if table == 'blames' else 'parquet'}"
        found = snapshot(folder, (), optional=[name])
        if name in found.contents:
            return found.table(name)
        stems = {Path(file).stem for file in found.manifest["files"]}
        existing = [each for each in TABLES if each in stems]
        raise LoadError(f"{folder}: this study has no {table}; it has {', '.join(existing)}")
    results = read_running(folder, resolved)
    frames = {"runs": results.runs, "blames": results.blames, "curves": results.curves}
    if table not in frames or (table == "curves" and not results.curves.height):
        raise LoadError(f"{folder}: the study is still running, and has no {table} yet")
    if results.missing:
        warnings.warn(
            f"{folder}: {results.missing:,} of {results.planned:,} runs are missing, the study is "
            "not finished",
            stacklevel=5,
        )
    return frames[table]


@pl.api.register_dataframe_namespace("nanlab")
class DescribedFrame:
    """The meanings of a frame's columns, where they are columns of nanlab's tables."""

    def __init__(self, frame: pl.DataFrame) -> None:
        self._frame = frame
        marks = {"crossing": "boundaries", "corner_run": "cells"}
        self._table = next((marks[name] for name in frame.columns if name in marks), "")

    @property
    def columns(self) -> pl.DataFrame:
        """A row for each column: `column`, `type`, `unit`, `meaning`; "" where unknown."""
        described = [self._described(name) for name in self._frame.columns]
        return pl.DataFrame(
            {
                "column": self._frame.columns,
                "type": [str(kind) for kind in self._frame.dtypes],
                "unit": [unit for _, unit in described],
                "meaning": [meaning for meaning, _ in described],
            },
            schema=dict.fromkeys(("column", "type", "unit", "meaning"), pl.String),
        )

    def meaning(self, column: str) -> str:
        """Return a sentence on what a column means; "" for a column that is not nanlab's."""
        return self._described(column)[0]

    def unit(self, column: str) -> str:
        """Return the unit of a column; "" for one without a unit."""
        return self._described(column)[1]

    def _described(self, column: str) -> tuple[str, str]:
        from nanlab.results.dictionary import meaning_of

        if column not in self._frame.columns:
            raise LoadError(f"{column}: the frame has no such column")
        return meaning_of(column, self._table)
