"""Chunks' files -> rows of a plan: where each run is kept, read back a few at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from nanlab.plan.plan import ID_BYTES
from nanlab.results.frames import crashed_frame
from nanlab.results.schema import CURVES


def curves_beside(chunk: Path) -> Path:
    """Where the curves of a chunk's runs are kept."""
    return chunk.with_name(f"curves-{chunk.name}")


def in_bytes(run_ids: np.ndarray) -> np.ndarray:
    """Identities as NumPy sorts and seeks them fastest, and smaller than as text."""
    return run_ids.astype(f"S{2 * ID_BYTES}")


class ChunkIndex:
    """Which runs of a plan are kept, and where; two small numbers a run are held of them.

    Args:
        run_ids: of the plan, in its order.
        paths: the chunks' files; a run that is in two of them is taken from the first.
        devices: for each file the kind of device that made it, if that is known.

    Attributes:
        done: (runs,) bool, which are kept.
    """

    def __init__(
        self, run_ids: np.ndarray, paths: Sequence[Path], devices: Sequence[str | None]
    ) -> None:
        self._run_ids, self._paths, self._devices = run_ids, paths, devices
        self._file = np.full(len(run_ids), -1, np.int32)
        self._row = np.zeros(len(run_ids), np.int32)
        names = in_bytes(run_ids)
        order = np.argsort(names, kind="stable").astype(np.int32)
        names = names[order]
        for number, path in enumerate(paths):
            held = pl.read_parquet(path, columns=["run_id"]).get_column("run_id").to_list()
            if not held:
                continue
            wanted = np.array(held, "S")
            at = np.minimum(np.searchsorted(names, wanted), len(names) - 1)
            rows = np.flatnonzero(names[at] == wanted)
            rows = rows[self._file[order[at[rows]]] < 0]
            self._file[order[at[rows]]] = number
            self._row[order[at[rows]]] = rows
        self.done = self._file >= 0

    def rows(self, places: np.ndarray) -> pl.DataFrame:
        """Rows of RESULT for these places of the plan, in their order; crashed where not kept."""
        order = np.argsort(self._file[places], kind="stable")
        frames = [crashed_frame([])]
        for path, some in self._by_file(places[order]):
            if path is None:
                frames.append(crashed_frame(self._run_ids[some].tolist()))
            else:
                frames.append(pl.read_parquet(path)[self._row[some]])
        back = np.empty(len(order), np.int64)
        back[order] = np.arange(len(order))
        return pl.concat(frames)[back]

    def devices(self, places: np.ndarray) -> list[str | None]:
        """On what the runs at these places were computed; None where that is not known."""
        return [None if n < 0 else self._devices[n] for n in self._file[places].tolist()]

    def curves(self, places: np.ndarray) -> pl.DataFrame:
        """Rows of CURVES for these places of the plan, in their order."""
        of_run = ["run_id", "step", "observable", "layer"]
        frames = [pl.DataFrame(schema={**CURVES, "place": pl.Int64})]
        for path, some in self._by_file(places[np.argsort(self._file[places], kind="stable")]):
            if path is not None:
                asked = pl.DataFrame({"run_id": self._run_ids[some].tolist(), "place": some})
                held = pl.read_parquet(curves_beside(path))
                frames.append(held.join(asked.cast({"place": pl.Int64}), on="run_id"))
        return pl.concat(frames).sort(["place", *of_run[1:]]).drop("place")

    def _by_file(self, places: np.ndarray) -> Iterator[tuple[Path | None, np.ndarray]]:
        """Places, sorted by their files, file by file; None for those that are in none."""
        if not len(places):
            return
        numbers, starts = np.unique(self._file[places], return_index=True)
        for number, some in zip(numbers.tolist(), np.split(places, starts[1:]), strict=True):
            yield (self._paths[number] if number >= 0 else None), some
