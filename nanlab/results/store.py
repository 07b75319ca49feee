"""Results folder <-> finished rows: what is kept of a study, so that nothing is computed twice.

A chunk is written to a temporary file, flushed and renamed, so a process that is killed leaves
whole chunks or none. When a study is finished its tables take the chunks' place.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from nanlab.results.chunk_index import ChunkIndex, curves_beside, in_bytes
from nanlab.results.environments import Environment, device_name, is_same_software, sign, signed
from nanlab.results.errors import StoreError, reason_of, writing
from nanlab.results.files import is_left_behind, partial_of, write_atomically, write_parquet
from nanlab.results.frames import read_blames, results_of_runs
from nanlab.results.provenance import file_hash
from nanlab.results.streaming import CURVES_SLICE, SLICE, in_slices

CHUNKS = ".chunks"
CURVES_FILE = "curves.parquet"
DEVICE = "device"
"""The column that says on what each run of a study with several kinds of devices was computed."""

HASHED_FILES = ("runs.parquet", "blames.csv")
"""The tables that a finished study's rows are read back from."""


class FolderError(StoreError):
    """The folder that was asked for cannot be one of results."""


class Store:
    """The results of one study in `folder`.

    Args:
        folder: `results/X`; made if it is not there.
        fingerprint: of the environment; rows made in another are not reused.
        mixed: the environment, where rows made on other kinds of devices are taken too.

    Attributes:
        chunks: the folder of what is finished of a study that is not.

    Raises:
        FolderError: the folder cannot be made or written to.
    """

    def __init__(self, folder: Path, fingerprint: str, *, mixed: Environment | None = None) -> None:
        self.folder, self.chunks = folder, folder / CHUNKS
        self._fingerprint, self._mixed = fingerprint, mixed
        try:
            self.chunks.mkdir(parents=True, exist_ok=True)
            probe = partial_of(self.chunks / "writable")
            probe.write_bytes(b"")
            for left in (probe, *self.chunks.glob("*.partial"), *folder.glob("*.partial")):
                if is_left_behind(left):
                    left.unlink(missing_ok=True)
        except OSError as error:
            sentence = f"cannot write {folder}: {reason_of(error)}; --out names another folder"
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
        if not self._is_ours(manifest.get("fingerprint"), manifest.get("environment")):
            return False
        if manifest.get("grid_sha256") != asked or manifest.get("crashed"):
            return False
        return self._are_whole(manifest, manifest.get("files", ()))

    def _is_ours(self, fingerprint: str | None, environment: Environment | None) -> bool:
        """Whether rows that were made so may be used."""
        if fingerprint == self._fingerprint:
            return True
        if self._mixed is None or environment is None:
            return False
        return is_same_software(self._mixed, environment)

    def _are_whole(self, manifest: dict[str, Any], names: Iterable[str]) -> bool:
        """Whether these files are there, and are those that the manifest tells of."""
        files = manifest.get("files", {})
        paths = {name: self.folder / name for name in names}
        return bool(files) and all(
            path.is_file() and file_hash(path) == files.get(name) for name, path in paths.items()
        )

    def kept(self, run_ids: np.ndarray, *, curves: bool = False) -> ChunkIndex:
        """Where the runs of a plan are kept in chunks, of this study or an earlier one.

        Args:
            run_ids: of the plan.
            curves: only runs whose curves are kept too.
        """
        makers = self.makers()
        names = {maker: device_name(each) if each else None for maker, each in makers.items()}
        paths = [
            path for maker in makers for path in sorted(self.chunks.glob(f"{maker}-*.parquet"))
        ]
        paths = [path for path in paths if not curves or curves_beside(path).is_file()]
        return ChunkIndex(run_ids, paths, [names[path.name.partition("-")[0]] for path in paths])

    def makers(self) -> dict[str, Environment | None]:
        """The fingerprints of those whose chunks are taken, and their environments if known."""
        found: dict[str, Environment | None] = {self._fingerprint: self._mixed}
        if self._mixed is not None:
            found |= {m: e for m, e in signed(self.chunks).items() if self._is_ours(m, e)}
        return dict(sorted(found.items()))

    def unpack(self, run_ids: np.ndarray, *, curves: bool = False) -> None:
        """Keep, as chunks, those of these runs that a finished study's tables here hold.

        Args:
            run_ids: of the plan.
            curves: only runs whose curves are in a table too.
        """
        manifest = self.manifest()
        sources = (*HASHED_FILES, CURVES_FILE) if curves else HASHED_FILES
        if not self._are_whole(manifest, sources):
            return
        made: dict[str, Environment] = manifest.get("environments") or {
            manifest.get("fingerprint", ""): manifest.get("environment", {})
        }
        ours = {maker: each for maker, each in made.items() if self._is_ours(maker, each)}
        blames = read_blames(self.folder / "blames.csv")
        asked = in_bytes(run_ids)
        for runs in in_slices(self.folder / "runs.parquet", CURVES_SLICE if curves else SLICE):
            held = np.array(runs.get_column("run_id").to_list(), "S")
            wanted = runs.filter(np.isin(held, asked)).filter(pl.col("outcome") != "crashed")
            for maker, each in ours.items():
                by = wanted
                if DEVICE in wanted.columns:
                    by = wanted.filter(pl.col(DEVICE) == device_name(each))
                if by.height:
                    rows = results_of_runs(by, blames)
                    self.keep(rows, self._curves_table(rows) if curves else None, maker)
        if self._mixed is not None:
            for each in ours.values():
                sign(self.chunks, each)

    def _curves_table(self, rows: pl.DataFrame) -> pl.DataFrame:
        table = pl.scan_parquet(self.folder / CURVES_FILE)
        names = rows.get_column("run_id").implode()
        return table.filter(pl.col("run_id").is_in(names)).collect(engine="streaming")

    def keep(
        self, rows: pl.DataFrame, curves: pl.DataFrame | None = None, maker: str | None = None
    ) -> tuple[str, str]:
        """Keep a chunk's rows, and their curves if there are any, for good.

        Args:
            rows: of RESULT.
            curves: of CURVES.
            maker: the fingerprint of who made them, if it is not this store's.

        Returns:
            The file's name, and the SHA-256 of its bytes.
        """
        name = chunk_name(rows.get_column("run_id").to_list())
        path = self.chunks / f"{maker or self._fingerprint}-{name}.parquet"
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
        for path in self.chunks.iterdir():
            path.unlink(missing_ok=True)
        if folder:
            self.chunks.rmdir()


def chunk_name(run_ids: Sequence[str]) -> str:
    """What the chunk of these runs is called: 16 hex digits."""
    return hashlib.sha256("\n".join(run_ids).encode()).hexdigest()[:16]


PLAN = "grid.resolved.toml"
"""Among the chunks: what is asked, for the workers."""
