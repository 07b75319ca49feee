"""A user's data file, `data.npz` or `data.parquet` -> arrays; checked before it fills memory."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import numpy as np
import polars as pl

from nanlab.problems.parquet_footer import rows_and_bytes
from nanlab.problems.raw_data import (
    FEWER,
    DataError,
    RawData,
    check_count,
    check_kind,
    rows_of,
)

TARGETS = ("target", "targets", "label", "labels", "y")
"""Accepted names, in any case, of the targets' column or array in a data file."""

MOST_BYTES = 2**30
"""Maximum size of a Parquet file's columns once they are unpacked."""


def read_data_file(path: Path) -> RawData:
    """Read a data file, after its metadata have been checked.

    Args:
        path: the file.

    Returns:
        Its features and targets.

    Raises:
        DataError: it cannot be read, or it is no table or pair of arrays of numbers.
        KeyboardInterrupt: the user pressed Ctrl-C.
    """
    if path.is_dir():
        raise DataError("is a folder, not a data file")
    if not path.is_file():
        raise DataError("not found; paths are relative to the working directory")
    read, written, magic = {
        ".npz": (_of_npz, "a NumPy archive; write one with numpy.savez", b"PK"),
        ".parquet": (_of_parquet, "a Parquet file; write one with polars or pandas", b"PAR1"),
    }[path.suffix]
    try:
        with path.open("rb") as file:
            begins = file.read(4)
        if not begins:
            raise DataError("is empty (0 bytes); write it again")
        if not begins.startswith(magic):
            raise DataError(f"is not {written}")
        return read(path)
    except (DataError, KeyboardInterrupt):
        raise
    except MemoryError as error:
        raise DataError(f"does not fit into memory; {FEWER}") from error
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}") from error
    # A damaged file may fail anywhere in zlib, NumPy or Polars, whose panics are BaseExceptions.
    except (Exception, pl.exceptions.PanicException) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(f"cannot be read: {first}; it is damaged or cut off") from error


# ---- NumPy archives ------------------------------------------------------------------------------


def _of_npz(path: Path) -> RawData:
    shapes: dict[str, tuple[int, ...]] = {}
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            name = info.filename.removesuffix(".npy")
            if name in shapes:
                raise DataError(f"has two arrays named {name}; write it again")
            shapes[name] = _checked_header(archive, info, name)
    target = _target_name("array", shapes)
    others = [name for name in shapes if name != target]
    if len(others) != 1:
        raise DataError(
            f"must have one array of features besides {target}, got {', '.join(others) or 'none'}"
        )
    with np.load(path, allow_pickle=False) as arrays:
        return RawData(arrays[others[0]], arrays[target], names=(others[0], target))


def _checked_header(archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str) -> tuple[int, ...]:
    """Return the shape of an array in an archive, without reading its numbers."""
    with archive.open(info) as file:
        version = np.lib.format.read_magic(cast(Any, file))
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }.get(version)
        if read is None:
            raise DataError(f"array {name} is of fields with names; store numbers")
        shape, _, dtype = read(cast(Any, file))
        start = file.tell()
    check_kind(f"array {name}", dtype)
    if min(shape, default=0) < 0:
        raise DataError(f"array {name} has shape {shape}: it is damaged")
    check_count(f"array {name}", shape)
    if info.file_size < start + math.prod(shape) * dtype.itemsize:
        raise DataError(f"array {name} is cut off: its header says {shape}; write it again")
    return shape


# ---- Parquet -------------------------------------------------------------------------------------


def _of_parquet(path: Path) -> RawData:
    with path.open("rb") as file:  # by a name, Polars would read all files that match it
        schema = pl.read_parquet_schema(file)
    target = _target_name("column", schema)
    columns = tuple(name for name in schema if name != target)
    for name in columns:
        _check_feature(name, schema[name])
    if not columns:
        raise DataError(f"has the column {target} alone; add columns of features")
    rows, size = rows_and_bytes(path)
    check_count(f"a table of {rows:,} rows and {len(schema)} columns", (rows, len(schema)))
    if size > MOST_BYTES:
        raise DataError(
            f"unpacks to {size:,} bytes, and a data set to {MOST_BYTES:,} at most; {FEWER}"
        )
    with path.open("rb") as file:
        frame = pl.read_parquet(file)
    features = frame.select(columns)
    return RawData(
        features.cast(pl.Float64).to_numpy(), _targets(frame.get_column(target)),
        names=("features", target), columns=columns,
        nulls=sum(features.null_count().row(0)),
    )  # fmt: skip


def _check_feature(name: str, kind: Any) -> None:
    if kind == pl.Null:
        raise DataError(f"column {name} has no values; leave it out")
    if not kind.is_numeric():
        raise DataError(
            f"column {name} is not numeric ({kind}); number its values, or leave it out"
        )


def _targets(column: pl.Series) -> np.ndarray:
    if column.null_count():
        place = rows_of(f"column {column.name}", column.is_null().to_numpy())
        raise DataError(f"{place}: a target is null; drop its row")
    kind = column.dtype
    if kind.is_decimal():
        return column.cast(pl.Float64).to_numpy()
    if kind.is_numeric():
        return (column.cast(pl.Int64) if kind == pl.Int128 else column).to_numpy()
    if not isinstance(kind, pl.String | pl.Categorical | pl.Enum | pl.Boolean):
        raise DataError(f"column {column.name} is of type {kind}; number its classes from 0")
    # Class names are numbered in alphabetical order.
    return (column.cast(pl.String).rank("dense").cast(pl.Int64) - 1).to_numpy()


def _target_name(what: str, names: Iterable[str]) -> str:
    names = list(names)
    found = [name for name in names if name.lower() in TARGETS]
    if len(found) != 1:
        raise DataError(
            f"one of its {what}s must be named {', '.join(TARGETS[:-1])} or {TARGETS[-1]}; it has "
            f"{', '.join(names) or 'none'}"
        )
    return found[0]
