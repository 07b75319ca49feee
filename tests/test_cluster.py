"""A real Ray cluster of two workers: what dies is run again, to the bytes of one process."""

import functools
import json
import os
import pickle
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import polars as pl
import pytest
from remembered import Remembered

from nanlab.grid import Exec, load_grid
from nanlab.plan.plan import make_plan
from nanlab.results.store import Store, is_intact
from nanlab.study import chunk_runner
from nanlab.study import ray_cluster as cluster
from nanlab.study import ray_worker as cluster_task
from nanlab.study.chunks import Crash, Done
from nanlab.study.ray_worker import Job
from nanlab.sweep import CRASHED, DONE, WRONG, main

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'nanlab[ray]'")

TABLES = ("runs.parquet", "runs.csv", "blames.csv")

# Gradient descent on x^2 / 2. In a worker, and there alone, it does what the file `act` says.
OWN = """
import os, pathlib, signal
import jax.numpy as jnp
import nanlab

def make_problem(order: int = 1, size: int = 1) -> nanlab.Problem:
    act = pathlib.Path("act")
    if act.is_file():
        what, driver, when = act.read_text().split()
        if os.getpid() != int(driver) and order == int(when):
            if what == "die-once":
                act.unlink()
            if what.startswith("die"):
                os.kill(os.getpid(), signal.SIGKILL)
            raise RuntimeError("this order went wrong")

    def init(knobs, key):
        return jnp.ones((size,), jnp.float32)

    def step(x, knobs, key):
        after = x - knobs["lr"].astype(jnp.float32) * x
        return after, nanlab.Metrics(0.5 * (x * x)[0])

    return nanlab.Problem(init=init, step=step, knobs={"lr": 0.1})
"""
# Two groups of 60 runs, each in three chunks of 20.
GRID = """\
[run]
problem = "own.py:make_problem"
steps = 150

[axes]
static.order = [1, 2]
knobs.lr = { logspace = [0.1, 1e38], num = 60 }

[exec]
chunk_runs = 20
witnesses = 2
engine = "ray"
"""


@pytest.fixture(scope="module")
def two_workers():
    """A cluster of two cores, hence of two workers; its address."""
    folder = tempfile.mkdtemp(prefix="ray")  # sockets' names may not be long
    with warnings.catch_warnings():
        # Sockets and files that Ray itself leaves to the garbage collector, and its forks.
        warnings.simplefilter("ignore")
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        # Without this, Ray keeps a token of its own in the home folder.
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
        context = ray.init(
            num_cpus=2, include_dashboard=False, log_to_driver=False, _temp_dir=folder,
            _node_ip_address="127.0.0.1", object_store_memory=100 * 2**20,
        )  # fmt: skip
        yield context.address_info["gcs_address"]
        ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


class Here:
    """Stands for Ray: each task runs in this process, when it is waited for."""

    exceptions = ray.exceptions

    def cluster_resources(self):
        return {"CPU": 2.0}

    def remote(self, **_):
        task = functools.partial
        return lambda function: SimpleNamespace(remote=task(task, function))

    def wait(self, tasks, num_returns):
        return tasks[:num_returns], tasks[num_returns:]

    def get(self, task):
        function, *arguments = pickle.loads(pickle.dumps((task.func, *task.args)))
        return pickle.loads(pickle.dumps(function(*arguments)))

    def cancel(self, task, force):
        pass


@pytest.fixture(params=["here", pytest.param("cluster", marks=pytest.mark.slow)])
def workers(request, monkeypatch):
    """Ray with two workers: one that stands for it, or a cluster."""
    if request.param == "cluster":
        request.getfixturevalue("two_workers")
    else:
        monkeypatch.setattr(cluster, "_ray", lambda: (Here(), False))
        monkeypatch.setattr(cluster_task, "lab_devices", lambda count: jax.devices()[:count])
        monkeypatch.setattr(cluster_task, "_RUNNERS", {})
        monkeypatch.setattr(chunk_runner, "GroupRunner", Remembered)


@pytest.fixture(autouse=True)
def own_code(own_folder):
    (own_folder / "own.py").write_text(OWN, encoding="utf-8")
    (own_folder / "grid.toml").write_text(GRID, encoding="utf-8")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """What this process alone makes of the study."""
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "own.py").write_text(OWN, encoding="utf-8")
    (folder / "grid.toml").write_text(GRID, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(chunk_runner, "GroupRunner", Remembered)
        assert (
            main(["grid.toml", "--out", "x", "--no-report", "--set", 'exec.engine="local"']) == DONE
        )
    return bytes_of(folder / "x")


def act(what, *, order=2):
    Path("act").write_text(f"{what} {os.getpid()} {order}")


def sweep(*flags, out="x"):
    return main(["grid.toml", "--out", out, "--no-report", *flags])


def bytes_of(folder):
    return {name: Path(folder, name).read_bytes() for name in TABLES}


def test_a_cluster_makes_the_bytes_of_one_process_and_carries_names_and_hashes_alone(
    workers, monkeypatch, undisturbed
):
    arrived, arrives = [], cluster.RayExecutor._arrives

    def watching(engine, done):
        arrived.append((done, is_intact(engine._store.chunks / done.name)))
        return arrives(engine, done)

    monkeypatch.setattr(cluster.RayExecutor, "_arrives", watching)
    assert sweep() == DONE
    assert bytes_of("x") == undisturbed
    assert [done.runs for done, _ in arrived] == [20] * 6
    for done, is_whole in arrived:
        assert type(done) is Done and is_whole
        assert all(isinstance(each, int | float | str) for each in done)
    left = {path.name for path in Path("x").iterdir()}
    assert left == {*TABLES, "grid.resolved.toml", "manifest.json"}
    assert json.loads(Path("x/manifest.json").read_text())["environment"]["devices"] == 1


@pytest.mark.slow
def test_one_cluster_runs_sweeps_with_different_numbers_of_devices(two_workers):
    for devices in (1, 2, 1):
        out = f"on{devices}"
        assert sweep("--force", "--set", f"exec.devices={devices}", out=out) == DONE
        manifest = json.loads(Path(out, "manifest.json").read_text())
        assert manifest["environment"]["devices"] == devices


@pytest.mark.slow
def test_a_killed_workers_chunk_is_run_again_to_the_same_bytes(two_workers, undisturbed, capsys):
    act("die-once")
    assert sweep() == DONE
    assert not Path("act").exists(), "a worker has killed itself"
    assert "crashed" not in capsys.readouterr().err
    assert bytes_of("x") == undisturbed


@pytest.mark.slow
def test_a_chunk_that_raises_is_recorded_and_the_rest_goes_on(two_workers, undisturbed, capsys):
    act("raise")
    assert sweep() == CRASHED
    said = capsys.readouterr().err
    assert re.search(r"^a chunk of 20 runs crashed: .*this order went wrong", said, re.MULTILINE)
    assert "60 runs crashed, see x/crashes.log" in said
    runs = pl.read_parquet("x/runs.parquet")
    assert set(runs.filter(pl.col("static.order") == 2)["outcome"]) == {"crashed"}
    assert "crashed" not in set(runs.filter(pl.col("static.order") == 1)["outcome"])
    Path("act").unlink()
    assert sweep() == DONE
    assert "60 of 120 runs are there already" in capsys.readouterr().err
    assert bytes_of("x") == undisturbed


@pytest.mark.slow
def test_a_chunk_whose_workers_keep_dying_is_recorded_as_crashed(two_workers, capsys):
    act("die")
    assert sweep("--axes.knobs.lr.num", "2") == CRASHED
    said = capsys.readouterr().err
    assert "a chunk of 2 runs crashed: a worker died: WorkerCrashedError" in said
    assert "most likely its machine ran out of memory: make the model smaller, or" in said
    runs = pl.read_parquet("x/runs.parquet")
    assert (runs["outcome"] == "crashed").to_list() == [False, False, True, True]


# The driver is killed as the second of its chunks comes in.
KILLED = """
import os, signal, sys
from nanlab.study import chunk_runner
from nanlab.study import ray_cluster as cluster
from nanlab.sweep import main
arrives, left = cluster.RayExecutor._arrives, [2]
def dying(engine, done):
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return arrives(engine, done)
cluster.RayExecutor._arrives = dying
main(sys.argv[1:])
"""


@pytest.mark.slow
def test_a_killed_driver_goes_on_when_it_is_started_again(two_workers, undisturbed, capsys):
    done = subprocess.run(
        [sys.executable, "-c", KILLED, "grid.toml", "--out", "x"],
        env=os.environ | {"RAY_ADDRESS": two_workers}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not Path("x/runs.parquet").exists()
    kept = len(list(Path("x/.chunks").glob("*-*.parquet")))
    assert 2 <= kept <= 6
    capsys.readouterr()
    assert sweep() == DONE
    # Its last tasks may have been written while it died.
    assert " of 120 runs are there already" in capsys.readouterr().err
    assert bytes_of("x") == undisturbed


def test_a_launch_that_does_not_fit_says_what_does(workers, capsys):
    # 2^34 numbers in float32 are 64 GiB a lane; nothing of that size is ever made.
    assert sweep("--set", "run.static.size=17179869184") == WRONG
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("grid.toml: a launch of 24 lanes needs about ")
    assert "not even the smallest launch, of 8 lanes, fits" in said
    assert not Path("x/runs.parquet").exists()


@pytest.mark.slow
def test_workers_of_another_kind_are_refused_unless_they_are_allowed(
    two_workers, undisturbed, monkeypatch, capsys
):
    # The first worker says that it is another processor; those that follow are what they are.
    there = cluster_task.environment_there
    monkeypatch.setattr(cluster, "environment_there", lambda j: there(j) | {"processor": "Abacus"})
    assert sweep() == WRONG
    assert "this study is computed on Abacus (" in capsys.readouterr().err
    assert not Path("x/runs.parquet").exists()
    assert sweep("--set", "exec.mixed_devices=true") == DONE
    runs = pl.read_parquet("x/runs.parquet")
    (device,) = set(runs["device"])
    assert device is not None and not device.startswith("Abacus")
    assert runs.drop("device").write_csv() == undisturbed["runs.csv"].decode()


def test_more_devices_than_the_cluster_has_are_a_sentence_and_2(workers, capsys):
    assert sweep("--set", "exec.devices=3") == WRONG
    assert capsys.readouterr().err.splitlines()[-1] == (
        "exec.devices = 3: each worker needs this many, and the Ray cluster has 2 of kind CPU"
    )


def test_without_ray_a_sentence_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert sweep() == WRONG
    assert capsys.readouterr().err.splitlines()[-1] == (
        'exec.engine = "ray" needs Ray, which is not installed: pip install "nanlab[ray]"'
    )


# ---- memory that a machine has not: Ray's words for it, without a cluster ----

OUT_OF_MEMORY = ray.exceptions.OutOfMemoryError("1 worker was killed due to the node running low")


class Ended:
    """What stands for Ray where every task ends in `error`; counts those that were begun."""

    exceptions = ray.exceptions

    def __init__(self, error):
        self.error, self.begun = error, 0

    def remote(self, **_):
        return lambda function: SimpleNamespace(remote=self._begin)

    def _begin(self, *_):
        self.begun += 1
        return self.begun

    def wait(self, refs, num_returns):
        return refs[:num_returns], refs[num_returns:]

    def get(self, ref):
        raise self.error

    def cancel(self, ref, force):
        pass


def ending(error, *, chunk_runs, devices=1):
    """Ray, and an engine on it, with a chunk of as many runs of the first group's 60."""
    text = GRID.replace("own.py:make_problem", "quadratic").replace("knobs.lr", "lr")
    Path("grid.toml").write_text(text.replace("static.order", "seed"))
    plan = make_plan(load_grid(Path("grid.toml")))
    there = Ended(error)
    job = Job("x", ".", (), devices=devices, curves=False, mixed=False, study_id="", first={})
    engine = cluster.RayExecutor(
        there, job, Store(Path("x"), "0"), {"num_cpus": devices}, 1, is_own=False
    )
    piece, *_ = engine.cut(plan, np.ones(len(plan), bool), chunk_runs)
    return there, engine, plan, piece


@pytest.mark.parametrize(
    "chunk_runs, devices, way_out",
    [
        (20, 1, "set exec.chunk_runs to 8 or less (--set exec.chunk_runs=8), or give a worker"),
        (60, 1, "set exec.chunk_runs to 32 or less (--set exec.chunk_runs=32), or give a worker"),
        (60, 2, "set exec.chunk_runs to 32 or less (--set exec.chunk_runs=32), or give a worker"),
        (8, 1, "make the model smaller, or give a worker"),
        (20, 2, "set exec.chunk_runs to 16 or less (--set exec.chunk_runs=16), or give a worker"),
    ],
)
def test_a_worker_that_ray_ends_for_memory_is_a_sentence_with_a_size(chunk_runs, devices, way_out):
    there, engine, plan, piece = ending(OUT_OF_MEMORY, chunk_runs=chunk_runs, devices=devices)
    with pytest.raises(MemoryError) as raised:
        list(engine.run(plan, [piece], lambda _: None))
    assert str(raised.value) == (
        f"a worker ran out of its machine's memory, and Ray killed it; {way_out} more of its "
        f"machine (--set exec.devices={2 * devices})"
    )
    assert there.begun == 1, "as it ended once, it would again"


def test_a_worker_that_the_system_kills_again_and_again_is_likely_too_large():
    killed = ray.exceptions.WorkerCrashedError()
    there, engine, plan, piece = ending(killed, chunk_runs=20)
    (crash,) = engine.run(plan, [piece], lambda _: None)
    assert isinstance(crash, Crash) and there.begun == cluster.MAX_RETRIES
    assert crash.error.startswith("a worker died: WorkerCrashedError: ")
    assert crash.error.endswith(
        "; most likely its machine ran out of memory: set exec.chunk_runs to 8 or less "
        "(--set exec.chunk_runs=8), or give a worker more of its machine (--set exec.devices=2)"
    )


def test_a_task_that_is_lost_in_another_way_says_nothing_of_memory():
    lost = ray.exceptions.NodeDiedError("the node is gone")
    _, engine, plan, piece = ending(lost, chunk_runs=20)
    (crash,) = engine.run(plan, [piece], lambda _: None)
    assert isinstance(crash, Crash)
    assert crash.error == "a worker died: NodeDiedError: the node is gone"


def test_a_cluster_on_which_nothing_can_begin_says_that_it_was_tried(monkeypatch):
    there = Ended(ray.exceptions.WorkerCrashedError())
    there.cluster_resources = lambda: {"CPU": 2.0}
    monkeypatch.setattr(cluster, "_ray", lambda: (there, False))
    with pytest.raises(cluster.ClusterError, match=r"^3 times in a row, a worker died: "):
        cluster.ray_executor(Path("x"), set(), Exec())
    assert there.begun == 3
