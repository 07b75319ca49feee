"""Frames, one after another -> one file, so that no table is ever whole in memory."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Int

from nanlab.results.files import csv_text, remove, write_atomically, write_parquet, write_text

SLICE = 16_384
"""Rows of `runs` in memory at a time."""

ROW_GROUP = 32_768
"""Rows of a row group of `runs.parquet`."""

CURVES_SLICE = 1_024
"""Runs whose curves are in memory at a time."""

CURVES_ROW_GROUP = 262_144


def slices(count: int, size: int) -> list[slice]:
    """Return `count` rows as slices of at most `size`; one empty slice for no rows."""
    return [slice(start, min(start + size, count)) for start in range(0, max(count, 1), size)]


def indices(rows: slice) -> Int[np.ndarray, " rows"]:
    """Return the indices of a slice."""
    return np.arange(rows.start, rows.stop)


def in_slices(path: Path, size: int = SLICE) -> Iterator[pl.DataFrame]:
    """Yield a Parquet file, at most `size` rows at a time."""
    table = pl.scan_parquet(path)
    count = table.select(pl.len()).collect().item()
    for rows in slices(count, size):
        yield table.slice(rows.start, rows.stop - rows.start).collect()


def write_parts(
    path: Path,
    frame_of: Callable[[slice], pl.DataFrame],
    parts: Sequence[slice],
    *,
    row_group: int,
) -> None:
    """Write one Parquet file of frames that are built one after another."""
    # Several frames are written to temporary files next to `path`, and then joined as a stream.
    if len(parts) == 1:
        write_parquet(frame_of(parts[0]), path)
        return
    written: list[Path] = []
    try:
        for number, rows in enumerate(parts):
            written.append(path.with_name(f"part{number:05}.{path.name}"))
            write_parquet(frame_of(rows), written[-1])
        _join(written, path, row_group)
    finally:
        remove(written)


def _join(written: list[Path], path: Path, row_group: int) -> None:
    try:
        pl.scan_parquet(written).sink_parquet(path, row_group_size=row_group)
    except (pl.exceptions.PolarsError, OSError) as error:
        # The error number of a full disk is only in the text of Polars' message.
        found = re.search(r"os error (\d+)", str(error))
        number = int(found[1]) if found else errno.EIO
        raise OSError(number, os.strerror(number)) from error


def write_tables(
    folder: Path,
    frame_of: Callable[[slice], pl.DataFrame],
    count: int,
    blames: pl.DataFrame,
    *,
    csv_runs: int,
) -> list[str]:
    """Write `runs.parquet`, `blames.csv` and, up to `csv_runs` runs, `runs.csv`."""
    written = ["runs.parquet", "blames.csv"]
    path, parts = folder / "runs.parquet", slices(count, SLICE)
    write_atomically(path, lambda p: write_parts(p, frame_of, parts, row_group=ROW_GROUP))
    if count <= csv_runs:
        written.append("runs.csv")
        write_atomically(folder / "runs.csv", lambda p: stream_csv(path, p))
    else:
        (folder / "runs.csv").unlink(missing_ok=True)
    write_text(folder / "blames.csv", csv_text(blames))
    return written


def write_curves(path: Path, frame_of: Callable[[slice], pl.DataFrame], count: int) -> None:
    """Write `curves.parquet`, the curves of `count` runs."""
    parts = slices(count, CURVES_SLICE)
    group = CURVES_ROW_GROUP
    write_atomically(path, lambda p: write_parts(p, frame_of, parts, row_group=group))


def stream_csv(source: Path, path: Path) -> None:
    """Write a Parquet table as CSV."""
    with path.open("wb") as file:
        for number, frame in enumerate(in_slices(source)):
            file.write(csv_text(frame, has_header=number == 0).encode())
