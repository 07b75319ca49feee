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

import polars as pl

from nanlab.curves import CURVES
from nanlab.provenance import file_hash
from nanlab.tables import RESULT, read_blames, results_of_runs, write_atomically, write_parquet

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
            probe = self._chunks / "writable.partial"
            probe.write_bytes(b"")
            for left in (probe, *self._chunks.glob("*.partial"), *folder.glob("*.partial")):
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

    def kept(self, *, curves: bool = False) -> pl.DataFrame:
        """Rows of RESULT that are done, of this study or an earlier one, made in this way.

        Args:
            curves: only those whose curves are kept too.
        """
        frames = [pl.DataFrame(schema=RESULT)]
        for path in sorted(self._chunks.glob(f"{self._fingerprint}-*.parquet")):
            if not curves or self._curves_of(path).is_file():
                frames.append(pl.read_parquet(path))
        manifest = self.manifest()
        sources = (*SOURCES, CURVES_FILE) if curves else SOURCES
        if manifest.get("fingerprint") == self._fingerprint and self._are_whole(manifest, sources):
            runs = pl.read_parquet(self.folder / "runs.parquet")
            frames.append(results_of_runs(runs, read_blames(self.folder / "blames.csv")))
        rows = pl.concat(frames).unique("run_id", keep="first", maintain_order=True)
        return rows.filter(pl.col("outcome") != "crashed")

    def kept_curves(self, run_ids: list[str]) -> pl.DataFrame:
        """The curves of these runs that are kept, in their order."""
        paths = sorted(self._chunks.glob(f"curves-{self._fingerprint}-*.parquet"))
        manifest = self.manifest()
        if manifest.get("fingerprint") == self._fingerprint and self._are_whole(
            manifest, [CURVES_FILE]
        ):
            paths.append(self.folder / CURVES_FILE)
        frames = [pl.DataFrame(schema=CURVES), *map(pl.read_parquet, paths)]
        of_run = ["run_id", "step", "observable", "layer"]
        every = pl.concat(frames).unique(of_run, keep="first")
        places = pl.DataFrame({"run_id": run_ids, "place": range(len(run_ids))})
        asked = every.join(places, on="run_id", how="inner")
        return asked.sort(["place", *of_run[1:]]).drop("place")

    def _curves_of(self, chunk: Path) -> Path:
        return chunk.with_name(f"curves-{chunk.name}")

    def begin(self, asked: pl.DataFrame, resolved: str) -> None:
        """Say what is asked, so that the study can be looked at while it runs.

        Args:
            asked: as `tables.asked_frame` has it.
            resolved: the grid, as TOML.
        """
        for left in self._chunks.glob("asked-*"):
            left.unlink(missing_ok=True)
        path = self._chunks / f"asked-{self._fingerprint}.parquet"
        grid = path.with_suffix(".toml")
        with writing(path):
            write_atomically(grid, lambda p: p.write_text(resolved, encoding="utf-8"))
            write_atomically(path, lambda p: write_parquet(asked, p))

    def keep(self, rows: pl.DataFrame, curves: pl.DataFrame | None = None) -> None:
        """Keep a chunk's rows, and their curves if there are any, for good."""
        name = hashlib.sha256("\n".join(rows.get_column("run_id")).encode()).hexdigest()[:16]
        path = self._chunks / f"{self._fingerprint}-{name}.parquet"
        with writing(path):
            if curves is not None:
                write_atomically(self._curves_of(path), lambda p: write_parquet(curves, p))
            write_atomically(path, lambda p: write_parquet(rows, p))

    def forget_chunks(self) -> None:
        """The tables are written: the chunks have served."""
        for path in self._chunks.iterdir():
            path.unlink(missing_ok=True)
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
