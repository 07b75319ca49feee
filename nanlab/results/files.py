"""Files that are whole or absent: written under a temporary name, flushed, then renamed.

JSON files carry a hash of their contents, so that a flipped bit is noticed.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import polars as pl

_SEAL = "sha256"
"""Key of the hash that a JSON file carries."""

_FORMULA, _NUMBER = r"^['=+\-@\t\r]", r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"

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
        remove([partial])
        raise


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    write_atomically(path, lambda p: p.write_bytes(text.encode()))


def sealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record with a hash of its contents, to be written as JSON."""
    return {**record, _SEAL: _seal(json.loads(json.dumps(record)))}


def unsealed(content: bytes) -> dict[str, Any]:
    """Return the record of a JSON file; one of an earlier version carries no hash.

    Raises:
        ValueError: it is no JSON object, or does not match its hash; the message says which.
    """
    try:
        record = json.loads(content)
    except UnicodeDecodeError as error:
        raise ValueError("it is not text") from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except ValueError as error:
        raise ValueError(f"it is not valid JSON: {error}") from error
    if not isinstance(record, dict):
        raise ValueError("it does not hold a JSON object")
    if record.pop(_SEAL, None) not in (None, _seal(record)):
        raise ValueError("its contents do not match its hash")
    return record


def _seal(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def remove(paths: Iterable[Path]) -> list[str]:
    """Delete files and folders that nobody needs any more.

    Args:
        paths: the paths; one that does not exist is skipped.

    Returns:
        A sentence about each that could not be deleted.
    """
    remarks: list[str] = []
    for path in paths:
        try:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)  # as much as possible
                shutil.rmtree(path) if path.exists() else None
            else:
                path.unlink(missing_ok=True)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            remarks.append(f"{path} could not be deleted ({reason}); it is not needed any more")
    return remarks


def outward_link(folder: Path) -> Path | None:
    """Return a symbolic link in a folder, at any depth, that leads outside the folder."""
    home = Path(os.path.realpath(folder))
    entries = (Path(at, name) for at, folders, files in os.walk(folder) for name in folders + files)
    links = (path for path in entries if path.is_symlink())
    return next((p for p in links if not Path(os.path.realpath(p)).is_relative_to(home)), None)


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

    A spreadsheet takes a text that begins with = + - @ for a formula, and runs it. So such a text,
    unless it is a number, gets an apostrophe in front, and so does one that begins with one;
    `plain_texts` removes it.
    """
    quoted: list[pl.Expr] = []
    for name in _texts(frame):
        text = pl.col(name)
        is_formula = text.str.contains(_FORMULA) & ~text.str.contains(_NUMBER)
        safe = pl.when(is_formula).then(pl.concat_str(pl.lit("'"), text)).otherwise(text)
        quoted.append(safe.alias(name))
    shown = frame.with_columns(quoted)
    return shown.write_csv(quote_style="necessary", include_header=has_header)


def plain_texts(frame: pl.DataFrame) -> pl.DataFrame:
    """Return the rows of a CSV file without the apostrophes of `csv_text`."""
    plain: list[pl.Expr] = []
    for name in _texts(frame):
        is_quoted = pl.col(name).str.contains(f"^'{_FORMULA[1:]}")
        text = pl.when(is_quoted).then(pl.col(name).str.slice(1)).otherwise(pl.col(name))
        plain.append(text.alias(name))
    return frame.with_columns(plain)


def _texts(frame: pl.DataFrame) -> list[str]:
    return [name for name, kind in frame.schema.items() if kind == pl.String]
