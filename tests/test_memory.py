"""Group -> bytes: what a launch is said to need, against what its arrays do take."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from nanlab.engine.memory import Need, available_bytes, in_words, launch_need
from nanlab.grid import load_grid
from nanlab.plan.plan import make_plan
from nanlab.problems.build import PROBLEMS


def problem_of(text, folder):
    (folder / "grid.toml").write_text(text, encoding="utf-8")
    (group,) = make_plan(load_grid(folder / "grid.toml")).groups
    return PROBLEMS[str(group.statics["problem"])](group.statics)


MLP = '[run]\ntask = "breast_cancer"\ndepth = 1\nwidth = {width}\n[axes]\nlr = [0.1]\n'


@pytest.mark.parametrize("width", [4, 64])
def test_a_lanes_state_is_counted_six_times_to_the_byte(width, tmp_path):
    need = launch_need(problem_of(MLP.format(width=width), tmp_path), at_once=64)
    # Breast cancer has 30 features and 2 classes; float32.
    weights = 30 * width + width + width * 2 + 2
    assert need.each_lane == 6 * 4 * weights


def test_an_optimizer_that_remembers_needs_more_and_half_precision_less(tmp_path):
    def bytes_of(more):
        text = MLP.format(width=64).replace("depth", f"{more}\ndepth")
        return launch_need(problem_of(text, tmp_path), at_once=64).each_lane

    plain = bytes_of("")
    assert bytes_of('precision = "float64"') == 2 * plain
    assert bytes_of('precision = "bfloat16"') == plain / 2
    # Adam keeps two moments of each weight, and its count of steps.
    assert 3 * plain < bytes_of('optimizer = "adam"') < 3 * plain + 200


def test_the_fixed_part_grows_with_the_blocks_that_run_at_once(tmp_path):
    problem = problem_of(MLP.format(width=16), tmp_path)
    one, two = (launch_need(problem, at_once=lanes).fixed for lanes in (64, 128))
    data = 2 * one - two
    assert 0 <= data < one, "the data set is held once"


@pytest.mark.slow
def test_the_estimate_is_large_enough_and_of_the_right_order(tmp_path):
    problem = problem_of(MLP.format(width=64), tmp_path)
    need = launch_need(problem, at_once=64)
    knobs = {name: np.ones(64) for name in problem.knobs}
    keys = jax.random.split(jax.random.key(0, impl="threefry2x32"), 64)
    states = jax.vmap(problem.init)(knobs, keys)
    step = jax.jit(jax.vmap(problem.step))
    sizes = step.lower(states, knobs, keys).compile().memory_analysis()
    compiled = sizes.temp_size_in_bytes + sizes.argument_size_in_bytes + sizes.output_size_in_bytes
    assert compiled <= need.launch(64) < 20 * compiled


MEASURED = """
import json, resource, sys
from pathlib import Path
from nanlab.backend.config import configure_lab
configure_lab(2)
from nanlab.engine.group_runner import GroupRunner
from nanlab.engine.memory import launch_need
from nanlab.engine.placement import lanes_of
from nanlab.grid import load_grid
from nanlab.plan.plan import make_plan

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

plan = make_plan(load_grid(Path("grid.toml")))
(group,) = plan.groups
worker = GroupRunner(group.statics, runs=len(plan))
need = launch_need(worker.problem, at_once=worker.smallest).launch(worker.lanes)
before = peak()
failed = len(worker.run(lanes_of(plan, worker.problem, group.runs)).attributions)
print(json.dumps({"need": need, "took": peak() - before, "failed": failed}))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in other units elsewhere")
@pytest.mark.parametrize("rates, failed", [("1e30, 1e38", 64), ("1e-4, 1e-2", 0)])
def test_a_launch_takes_what_is_said_at_most_when_all_of_it_fails_too(rates, failed, tmp_path):
    text = f"""
    [run]
    task = "digits"
    depth = 2
    width = 1024
    steps = 3
    [axes]
    lr = {{ logspace = [{rates}], num = 64 }}
    """
    (tmp_path / "grid.toml").write_text(text, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", MEASURED], capture_output=True, text=True, check=True
    )
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["failed"] == failed
    assert told["took"] <= told["need"] < 4 * told["took"]


@pytest.mark.parametrize("free", [None, 1_000 + 512 * 10, 10**12])
def test_a_launch_that_fits_is_let_through(free):
    Need(10, 1_000).check(512, free, smallest=128)


@pytest.mark.parametrize(
    "free, way_out",
    [
        (1_000 + 511 * 10, "set exec.chunk_runs to 384 or less (--set exec.chunk_runs=384)"),
        (1_000 + 384 * 10, "set exec.chunk_runs to 384 or less (--set exec.chunk_runs=384)"),
        (1_000 + 128 * 10, "set exec.chunk_runs to 128 or less (--set exec.chunk_runs=128)"),
        (1_000 + 127 * 10, "not even the smallest launch, of 128 lanes, fits"),
        (10, "not even the smallest launch, of 128 lanes, fits"),
    ],
)
def test_a_launch_that_does_not_fit_is_told_what_does(free, way_out):
    need = Need(10, 1_000)
    with pytest.raises(MemoryError) as raised:
        need.check(512, free, smallest=128)
    assert str(raised.value).startswith("a launch of 512 lanes needs about 6.0 KiB, and ")
    assert way_out in str(raised.value)


@pytest.mark.parametrize(
    "count, words",
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (1024**2, "1.0 MiB"),
        (3.2 * 1024**3, "3.2 GiB"),
        (5000 * 1024**3, "5000.0 GiB"),
    ],
)
def test_bytes_are_written_as_a_person_reads_them(count, words):
    assert in_words(count) == words


def test_the_free_memory_is_what_the_system_says():
    told = Path("/proc/meminfo").read_text(encoding="ascii")
    lines = dict(line.split(":", 1) for line in told.splitlines())
    total = int(lines["MemTotal"].split()[0]) * 1024
    assert 0 < available_bytes(jax.devices()) <= total


def test_where_proc_is_not_there_the_free_memory_is_guessed_or_unknown(monkeypatch):
    def nothing(*_, **__):
        raise FileNotFoundError

    monkeypatch.setattr("builtins.open", nothing)
    free = available_bytes(jax.devices())
    assert free is None or free > 0


class Accelerator:
    platform = "gpu"

    def __init__(self, stats):
        self._stats = stats

    def memory_stats(self):
        return self._stats


@pytest.mark.parametrize(
    "stats, free",
    [
        ({"bytes_limit": 1000, "bytes_in_use": 300}, 700),
        ({"bytes_limit": 1000}, 1000),
        ({}, None),
        (None, None),
    ],
)
def test_an_accelerator_is_asked_for_its_own_memory(stats, free):
    # The tests' type checks, where they are on, would ask for a device of JAX's own class.
    unchecked = getattr(available_bytes, "__wrapped__", available_bytes)
    assert unchecked([Accelerator(stats)]) == free
    several = [Accelerator({"bytes_limit": 5000}), Accelerator(stats), Accelerator(stats)]
    assert unchecked(several) == (None if free is None else 3 * free)
