"""Results folder <-> finished rows: what is kept of a study, so that nothing is computed twice.

A chunk is written to a temporary file, flushed and renamed, so a process that is killed leaves
whole chunks or none. When a study is finished its tables take the chunks' place.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from nanlab.provenance import file_hash
from nanlab.store_kept import Kept, curves_beside
from nanlab.tables import (
    is_left_behind,
    partial_of,
    read_blames,
    results_of_runs,
    write_atomically,
    write_parquet,
)
from nanlab.tables_parts import CURVES_SLICE, SLICE, in_slices

CHUNKS = ".chunks"
CURVES_FILE = "curves.parquet"
SOURCES = ("runs.parquet", "blames.csv")
"""The tables that a finished study's rows are read back from."""


class StoreError(Exception):
    """The results folder cannot be used; the message is a sentence for a person."""


class FolderError(StoreError):
    """The folder that was asked for cannot be one of results."""


class Store:
    """The results of one study in `folder`.

    Args:
        folder: `results/X`; made if it is not there.
        fingerprint: of the environment; rows made in another are not reused.

    Raises:
        FolderError: the folder cannot be made or written to.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.folder = folder
        self._fingerprint = fingerprint
        self._chunks = folder / CHUNKS
        try:
            self._chunks.mkdir(parents=True, exist_ok=True)
            probe = partial_of(self._chunks / "writable")
            probe.write_bytes(b"")
            for left in (probe, *self._chunks.glob("*.partial"), *folder.glob("*.partial")):
                if is_left_behind(left):
                    left.unlink(missing_ok=True)
        except OSError as error:
            sentence = f"cannot write {folder}: {_reason(error)}; --out names another folder"
            raise FolderError(sentence) from error

    def manifest(self) -> dict[str, Any]:
        """The manifest of the finished study, or {} if there is none that can be read."""
        try:
            manifest = json.loads((self.folder / "manifest.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return manifest if isinstance(manifest, dict) else {}

    def is_finished(self, resolved: str) -> bool:
        """Whether the tables here answer just this grid, were made here, and are untouched."""
        manifest = self.manifest()
        asked = hashlib.sha256(resolved.encode()).hexdigest()
        if manifest.get("fingerprint") != self._fingerprint:
            return False
        if manifest.get("grid_sha256") != asked or manifest.get("crashed"):
            return False
        return self._are_whole(manifest, manifest.get("files", ()))

    def _are_whole(self, manifest: dict[str, Any], names: Iterable[str]) -> bool:
        """Whether these files are there, and are those that the manifest tells of."""
        files = manifest.get("files", {})
        paths = {name: self.folder / name for name in names}
        return bool(files) and all(
            path.is_file() and file_hash(path) == files.get(name) for name, path in paths.items()
        )

    def kept(self, run_ids: np.ndarray, *, curves: bool = False) -> Kept:
        """Where the runs of a plan are kept in chunks, of this study or an earlier one.

        Args:
            run_ids: of the plan.
            curves: only runs whose curves are kept too.
        """
        paths = sorted(self._chunks.glob(f"{self._fingerprint}-*.parquet"))
        return Kept(run_ids, [p for p in paths if not curves or curves_beside(p).is_file()])

    def unpack(self, run_ids: np.ndarray, *, curves: bool = False) -> None:
        """Keep, as chunks, those of these runs that a finished study's tables here hold.

        Args:
            run_ids: of the plan.
            curves: only runs whose curves are in a table too.
        """
        manifest = self.manifest()
        sources = (*SOURCES, CURVES_FILE) if curves else SOURCES
        if manifest.get("fingerprint") != self._fingerprint:
            return
        if not self._are_whole(manifest, sources):
            return
        blames = read_blames(self.folder / "blames.csv")
        asked = run_ids.astype("S")
        for runs in in_slices(self.folder / "runs.parquet", CURVES_SLICE if curves else SLICE):
            rows = results_of_runs(runs, blames).filter(pl.col("outcome") != "crashed")
            held = np.array(rows.get_column("run_id").to_list(), "S")
            rows = rows.filter(np.isin(held, asked))
            if rows.height:
                self.keep(rows, self._curves_table(rows) if curves else None)

    def _curves_table(self, rows: pl.DataFrame) -> pl.DataFrame:
        table = pl.scan_parquet(self.folder / CURVES_FILE)
        names = rows.get_column("run_id").implode()
        return table.filter(pl.col("run_id").is_in(names)).collect(engine="streaming")

    def keep(self, rows: pl.DataFrame, curves: pl.DataFrame | None = None) -> tuple[str, str]:
        """Keep a chunk's rows, and their curves if there are any, for good.

        Returns:
            The file's name, and the SHA-256 of its bytes.
        """
        name = hashlib.sha256("\n".join(rows.get_column("run_id")).encode()).hexdigest()[:16]
        path = self._chunks / f"{self._fingerprint}-{name}.parquet"
        with writing(path):
            if curves is not None:
                write_atomically(curves_beside(path), lambda p: write_parquet(curves, p))
            write_atomically(path, lambda p: write_parquet(rows, p))
        return path.name, file_hash(path)

    def forget_chunks(self, *, folder: bool = True) -> None:
        """The tables are written, or everything is to run again: the chunks have served.

        Args:
            folder: whether theirs goes too.
        """
        for path in self._chunks.iterdir():
            path.unlink(missing_ok=True)
        if folder:
            self._chunks.rmdir()


@contextmanager
def writing(path: Path) -> Generator[None]:
    """Turn the system's errors on the way to writing `path` into sentences."""
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"cannot write {path}: {_reason(error)}; what is finished is kept, and the same "
            f"command goes on from there. --out names another folder"
        ) from error


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
