"""[search] and [refine] with real runs: theory, the actual full grid, stops, what is printed."""

import json
from pathlib import Path
from typing import ClassVar

import jax
import numpy as np
import polars as pl
import pytest
from remembered import Remembered
from sampled import sampled

from nanlab import verify
from nanlab.cli.progress import ProgressBar
from nanlab.engine.group_runner import GroupRunner
from nanlab.grid import load_grid
from nanlab.plan.plan import make_plan
from nanlab.study import chunk_runner as chunks_bench
from nanlab.study import local as chunks_local
from nanlab.study.replay import replay_run
from nanlab.study.study import Study
from nanlab.sweep import DONE, WRONG, main

ROOT = Path(__file__).resolve().parents[1]

GRID = """\
title = "What is the largest stable learning rate?"

[run]
problem = "quadratic"
steps = 250
momentum = 0.9

[axes]
lr = { logspace = [0.1, 10.0], num = 5 }
optimizer = ["sgd", "momentum", "nesterov"]
curvature = [0.5, 1.0, 3.0]

[search]
axis = "lr"
"""
FULL = GRID.replace("num = 5", "num = 201")[: GRID.index("[search]")]
# Gradient descent, the heavy ball, and Nesterov's momentum b on curvature 1.
STABLE = {"sgd": 2.0, "momentum": 2 * 1.9, "nesterov": (2 + 1.8) / (1 + 1.8)}

TABLES = ("runs.parquet", "runs.csv", "blames.csv", "boundaries.parquet", "boundaries.csv")


class Counted(Remembered):
    """Counts what is asked of it too."""

    made: ClassVar = {}
    asked: ClassVar = []

    def __new__(cls, statics, *, runs=None, devices=None):
        cls.asked.append((tuple(sorted(statics.items())), runs, tuple(devices)))
        return super().__new__(cls, statics, runs=runs, devices=devices)


@pytest.fixture(autouse=True)
def counted(monkeypatch):
    monkeypatch.setattr(chunks_bench, "GroupRunner", Counted)
    monkeypatch.setattr(Counted, "asked", [])
    # Group after group, so that the order of what happens is known.
    monkeypatch.setattr(chunks_local, "AT_ONCE", 1)


def sweep(text, *arguments, out="results/x", name="grid.toml"):
    Path(name).write_text(text, encoding="utf-8")
    return main([name, "--out", out, "--no-report", *arguments])


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """The folder of the search, that nothing happened to."""
    folder = tmp_path_factory.mktemp("searched")
    (folder / "grid.toml").write_text(GRID, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks_bench, "GroupRunner", Counted)
        assert main([str(folder / "grid.toml"), "--out", str(folder / "x"), "--no-report"]) == DONE
    return folder / "x"


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """The folder of the full grid at the search's tolerance."""
    folder = tmp_path_factory.mktemp("full")
    (folder / "grid.toml").write_text(FULL, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks_bench, "GroupRunner", Counted)
        assert main([str(folder / "grid.toml"), "--out", str(folder / "x"), "--no-report"]) == DONE
    return folder / "x"


def bytes_of(folder):
    return {name: Path(folder, name).read_bytes() for name in TABLES}


def manifest_of(folder):
    return json.loads(Path(folder, "manifest.json").read_text(encoding="utf-8"))


def test_the_largest_stable_learning_rate_is_that_of_theory(searched):
    table = pl.read_parquet(searched / "boundaries.parquet")
    assert table.height == 9 and table["only"].all() and table["within_tolerance"].all()
    for row in table.iter_rows(named=True):
        theory = STABLE[row["optimizer"]] / row["curvature"]
        # A run that hardly shrinks is not trained after 250 steps: theory's may be just below.
        assert row["lower"] < theory < row["upper"] * 1.001, row
        assert row["value"] == row["lower"] and row["lower_outcome"] == "trained"


@pytest.mark.slow
def test_the_full_grid_says_the_same_with_more_than_ten_times_the_runs(searched, full):
    few, every = (pl.read_parquet(folder / "runs.parquet") for folder in (searched, full))
    assert every.height == 9 * 201 == manifest_of(searched)["search"]["full_grid_runs"]
    assert few.height * 10 < every.height
    assert few.height == manifest_of(searched)["runs"] == manifest_of(searched)["search"]["runs"]
    same = few.select("run_id").join(every, on="run_id", how="left", maintain_order="left")
    # The witnesses are asked about one example of a blame, which may be another run here.
    told = [name for name in few.columns if name != "witness"]
    assert same.select(told).equals(few.select(told)), "a run is the same run in either study"
    boundaries = pl.read_parquet(searched / "boundaries.parquet")
    for row in boundaries.iter_rows(named=True):
        along = every.filter(optimizer=row["optimizer"], curvature=row["curvature"]).sort("lr")
        trains = (along["outcome"] == "trained").to_numpy()
        (last,) = np.flatnonzero(np.diff(trains.astype(int)))
        assert along["lr"][int(last)] == row["lower"]
        assert along["lr"][int(last) + 1] == row["upper"]
        assert along["run_id"][int(last)] == row["lower_run"]


def test_each_group_is_compiled_once_for_all_rounds(searched, capsys):
    assert sweep(GRID) == DONE
    assert "round 3: " in capsys.readouterr().err
    assert len(Counted.asked) == len(set(Counted.asked)) == 3
    for at in Counted.asked:
        assert set(Counted.made[at].program.n_traces.values()) == {1}
    assert bytes_of("results/x") == bytes_of(searched)


def test_a_search_holds_the_programs_of_all_its_groups(monkeypatch):
    monkeypatch.setattr(chunks_bench, "RUNNERS_CACHED", 1)
    assert sweep(GRID) == DONE
    assert len(Counted.asked) == 3
    assert sweep(FULL.replace("201", "2"), "--force") == DONE
    assert len(Counted.asked) > 6, "a plain grid lets go of them, and its witnesses make them anew"


@pytest.mark.slow
def test_a_search_among_runs_that_are_there_makes_none(
    searched, full, tmp_path, monkeypatch, capsys
):
    there = tmp_path / "results/x"
    there.mkdir(parents=True)
    for path in full.iterdir():
        (there / path.name).write_bytes(path.read_bytes())

    def refuse(self, lanes, *, curves=False):
        raise AssertionError("a run is made again")

    monkeypatch.setattr(Counted, "run", refuse)
    assert sweep(GRID + "\n[exec]\nwitnesses = 0\n") == DONE
    for name in ("runs.parquet", "boundaries.parquet"):
        kept, made = (pl.read_parquet(Path(at, name)) for at in ("results/x", searched))
        told = [column for column in kept.columns if column != "witness"]
        assert kept.select(told).equals(made.select(told))
    assert "45 of 45 runs are there already" in capsys.readouterr().err


class Killed(BaseException):
    """Stands for SIGKILL: nothing of the process runs on, no file is cleared away."""


# Chunks of the coarse pass and of the rounds; then the tables.
@pytest.mark.parametrize("number", sampled([1, 8, 16, 22], 2, first=1))
def test_killed_in_any_round_the_same_command_ends_in_the_same_bytes(number, searched, monkeypatch):
    replace, seen = Path.replace, []

    def replacing(path, target):
        seen.append(target)
        if len(seen) == number:
            raise Killed
        replace(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replacing)
        with pytest.raises(Killed):
            sweep(GRID)
    assert sweep(GRID) == DONE
    assert bytes_of("results/x") == bytes_of(searched)
    told = manifest_of("results/x")["search"], manifest_of(searched)["search"]
    assert told[0] == told[1]
    assert not list(Path("results").rglob("*.partial"))


@pytest.mark.slow
def test_one_device_smaller_chunks_and_force_make_the_same_bytes(searched, capsys):
    grid = load_grid(searched.parent / "grid.toml", sets=["exec.chunk_runs=1"])
    with ProgressBar() as watcher:
        Study(
            grid=grid, plan=make_plan(grid), folder=Path("results/one"),
            devices=jax.devices()[:1], listener=watcher,
        ).run()  # fmt: skip
    assert bytes_of("results/one") == bytes_of(searched)
    assert sweep(GRID) == DONE
    capsys.readouterr()
    assert sweep(GRID, "--force") == DONE
    assert "there already" not in capsys.readouterr().err
    assert bytes_of("results/x") == bytes_of(searched)


def test_a_crashed_chunk_of_a_round_is_told_and_only_it_is_run_again(searched, monkeypatch, capsys):
    calls = []

    def run(self, lanes, *, curves=False):
        calls.append(len(lanes.seed))
        if len(calls) == 5:
            raise RuntimeError("went wrong")
        return GroupRunner.run(self, lanes, curves=curves)

    with monkeypatch.context() as patch:
        patch.setattr(Counted, "run", run)
        assert sweep(GRID) == 1
    assert "runs crashed, see" in capsys.readouterr().err
    table = pl.read_parquet("results/x/boundaries.parquet")
    assert table["within_tolerance"].sum() == 6, "a group's three points are left wide"
    assert sweep(GRID) == DONE
    assert bytes_of("results/x") == bytes_of(searched)


def test_what_is_printed_speaks_of_rounds_and_of_all_runs(searched, capsys):
    many = manifest_of(searched)["runs"]
    grid = searched.parent / "grid.toml"
    assert main([str(grid), "--out", str(searched), "--no-report"]) == DONE
    said = capsys.readouterr().out
    assert f"is finished, all {many:,} runs;" in said and f"{many:,} runs in " in said
    assert sweep(GRID, "--dry-run") == DONE
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert "runs    45" in lines
    assert (
        "search  lr to 0.01 in log10, in about 6 rounds after these runs, the coarse pass" in lines
    )
    assert (
        "at most 135 more runs if each point has one simple boundary, 1,764 if outcomes were random"
        in lines
    )
    assert "the full grid at this tolerance has 1,809 runs" in lines
    assert sweep(GRID) == DONE
    said = capsys.readouterr().err.splitlines()
    assert "45 of 45 runs, 17 failed" in " ".join(said)
    rounds = [line for line in said if line.startswith("round ")]
    made = [each["runs"] for each in manifest_of(searched)["search"]["rounds"]]
    assert rounds == [
        f"round {number}: {min(runs, 9)} to refine, {runs:,} more runs"
        for number, runs in enumerate(made[1:], 1)
    ]


def test_a_run_of_a_later_round_can_be_replayed(searched):
    table = pl.read_parquet(searched / "boundaries.parquet")
    runs = pl.read_parquet(searched / "runs.parquet")
    late = runs[45:].filter(pl.col("fault_step").is_not_null())
    row = late.row(0, named=True)
    assert row["run_id"] in set(table["upper_run"]) | set(runs["run_id"])
    assert replay_run(searched, row["run_id"]).step == row["fault_step"]


def test_a_search_is_verified_with_the_runs_of_all_its_rounds(searched, capsys):
    many = manifest_of(searched)["runs"]
    assert verify.main([str(searched)]) == DONE
    said = capsys.readouterr().out
    assert f"{many} of {many} runs run again" in said
    assert f"{many} of {many} the same numbers, to the bit" in said


def test_a_change_of_the_table_keeps_the_runs_and_changes_the_answer(searched, capsys):
    assert sweep(GRID) == DONE
    capsys.readouterr()
    wider = GRID + 'tolerance = 0.1\nfinds = "smallest that fails"\n'
    assert sweep(wider) == DONE
    table = pl.read_parquet("results/x/boundaries.parquet")
    assert (table["value"] == table["upper"]).all()
    assert table["width"].to_list() == pytest.approx([0.1] * 9)
    assert sweep(GRID[: GRID.index("[search]")]) == DONE
    assert not list(Path("results/x").glob("boundaries.*")), "a plain grid has no such table"
    assert "search" not in manifest_of("results/x")


# ---- an own problem, whose boundary is a fractal ----


def plane(num):
    axis = f"{{ logspace = [1.0, 1e6], num = {num} }}"
    return ["--run.steps", "25", "--set", f"axes.knobs.lr_hidden={axis}",
            "--set", f"axes.knobs.lr_output={axis}"]  # fmt: skip


@pytest.mark.slow
def test_the_fractals_map_is_that_of_the_full_grid(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    file = "examples/fractal.toml"
    both = {
        "few": [
            *plane(5), "--set", 'refine.axes=["knobs.lr_hidden", "knobs.lr_output"]',
            "--set", "refine.tolerance=0.1",
        ],
        "full": plane(61),
    }  # fmt: skip
    for name, flags in both.items():
        assert main([file, "--out", str(tmp_path / name), *flags]) == DONE
    few, full = (pl.read_parquet(tmp_path / name / "runs.parquet") for name in both)
    assert full.height == 61 * 61 == manifest_of(tmp_path / "few")["search"]["full_grid_runs"]
    assert few.height * 10 < full.height
    cells = pl.read_parquet(tmp_path / "few/cells.parquet")
    hidden, output = (full[f"knobs.lr_{name}"].to_numpy() for name in ("hidden", "output"))
    trains = (full["outcome"] == "trained").to_numpy()
    right = wrong = unsure = 0
    for cell in cells.iter_rows(named=True):
        inside = (hidden >= cell["knobs.lr_hidden_lower"]) & (
            hidden <= cell["knobs.lr_hidden_upper"]
        )
        inside &= output >= cell["knobs.lr_output_lower"]
        inside &= output <= cell["knobs.lr_output_upper"]
        if cell["kind"] is None:
            unsure += 1
            assert inside.sum() == 4, "as fine as the full grid"
            assert len(set(trains[inside])) == 2
            continue
        same = trains[inside] == (cell["kind"] == "trains")
        right, wrong = right + same.sum(), wrong + (~same).sum()
    assert unsure > 20
    assert wrong <= 0.005 * right


def test_too_large_a_refinement_is_a_sentence_and_2(monkeypatch, capsys):
    monkeypatch.setattr("nanlab.plan.rounds.POINT_LIMIT", 50)
    assert sweep(GRID) == WRONG
    assert "search.tolerance (line 13): needs more than 50 runs" in capsys.readouterr().err
    assert jax.device_count() == 2
