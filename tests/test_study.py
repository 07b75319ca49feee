"""A study that is killed, changed, moved or refused its memory comes out the same to the byte.

What the command does is run here in this process, so that a group is compiled once for all tests;
`test_sweep.py` runs it as a person does.
"""

import errno
import hashlib
import io
import itertools
import json
import math
import os
import re
import shutil
import sys
from collections import Counter
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from threading import Barrier, BrokenBarrierError
from types import SimpleNamespace

import jax
import numpy as np
import polars as pl
import pytest
from remembered import Remembered
from rich.console import Console
from sampled import sampled

from nanlab.blame.site import Site
from nanlab.cli import progress as terminal
from nanlab.cli import summary
from nanlab.engine import memory
from nanlab.engine.group_runner import GroupRunner
from nanlab.grid import load_grid
from nanlab.plan.plan import make_plan
from nanlab.reporting.source_lines import SourceLines
from nanlab.results import frames as tables
from nanlab.results.provenance import code_hash
from nanlab.results.runs_table import RunsTable
from nanlab.study import chunk_runner as chunks_bench
from nanlab.study import local as chunks_local
from nanlab.study import study
from nanlab.sweep import CRASHED, DONE, WRONG, main

TABLES = ("runs.parquet", "runs.csv", "blames.csv")

# Two groups of 280 runs, each in three chunks: a launch of two devices holds 128 runs at least.
GRID = """\
title = "Which learning rates overflow?"

[run]
problem = "quadratic"
steps = 150

[axes]
optimizer = ["sgd", "momentum"]
lr = { logspace = [0.1, 1e38], num = 280 }

[exec]
devices = 2
chunk_runs = 128
witnesses = 2
"""
CHUNKS, RUNS = 6, 560
# What is asked, the chunks, runs.parquet, runs.csv, blames.csv, the grid and the manifest.
WRITES = 1 + CHUNKS + 5


@pytest.fixture(autouse=True)
def compiled_once(monkeypatch):
    monkeypatch.setattr(chunks_bench, "GroupRunner", Remembered)


def sweep(text=GRID, *arguments, name="grid.toml"):
    Path(name).write_text(text, encoding="utf-8")
    return main([name, "--out", "results/x", "--no-report", *arguments])


def bytes_of(folder):
    return {name: Path(folder, name).read_bytes() for name in TABLES}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The folder of a study that nothing happened to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "grid.toml").write_text(GRID, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks_bench, "GroupRunner", Remembered)
        assert main([str(folder / "grid.toml"), "--out", str(folder / "x"), "--no-report"]) == DONE
    return folder / "x"


def manifest_of(folder):
    return json.loads(Path(folder, "manifest.json").read_text(encoding="utf-8"))


# ---- killed ----


class Killed(BaseException):
    """Stands for SIGKILL: nothing of the process runs on, no file is cleared away."""


def die(monkeypatch, number, moment):
    """Die just before or after the `number`-th file takes its place, or as chunks are removed."""
    replace, unlink = Path.replace, Path.unlink
    seen = Counter()

    def replacing(path, target):
        seen["replace"] += 1
        if seen["replace"] == number and moment == "before":
            raise Killed
        replace(path, target)
        if seen["replace"] == number and moment == "after":
            raise Killed

    def unlinking(path, missing_ok=False):
        if moment == "removing" and seen["replace"] == WRITES and path.suffix == ".parquet":
            seen["unlink"] += 1
            if seen["unlink"] == number:
                raise Killed
        if path.suffix != ".partial" or "writable" in path.name:
            unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "replace", replacing)
    monkeypatch.setattr(Path, "unlink", unlinking)


@pytest.mark.parametrize(
    "number, moment",
    [
        # Every fourth of them among the quick tests.
        pytest.param(number, when, marks=[pytest.mark.slow] * (number % 4 != 1))
        for number in range(1, WRITES + 1)
        for when in ("before", "after")
    ]
    + [(number, "removing") for number in (1, CHUNKS)],
)
def test_killed_at_any_write_the_same_command_ends_in_the_same_bytes(
    number, moment, undisturbed, monkeypatch, capsys
):
    with monkeypatch.context() as patch:
        # Group after group, so that it is known how much is kept.
        patch.setattr(chunks_local, "AT_ONCE", 1)
        die(patch, number, moment)
        with pytest.raises(Killed):
            sweep()
    capsys.readouterr()
    assert sweep() == DONE
    said = capsys.readouterr()
    kept = min(max(number - (moment == "before") - 1, 0), CHUNKS)
    if (number, moment) == (WRITES, "after") or moment == "removing":
        assert "is finished, all 560 runs" in said.out
    elif kept:
        reused = [94, 187, 280, 374, 467, 560][kept - 1]
        assert f"{reused} of 560 runs are there already" in said.err
    assert bytes_of("results/x") == bytes_of(undisturbed)
    names = {path.name for path in Path("results/x").iterdir()}
    assert names == {*TABLES, "grid.resolved.toml", "manifest.json"}, "no leftovers"


def test_a_finished_study_is_not_run_again_and_nothing_of_it_is_touched(undisturbed, capsys):
    grid = undisturbed.parent / "grid.toml"
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in undisturbed.iterdir()}
    assert main([str(grid), "--out", str(undisturbed), "--no-report"]) == DONE
    said = capsys.readouterr()
    sentence = f"{undisturbed} is finished, all 560 runs; --force runs them again\n"
    assert said.out.startswith(sentence)
    assert "560 runs in " in said.out, "its summary is shown again"
    assert said.err == ""
    after = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in undisturbed.iterdir()}
    assert after == before


def test_force_runs_everything_again_to_the_same_bytes(undisturbed, capsys):
    assert sweep() == DONE
    first = manifest_of("results/x")
    capsys.readouterr()
    assert sweep(GRID, "--force") == DONE
    assert "there already" not in capsys.readouterr().err
    assert bytes_of("results/x") == bytes_of(undisturbed)
    assert manifest_of("results/x")["wall_s"] != first["wall_s"]


@pytest.mark.parametrize("number", [1, CHUNKS, CHUNKS + 2, WRITES])
def test_a_full_disk_is_a_sentence_and_1_and_the_same_command_goes_on(
    number, undisturbed, monkeypatch, capsys
):
    flush, seen = os.fsync, []

    def full(file):
        seen.append(file)
        if len(seen) >= number:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        flush(file)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert sweep() == CRASHED
    said = capsys.readouterr()
    assert re.search(
        r"^cannot write results/x\S*: no space left on device; what is finished is stored, and the "
        r"same command resumes from there\. --out names another folder$",
        said.err,
        re.MULTILINE,
    ), said.err
    assert not list(Path("results").rglob("*.partial"))
    assert sweep() == DONE
    assert bytes_of("results/x") == bytes_of(undisturbed)


# ---- changed ----

CHANGES = {
    "an axis is extended": (
        GRID.replace("[exec]", "[[include]]\nlr = [3e38, 1e-3]\n\n[exec]"), 560
    ),
    "an axis is cut short": (GRID.replace('["sgd", "momentum"]', '["momentum"]'), 280),
    "the axes change places": (
        GRID.replace('optimizer = ["sgd", "momentum"]\n', "").replace(
            "num = 280 }", 'num = 280 }\noptimizer = ["momentum", "sgd"]'
        ), 560,
    ),
    "a step more": (GRID.replace("steps = 150", "steps = 151"), 0),
    "only the title": (GRID.replace("Which", "What"), 560),
    "larger chunks": (GRID.replace("chunk_runs = 128", "chunk_runs = 200"), 560),
}  # fmt: skip


@pytest.mark.parametrize("text, reused", sampled(CHANGES.values(), 2), ids=CHANGES)
def test_a_changed_grid_reuses_its_old_points_and_comes_out_as_a_fresh_run(text, reused, capsys):
    assert sweep() == DONE
    capsys.readouterr()
    assert sweep(text) == DONE
    said = capsys.readouterr().err
    total = len(pl.read_parquet("results/x/runs.parquet"))
    there = re.findall(r"^([\d,]+) of ([\d,]+) runs are there already$", said, re.MULTILINE)
    assert there == ([(str(reused), str(total))] if reused else [])
    changed = bytes_of("results/x")
    Path("fresh.toml").write_text(text, encoding="utf-8")
    assert main(["fresh.toml", "--out", "results/fresh", "--no-report"]) == DONE
    assert changed == bytes_of("results/fresh")


def leave_chunks(folder):
    """What a sweep that was killed at its very end has not deleted."""
    (folder / ".chunks").mkdir()
    for name in ("grid.resolved.toml", "0123456789abcdef-0-0.parquet", "devices.json"):
        (folder / ".chunks" / name).write_text("x")
    (folder / "crashes.log").write_text("x")


@pytest.mark.parametrize("name", ["unlink", "rmdir"])
def test_what_cannot_be_deleted_at_the_end_is_a_remark(name, undisturbed, monkeypatch, capsys):
    delete, remarks = getattr(os, name), 0
    for number in range(1, 30):
        shutil.rmtree("results", ignore_errors=True)
        shutil.copytree(undisturbed, "results/x")
        leave_chunks(Path("results/x"))
        calls = Counter()

        def full(path, *given, calls=calls, number=number, **options):
            calls["all"] += 1
            if calls["all"] >= number:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
            return delete(path, *given, **options)

        with monkeypatch.context() as patch:
            patch.setattr(os, name, full)
            assert sweep() == DONE
        remarks += "could not be deleted (no space left on device)" in capsys.readouterr().err
        assert bytes_of("results/x") == bytes_of(undisturbed)
        if calls["all"] < number:
            break
    else:
        raise AssertionError("each deletion was tried")
    assert number > 1 and remarks


def test_a_damaged_chunk_is_reported_and_repeated(undisturbed, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr(chunks_local, "AT_ONCE", 1)
        die(patch, 3, "after")
        with pytest.raises(Killed):
            sweep()
    path = min(Path("results/x/.chunks").glob("*.parquet"))
    os.truncate(path, 200)
    capsys.readouterr()
    assert sweep() == DONE
    assert f"chunk {path.name} is damaged and was set aside" in capsys.readouterr().err
    assert bytes_of("results/x") == bytes_of(undisturbed)


def test_a_study_without_failures_is_reused_as_well(capsys):
    calm = '[run]\nproblem = "quadratic"\n[axes]\nlr = [0.5, 1.0]\n[exec]\ndevices = 2\n'
    assert sweep(calm) == DONE
    assert pl.read_parquet("results/x/runs.parquet")["outcome"].to_list() == ["trained"] * 2
    assert sweep(calm.replace("1.0]", "1.0, 1.5]")) == DONE
    assert "2 of 3 runs are there already" in capsys.readouterr().err


def test_what_another_environment_made_is_not_reused(undisturbed, monkeypatch, capsys):
    real = chunks_bench.environment
    monkeypatch.setattr(chunks_bench, "environment", lambda d: {**real(d), "jaxlib": "0.0.1"})
    assert sweep() == DONE
    monkeypatch.setattr(chunks_bench, "environment", real)
    capsys.readouterr()
    assert sweep() == DONE
    said = capsys.readouterr()
    assert "there already" not in said.err
    assert "is finished" not in said.out
    assert bytes_of("results/x") == bytes_of(undisturbed)


class Silent:
    """A listener that counts what it is told."""

    def __init__(self):
        self.told = []

    def started(self, total, reused):
        self.told.append(("started", total, reused))

    def searching(self, number, openings, runs, reused):
        self.told.append(("searching", number, openings, runs, reused))

    def entered(self, group, number, groups):
        self.told.append(("entered", number, groups))

    def advanced(self, runs, failed):
        self.told.append(("advanced", runs, failed))

    def crashed(self, runs, error):
        self.told.append(("crashed", runs, error))

    def damaged(self, chunk):
        self.told.append(("damaged", chunk))

    def cross_checking(self, blames):
        self.told.append(("cross_checking", blames))

    def cross_check_failed(self, error):
        self.told.append(("cross_check_failed", str(error)))


@pytest.mark.parametrize("many", [1, 2])
def test_one_device_and_two_make_the_same_bytes(many, undisturbed, tmp_path):
    grid = load_grid(undisturbed / "grid.resolved.toml")
    listener = Silent()
    asked = study.Study(
        grid=grid, plan=make_plan(grid), folder=tmp_path / "x", devices=jax.devices()[:many],
        listener=listener,
    )  # fmt: skip
    result = asked.run()
    assert result.manifest["environment"]["devices"] == many
    assert bytes_of(tmp_path / "x") == bytes_of(undisturbed)
    # The other number of devices takes these tables for its own.
    assert result.manifest["fingerprint"] == manifest_of(undisturbed)["fingerprint"]


def test_a_listener_is_told_of_every_chunk_and_failure_once(undisturbed, tmp_path):
    grid = load_grid(undisturbed / "grid.resolved.toml")
    listener = Silent()
    result = study.Study(
        grid=grid, plan=make_plan(grid), folder=tmp_path / "x", devices=jax.devices(),
        listener=listener,
    ).run()  # fmt: skip
    kinds = Counter(kind for kind, *_ in listener.told)
    assert kinds == {"started": 1, "entered": 2, "advanced": CHUNKS, "cross_checking": 1}
    assert listener.told[0] == ("started", RUNS, 0)
    advanced = [(runs, failed) for kind, runs, failed in listener.told[1:-1] if kind == "advanced"]
    failed = result.runs.filter(pl.col("fault_step").is_not_null()).collect().height
    assert tuple(map(sum, zip(*advanced, strict=True))) == (RUNS, failed)


# ---- crashed ----


def test_a_chunk_that_raises_is_recorded_and_only_it_is_run_again(undisturbed, monkeypatch, capsys):
    calls = []

    def run(self, lanes, *, curves):
        calls.append(len(lanes.seed))
        if len(calls) == 2:
            raise RuntimeError("the second launch\nwent wrong")
        return GroupRunner.run(self, lanes, curves=curves)

    with monkeypatch.context() as patch:
        patch.setattr(chunks_local, "AT_ONCE", 1)
        patch.setattr(Remembered, "run", run)
        assert sweep() == CRASHED
    said = capsys.readouterr()
    assert "a chunk of 93 runs crashed: RuntimeError: the second launch\n" in said.err
    assert "93 runs crashed, see " in said.err
    runs = pl.read_parquet("results/x/runs.parquet")
    assert (
        runs["run_id"].to_list()
        == pl.read_parquet(undisturbed / "runs.parquet")["run_id"].to_list()
    )
    assert np.flatnonzero(runs["outcome"] == "crashed").tolist() == list(range(94, 187))
    assert manifest_of("results/x")["crashed"] == 93
    assert manifest_of("results/x")["outcomes"]["crashed"] == 93

    assert sweep() == DONE
    assert "467 of 560 runs are there already" in capsys.readouterr().err
    assert bytes_of("results/x") == bytes_of(undisturbed)
    assert not Path("results/x/.chunks").exists()


def test_a_group_that_cannot_be_built_is_recorded_and_the_others_go_on(
    undisturbed, monkeypatch, capsys
):
    real = chunks_bench.GroupRunner

    def broken(statics, **how):
        if statics["optimizer"] == "sgd":
            raise TypeError("this step does not trace")
        return real(statics, **how)

    with monkeypatch.context() as patch:
        patch.setattr(chunks_bench, "GroupRunner", broken)
        assert sweep() == CRASHED
    assert "crashed: TypeError: this step does not trace" in capsys.readouterr().err
    runs = pl.read_parquet("results/x/runs.parquet")
    assert set(runs.filter(pl.col("optimizer") == "sgd")["outcome"]) == {"crashed"}
    assert "crashed" not in set(runs.filter(pl.col("optimizer") == "momentum")["outcome"])
    assert sweep() == DONE
    assert "280 of 560 runs are there already" in capsys.readouterr().err
    assert bytes_of("results/x") == bytes_of(undisturbed)


# ---- too large ----


def test_a_study_too_large_for_the_memory_says_what_fits_and_that_does(monkeypatch, capsys):
    large = GRID.replace("chunk_runs = 128\n", "chunk_runs = 1000\n")
    # 280 runs are a launch of 384 lanes; there is room for one of some 300, hence for 256.
    grid = "[run]\n" + large.split("[run]\n")[1]
    with monkeypatch.context() as patch:
        patch.setattr(chunks_bench, "launch_need", lambda *_, **__: memory.Need(1024, 2048))
        patch.setattr(chunks_bench, "available_bytes", lambda device: 2048 + 300 * 1024)
        assert sweep(grid) == WRONG
        said = capsys.readouterr()
        assert "needs about 386.0 KiB, and 302.0 KiB are free" in said.err
        assert "Traceback" not in said.err
        assert said.err.splitlines()[-1].startswith("grid.toml: a launch of 384 lanes needs")
        (advice,) = re.findall(r"--set exec\.chunk_runs=(\d+)", said.err)
        assert sweep(grid, "--set", f"exec.chunk_runs={advice}") == DONE


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1e12 bytes")],
    ids=["host", "device"],
)
def test_a_launch_that_runs_out_of_memory_is_a_sentence_and_no_crash(error, monkeypatch, capsys):
    def run(self, lanes, *, curves):
        raise error

    monkeypatch.setattr(Remembered, "run", run)
    assert sweep(GRID.replace("chunk_runs = 128\n", "chunk_runs = 1000\n")) == WRONG
    said = capsys.readouterr()
    assert "a launch of 384 lanes does not fit into memory" in said.err
    assert "exec.chunk_runs" in said.err
    assert not Path("results/x/runs.parquet").exists()


@pytest.mark.parametrize("free, many", [(1_000_000, 1), (1_300_000, 2), (None, 2)])
def test_launches_are_at_work_together_only_where_both_fit(free, many, monkeypatch):
    run, together, at_work, most = Remembered.run, Barrier(2), Counter(), [0]

    def watched(self, lanes, *, curves):
        at_work["now"] += 1
        most[0] = max(most[0], at_work["now"])
        # Where two may be at work each waits for the other.
        with suppress(BrokenBarrierError):
            together.wait(timeout=0.2 if many == 1 else 60)
        try:
            return run(self, lanes, curves=curves)
        finally:
            at_work["now"] -= 1

    monkeypatch.setattr(Remembered, "run", watched)
    monkeypatch.setattr(chunks_bench, "launch_need", lambda *_, **__: memory.Need(1, 600_000))
    # What is at work has not taken its memory yet.
    monkeypatch.setattr(chunks_bench, "available_bytes", lambda _: free)
    alone = GRID.replace("chunk_runs = 128\nwitnesses = 2\n", "chunk_runs = 1000\nwitnesses = 0\n")
    assert sweep(alone) == DONE
    assert most[0] == many


# ---- what is left in the folder ----


def test_the_manifest_says_what_made_the_tables_and_its_hashes_are_theirs(undisturbed):
    manifest = manifest_of(undisturbed)
    for name in ("jax", "jaxlib", "flax", "optax", "chex", "numpy", "polars"):
        assert manifest["environment"][name] == metadata.version(name), name
    assert manifest["environment"]["python"] == sys.version.split()[0]
    expected = {"platform": "cpu", "devices": 2, "block": 64, "x64": True}
    assert expected.items() <= manifest["environment"].items()
    assert set(manifest["files"]) == set(TABLES)
    for name, digest in manifest["files"].items():
        assert hashlib.sha256((undisturbed / name).read_bytes()).hexdigest() == digest, name
    resolved = (undisturbed / "grid.resolved.toml").read_bytes()
    assert hashlib.sha256(resolved).hexdigest() == manifest["grid_sha256"]
    assert manifest["title"] == "Which learning rates overflow?"
    runs = pl.read_parquet(undisturbed / "runs.parquet")
    blames = tables.read_blames(undisturbed / "blames.csv")
    assert (manifest["runs"], manifest["groups"]) == (runs.height, 2)
    assert manifest["distinct_blames"] == blames.height
    assert manifest["outcomes"] == Counter(runs["outcome"])
    assert manifest["blame_status"] == Counter(runs["blame_status"].drop_nulls())
    asked = manifest["witnesses"]
    assert (asked["cap"], asked["asked"], asked["finite_before"]) == (2, 2, 2)
    assert asked["bad_after"] == 2
    assert asked["said"] == Counter(blames["witness"])
    assert set(manifest["git"]) == {"commit", "dirty"}
    assert set(manifest["wall_s"]) == {"all", "runs", "witnesses"}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", manifest["finished"])


def test_no_file_of_the_results_holds_a_path_of_this_machine(undisturbed, repository):
    # The grid was asked for by an absolute path, and so were the results.
    texts = [(undisturbed / name).read_text() for name in ("blames.csv", "runs.csv")]
    texts += [(undisturbed / name).read_text() for name in ("manifest.json", "grid.resolved.toml")]
    parquet = pl.read_parquet(undisturbed / "runs.parquet").select(pl.col(pl.String))
    texts += [str(value) for column in parquet for value in column.unique()]
    here = [undisturbed, undisturbed.parent, repository, Path.home(), sys.prefix, sys.base_prefix]
    for path in {str(path) for path in here} - {"/"}:
        assert not [text for text in texts if path + "/" in text or path + '"' in text], path
    sources = pl.read_parquet(undisturbed / "runs.parquet").select(
        pl.col("^(origin|culprit)_(source|library)$")
    )
    for source in {value for column in sources for value in column if value}:
        assert re.fullmatch(r"[\w.-]+(/[\w.-]+)*\.py:\d+", source), source


def test_the_resolved_grid_asks_for_just_the_runs_that_the_table_holds(undisturbed):
    plan = make_plan(load_grid(undisturbed / "grid.resolved.toml"))
    runs = pl.read_parquet(undisturbed / "runs.parquet")
    assert plan.run_ids.tolist() == runs["run_id"].to_list()
    for number in (0, 279, 280, 559):
        point = plan.point(number)
        # What nothing in this study reads has no column.
        assert {n: runs[n][number] for n in point if n in runs.columns} == {
            n: point[n] for n in point if n in runs.columns
        }


def test_flags_stand_in_the_resolved_grid(capsys):
    assert sweep(GRID, "--axes.lr.num", "2", "--set", "run.x0=3.0") == DONE
    runs = pl.read_parquet("results/x/runs.parquet")
    assert runs.height == 4
    assert set(runs["x0"]) == {3.0}
    plan = make_plan(load_grid("results/x/grid.resolved.toml"))
    assert plan.run_ids.tolist() == runs["run_id"].to_list()
    capsys.readouterr()
    # What was asked by flags is not what the file alone asks.
    assert sweep(GRID, "--axes.lr.num", "2", "--set", "run.x0=3.0") == DONE
    assert "is finished" in capsys.readouterr().out
    assert sweep(GRID, "--axes.lr.num", "2") == DONE
    assert "is finished" not in capsys.readouterr().out


def test_plain_float32_iteration_says_when_each_run_of_the_table_fails(undisturbed):
    runs = pl.read_parquet(undisturbed / "runs.parquet").filter(pl.col("optimizer") == "sgd")
    for lr, fault, nan in runs.select("lr", "fault_step", "nan_step").rows():
        assert (fault, nan) == float32_iteration(np.float32(lr), steps=150), lr


def float32_iteration(lr, *, steps):
    """The first step whose loss or new x is not finite, and the first that makes a NaN."""
    x, fault, nan = np.float32(1), None, None
    with np.errstate(all="ignore"):
        for step in range(steps):
            loss = np.float32(0.5) * x * x
            x = x + -lr * x
            if fault is None and not (np.isfinite(loss) and np.isfinite(x)):
                fault = step
            if np.isnan(x):
                return fault, step
    return fault, nan


# ---- what a person sees at the end ----

LOOK = """\
[axes]
activation = ["relu", "tanh"]
standardize = [true, false]
lr = [0.1, 1.0, 10.0]
"""
SUB = Site(
    primitive="sub", phase="update", module="MLP/Dense_0", source="nanlab/problems/training.py:1",
    library="", function="step", mechanism="inf-inf",
)  # fmt: skip


def shown(text, outcome_of, tmp_path, *, width=100, folder="results/x", blames_of=None):
    """What `show_summary` prints of made-up outcomes, one for each point."""
    (tmp_path / "look.toml").write_text(text, encoding="utf-8")
    plan = make_plan(load_grid(tmp_path / "look.toml"))
    points = [plan.point(number) for number in range(len(plan))]
    words = [outcome_of(point) for point in points]
    told = [blames_of(n) if blames_of and w == "nan" else None for n, w in enumerate(words)]
    rows = {name: [None] * len(plan) for name in tables.RESULT}
    rows |= {"run_id": plan.run_ids.tolist(), "outcome": words}
    for role in ("origin", "culprit"):
        columns = [tables.site_columns(role, finding) for finding in told]
        rows |= {name: [column[name] for column in columns] for name in columns[0]}
    rows["blame_status"] = [None if finding is None else "reproduced" for finding in told]
    results = tables.with_blame_ids(tables.result_frame(rows))
    blames = tables.with_witnesses(tables.blames_frame(results), {})
    failed = sum(finding is not None for finding in told)
    result = study.StudyResult(
        folder=Path(folder),
        plan=plan,
        runs=RunsTable(plan).frame(results, blames).lazy(),
        blames=blames,
        manifest={
            "blame_status": {"reproduced": failed} if failed else {},
            "witnesses": {"said": {"not-asked": blames.height}},
        },
    )
    console = Console(record=True, file=io.StringIO(), width=width, color_system=None)
    summary.show_summary(result, console)
    return console.export_text()


def words_of(text):
    return [line.split() for line in text.splitlines() if line.strip()]


def test_outcomes_are_counted_by_every_axis_that_is_no_number(tmp_path):
    def outcome_of(point):
        if not point["standardize"]:
            return "nan" if point["lr"] > 0.1 else "stalled"
        return "trained" if point["activation"] == "relu" else "diverged"

    assert words_of(shown(LOOK, outcome_of, tmp_path))[:6] == [
        ["outcomes"],
        ["standardize", "activation", "trained", "stalled", "diverged", "nan", "runs"],
        ["true", "relu", "3", "0", "0", "0", "3"],
        ["false", "relu", "0", "1", "0", "2", "3"],
        ["true", "tanh", "0", "0", "3", "0", "3"],
        ["false", "tanh", "0", "1", "0", "2", "3"],
    ]


def test_a_study_of_numbers_alone_has_one_line_of_outcomes(tmp_path):
    text = "[axes]\nlr = [0.1, 1.0, 10.0]\n"
    lines = words_of(shown(text, lambda point: "inf" if point["lr"] > 1 else "trained", tmp_path))
    assert lines[:3] == [["outcomes"], ["trained", "inf", "runs"], ["2", "1", "3"]]


def test_an_axis_of_one_problem_is_shown_beside_another_problem(tmp_path):
    text = LOOK + '[[include]]\nproblem = "quadratic"\nlr = [0.5]\n'
    lines = words_of(shown(text, lambda point: "trained", tmp_path))
    assert lines[1] == ["problem", "standardize", "activation", "trained", "runs"]
    assert lines[2] == ["training", "true", "relu", "3", "3"]
    assert lines[6][0] == "quadratic"
    assert lines[6][-2:] == ["1", "1"]
    assert "None" not in lines[6]


def test_the_most_frequent_blames_are_shown_and_the_others_counted(tmp_path):
    text = "[axes]\nseed = { range = 200 }\n"
    many = summary.BLAMES_SHOWN + 3

    def blame_of(number):
        # Seed 0 is blamed on line 1, seeds 1 and 2 on line 2, and so on.
        line = int((math.isqrt(8 * number + 1) + 1) // 2)
        return Site(**{**SUB.__dict__, "source": f"nanlab/problems/training.py:{min(line, many)}"})

    text = shown(text, lambda point: "nan", tmp_path, blames_of=blame_of)
    assert f"nanlab/problems/training.py:{many}" in text
    assert "nanlab/problems/training.py:1 " not in text + " "
    assert "and 3 more" in text
    counts = [int(n) for n in re.findall(r"^\s*(\d+)\s+inf-inf in sub", text, re.MULTILINE)]
    assert counts == sorted(counts, reverse=True)
    assert len(counts) == summary.BLAMES_SHOWN
    assert "200 failed runs, of which 200 reproduced" in " ".join(text.split())


@pytest.mark.parametrize("width", [40, 80, 200])
@pytest.mark.parametrize("folder", ["results/" + "long-name-" * 8, "results/[bold]x[/nothing]"])
def test_the_path_of_the_results_can_be_copied_from_the_last_line(folder, width, tmp_path):
    text = shown("[axes]\nlr = [0.1, 1.0]\n", lambda _: "stalled", tmp_path,
                 width=width, folder=folder)  # fmt: skip
    assert text.splitlines()[-1] == f"2 runs in {folder}"


def test_a_narrow_terminal_gets_no_line_that_is_too_wide(tmp_path):
    text = shown(LOOK, lambda point: "nan", tmp_path, width=40, blames_of=lambda _: SUB)
    assert max(map(len, text.splitlines())) <= 40


@pytest.mark.parametrize("width", [30, 50, 80])
@pytest.mark.parametrize(
    "line",
    [
        "  41  overflow in convert_element_type, forward, Outer/Inner_0/Dense_12",
        "          nanlab/parts/activations.py:88 return jnp.where(x > 0, x, slope * x)",
        "        nothing float32[1024,1024],bfloat16[8] a-b-c-d-e-f-g-h-i-j-k-l-m-n-o-p-q-r-s-t-u",
    ],
)
def test_lines_wrap_between_words_alone(line, width):
    pieces = summary.wrapped_line(line, width).splitlines()
    assert " ".join(pieces).split() == line.split()
    longest = max(len(word) for word in line.split()) + 12
    assert all(len(piece) <= max(width, longest) for piece in pieces)


@pytest.mark.parametrize("width", [50, 80])
def test_a_blame_shows_its_line_whole_and_the_code_there(width, tmp_path):
    text = shown(LOOK, lambda _: "nan", tmp_path, width=width, blames_of=lambda _: SUB)
    assert "nanlab/problems/training.py:1" in text.split()
    assert '"""' not in text, "the code is that of the run's version, which no manifest names here"
    sources = SourceLines({"environment": {"code_sha256": code_hash()}})
    first = Path(study.__file__).parents[1] / "problems/training.py"
    assert sources.code("nanlab/problems/training.py:1") == first.read_text().splitlines()[0]
    assert SourceLines({}).code("nanlab/problems/training.py:1") == ""


def test_the_code_of_an_own_file_is_shown_while_it_is_unchanged(tmp_path):
    Path("own.py").write_text("def step():\n    return 1 / 0\n")
    hashes = {"own.py:step": hashlib.sha256(Path("own.py").read_bytes()).hexdigest()}
    manifest = {"environment": {"own_code_sha256": hashes}}
    assert SourceLines(manifest).code("own.py:2") == "return 1 / 0"
    assert SourceLines(manifest).code("other.py:2") == ""
    Path("own.py").write_text("def step():\n    return 2 / 0\n")
    assert SourceLines(manifest).code("own.py:2") == ""


def test_a_narrow_terminal_gets_outcomes_line_by_line(tmp_path):
    text = shown(LOOK, lambda point: "nan" if point["lr"] > 0.1 else "stalled", tmp_path, width=40)
    assert "…" not in text
    assert "  true, relu: 1 stalled, 2 nan" in text.splitlines()


def watched(events, *, is_terminal=False, width=80):
    file = io.StringIO()
    console = Console(file=file, force_terminal=is_terminal, width=width, color_system=None)
    with terminal.ProgressBar(console) as watcher:
        events(watcher)
    return file.getvalue()


def test_without_a_terminal_progress_is_plain_lines(monkeypatch):
    clock = iter(range(0, 10_000, 10))
    monkeypatch.setattr(terminal.time, "monotonic", lambda: float(next(clock)))

    def events(watcher):
        watcher.started(2000, 1000)
        watcher.advanced(500, 20)
        watcher.crashed(250, "ValueError: bad")
        watcher.advanced(250, 5)
        watcher.cross_checking(1)

    lines = watched(events).splitlines()
    assert lines[0] == "1,000 of 2,000 runs are there already"
    assert lines[1].startswith("1,500 of 2,000 runs, 20 failed, ")
    assert "a chunk of 250 runs crashed: ValueError: bad" in lines
    assert lines[-1] == "checking 1 distinct blame with jax.debug_nans and jax.debug_infs"
    assert "\x1b" not in "".join(lines)


def test_the_rate_does_not_count_runs_that_were_there_already(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])

    def events(watcher):
        watcher.started(10_000, 9_000)
        now[0] = 100.0
        watcher.advanced(500, 0)

    (_, line) = watched(events).splitlines()
    assert line == "9,500 of 10,000 runs, 0 failed, 5 runs/s"


def test_the_time_left_is_shown_once_the_last_group_is_compiled(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    group = SimpleNamespace(runs=range(500))

    def events(watcher):
        watcher.started(1_000, 0)
        # Seconds, group that is entered before, runs: compiling takes 60 s, a chunk of 100 10 s.
        for seconds, number, runs in ((70, 0, 100), (10, None, 400), (70, 1, 100), (10, None, 100),
                                      (10, None, 100), (10, None, 200)):  # fmt: skip
            if number is not None:
                watcher.entered(group, number, 2)
            now[0] += seconds
            watcher.advanced(runs, 0)

    lines = [line.partition(" runs/s")[2] for line in watched(events).splitlines()
             if "runs/s" in line]  # fmt: skip
    assert lines == ["", "", "", ", about 30 s left", ", about 20 s left", ""]


@pytest.mark.parametrize("searching", [True, False])
def test_a_search_or_several_studies_have_no_time_left(searching, monkeypatch):
    monkeypatch.setattr(terminal.time, "monotonic", itertools.count(step=10).__next__)

    def events(watcher):
        watcher.started(10, 0)
        if searching:
            watcher.searching(1, 2, 10, 0)
        watcher.entered(SimpleNamespace(runs=range(10)), 0, 1)
        for _ in range(5):
            watcher.advanced(1, 0)

    file = io.StringIO()
    with terminal.ProgressBar(Console(file=file), total=None if searching else 50) as watcher:
        events(watcher)
    assert "runs/s" in file.getvalue() and "left" not in file.getvalue()


def test_a_line_of_progress_is_one_line_however_narrow_the_log(monkeypatch):
    def events(watcher):
        watcher.started(10_000, 9_000)
        watcher.cross_checking(20)

    assert len(watched(events, width=40).splitlines()) == 2


def test_a_progress_bar_says_how_many_runs_are_done_and_failed():
    def events(watcher):
        watcher.started(200, 0)
        watcher.advanced(150, 20)
        watcher._bar.refresh()

    text = watched(events, is_terminal=True, width=100)
    assert "150/200" in text
    assert "20 failed" in text


def test_these_tests_leave_the_current_folder_alone(own_folder):
    assert os.listdir(own_folder) == []
