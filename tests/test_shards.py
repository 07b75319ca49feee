"""Workers that share nothing but a folder: no row is lost, none is there twice, all bytes equal."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from killing import killing
from remembered import Remembered

from nanlab import worker
from nanlab.cli.interrupt import STOPPED
from nanlab.engine import memory
from nanlab.engine.group_runner import GroupRunner
from nanlab.grid import load_grid
from nanlab.plan.plan import Group, Plan, make_plan
from nanlab.study import chunk_runner as chunks_bench
from nanlab.study import shared_folder as shards
from nanlab.study.chunks import cut
from nanlab.study.shared_folder import share
from nanlab.sweep import CRASHED, DONE, WRONG, main

TABLES = ("runs.parquet", "runs.csv", "blames.csv")

# Two groups of 60 runs, each in three chunks of 20.
GRID = """\
title = "Which learning rates overflow?"

[run]
problem = "quadratic"
steps = 150

[axes]
optimizer = ["sgd", "momentum"]
lr = { logspace = [0.1, 1e38], num = 60 }

[exec]
devices = 2
chunk_runs = 20
witnesses = 2
engine = "files"
"""
CHUNKS, RUNS = 6, 120


@pytest.fixture(autouse=True)
def compiled_once(monkeypatch):
    monkeypatch.setattr(chunks_bench, "GroupRunner", Remembered)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The folder of the same study, run by this process alone."""
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "grid.toml").write_text(GRID, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks_bench, "GroupRunner", Remembered)
        local = ["--set", 'exec.engine="local"', "--out", str(folder / "x")]
        assert main([str(folder / "grid.toml"), "--no-report", *local]) == DONE
    return folder / "x"


def sweep(*flags, text=GRID):
    Path("grid.toml").write_text(text, encoding="utf-8")
    return main(["grid.toml", "--out", "x", "--no-report", *flags])


def work(shard):
    return worker.main(["x", "--shard", shard])


def bytes_of(folder):
    return {name: Path(folder, name).read_bytes() for name in TABLES}


def chunk_bytes():
    found = sorted(Path("x/.chunks").glob("*-*.parquet"))
    return {path.name: path.read_bytes() for path in found}


# ---- from a grid to its tables ----


@pytest.mark.parametrize("many", [1, 2, 7])
def test_any_number_of_shards_makes_the_bytes_that_one_process_makes(many, undisturbed, capsys):
    assert sweep() == DONE
    said = capsys.readouterr().out
    assert said.splitlines()[0].startswith("x is prepared: 120 runs in 6 chunks.")
    assert "  python -m nanlab.worker x --shard i/n" in said.splitlines()
    assert not Path("x/runs.parquet").exists()
    held = Counter()
    for number in reversed(range(many)):
        before = set(chunk_bytes())
        assert work(f"{number}/{many}") == DONE
        held[number] = len(set(chunk_bytes()) - before)
    assert sum(held.values()) == CHUNKS
    assert max(held.values()) - min(held.values()) <= 1, "shares are even"
    empty = [line for line in capsys.readouterr().out.splitlines() if "is empty" in line]
    assert empty == ["shard 0/7 of x is empty: the study has 6 chunks"] * (many == 7)
    assert sweep() == DONE
    assert bytes_of("x") == bytes_of(undisturbed)
    left = {path.name for path in Path("x").iterdir()}
    assert left == {*TABLES, "grid.resolved.toml", "manifest.json"}
    capsys.readouterr()
    assert (sweep(), work("0/2")) == (DONE, DONE)
    said = capsys.readouterr().out
    assert "x is finished, all 120 runs" in said
    assert "x is finished: there is nothing left to run" in said


def test_what_is_missing_is_counted_and_nothing_is_written_before_all_is_there(capsys):
    assert sweep() == DONE
    assert work("1/3") == DONE
    assert "shard 1/3 of x: 40 of 40 runs are stored" in capsys.readouterr().out
    assert sweep() == CRASHED
    sentence = "x: 4 chunks with 80 runs are missing; python -m nanlab.worker runs them"
    assert capsys.readouterr().err.splitlines()[-1] == sentence
    assert not Path("x/runs.parquet").exists()


def test_a_grid_that_changes_is_prepared_anew_and_its_old_chunks_are_used(capsys):
    assert sweep() == DONE
    assert work("0/2") == DONE
    longer = GRID.replace("[exec]", '[[include]]\nlr = [3e38]\noptimizer = "adam"\n\n[exec]')
    assert sweep(text=longer) == DONE
    assert "x is prepared: 121 runs" in capsys.readouterr().out
    assert work("0/1") == DONE
    assert "60 of 121 runs are there already" in capsys.readouterr().err
    assert sweep(text=longer) == DONE
    assert pl.read_parquet("x/runs.parquet").height == 121


def test_a_finished_study_is_taken_up_by_workers_that_have_more_to_do(undisturbed, capsys):
    for flags in ((), ("--set", 'exec.engine="local"')):
        assert sweep(*flags) == DONE
    longer = GRID.replace("[exec]", "[[include]]\nlr = [3e38]\n\n[exec]")
    assert sweep(text=longer) == DONE
    capsys.readouterr()
    assert work("0/1") == DONE
    assert "120 of 121 runs are there already" in capsys.readouterr().err


def test_force_begins_anew_even_where_all_is_finished(undisturbed, capsys):
    assert (sweep(), work("0/1"), sweep()) == (DONE, DONE, DONE)
    assert sweep("--force") == DONE
    assert "x is prepared" in capsys.readouterr().out
    assert sweep() == CRASHED
    assert "6 chunks with 120 runs are missing" in capsys.readouterr().err
    assert (work("0/1"), sweep()) == (DONE, DONE)
    assert bytes_of("x") == bytes_of(undisturbed)


@given(
    sizes=st.lists(st.integers(1, 300), min_size=1, max_size=6),
    chunk_runs=st.integers(1, 120),
    many=st.integers(1, 9),
)
def test_every_run_is_in_just_one_chunk_of_just_one_shard(sizes, chunk_runs, many):
    order = np.random.default_rng(sum(sizes)).permutation(sum(sizes))
    parts = np.split(order, np.cumsum(sizes)[:-1])
    groups = [
        Group(group_id=str(n), statics={}, runs=np.sort(runs)) for n, runs in enumerate(parts)
    ]
    plan = Plan(columns={}, run_ids=np.arange(sum(sizes)).astype(str), groups=tuple(groups))
    pieces = cut(plan, np.ones(len(plan), bool), chunk_runs=chunk_runs)
    shares = [share(pieces, n, many) for n in range(many)]
    held = [run for each in shares for piece in each for run in piece.runs.tolist()]
    assert sorted(held) == list(range(len(plan)))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    # What a group costs is its compile: each is one worker's, but where a share ends within it.
    compiles = sum(len({piece.group for piece in each}) for each in shares)
    assert compiles <= len(groups) + many - 1
    for piece in pieces:
        assert set(piece.runs) <= set(plan.groups[piece.group].runs)
        assert len(piece.runs) <= piece.largest <= chunk_runs


# ---- killed ----


def killed(flushes, shard):
    command = [sys.executable, "-c", killing("nanlab.worker"), str(flushes), "x", "--shard", shard]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.parametrize(
    "flushes, kept",
    [
        # The first flush is of the word that the worker leaves of its device.
        pytest.param(3, 1, id="before its second chunk is in its place"),
        pytest.param(1, 0, marks=pytest.mark.slow, id="before it has begun"),
        pytest.param(4, 2, marks=pytest.mark.slow, id="before its third chunk is in its place"),
    ],
)
def test_a_killed_workers_chunk_is_run_again_to_the_same_hash(flushes, kept, undisturbed):
    assert sweep() == DONE
    assert work("0/2") == DONE
    expected = chunk_bytes()
    assert sweep("--force") == DONE
    killed(flushes, "0/2")
    assert len(chunk_bytes()) == kept
    assert list(Path("x/.chunks").glob("*.partial")), "it was killed as it wrote"
    assert work("0/2") == DONE
    assert chunk_bytes() == expected
    assert not list(Path("x/.chunks").glob("*.partial"))
    assert (work("1/2"), sweep()) == (DONE, DONE)
    assert bytes_of("x") == bytes_of(undisturbed)


@pytest.mark.slow
def test_workers_that_run_the_same_shard_at_once_lose_and_double_nothing(undisturbed):
    assert sweep() == DONE
    command = [sys.executable, "-m", "nanlab.worker", "x", "--shard"]
    shards = ("0/2", "0/2", "1/2", "0/1")
    workers = [subprocess.Popen([*command, shard]) for shard in shards]
    assert [each.wait(200) for each in workers] == [0, 0, 0, 0]
    assert len(chunk_bytes()) == CHUNKS
    assert sweep() == DONE
    assert bytes_of("x") == bytes_of(undisturbed)


# ---- killed by its chunk ----

# What is traced for the group "deadly" ends a worker, or holds it up; other processes it does not.
DEADLY = """\
import os, signal, time
import jax.numpy as jnp
import nanlab

def make_problem(kind="calm"):
    def init(knobs, key):
        if kind == "deadly" and os.environ.get("DEADLY") == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "deadly" and os.environ.get("DEADLY") == "sleep":
            time.sleep(100)
        return jnp.float32(1.0)

    def step(x, knobs, key):
        x = x * knobs["by"].astype(x.dtype)
        return x, nanlab.Metrics(loss=x)

    return nanlab.Problem(init=init, step=step, knobs={"by": 1.0})
"""
DEADLY_GRID = """\
[run]
problem = "deadly.py:make_problem"
steps = 20

[axes]
static.kind = ["calm", "deadly", "quiet"]
knobs.by = [0.5, 0.9, 1e30]

[exec]
engine = "files"
witnesses = 0
"""


def prepare_a_deadly_study():
    Path("deadly.py").write_text(DEADLY, encoding="utf-8")
    assert sweep(text=DEADLY_GRID) == DONE


def deadly_worker(how):
    return subprocess.Popen(
        [sys.executable, "-m", "nanlab.worker", "x", "--shard", "0/1"],
        env=os.environ | {"DEADLY": how}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.slow
def test_a_chunk_that_kills_its_worker_three_times_has_crashed_and_the_rest_goes_on(capsys):
    prepare_a_deadly_study()
    ends = list[int]()
    while not ends or ends[-1] == -signal.SIGKILL:
        running = deadly_worker("kill")
        out, err = running.communicate(timeout=200)
        ends.append(running.returncode)
        assert len(ends) < 9, err
    assert ends == [-signal.SIGKILL] * 3 + [CRASHED]
    assert "a chunk of 3 runs crashed: its worker died 3 times in a row" in err
    assert "shard 0/1 of x: 6 of 9 runs are stored" in out
    assert sweep(text=DEADLY_GRID) == CRASHED
    runs = pl.read_parquet("x/runs.parquet")
    assert runs.filter(outcome="crashed")["static.kind"].to_list() == ["deadly"] * 3
    assert len(runs) == 9
    assert "exec.chunk_runs smaller" in Path("x/crashes.log").read_text()


def test_a_worker_that_is_told_to_end_ends_at_once_and_its_chunk_did_not_kill_it():
    prepare_a_deadly_study()
    running, until = deadly_worker("sleep"), time.monotonic() + 100
    while len(chunk_bytes()) < 1 or not notes():
        assert time.monotonic() < until and running.poll() is None
        time.sleep(0.05)
    running.terminate()
    _, err = running.communicate(timeout=20)
    assert running.returncode == STOPPED, err
    assert "the same command resumes from there" in err
    assert notes() == []


def notes():
    return sorted(path.name for path in Path("x/.chunks").glob("begun-*"))


def stopped(*, by_force=False):
    """A worker that ends in its first chunk; by force: leaving what SIGKILL leaves."""

    def run(self, lanes, *, curves):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Remembered, "run", run)
        if by_force:
            patch.setattr(shards, "discount_attempts", lambda: None)
        assert work("0/2") == STOPPED
    shards._MARKERS.clear()


def test_a_try_counts_where_the_worker_died_and_what_kills_is_left_to_a_person(undisturbed, capsys):
    assert sweep() == DONE
    for _ in range(5):
        stopped()
    assert notes() == []
    for number in range(3):
        stopped(by_force=True)
        assert len(notes()) == number + 1
    stopped_at = {name.split("-")[1] for name in notes()}
    capsys.readouterr()
    assert work("0/2") == CRASHED
    said = capsys.readouterr()
    assert "a chunk of 20 runs crashed: its worker died 3 times" in said.err
    assert "shard 0/2 of x: 40 of 60 runs are stored" in said.out
    (crash,) = Path("x/.chunks").glob("crash-*.json")
    assert notes() == [] and stopped_at == {crash.stem.split("-")[1]}
    # Another start would die of it again: it is told, and not run.
    assert work("0/2") == CRASHED
    assert f"To retry, delete {crash} or" in capsys.readouterr().err
    assert (work("1/2"), sweep()) == (DONE, CRASHED)
    assert pl.read_parquet("x/runs.parquet").filter(outcome="crashed").height == 20
    crash.unlink()
    assert (work("0/2"), sweep()) == (DONE, DONE)
    assert bytes_of("x") == bytes_of(undisturbed)


def test_tries_before_one_that_ends_well_are_forgotten():
    assert sweep() == DONE
    stopped(by_force=True)
    stopped(by_force=True)
    assert work("0/2") == DONE
    assert notes() == []


# ---- crashed, too large ----


def test_a_chunk_that_raises_is_recorded_the_rest_goes_on_and_it_is_tried_again(
    undisturbed, monkeypatch, capsys
):
    calls = []

    def run(self, lanes, *, curves):
        calls.append(len(lanes.seed))
        if len(calls) == 2:
            raise RuntimeError("the second launch\nwent wrong")
        return GroupRunner.run(self, lanes, curves=curves)

    assert sweep() == DONE
    with monkeypatch.context() as patch:
        patch.setattr(Remembered, "run", run)
        assert work("0/2") == CRASHED
    said = capsys.readouterr()
    assert "a chunk of 20 runs crashed: RuntimeError: the second launch" in said.err
    assert "shard 0/2 of x: 40 of 60 runs are stored" in said.out
    assert calls == [20, 20, 20]
    assert sweep() == CRASHED
    assert "3 chunks with 60 runs are missing" in capsys.readouterr().err, "one of them crashed"
    assert work("1/2") == DONE
    assert sweep() == CRASHED
    assert "20 runs crashed, see x/crashes.log" in capsys.readouterr().err
    runs = pl.read_parquet("x/runs.parquet")
    # The first three chunks are the shard's, of 20 runs each.
    assert np.flatnonzero(runs["outcome"] == "crashed").tolist() == list(range(20, 40))
    assert "went wrong" in Path("x/crashes.log").read_text()

    assert work("0/2") == DONE
    assert "40 of 60 runs are there already" in capsys.readouterr().err
    assert sweep() == DONE
    assert bytes_of("x") == bytes_of(undisturbed)
    assert not Path("x/crashes.log").exists()


def test_a_launch_that_does_not_fit_is_a_sentence_that_says_what_does(monkeypatch, capsys):
    # A chunk of 280 runs is a launch of 384 lanes; there is room for some 300, hence for 256.
    large = GRID.replace("num = 60", "num = 280").replace("chunk_runs = 20", "chunk_runs = 1000")
    monkeypatch.setattr(chunks_bench, "launch_need", lambda *_, **__: memory.Need(1024, 2048))
    monkeypatch.setattr(chunks_bench, "available_bytes", lambda device: 2048 + 300 * 1024)
    assert sweep(text=large) == DONE
    assert work("0/1") == WRONG
    said = capsys.readouterr().err
    assert "x: a launch of 384 lanes needs about 386.0 KiB, and 302.0 KiB are free" in said
    assert "--set exec.chunk_runs=256" in said
    assert said.strip().endswith(
        "python -m nanlab.sweep takes that flag, and prepares the study again"
    )
    assert sweep("--set", "exec.chunk_runs=256", text=large) == DONE
    assert (work("0/1"), sweep("--set", "exec.chunk_runs=256", text=large)) == (DONE, DONE)


# ---- several kinds of devices ----


@pytest.fixture
def computed_with(monkeypatch):
    """Makes this process seem another machine: what it says of itself is changed."""
    real = chunks_bench.environment

    def changed(**said):
        monkeypatch.setattr(
            chunks_bench, "environment", lambda devices: real(devices) | {"threads": 2} | said
        )

    return changed


def test_another_kind_of_device_is_refused_and_the_first_one_goes_on(computed_with, capsys):
    computed_with(processor="Abacus 1")
    assert (sweep(), work("0/2")) == (DONE, DONE)
    before = chunk_bytes()
    computed_with(processor="Abacus 2")
    assert work("1/2") == WRONG
    told = capsys.readouterr().err.splitlines()[-1]
    computed_with(processor="Abacus 1", threads=8)
    assert work("1/2") == WRONG and "has Abacus 1 (8 threads)" in capsys.readouterr().err
    assert told == (
        "x: this study is computed on Abacus 1 (2 threads), and this machine has Abacus 2 "
        "(2 threads), which may round differently; exec.mixed_devices = true allows both, and "
        "adds a column `device` to the table of runs"
    )
    assert chunk_bytes() == before
    computed_with(processor="Abacus 1")
    assert (work("1/2"), sweep()) == (DONE, DONE)
    assert "device" not in pl.read_parquet("x/runs.parquet").columns


def test_a_last_sweep_on_another_kind_says_so_and_not_that_chunks_are_missing(
    computed_with, capsys
):
    computed_with(processor="Abacus 1")
    assert (sweep(), work("0/1")) == (DONE, DONE)
    computed_with(processor="Abacus 2")
    assert sweep() == WRONG
    said = capsys.readouterr().err
    assert said.splitlines()[-1].startswith(
        "grid.toml: this study is computed on Abacus 1 (2 threads), and this machine has Abacus 2"
    )
    assert "missing" not in said
    computed_with(processor="Abacus 1")
    assert sweep() == DONE
    assert "device" not in pl.read_parquet("x/runs.parquet").columns


def test_chunks_that_are_missing_are_told_on_any_kind_that_is_allowed(computed_with, capsys):
    computed_with(processor="Abacus 1")
    assert (sweep(text=MIXED), work("0/2")) == (DONE, DONE)
    computed_with(processor="Abacus 2")
    assert sweep(text=MIXED) == CRASHED
    assert "3 chunks with 60 runs are missing" in capsys.readouterr().err


MIXED = GRID.replace("[exec]", "[exec]\nmixed_devices = true")


def test_kinds_of_devices_that_are_allowed_are_recorded_row_by_row(
    computed_with, undisturbed, capsys
):
    computed_with(processor="Abacus 1")
    assert (sweep(text=MIXED), work("0/2")) == (DONE, DONE)
    computed_with(platform="gpu", device_kind="Slide Rule", threads=None, block_bytes=None)
    assert (work("1/2"), sweep(text=MIXED)) == (DONE, DONE)
    runs = pl.read_parquet("x/runs.parquet")
    kinds = ["Abacus 1 (2 threads)"] * 60 + ["Slide Rule"] * 60
    assert runs["device"].to_list() == kinds
    # Both are this processor, so all else is as one process makes it.
    expected = pl.read_parquet(undisturbed / "runs.parquet")
    assert runs.drop("device").equals(expected)
    manifest = json.loads(Path("x/manifest.json").read_text())
    told = {each["device_kind"] for each in manifest["environments"].values()}
    assert len(manifest["environments"]) == 2 and "Slide Rule" in told

    # Either of them takes the tables for its own, and reuses each row as what it is.
    computed_with(processor="Abacus 1")
    capsys.readouterr()
    assert sweep(text=MIXED) == DONE
    assert "x is finished, all 120 runs" in capsys.readouterr().out
    longer = MIXED.replace("[exec]", "[[include]]\nlr = [3e38]\n\n[exec]")
    assert (sweep(text=longer), work("0/1"), sweep(text=longer)) == (DONE, DONE, DONE)
    assert "120 of 121 runs are there already" in capsys.readouterr().err
    again = pl.read_parquet("x/runs.parquet")
    assert again["device"].to_list() == [*kinds, "Abacus 1 (2 threads)"]


def test_rows_of_another_kind_are_not_taken_once_they_are_no_longer_allowed(computed_with, capsys):
    computed_with(processor="Abacus 1")
    assert (sweep(text=MIXED), work("0/2")) == (DONE, DONE)
    computed_with(processor="Abacus 2")
    assert (work("1/2"), sweep(text=MIXED)) == (DONE, DONE)
    assert sweep() == DONE
    capsys.readouterr()
    assert work("0/1") == DONE
    assert "60 of 120 runs are there already" in capsys.readouterr().err
    assert sweep() == DONE
    assert "device" not in pl.read_parquet("x/runs.parquet").columns


def test_other_software_is_refused_whatever_is_allowed(computed_with, capsys):
    computed_with(jaxlib="0.0.1")
    assert (sweep(text=MIXED), work("0/2")) == (DONE, DONE)
    computed_with(jaxlib="0.0.2")
    assert work("1/2") == WRONG
    assert capsys.readouterr().err.splitlines()[-1] == (
        "x: this machine's software differs from that of the study's first machine: jaxlib is "
        '"0.0.2" here and "0.0.1" there. Install the same versions on both, or start over with '
        "--force"
    )


# ---- asked wrongly ----


@pytest.mark.parametrize("shard", ["8/8", "3", "-1/2", "a/b", "1/", "1/0"])
def test_a_shard_that_is_none_is_a_sentence_and_2(shard, capsys):
    assert sweep() == DONE
    assert worker.main(["x", f"--shard={shard}"]) == WRONG
    sentence = f"--shard {shard}: must be i/n with i from 0 to n - 1, such as 0/8"
    assert capsys.readouterr().err.strip() == sentence


def test_a_folder_in_which_nothing_is_prepared_is_a_sentence_and_2(capsys):
    os.mkdir("x")
    assert work("0/2") == WRONG
    assert capsys.readouterr().err.strip() == (
        'x holds no prepared study: python -m nanlab.sweep prepares one, with exec.engine = "files"'
    )


def test_a_workers_plan_is_the_studys(undisturbed):
    assert sweep() == DONE
    there = make_plan(load_grid("x/.chunks/grid.resolved.toml"))
    assert (
        there.run_ids.tolist() == pl.read_parquet(undisturbed / "runs.parquet")["run_id"].to_list()
    )
