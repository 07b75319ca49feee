"""Live lanes are packed on their way, which no run notices."""

import jax
import numpy as np
import pytest
from counted import counted_problem

from nanlab.engine.group_runner import GroupRunner
from nanlab.engine.lanes import NEVER, Lanes
from nanlab.engine.placement import packed, packing_steps, slots_of
from nanlab.problems import build as problems

STATICS = {"problem": "training", "task": "digits", "depth": 2, "width": 8, "activation": "relu",
           "loss": "mse", "optimizer": "sgd", "precision": "float32", "batch_size": 8}  # fmt: skip
RUNS, STEPS = 512, 40


@pytest.mark.parametrize("draw", range(5))
@pytest.mark.parametrize("devices", [1, 2])
def test_live_lanes_fill_the_fewest_blocks_and_no_place_is_taken_twice(draw, devices):
    rng = np.random.default_rng(draw)
    launch = {"block": 8, "devices": devices, "lanes": 16 * 8}
    places = rng.permutation(launch["lanes"])[:100]
    live = rng.random(100) < 0.4
    moved = packed(places, live, **launch)
    assert np.array_equal(np.sort(moved), np.sort(slots_of(100, **launch)))
    filled = np.zeros(launch["lanes"], bool)
    filled[moved[live]] = True
    blocks = filled.reshape(devices, -1, 8).any(axis=2).sum(axis=1)
    assert blocks.max() == -(-live.sum() // (8 * devices))


def test_lanes_stay_where_no_device_would_have_a_block_less():
    launch = {"block": 8, "devices": 2, "lanes": 32}
    places = slots_of(32, **launch)
    assert packed(places, np.ones(32, bool), **launch) is None
    assert packed(places, np.zeros(32, bool), **launch) is None
    one_block_each = {**launch, "lanes": 16}
    places = slots_of(16, **one_block_each)
    assert packed(places, np.arange(16) % 2 == 0, **one_block_each) is None


def test_short_runs_are_not_interrupted():
    assert packing_steps(np.array([8, 31])) == []
    assert packing_steps(np.array([8, 100])) == [12, 50]


def worker_of(problem):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(problems.PROBLEMS, "by hand", lambda statics: problem)
        return GroupRunner({"problem": "by hand"}, runs=256, devices=jax.devices()[:1])


def test_lanes_that_go_on_leave_those_that_failed(monkeypatch):
    problem, calls = counted_problem()
    worker = worker_of(problem)
    factors = np.tile([1e10, 1.0], 128)
    asked = Lanes({"factor": factors}, np.arange(256), np.full(256, 40, np.int32))

    def steps_taken():
        calls.clear()
        ended = worker.run(asked).endings
        jax.effects_barrier()
        assert np.array_equal(ended.fault_step, np.where(factors > 1, 3, NEVER))
        return calls["steps"]

    worker.run(asked._replace(steps=np.full(256, 4, np.int32)))  # compiles
    ours = steps_taken()
    monkeypatch.setattr("nanlab.engine.group_runner.packed", lambda *_, **__: None)
    # Four blocks take 40 steps; or 5, of which two go on for 35.
    assert packing_steps(np.array([40]))[0] == 5
    assert steps_taken() - ours == 64 * (4 * 40 - (4 * 5 + 2 * 35))


@pytest.mark.slow
@pytest.mark.parametrize("curves", [False, True])
def test_every_run_is_the_same_with_and_without(curves, monkeypatch):
    worker = GroupRunner(STATICS, runs=RUNS)
    rng = np.random.default_rng(0)
    count = len(jax.devices()) * RUNS // 2
    knobs = {name: np.ones(count) for name in worker.problem.knobs}
    knobs["lr"] = rng.permutation(np.geomspace(1e-3, 1e4, count))
    steps = rng.integers(STEPS // 2, STEPS, count).astype(np.int32)
    lanes = Lanes(knobs, rng.integers(0, 99, count), steps)
    moves = []

    def watched(*arguments, **launch):
        moves.append(packed(*arguments, **launch))
        return moves[-1]

    monkeypatch.setattr("nanlab.engine.group_runner.packed", watched)
    ours = worker.run(lanes, curves=curves)
    assert any(move is not None for move in moves)
    monkeypatch.setattr("nanlab.engine.group_runner.packed", lambda *_, **__: None)
    plain = worker.run(lanes, curves=curves)
    assert 0.2 < np.mean(ours.endings.fault_step != NEVER) < 0.8
    for mine, theirs in zip(jax.tree.leaves(told(ours)), jax.tree.leaves(told(plain)), strict=True):
        assert np.asarray(mine).tobytes() == np.asarray(theirs).tobytes()
    assert ours.attributions == plain.attributions


def told(outcome):
    """All that came of a chunk, but for its blames."""
    frozen = [(each.rows, each.state, each.step) for each in (outcome.at_fault, outcome.at_nan)]
    return outcome.endings, frozen, [tuple(seen) for seen in outcome.observations]
