"""Chunks' files -> rows of a plan: where each run is stored, read back a few at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Int, Shaped

from nanlab.plan.plan import ID_BYTES
from nanlab.results.frames import crashed_frame
from nanlab.results.schema import CURVES

Indices = Int[np.ndarray, " indices"]


def curves_path(chunk: Path) -> Path:
    """Return the path of the curves of a chunk's runs."""
    return chunk.with_name(f"curves-{chunk.name}")


def as_bytes(run_ids: Shaped[np.ndarray, " runs"]) -> Shaped[np.ndarray, " runs"]:
    """Return run ids as byte strings, which NumPy sorts and searches fastest."""
    return run_ids.astype(f"S{2 * ID_BYTES}")


class ChunkIndex:
    """Which runs of a plan are stored, and where: a file and a row for each run.

    Args:
        run_ids: the plan's run ids, in its order.
        paths: the chunks' files; a run in two of them is read from the first.
        devices: the kind of device that computed each file, None if unknown.

    Attributes:
        done: whether each run is stored, (runs,).
    """

    def __init__(
        self,
        run_ids: Shaped[np.ndarray, " runs"],
        paths: Sequence[Path],
        devices: Sequence[str | None],
    ) -> None:
        self._run_ids, self._paths, self._devices = run_ids, paths, devices
        self._file = np.full(len(run_ids), -1, np.int32)
        self._row = np.zeros(len(run_ids), np.int32)
        names = as_bytes(run_ids)
        order = np.argsort(names, kind="stable").astype(np.int32)
        names = names[order]
        for number, path in enumerate(paths):
            stored = pl.read_parquet(path, columns=["run_id"]).get_column("run_id").to_list()
            if not stored:
                continue
            found = np.array(stored, "S")
            at = np.minimum(np.searchsorted(names, found), len(names) - 1)
            rows = np.flatnonzero(names[at] == found)
            rows = rows[self._file[order[at[rows]]] < 0]
            self._file[order[at[rows]]] = number
            self._row[order[at[rows]]] = rows
        self.done = self._file >= 0

    def rows(self, indices: Indices) -> pl.DataFrame:
        """Return rows of RESULT for these runs of the plan; a run not stored is `crashed`."""
        order = np.argsort(self._file[indices], kind="stable")
        frames = [crashed_frame([])]
        for path, runs in self._by_file(indices[order]):
            if path is None:
                frames.append(crashed_frame(self._run_ids[runs].tolist()))
            else:
                frames.append(pl.read_parquet(path)[self._row[runs]])
        return pl.concat(frames)[np.argsort(order)]

    def devices(self, indices: Indices) -> list[str | None]:
        """Return the kind of device that computed each of these runs; None if unknown."""
        return [None if n < 0 else self._devices[n] for n in self._file[indices].tolist()]

    def curves(self, indices: Indices) -> pl.DataFrame:
        """Return rows of CURVES for these runs of the plan, in their order."""
        frames = [pl.DataFrame(schema={**CURVES, "index": pl.Int64})]
        for path, runs in self._by_file(indices[np.argsort(self._file[indices], kind="stable")]):
            if path is not None:
                index = pl.DataFrame({"run_id": self._run_ids[runs].tolist(), "index": runs})
                curves = pl.read_parquet(curves_path(path))
                frames.append(curves.join(index.cast({"index": pl.Int64}), on="run_id"))
        by = ["index", "step", "observable", "layer"]
        return pl.concat(frames).sort(by).drop("index")

    def _by_file(self, indices: Indices) -> Iterator[tuple[Path | None, Indices]]:
        """Yield indices that are sorted by file, file by file; None for runs not stored."""
        if not len(indices):
            return
        numbers, starts = np.unique(self._file[indices], return_index=True)
        for number, runs in zip(numbers.tolist(), np.split(indices, starts[1:]), strict=True):
            yield (self._paths[number] if number >= 0 else None), runs
