"""Which chunk holds each run of a plan, and its rows in the plan's order: files written by hand."""

import numpy as np
import polars as pl
import pytest

from nanlab.grid.outcome import Outcome
from nanlab.plan.plan import ID_BYTES
from nanlab.results.chunk_index import ChunkIndex, curves_path
from nanlab.results.frames import crashed_frame
from nanlab.results.schema import CURVES

pytestmark = pytest.mark.smoke

RUNS = np.array([f"{n:0{2 * ID_BYTES}x}" for n in (7, 3, 9, 1, 5, 8)])
STRANGER = "f" * 2 * ID_BYTES


def write_chunk(path, losses):
    """Write a chunk of runs: run id -> final loss."""
    rows = crashed_frame(list(losses)).with_columns(
        outcome=pl.lit("stalled"), final_loss=pl.Series(list(losses.values()), dtype=pl.Float64)
    )
    rows.write_parquet(path)
    return path


@pytest.fixture
def index(tmp_path):
    """Runs 0 and 2 in the first file, 2 again and 4 in the second; the others in none."""
    first = write_chunk(tmp_path / "a.parquet", {RUNS[2]: 2.0, STRANGER: -1.0, RUNS[0]: 0.0})
    empty = write_chunk(tmp_path / "b.parquet", {})
    second = write_chunk(tmp_path / "c.parquet", {RUNS[4]: 4.0, RUNS[2]: 99.0})
    return ChunkIndex(RUNS, [first, empty, second], ["here", "nowhere", None])


def test_runs_are_found_by_their_identity_whatever_else_the_files_hold(index):
    assert index.done.tolist() == [True, False, True, False, True, False]


@pytest.mark.parametrize("asked", [[0, 1, 2, 3, 4, 5], [4, 0], [2, 2, 1], [5], []])
def test_rows_come_in_the_order_asked_and_a_run_in_two_files_from_the_first(index, asked):
    frame = index.rows(np.array(asked, np.int64))
    assert frame["run_id"].to_list() == [RUNS[n] for n in asked]
    losses = {0: 0.0, 2: 2.0, 4: 4.0}
    assert frame["final_loss"].to_list() == [losses.get(n) for n in asked]
    outcomes = ["stalled" if n in losses else Outcome.CRASHED for n in asked]
    assert frame["outcome"].to_list() == outcomes


def test_the_device_is_that_of_the_file_which_a_run_is_taken_from(index):
    assert index.devices(np.array([4, 2, 1, 0])) == [None, "here", None, "here"]


def test_curves_are_sorted_by_the_plan_then_by_step(index, tmp_path):
    def write(name, rows):
        frame = pl.DataFrame(rows, schema=list(CURVES), orient="row").cast(dict(CURVES))
        frame.write_parquet(curves_path(tmp_path / name))

    write("a.parquet", [(RUNS[2], 1, "loss", "", 0.1), (RUNS[0], 0, "loss", "", 0.2),
                        (RUNS[2], 0, "loss", "", 0.3)])  # fmt: skip
    write("c.parquet", [(RUNS[4], 0, "loss", "", 0.4), (RUNS[2], 0, "loss", "", 99.0)])
    frame = index.curves(np.arange(len(RUNS)))
    assert dict(frame.schema) == CURVES
    wanted = [(RUNS[0], 0, 0.2), (RUNS[2], 0, 0.3), (RUNS[2], 1, 0.1), (RUNS[4], 0, 0.4)]
    assert frame.select("run_id", "step", "value").rows() == wanted


def test_of_no_files_every_run_is_missing():
    index = ChunkIndex(RUNS, [], [])
    assert not index.done.any()
    assert index.rows(np.array([1]))["outcome"].to_list() == [Outcome.CRASHED]
    assert index.curves(np.array([1])).is_empty()
