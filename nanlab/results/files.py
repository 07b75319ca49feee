"""Atomic files: written under a temporary name, flushed to disk, then renamed."""

from __future__ import annotations

import io
import os
import platform
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl

_HOST = re.sub(r"[^\w.]", "_", platform.node()) or "here"


def partial_of(path: Path) -> Path:
    """Return the temporary name of a file, unique to this process."""
    return path.with_name(f"{path.name}.{_HOST}-{os.getpid()}.partial")


def is_left_behind(partial: Path) -> bool:
    """Return whether the process that wrote a temporary file has ended.

    Args:
        partial: a path from `partial_of`; one of another machine counts as still in use.
    """
    host, _, process = partial.name.removesuffix(".partial").rpartition("-")
    if not process.isdigit():
        return True
    if not host.endswith(f".{_HOST}"):
        return False
    if int(process) == os.getpid():
        return True
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def write_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file under a temporary name, flush it to disk, and rename it to `path`."""
    partial = partial_of(path)
    try:
        write(partial)
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    write_atomically(path, lambda p: p.write_bytes(text.encode()))


def parquet_bytes(frame: pl.DataFrame) -> bytes:
    """Return a frame as the bytes of a Parquet file."""
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    # Not getbuffer(): a view that an exception keeps alive crashes the collector of Python 3.12.
    return buffer.getvalue()


def write_parquet(frame: pl.DataFrame, path: Path) -> None:
    """Write a Parquet file; on a full disk this raises OSError, which Polars' writer does not."""
    path.write_bytes(parquet_bytes(frame))


def write_csv(frame: pl.DataFrame, path: Path) -> None:
    """Write a CSV file, formatted by `csv_text`."""
    path.write_text(csv_text(frame), encoding="utf-8")


def csv_text(frame: pl.DataFrame, *, has_header: bool = True) -> str:
    """Return rows as CSV, with an empty text quoted and null as an empty field.

    A text that a spreadsheet would run as a formula begins with an apostrophe.
    """
    safe = frame.with_columns(pl.col(pl.String).str.replace(r"^('*[=+@\t\r-])", "'$1"))
    return safe.write_csv(quote_style="necessary", include_header=has_header)


def without_apostrophes(frame: pl.DataFrame) -> pl.DataFrame:
    """Return rows of a CSV file with the texts that `csv_text` was given."""
    return frame.with_columns(pl.col(pl.String).str.replace(r"^'('*[=+@\t\r-])", "$1"))
