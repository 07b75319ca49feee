"""Atomic files: written beside their place, flushed to disk, then renamed."""

from __future__ import annotations

import io
import os
import platform
import re
from pathlib import Path
from typing import Any

import polars as pl

_HOST = re.sub(r"[^\w.]", "_", platform.node()) or "here"


def partial_of(path: Path) -> Path:
    """What a file is called while this process writes it; no other writes to that name."""
    return path.with_name(f"{path.name}.{_HOST}-{os.getpid()}.partial")


def is_left_behind(partial: Path) -> bool:
    """Whether the process that wrote this has ended; of another machine's that is not known."""
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


def write_atomically(path: Path, write: Any) -> None:
    """Write a file beside `path`, flush it to the disk, then put it in its place."""
    partial = partial_of(path)
    try:
        write(partial)
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_parquet(frame: pl.DataFrame, path: Path) -> None:
    """Write a Parquet file; a full disk is an OSError (of polars' own writer it is not)."""
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    path.write_bytes(buffer.getbuffer())


def write_csv(frame: pl.DataFrame, path: Path) -> None:
    """Write a CSV file as `csv_text` has it."""
    path.write_text(csv_text(frame), encoding="utf-8")


def csv_text(frame: pl.DataFrame, *, has_header: bool = True) -> str:
    """Rows as CSV, in which an empty text and nothing at all can be told apart."""
    # An empty text is quoted, nothing at all is not.
    return frame.write_csv(quote_style="necessary", include_header=has_header)
