"""Results folder <-> finished rows, so that nothing is computed twice.

A chunk is written to a temporary file, flushed and renamed, so a process that is killed leaves
whole chunks or none. Its name ends in a hash of its contents, which is checked before it is used.
When a study is finished, its tables replace the chunks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Shaped

from nanlab.results.chunk_index import ChunkIndex, as_bytes, curves_path
from nanlab.results.environments import Environment, device_name, is_same_software, sign, signed
from nanlab.results.errors import FolderError, ReportError, StoreError, reason_of, writing
from nanlab.results.files import (
    is_left_behind,
    parquet_bytes,
    partial_of,
    remove,
    write_atomically,
)
from nanlab.results.frames import read_blames, results_of_runs
from nanlab.results.manifest import MANIFEST, REPAIR, read_manifest
from nanlab.results.provenance import file_hash
from nanlab.results.streaming import CURVES_SLICE, SLICE, in_slices

CHUNKS = ".chunks"
CHUNK_FILES = f"{'[0-9a-f]' * 16}-*.parquet"
"""Pattern of the names of the chunks' files: the environment's fingerprint comes first."""
CURVES_FILE = "curves.parquet"
DEVICE = "device"
"""The column of `runs` in studies that were computed on several kinds of devices."""

HASHED_FILES = ("runs.parquet", "blames.csv")
"""The tables that a finished study's rows are read back from."""

PLAN = "grid.resolved.toml"
"""Name of the resolved grid among the chunks, for workers and the report."""

_SEAL = "# sha256 "

RunIds = Shaped[np.ndarray, " runs"]


class Store:
    """The results of one study.

    Args:
        folder: `results/X`; created if missing.
        fingerprint: hash of the environment; rows from another environment are not reused.
        mixed: the environment, if rows from other kinds of devices are accepted too.

    Attributes:
        folder: the results folder.
        chunks: the folder of the chunks of an unfinished study.
        damaged: names of the chunks set aside because they do not match their hash.
        unused: names of the files of a finished study that are not used because they are damaged.

    Raises:
        FolderError: the folder cannot be created or written to.
    """

    def __init__(self, folder: Path, fingerprint: str, *, mixed: Environment | None = None) -> None:
        self.folder, self.chunks = folder, folder / CHUNKS
        self.damaged: list[str] = []
        self.unused = dict[str, None]()
        self._intact = set[str]()
        self._fingerprint, self._mixed = fingerprint, mixed
        try:
            self.chunks.mkdir(parents=True, exist_ok=True)
            probe = partial_of(self.chunks / "writable")
            probe.write_bytes(b"")
            for partial in (probe, *self.chunks.glob("*.partial"), *folder.glob("*.partial")):
                if is_left_behind(partial):
                    remove([partial])
        except OSError as error:
            sentence = f"cannot write {folder}: {reason_of(error)}; --out names another folder"
            raise FolderError(sentence) from error

    def manifest(self) -> dict[str, Any]:
        """Return the manifest of the finished study, or {} if there is none that can be read."""
        try:
            return read_manifest(self.folder)
        except ReportError:
            return {}

    def is_finished(self, resolved: str) -> bool:
        """Return whether the tables are whole and answer this grid in this environment."""
        manifest = self.manifest()
        if not self._is_accepted(manifest.get("fingerprint"), manifest.get("environment")):
            return False
        requested = hashlib.sha256(resolved.encode()).hexdigest()
        if manifest.get("grid_sha256") != requested or manifest.get("crashed"):
            return False
        names = [PLAN, *manifest["files"]]
        return self._are_whole(manifest | {"files": {PLAN: requested, **manifest["files"]}}, names)

    def _is_accepted(self, fingerprint: str | None, environment: Environment | None) -> bool:
        """Return whether rows from this environment may be used."""
        if fingerprint == self._fingerprint:
            return True
        if self._mixed is None or environment is None:
            return False
        return is_same_software(self._mixed, environment)

    def _are_whole(self, manifest: dict[str, Any], names: Iterable[str]) -> bool:
        """Return whether these files exist and have the hashes in the manifest."""
        files = manifest.get("files", {})
        paths = {name: self.folder / name for name in names}
        return bool(files) and all(
            path.is_file() and file_hash(path) == files.get(name) for name, path in paths.items()
        )

    def stored(self, run_ids: RunIds, *, curves: bool = False) -> ChunkIndex:
        """Return where the runs of a plan are stored in chunks, of this study or an earlier one.

        Args:
            run_ids: the plan's run ids.
            curves: whether to leave out runs without curves.

        Returns:
            The index of the stored runs; damaged chunks are set aside first.
        """
        paths: list[Path] = []
        devices: list[str | None] = []
        for fingerprint, environment in self.environments().items():
            for path in sorted(self.chunks.glob(f"{fingerprint}-*.parquet")):
                if self._is_usable(path) and (not curves or curves_path(path).is_file()):
                    paths.append(path)
                    devices.append(device_name(environment) if environment else None)
        return ChunkIndex(run_ids, paths, devices)

    def _is_usable(self, path: Path) -> bool:
        """Return whether a chunk is intact; set it aside if not."""
        if path.name not in self._intact:
            if not is_intact(path):
                with writing(path):
                    path.replace(path.with_name(f"damaged-{path.name}"))
                self.damaged.append(path.name)
                return False
            self._intact.add(path.name)
        return True

    def environments(self) -> dict[str, Environment | None]:
        """Return the accepted environments by fingerprint; None where only the hash is known."""
        found: dict[str, Environment | None] = {self._fingerprint: self._mixed}
        if self._mixed is not None:
            found |= {f: e for f, e in signed(self.chunks).items() if self._is_accepted(f, e)}
        return dict(sorted(found.items()))

    def unpack(self, run_ids: RunIds, *, curves: bool = False) -> None:
        """Save those of these runs as chunks that the tables of a finished study hold."""
        manifest = self.manifest()
        sources = (*HASHED_FILES, CURVES_FILE) if curves else HASHED_FILES
        if not manifest and (self.folder / MANIFEST).exists():
            self.unused[MANIFEST] = None
        if damaged := [name for name in sources if not self._are_whole(manifest, [name])]:
            self.unused |= dict.fromkeys(
                name for name in damaged if name in manifest.get("files", ())
            )
            return
        environments: dict[str, Environment] = manifest.get("environments") or {
            manifest.get("fingerprint", ""): manifest.get("environment", {})
        }
        accepted = {f: each for f, each in environments.items() if self._is_accepted(f, each)}
        blames = read_blames(self.folder / "blames.csv")
        requested = as_bytes(run_ids)
        for runs in in_slices(self.folder / "runs.parquet", CURVES_SLICE if curves else SLICE):
            is_requested = np.isin(np.array(runs.get_column("run_id").to_list(), "S"), requested)
            wanted = runs.filter(is_requested).filter(pl.col("outcome") != "crashed")
            for fingerprint, environment in accepted.items():
                computed = wanted
                if DEVICE in wanted.columns:
                    computed = wanted.filter(pl.col(DEVICE) == device_name(environment))
                if computed.height:
                    rows = results_of_runs(computed, blames)
                    self.save(rows, self._curves_table(rows) if curves else None, fingerprint)
        if self._mixed is not None:
            for environment in accepted.values():
                sign(self.chunks, environment)

    def _curves_table(self, rows: pl.DataFrame) -> pl.DataFrame:
        table = pl.scan_parquet(self.folder / CURVES_FILE)
        names = rows.get_column("run_id").implode()
        return table.filter(pl.col("run_id").is_in(names)).collect(engine="streaming")

    def save(
        self,
        rows: pl.DataFrame,
        curves: pl.DataFrame | None = None,
        fingerprint: str | None = None,
    ) -> str:
        """Save a chunk's rows and curves.

        Args:
            rows: rows of RESULT.
            curves: rows of CURVES.
            fingerprint: the environment that computed them, if it is not this store's.

        Returns:
            The chunk's file name.
        """
        data = [parquet_bytes(frame) for frame in (rows, curves) if frame is not None]
        name = chunk_name(rows.get_column("run_id").to_list())
        stem = f"{fingerprint or self._fingerprint}-{name}-{_digest(data)}"
        path = self.chunks / f"{stem}.parquet"
        files = list(zip((path, curves_path(path)), data, strict=False))
        with writing(path):
            for target, content in reversed(files):  # a chunk whose rows exist is complete
                write_atomically(target, lambda p, content=content: p.write_bytes(content))
        return path.name

    def remove_chunks(self) -> list[str]:
        """Delete the chunks that tables have replaced; return what could not be deleted."""
        return remove([*self.chunks.glob("*"), self.chunks])

    def forget(self) -> None:
        """Delete the chunks, because all runs are to run again.

        Raises:
            StoreError: a chunk cannot be deleted.
        """
        if remarks := remove(self.chunks.glob("*")):
            raise StoreError(remarks[0])


def sealed_grid(resolved: str) -> str:
    """Return a resolved grid with a comment that holds its hash, for the folder of the chunks."""
    return f"{resolved}{_SEAL}{hashlib.sha256(resolved.encode()).hexdigest()}\n"


def prepared_grid(folder: Path) -> str | None:
    """Return the resolved grid of a running, prepared or stopped study; None if there is none.

    Raises:
        ReportError: its file is damaged.
    """
    path = folder / CHUNKS / PLAN
    reason = "its contents do not match its hash"
    try:
        text = path.read_bytes().decode()
        if text == sealed_grid(resolved := text.rpartition(_SEAL)[0]):
            return resolved
    except FileNotFoundError:
        return None  # the study may just have finished
    except OSError as error:
        reason = reason_of(error)
    except ValueError:
        reason = "it is not text"
    raise ReportError(f"{path} is damaged: {reason}; {REPAIR}")


def chunk_name(run_ids: Sequence[str]) -> str:
    """Return the name of the chunk of these runs: 16 hex digits."""
    return hashlib.sha256("\n".join(run_ids).encode()).hexdigest()[:16]


def is_intact(chunk: Path) -> bool:
    """Return whether a chunk's file and its curves are as they were written."""
    curves = curves_path(chunk)
    try:
        data = [path.read_bytes() for path in (chunk, curves) if path == chunk or path.is_file()]
    except OSError:
        return False
    return chunk.stem.rpartition("-")[2] == _digest(data)


def _digest(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:16]
