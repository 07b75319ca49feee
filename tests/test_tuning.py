"""`--tune`: every width is timed on all steps of all lanes, and what is said follows from it."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from nanlab import sweep
from nanlab.engine import tuning
from nanlab.engine.block_width import block_for
from nanlab.engine.lanes import LaneProgram, Lanes
from nanlab.engine.memory import launch_need
from nanlab.engine.tuning import Timing, suggestion, tune, widths
from nanlab.problems.build import build_problem

GRID = """
[run]
problem = "quadratic"
steps = 5

[axes]
lr = { logspace = [0.1, 1e38], num = 9 }
"""


@pytest.mark.slow
def test_every_width_takes_every_lane_through_every_step(monkeypatch):
    problem = build_problem({"problem": "quadratic"})
    took, run = [], LaneProgram.run

    def watched(self, trace, lanes, *, stop_at):
        ended = run(self, trace, lanes, stop_at=stop_at)
        took.append((self.block, np.asarray(ended.step), np.asarray(lanes.steps)))
        return ended

    monkeypatch.setattr(LaneProgram, "run", watched)
    # The second overflows in its first step, and goes on all the same.
    knobs = {name: np.array([0.1, 1e38]) for name in problem.knobs}
    lanes = Lanes(knobs, np.arange(2), np.full(2, 3, np.int32))
    timings = tune(problem, lanes, jax.devices())
    tried = widths(problem, jax.devices()[0])
    assert [each.block for each in timings] == tried == [8, 16, 32, 64, 128]
    assert block_for(problem, jax.devices()[0]) in tried
    assert all(each.steps_per_s > 0 and each.compile_s > 0 for each in timings)
    rounds = [block for block, _, _ in took]
    assert rounds[-2 * len(tried) :] == tried * 2, "they take turns"
    for _, steps, asked in took:
        assert len(steps) == 128 * len(jax.devices())
        assert (steps == asked).all()


@pytest.mark.parametrize(
    ("width", "tried"), [(8, [512, 1024, 2048, 4096, 8192]), (4096, [64, 512, 1024])]
)
def test_on_a_gpu_the_width_that_is_used_is_tried_and_none_that_is_far_from_it(width, tried):
    asked = {"problem": "training", "task": "digits", "width": width, "depth": 1, "batch_size": 16}
    assert widths(build_problem(asked), SimpleNamespace(platform="gpu")) == tried


def test_widths_that_do_not_fit_are_left_out_and_none_that_fits_is_a_sentence(
    tmp_path, monkeypatch, capsys
):
    (tmp_path / "grid.toml").write_text(GRID, encoding="utf-8")
    problem = build_problem({"problem": "quadratic"})
    lanes = 32 * len(jax.devices())
    room = launch_need(problem, at_once=lanes).launch(lanes)
    monkeypatch.setattr(tuning, "available_bytes", lambda _: room)
    monkeypatch.setattr(tuning, "block_for", lambda *_: 8)
    monkeypatch.setattr(tuning, "TARGET_S", 0.001)
    knobs = {name: np.array([0.1]) for name in problem.knobs}
    asked = Lanes(knobs, np.arange(1), np.full(1, 3, np.int32))
    assert [each.block for each in tune(problem, asked, jax.devices())] == [8, 16, 32]
    monkeypatch.setattr(tuning, "available_bytes", lambda _: 10)
    assert sweep.main(["grid.toml", "--tune"]) == sweep.WRONG
    assert "not even the smallest launch, of 16 lanes, fits" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("speeds", "words"),
    [
        ({32: 90, 64: 100, 128: 50}, "blocks of 64 lanes are used, and none is faster by 5%"),
        ({32: 104, 64: 100}, "blocks of 64 lanes are used, and none is faster by 5%"),
        ({16: 150, 64: 100}, "blocks of 64 lanes are used; 16 would be 1.50 times as fast here."),
    ],
)
def test_a_width_is_suggested_where_it_is_faster(speeds, words):
    problem = build_problem({"problem": "quadratic"})
    timings = [Timing(block=b, compile_s=1.0, steps_per_s=float(v)) for b, v in speeds.items()]
    assert suggestion(problem, jax.devices()[0], timings).startswith(words)


@pytest.mark.slow
def test_the_command_prints_a_table_and_a_suggestion_and_writes_nothing(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(tuning, "TARGET_S", 0.01)
    monkeypatch.setattr(tuning, "ROUNDS", 1)
    (tmp_path / "grid.toml").write_text(GRID)
    monkeypatch.chdir(tmp_path)
    assert sweep.main(["grid.toml", "--tune"]) == sweep.DONE
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "the largest group of 1, 9 runs"
    assert [line.split()[0] for line in said[2:7]] == ["8", "16", "32", "64", "128"]
    assert said[7].startswith("blocks of 64 lanes are used")
    assert [path.name for path in tmp_path.iterdir()] == ["grid.toml"]
