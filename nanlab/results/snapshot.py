"""Files of a results folder that belong together, checked before they are used.

That of a finished study must have the hash that the manifest lists. So a reader never sees half a
table, or those of two studies, while a sweep writes to the folder.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import polars as pl

from nanlab.results.errors import ReportError, reason_of
from nanlab.results.files import outward_link
from nanlab.results.frames import blames_of
from nanlab.results.manifest import MANIFEST, REPAIR, read_manifest
from nanlab.results.ownership import Owner, live_owner, sentence_about
from nanlab.results.provenance import file_hash
from nanlab.results.schema import BLAMES, CURVES, RUNS, types_of
from nanlab.results.store import DEVICE, PLAN

PATIENCE_S = 3.0
"""How long a reader waits for another process to finish writing."""

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Files of a finished study that belong together.

    Attributes:
        folder: results folder.
        manifest: manifest.
        contents: contents of the files, each with the hash that the manifest lists.
    """

    folder: Path
    manifest: Mapping[str, Any]
    contents: Mapping[str, bytes]

    def table(self, name: str) -> pl.DataFrame:
        """Return a table of this snapshot.

        Raises:
            ReportError: it is no table of nanlab's.
        """
        path, content = self.folder / name, self.contents[name]
        read = blames_of if path.suffix == ".csv" else pl.read_parquet
        try:
            frame = read(content)
        except (ValueError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
            reason = first_line(error)
            raise ReportError(f"{path}: it cannot be read: {reason}; {REPAIR}") from error
        schema = {"runs": types_of(RUNS), "blames": types_of(BLAMES), "curves": CURVES}
        expected = schema.get(path.stem, {})
        for column in expected.keys() - {DEVICE}:
            if frame.schema.get(column) != expected[column]:
                raise ReportError(
                    f"{path}: it has no column {column} of type {expected[column]}: it was not "
                    "written by this version of nanlab"
                )
        return frame


def snapshot(folder: Path, names: Iterable[str], *, optional: Iterable[str] = ()) -> Snapshot:
    """Read files of a finished study, checked against its manifest; call it by `when_still`.

    Args:
        folder: the results folder.
        names: files to read; the resolved grid is one too.
        optional: files to read if the study has them.

    Returns:
        The files.

    Raises:
        ReportError: it holds no finished study, or one of these files is damaged.
    """
    manifest = read_manifest(folder)
    chosen = [*names, *(name for name in optional if name in manifest["files"])]
    contents = {name: _content(folder, name, manifest) for name in chosen}
    return Snapshot(folder=folder, manifest=manifest, contents=contents)


def _content(folder: Path, name: str, manifest: Mapping[str, Any]) -> bytes:
    path = folder / name
    expected = manifest["grid_sha256"] if name == PLAN else manifest["files"].get(name)
    if expected is None:
        raise ReportError(f"{folder / MANIFEST}: it lists no {name}; {REPAIR}")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ReportError(f"{path}: it cannot be read: {reason_of(error)}; {REPAIR}") from error
    if hashlib.sha256(content).hexdigest() != expected:
        raise ReportError(
            f"{path} was changed after the study: its hash is not that in {MANIFEST}; {REPAIR}"
        )
    return content


def changed_files(folder: Path) -> list[str]:
    """Return a sentence about each file of a finished study that is not as it was written."""

    def read() -> list[str]:
        manifest = read_manifest(folder)
        found = changes(folder, {**manifest["files"], PLAN: manifest["grid_sha256"]})
        if found and (_writer(folder) or read_manifest(folder) != manifest):
            raise ReportError(found[0])
        return found

    return when_still(folder, read)


def changes(folder: Path, hashes: Mapping[str, str]) -> list[str]:
    """Return a sentence about each of these files that has not this hash."""
    found: list[str] = []
    for name, expected in hashes.items():
        try:
            digest = file_hash(folder / name)
        except FileNotFoundError:
            found.append(f"{name} is missing; the manifest lists it")
            continue
        except OSError as error:
            digest = reason_of(error)  # a folder, say
        if digest != expected:
            found.append(f"{name} was changed after the study: its hash is not that in {MANIFEST}")
    return found


def when_still(folder: Path, read: Callable[[], T]) -> T:
    """Read a results folder, again if another process is writing to it.

    Args:
        folder: the results folder.
        read: reads it; raises ReportError where it is not as it should be.

    Returns:
        What `read` returned.

    Raises:
        ReportError: it is not as it should be, or a process that writes to it takes too long.
    """
    if not folder.is_dir():
        raise ReportError(f"{folder}: there is no such folder; a sweep creates one, results/<name>")
    if (link := outward_link(folder)) is not None:
        raise ReportError(f"{link}: it is a link that leads out of the results folder; delete it")
    until, is_again = time.monotonic() + PATIENCE_S, False
    while True:
        owner = _writer(folder)
        try:
            return read()
        except ReportError as error:
            # A process that wrote a moment ago may have ended.
            owner = _writer(folder) or owner
            if owner is None and is_again:
                raise
            if owner is not None and time.monotonic() > until:
                raise ReportError(
                    f"{folder}: {sentence_about(owner)}; try again when it has ended"
                ) from error
            is_again = True
        time.sleep(0.05)


def _writer(folder: Path) -> Owner | None:
    """Return another process that writes to a folder."""
    owner = live_owner(folder)
    return None if owner is None or owner.is_this_process else owner


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message."""
    return (str(error).splitlines() or [""])[0]
