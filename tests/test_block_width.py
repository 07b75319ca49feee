"""The benchmark of block widths times every width on all steps of all lanes."""

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from nanlab.engine.block_width import block_for
from nanlab.engine.lanes import LaneProgram, Lanes
from nanlab.engine.memory import launch_need
from nanlab.problems.build import build_problem


@pytest.fixture(scope="module")
def benchmark():
    path = Path(__file__).resolve().parents[1] / "benchmarks" / "block_width.py"
    spec = importlib.util.spec_from_file_location("benchmark_of_block_width", path)
    sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_every_width_takes_every_lane_through_every_step(monkeypatch, benchmark):
    problem = build_problem({"problem": "quadratic"})
    launches, run = [], LaneProgram.run

    def watched(self, trace, lanes, *, stop_at):
        ended = run(self, trace, lanes, stop_at=stop_at)
        launches.append((self.block, np.asarray(ended.step), np.asarray(lanes.steps)))
        return ended

    monkeypatch.setattr(LaneProgram, "run", watched)
    # The second overflows in its first step, and goes on all the same.
    knobs = {name: np.array([0.1, 1e38]) for name in problem.knobs}
    lanes = Lanes(knobs, np.arange(2), np.full(2, 3, np.int32))
    timings = benchmark.timed(problem, lanes, jax.devices(), rounds=3, target_s=0.1)
    tried = benchmark.widths(problem, jax.devices()[0])
    assert [each.block for each in timings] == tried == [8, 16, 32, 64, 128]
    assert block_for(problem, jax.devices()[0]) in tried
    assert all(each.steps_per_s > 0 and each.compile_s > 0 for each in timings)
    blocks = [block for block, _, _ in launches]
    assert blocks[-2 * len(tried) :] == tried * 2, "they take turns"
    for _, steps, requested in launches:
        assert len(steps) == 128 * len(jax.devices())
        assert (steps == requested).all()


@pytest.mark.parametrize(
    ("width", "tried"), [(8, [512, 1024, 2048, 4096, 8192]), (4096, [64, 512, 1024])]
)
def test_on_a_gpu_the_width_in_use_is_tried_and_none_that_is_far_from_it(width, tried, benchmark):
    statics = {"problem": "training", "task": "digits", "width": width, "depth": 1,
               "batch_size": 16}  # fmt: skip
    assert benchmark.widths(build_problem(statics), SimpleNamespace(platform="gpu")) == tried


def test_widths_that_do_not_fit_are_left_out_and_none_that_fits_is_a_sentence(
    monkeypatch, benchmark
):
    problem = build_problem({"problem": "quadratic"})
    lanes = 32 * len(jax.devices())
    room = launch_need(problem, at_once=lanes).launch(lanes)
    monkeypatch.setattr(benchmark, "available_bytes", lambda _: room)
    monkeypatch.setattr(benchmark, "block_for", lambda *_: 8)
    assert benchmark.fitting(problem, jax.devices()) == [8, 16, 32]
    monkeypatch.setattr(benchmark, "available_bytes", lambda _: 10)
    with pytest.raises(MemoryError, match="not even the smallest launch, of 16 lanes, fits"):
        benchmark.fitting(problem, jax.devices())


@pytest.mark.parametrize(
    ("speeds", "words"),
    [
        ({32: 90, 64: 100, 128: 50}, "blocks of 64 lanes are used, and none is faster by 5%"),
        ({32: 104, 64: 100}, "blocks of 64 lanes are used, and none is faster by 5%"),
        ({16: 150, 64: 100}, "blocks of 64 lanes are used; 16 would be 1.50 times as fast here"),
    ],
)
def test_a_width_is_suggested_where_it_is_faster(speeds, words, benchmark):
    timings = [
        benchmark.Timing(block=b, compile_s=1.0, steps_per_s=float(v)) for b, v in speeds.items()
    ]
    assert benchmark.suggestion(64, timings) == words
