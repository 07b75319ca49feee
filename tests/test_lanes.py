"""Lanes: whose bits depend on nothing but themselves, and which freeze at a fault and only then."""

from collections import Counter
from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from counted import counted_problem
from sampled import sampled

from nanlab.backend import keys
from nanlab.backend.finiteness import FINITE, INF, NAN
from nanlab.backend.keys import init_key, step_key
from nanlab.engine import outcomes as faults
from nanlab.engine.block_width import block_for, launch_runs
from nanlab.engine.group_runner import GroupRunner
from nanlab.engine.lanes import NEVER, LaneProgram, Lanes
from nanlab.engine.placement import spread, take_rows
from nanlab.grid.outcome import Outcome
from nanlab.grid.parameters import PARAMETERS
from nanlab.problems import build as problems
from nanlab.problems.problem import Metrics, Problem
from nanlab.problems.training import make_training

TINY = {
    "problem": "training",
    "task": "digits",
    "standardize": True,
    "model": "mlp",
    "depth": 1,
    "width": 8,
    "activation": "relu",
    "initializer": "lecun_normal",
    "loss": "mse",
    "optimizer": "adam",
    "precision": "float32",
    "batch_size": 16,
}
STEPS, LANES = 40, 256
# Some of these train, some overflow at once, some after a while.
LRS = [1e-3, 1e-1, 10.0, 1e3, 1e8, 1e15, 1e19, 1e25, 1e30, 1e38]
INF_, NAN_ = np.inf, np.nan


def lanes_of(problem, steps, seeds=None, **knobs):
    """Lanes that differ in these knobs and are otherwise as a grid has them by default."""
    count = max(np.size(values) for values in (*knobs.values(), seeds or [0]))
    parameter = {name: PARAMETERS[name].default for name in problem.knobs if name in PARAMETERS}
    asked = {name: knobs.get(name, parameter.get(name, 1.0)) for name in problem.knobs}
    full = {name: np.full(count, value, np.float64) for name, value in asked.items()}
    seed = np.arange(count) if seeds is None else np.array(seeds)
    return Lanes(full, seed.astype(np.int64), np.full(count, steps, np.int32))


def one(tree, row):
    """One lane of every leaf."""
    return jax.tree.map(lambda leaf: np.asarray(leaf)[row], tree)


def plain_knobs(problem):
    """One lane's knobs as the engine hands them to a problem, all at their defaults."""
    return {name: jnp.float64(value[0]) for name, value in lanes_of(problem, 1).knobs.items()}


def bits(tree, rows):
    """Every array of a trace at these rows, to the byte."""
    return [np.asarray(leaf)[rows].tobytes() for leaf in jax.tree.leaves(tree)]


@pytest.fixture(scope="module")
def tiny():
    """A tiny training, compiled for two devices."""
    return LaneProgram(make_training(TINY))


@pytest.fixture(scope="module")
def lanes(tiny):
    return lanes_of(tiny.problem, STEPS, lr=LRS)


def run(program, lanes, places, *, stop_at=INF, total=LANES):
    """Run lanes in these places of a launch; what came of each, as bytes, and the trace."""
    placed = spread(lanes, np.asarray(places), total)
    trace = program.run(program.start(placed), placed, stop_at=stop_at)
    return trace, [bits(trace, place) for place in places]


@pytest.fixture(scope="module")
def alone(tiny, lanes):
    """What comes of each lane alone in a padded launch, at its first place."""
    each = [run(tiny, take_rows(lanes, np.array([i])), [0])[1] for i in range(len(LRS))]
    return [found for (found,) in each]


def test_the_lanes_of_these_tests_do_fail_and_do_train(tiny, lanes):
    trace, _ = run(tiny, lanes, range(len(LRS)))
    failed = np.asarray(trace.stop_step)[: len(LRS)] != NEVER
    assert failed.any() and not failed.all()


def test_a_lane_alone_is_the_same_as_among_others(tiny, lanes, alone):
    # Among them are lanes that hold an inf or a NaN in the end.
    assert run(tiny, lanes, range(len(LRS)))[1] == alone
    assert run(tiny, lanes, range(len(LRS)), stop_at=NAN)[1] != alone


@pytest.mark.parametrize("draw", range(4))
def test_a_lane_is_the_same_in_any_place_of_any_block_of_any_device(tiny, lanes, alone, draw):
    places = np.random.default_rng(draw).permutation(LANES)[: len(LRS)]
    assert run(tiny, lanes, places)[1] == alone


@pytest.mark.parametrize("lr", [1e-3, 1e19])
def test_a_lane_is_the_same_beside_a_nan(tiny, alone, lr):
    # With stop_at=NAN + 1 nothing freezes: the neighbors go on as NaN.
    row = LRS.index(lr)
    lanes = lanes_of(tiny.problem, STEPS, lr=[lr, *[1e38] * 63])
    lanes.seed[0] = row
    trace, (beside, *_) = run(tiny, lanes, range(64), stop_at=NAN + 1)
    weights = jax.tree.leaves(trace.state.params)[0]
    assert np.isnan(np.asarray(weights)[1:64]).any(axis=tuple(range(1, weights.ndim))).all()
    alone_too = run(tiny, take_rows(lanes, np.array([0])), [0], stop_at=NAN + 1)[1]
    assert [beside] == alone_too
    if np.isfinite(np.asarray(weights)[0]).all():
        assert beside == alone[row]


@pytest.mark.slow
def test_the_lanes_of_a_wide_network_share_narrow_blocks_and_are_the_same_in_any_place():
    wide = TINY | {"width": 64, "optimizer": "sgd"}
    several, single = (LaneProgram(make_training(wide), jax.devices()[:n]) for n in (2, 1))
    # 64 * 64 + 64 + 64 * 10 + 10 weights of 4 bytes: 27 of them fit 512 KiB.
    assert (several.block, single.block) == (16, 16)
    lanes = lanes_of(several.problem, STEPS, lr=LRS)
    _, first = run(several, lanes, range(len(LRS)), total=64)
    places = np.random.default_rng(0).permutation(64)[: len(LRS)]
    assert run(several, lanes, places, total=64)[1] == first
    assert run(single, lanes, places, total=64)[1] == first


@pytest.mark.parametrize(
    ("width", "optimizer", "block"),
    [(8, "sgd", 64), (8, "adam", 64), (64, "adam", 8), (256, "sgd", 8), (64, "sgd", 16)],
)
def test_a_blocks_width_follows_from_the_states_size(width, optimizer, block):
    problem = make_training(TINY | {"width": width, "optimizer": optimizer})
    assert block_for(problem, jax.devices()[0]) == block


@pytest.mark.parametrize(("batch", "block"), [(16, 64), (128, 16), ("full", 8)])
def test_a_blocks_width_follows_from_the_steps_arrays_too(batch, block):
    # The batch is the largest: 64 inputs of 4 bytes for each example.
    problem = make_training(TINY | {"optimizer": "sgd", "batch_size": batch})
    assert block_for(problem, jax.devices()[0]) == block


@pytest.mark.parametrize(
    ("width", "batch", "block"), [(8, 16, 4096), (256, 16, 1024), (256, 1024, 128), (4096, 16, 64)]
)
def test_a_gpus_blocks_are_as_wide_as_fit_128_mib(width, batch, block):
    # (64 + 1 + 10) * width + 10 weights of 4 bytes; a batch has 64 inputs or `width` outputs each.
    problem = make_training(TINY | {"width": width, "optimizer": "sgd", "batch_size": batch})
    assert block_for(problem, SimpleNamespace(platform="gpu")) == block


@pytest.mark.parametrize(
    ("platform", "many", "runs"),
    [("cpu", 1, 1024), ("cpu", 64, 4096), ("gpu", 1, 4096), ("gpu", 8, 32768), ("tpu", 4, 4096)],
)
def test_a_launch_keeps_every_device_at_work(platform, many, runs):
    assert launch_runs([SimpleNamespace(platform=platform)] * many) == runs


def test_a_launch_has_whole_blocks_on_each_device_and_no_more():
    problem = {"problem": "training", "task": "digits"} | TINY | {"width": 64, "optimizer": "sgd"}
    lanes = [GroupRunner(problem, runs=runs).lanes for runs in (1, 32, 33)]
    assert lanes == [32, 32, 64]


@pytest.mark.slow
def test_a_lane_is_the_same_on_one_device(lanes, alone):
    program = LaneProgram(make_training(TINY), jax.devices()[:1])
    assert len(jax.devices()) == 2
    assert run(program, lanes, range(len(LRS)))[1] == alone


@pytest.mark.parametrize("first", [0, 1, 17, STEPS])
def test_a_lane_stopped_early_and_resumed_is_the_same(tiny, lanes, alone, first):
    places = np.arange(len(LRS))
    placed = spread(lanes, places, LANES)
    early = placed._replace(steps=np.minimum(placed.steps, first).astype(np.int32))
    trace = tiny.run(tiny.start(placed), early, stop_at=INF)
    trace = tiny.run(trace, placed, stop_at=INF)
    assert [bits(trace, place) for place in places] == alone


def test_nothing_is_compiled_again_for_other_knobs_seeds_steps_or_aims(tiny, lanes):
    others = lanes_of(tiny.problem, 3, seeds=[11, 12], lr=[0.5, 2.0], init_scale=[3.0, 4.0])
    run(tiny, lanes, range(len(LRS)))
    run(tiny, others, [3, 200], stop_at=NAN)
    assert tiny.n_traces == Counter(_start_block=1, _run_block=1)


def test_a_second_shape_is_refused_because_it_would_be_a_second_compile(tiny, lanes):
    with pytest.raises(TypeError, match="Argument types differ"):
        run(tiny, lanes, range(len(LRS)), total=2 * LANES)


# ---- freezing ------------------------------------------------------------------------------------


def is_faulty(step, state, knobs, key):
    """Whether one plain jitted step makes an output that is not finite."""
    state, loss = step(state, knobs, key)
    return any(not np.isfinite(np.asarray(x)).all() for x in (loss, *jax.tree.leaves(state)))


def test_a_frozen_lane_holds_the_state_before_the_step_that_fails(tiny, lanes):
    places = np.arange(len(LRS))
    trace, _ = run(tiny, lanes, places)
    stop = np.asarray(trace.stop_step)[places]
    failed = np.flatnonzero(stop > 0)
    assert len(failed)
    assert (np.asarray(trace.step)[failed] == stop[failed]).all()

    @jax.jit
    def step(state, knobs, key):
        state, metrics = tiny.problem.step(state, knobs, key)
        return state, metrics.loss

    before = lanes._replace(steps=np.maximum(stop, 0))
    earlier = lanes._replace(steps=np.maximum(stop - 1, 0))
    states = {late: run(tiny, each, places)[0].state for late, each in ((0, before), (1, earlier))}
    for row in failed:
        key = step_key(jnp.int64(lanes.seed[row]))
        frozen, knobs = one(trace.state, row), one(lanes.knobs, row)
        # A run that was asked for just so many steps ends there, bit for bit.
        assert bits(trace.state, row) == bits(states[0], row)
        assert is_faulty(step, frozen, knobs, keys.for_step(key, int(stop[row])))
        one_earlier = one(states[1], row)
        assert not is_faulty(step, one_earlier, knobs, keys.for_step(key, int(stop[row]) - 1))


@pytest.fixture
def counted():
    return counted_problem()


# factors of two lanes -> the step where each stops, steps that their block executes of 100.
BLOCKS = {
    "all fail": ([10.0, 100.0], [38, 19], 39),
    "one does not": ([10.0, 1.0], [38, NEVER], 100),
    "none does": ([1.0, 1.0], [NEVER, NEVER], 100),
}


@pytest.mark.parametrize(
    ("factors", "stops", "executed"), sampled(BLOCKS.values(), 3, first=1), ids=BLOCKS
)
def test_a_block_is_left_when_all_its_lanes_have_failed(counted, factors, stops, executed):
    program = LaneProgram(counted.problem, jax.devices()[:1])
    lanes = lanes_of(counted.problem, 100, factor=factors)
    trace, _ = run(program, lanes, [0, 1], total=64)
    jax.effects_barrier()
    assert counted.calls["steps"] == 64 * executed
    assert np.asarray(trace.stop_step)[:2].tolist() == stops


def test_blocks_are_left_one_by_one(counted):
    program = LaneProgram(counted.problem, jax.devices()[:1])
    lanes = lanes_of(counted.problem, 100, factor=[10.0, 1.0, 1e30])
    run(program, lanes, [0, 64, 128], total=192)
    jax.effects_barrier()
    assert counted.calls["steps"] == 64 * (39 + 100 + 2)


# ---- what is a fault -----------------------------------------------------------------------------


class Scripted(NamedTuple):
    step: jax.Array
    x: jax.Array


SCRIPT = [[f"loss{t}" for t in range(4)], [f"x{t}" for t in range(4)]]


def scripted():
    """A run whose step t has the loss `loss<t>` and leaves x = `x<t>`, all knobs."""

    def init(knobs, key):
        return Scripted(jnp.int32(0), jnp.float32(0.0))

    def step(state, knobs, key):
        losses, states = (jnp.stack([knobs[name] for name in names]) for names in SCRIPT)
        loss = losses[state.step].astype(jnp.float32)
        x = states[state.step].astype(jnp.float32)
        return Scripted(state.step + 1, x), Metrics(loss, grad_norm=losses[state.step])

    return Problem(init=init, step=step, knobs=(*SCRIPT[0], *SCRIPT[1]))


class Ending(NamedTuple):
    fault: int
    nan: int
    outcome: str


HEALTHY = Ending(NEVER, NEVER, "stalled")


def run_all(problem, steps=4, **knobs):
    """How the runs of a problem end, and all that is known of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(problems.PROBLEMS, "by hand", lambda statics: problem)
        worker = GroupRunner({"problem": "by hand"}, devices=jax.devices()[:1])
    outcome = worker.run(lanes_of(problem, steps, **knobs))
    ends = outcome.endings
    words = faults.outcomes(
        ends,
        baseline_losses=None,
        trained_margin=np.full(len(ends.fault_step), 0.05),
        diverged_factor=np.full(len(ends.fault_step), 10.0),
    )
    each = zip(ends.fault_step.tolist(), ends.nan_step.tolist(), words.tolist(), strict=True)
    return [Ending(*how) for how in each], outcome


def ended(problem, steps=4, **knobs):
    """How the only run of a problem ends."""
    (ending,), outcome = run_all(problem, steps, **knobs)
    return ending, outcome


# what happens -> losses, x after each step, how the run ends.
SCRIPTS = {
    "nothing": ([4, 4, 4, 4], [0, 0, 0, 0], HEALTHY),
    "it learns": ([4, 3, 2, 1], [0, 0, 0, 0], Ending(NEVER, NEVER, "trained")),
    "the loss is inf once": ([4, INF_, 4, 1], [0, 0, 0, 0], Ending(1, NEVER, "recovered")),
    "the loss is inf to the end": ([4, 4, INF_, INF_], [0] * 4, Ending(2, NEVER, "inf")),
    "the loss is -inf at the end": ([4, 4, 4, -INF_], [0] * 4, Ending(3, NEVER, "inf")),
    "the loss is NaN once": ([4, NAN_, 4, 1], [0, 0, 0, 0], Ending(1, 1, "nan")),
    "the first loss is NaN": ([NAN_, 4, 4, 1], [0, 0, 0, 0], Ending(0, 0, "nan")),
    "the loss is inf, then NaN": ([4, INF_, 3, NAN_], [0, 0, 0, 0], Ending(1, 3, "nan")),
    "x is inf once": ([4, 4, 4, 4], [0, INF_, 0, 0], Ending(1, NEVER, "recovered")),
    "x is inf to the end": ([4, 4, 4, 4], [0, 0, 0, INF_], Ending(3, NEVER, "inf")),
    "x is inf, then NaN": ([4, 4, 4, 4], [INF_, INF_, NAN_, 0], Ending(0, 2, "nan")),
    "x is NaN at once": ([4, 4, 4, 4], [0, 0, NAN_, 0], Ending(2, 2, "nan")),
    "loss and x fail together": ([4, INF_, 4, 4], [0, NAN_, 0, 0], Ending(1, 1, "nan")),
    "two infs, then well": ([4, INF_, 4, 4], [INF_, 0, 0, 0], Ending(0, NEVER, "recovered")),
}
# what happens -> first, best and final loss, steps whose gradient is not finite.
SUMMARIES = {
    "nothing": (4, 4, 4, 0),
    "it learns": (4, 1, 1, 0),
    "the loss is inf once": (4, 1, 1, 1),
    "the loss is inf to the end": (4, 4, 4, 2),
    "the loss is NaN once": (4, 4, 4, 1),
    "the first loss is NaN": (NAN_, NAN_, NAN_, 1),
    "the loss is inf, then NaN": (4, 3, 3, 2),
    "two infs, then well": (4, 4, 4, 1),
}


@pytest.fixture(scope="module")
def scripts():
    """Every script, side by side in one block: name -> its ending, its row; and what came of it."""
    table = np.array([[*losses, *states] for losses, states, _ in SCRIPTS.values()], np.float64)
    problem = scripted()
    endings, outcome = run_all(problem, **dict(zip(problem.knobs, table.T, strict=True)))
    return {
        name: (ending, row) for row, (name, ending) in enumerate(zip(SCRIPTS, endings, strict=True))
    }, outcome


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_run_ends_as_its_losses_and_states_say(scripts, name):
    (ending, row), outcome = scripts[0][name], scripts[1]
    wanted = SCRIPTS[name][-1]
    assert ending == wanted
    # Every fault has an origin, every NaN a culprit, and nothing else has either.
    blame = outcome.attributions.get(row)
    assert (blame is not None) == (wanted.fault != NEVER)
    if blame is not None:
        assert blame.origin.mechanism == "input"
        assert (blame.culprit is not None) == (wanted.nan != NEVER)
        assert blame.status == "reproduced"


@pytest.mark.parametrize("name", SUMMARIES)
def test_losses_are_summed_up_over_the_finite_ones_and_each_step_is_counted_once(scripts, name):
    (_, row), ends = scripts[0][name], scripts[1].endings
    losses = [ends.initial_loss[row], ends.best_loss[row], ends.final_loss[row]]
    *wanted, bad_steps = SUMMARIES[name]
    assert np.array_equal(losses, wanted, equal_nan=True)
    assert ends.nonfinite_gradient_steps[row] == bad_steps


def test_other_metrics_that_are_not_finite_make_no_fault():
    def step(x, knobs, key):
        # A norm whose squares overflow, an accuracy of an empty batch: x and its loss are well.
        norm = jnp.sqrt(jnp.sum(jnp.square(jnp.full(3, 1e30, jnp.float32)) * x))
        return x, Metrics(x, norm.astype(jnp.float64), jnp.float32(0.0) / (x - 1))

    problem = Problem(init=lambda knobs, key: jnp.float32(1), step=step, knobs=())
    got, outcome = ended(problem)
    assert got == HEALTHY
    assert outcome.endings.nonfinite_gradient_steps == 4
    assert np.isnan(outcome.endings.grad_norm_max)


class Guarded(NamedTuple):
    step: jax.Array
    x: jax.Array
    opt_state: optax.OptState


def with_a_bad_gradient(optimizer, bad):
    """Descent on x^2 / 2 whose gradient is `bad` at step 2, with a finite loss."""

    def init(knobs, key):
        x = jnp.float32(1.0)
        return Guarded(jnp.int32(0), x, optimizer.init(x))

    def step(state, knobs, key):
        gradient = jnp.where(state.step == 2, jnp.float32(bad), state.x)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.x)
        x = optax.apply_updates(state.x, updates)
        loss = 0.5 * state.x * state.x
        norm = jnp.abs(gradient).astype(jnp.float64)
        return Guarded(state.step + 1, x, opt_state), Metrics(loss, norm)

    return Problem(init=init, step=step, knobs=())


# the gradient at step 2 -> how the run ends without a guard.
BAD_GRADIENTS = {"inf": (INF_, Ending(2, 3, "nan")), "nan": (NAN_, Ending(2, 2, "nan"))}


@pytest.mark.parametrize(
    ("bad", "unguarded"), sampled(BAD_GRADIENTS.values(), 2), ids=BAD_GRADIENTS
)
def test_a_step_that_is_skipped_because_it_is_not_finite_is_no_fault(bad, unguarded):
    plain = optax.sgd(0.1)
    guarded = optax.apply_if_finite(plain, max_consecutive_errors=3)
    got, outcome = ended(with_a_bad_gradient(guarded, bad))
    assert got == Ending(NEVER, NEVER, "trained")
    assert outcome.endings.nonfinite_gradient_steps == 1
    # The same without the guard.
    got, _ = ended(with_a_bad_gradient(plain, bad))
    assert got == unguarded


class Scaled(NamedTuple):
    x: jax.Array
    scale: jax.Array
    skipped: jax.Array


def with_loss_scaling(*, is_dynamic):
    """Descent in float16 whose loss is multiplied by a growing scale before it is differentiated.

    A dynamic scale is halved, and the step skipped, when the scaled gradient is not finite.
    """

    def init(knobs, key):
        return Scaled(jnp.float16(3.0), jnp.float16(1024.0), jnp.int32(0))

    def step(state, knobs, key):
        scaled = jax.grad(lambda x: x * x * state.scale)(state.x)
        unscaled = scaled / state.scale
        well = jnp.isfinite(scaled) if is_dynamic else jnp.bool_(True)
        x = jnp.where(well, state.x - jnp.float16(1e-3) * unscaled, state.x)
        scale = jnp.where(well, state.scale * 2, state.scale / 2)
        loss = state.x * state.x
        norm = jnp.abs(scaled).astype(jnp.float64)
        return Scaled(x, scale, state.skipped + ~well), Metrics(loss, norm)

    return Problem(init=init, step=step, knobs=())


def test_a_scaled_loss_may_overflow_if_its_step_is_skipped():
    got, outcome = ended(with_loss_scaling(is_dynamic=True), steps=30)
    assert (got.fault, got.nan) == (NEVER, NEVER)
    assert outcome.endings.nonfinite_gradient_steps >= 3
    # The same scale with nobody to mind it.
    got, outcome = ended(with_loss_scaling(is_dynamic=False), steps=30)
    assert got.outcome in ("nan", "inf")
    assert outcome.attributions[0].origin.mechanism == "overflow"


class Holding(NamedTuple):
    x: jax.Array
    held: jax.Array


def holding(start, then):
    """A healthy number, and beside it a leaf that holds `start(knobs)`, then `then(held)`."""

    def init(knobs, key):
        return Holding(jnp.float32(1.0), start(knobs))

    def step(state, knobs, key):
        return Holding(state.x, then(state.held, state.x)), Metrics(state.x)

    return Problem(init=init, step=step, knobs=("start",))


def best_so_far(held, loss):
    return jnp.minimum(held, loss)


def as_it_is(held, loss):
    return held


def doubled(held, loss):
    return held * 2


def less_itself(held, loss):
    return held - held


def written_inf(knobs):
    return jnp.float32(jnp.inf)


def written_nan(knobs):
    return jnp.float32(jnp.nan)


def from_knob(knobs):
    return knobs["start"].astype(jnp.float32)


# what a leaf holds at first and later, the knob -> how the run ends.
LEAVES = {
    "the best loss so far is inf at first": (written_inf, best_so_far, 0.0, HEALTHY),
    "an inf that is meant stays": (written_inf, as_it_is, 0.0, HEALTHY),
    "an inf that is meant becomes a NaN": (written_inf, less_itself, 0.0, Ending(0, 0, "nan")),
    "a NaN is never meant": (written_nan, as_it_is, 0.0, Ending(-1, -1, "nan")),
    "a knob overflows": (from_knob, as_it_is, 1e39, Ending(-1, NEVER, "inf")),
    "a knob overflows, then all is well": (
        from_knob, best_so_far, 1e39, Ending(-1, NEVER, "recovered"),
    ),
    "a knob overflows and becomes a NaN": (from_knob, less_itself, 1e39, Ending(-1, 0, "nan")),
    "a knob that fits": (from_knob, as_it_is, 1e38, HEALTHY),
    "a leaf that was finite grows to inf": (from_knob, doubled, 1e38, Ending(1, NEVER, "inf")),
}  # fmt: skip


@pytest.mark.parametrize(
    ("start", "then", "knob", "wanted"), sampled(LEAVES.values(), 2), ids=LEAVES
)
def test_an_inf_in_the_state_is_a_fault_unless_it_was_written_there_on_purpose(
    start, then, knob, wanted
):
    got, outcome = ended(holding(start, then), start=knob)
    assert got == wanted
    if wanted.fault == -1:
        assert outcome.attributions[0].origin.phase == "init"


def test_which_infs_are_meant_does_not_depend_on_the_knobs_of_other_lanes():
    endings, _ = run_all(holding(from_knob, as_it_is), start=[1.0, 1e39, 2.0])
    assert [ending.fault for ending in endings] == [NEVER, -1, NEVER]


# ---- outcomes ------------------------------------------------------------------------------------

# fault, NaN, bad at end, first loss, final loss, baseline -> outcome; margin 0.05, factor 10.
OUTCOMES = [
    (NEVER, NEVER, False, 2.0, 0.9, 1.0, "trained"),
    (NEVER, NEVER, False, 2.0, 0.95, 1.0, "stalled"),
    (NEVER, NEVER, False, 2.0, 19.9, 1.0, "stalled"),
    (NEVER, NEVER, False, 2.0, 20.1, 1.0, "diverged"),
    # A run that began above the factor times its end is trained, not diverged.
    (NEVER, NEVER, False, 0.01, 0.9, 1.0, "trained"),
    # Without a baseline, its own first loss takes its place.
    (NEVER, NEVER, False, 2.0, 1.89, None, "trained"),
    (NEVER, NEVER, False, 2.0, 1.91, None, "stalled"),
    (7, NEVER, True, 2.0, 0.1, 1.0, "inf"),
    (7, NEVER, False, 2.0, 0.1, 1.0, "recovered"),
    (-1, NEVER, False, np.nan, np.nan, 1.0, "recovered"),
    (7, 9, True, 2.0, 0.1, 1.0, "nan"),
    (-1, -1, True, np.nan, np.nan, 1.0, "nan"),
    (7, 7, True, np.inf, np.nan, None, "nan"),
]


@pytest.mark.parametrize(
    ("fault", "nan", "bad_at_end", "initial", "final", "baseline", "wanted"), OUTCOMES
)
def test_an_outcome_is_one_word(fault, nan, bad_at_end, initial, final, baseline, wanted):
    nothing = np.full(1, np.nan)
    endings = faults.Endings(
        fault_step=np.array([fault]),
        nan_step=np.array([nan]),
        bad_at_end=np.array([bad_at_end]),
        initial_loss=np.array([initial]),
        best_loss=nothing,
        final_loss=np.array([final]),
        final_accuracy=nothing,
        grad_norm_max=nothing,
        nonfinite_gradient_steps=np.zeros(1, np.int64),
    )
    (word,) = faults.outcomes(
        endings,
        baseline_losses=None if baseline is None else np.array([baseline]),
        trained_margin=np.array([0.05]),
        diverged_factor=np.array([10.0]),
    )
    assert word == wanted
    assert word in list(Outcome)


# ---- addressed randomness ------------------------------------------------------------------------


class Drawn(NamedTuple):
    first: jax.Array
    drawn: jax.Array
    step: jax.Array


def test_what_a_step_draws_depends_on_seed_and_step_and_on_nothing_else():
    def init(knobs, key):
        first = jax.random.normal(keys.for_purpose(key, "parameters"))
        return Drawn(first, jnp.zeros(5, jnp.uint32), jnp.int32(0))

    def step(state, knobs, key):
        bits = jax.random.bits(keys.for_purpose(key, "batch"), dtype=jnp.uint32)
        drawn = state.drawn.at[state.step].set(bits)
        return Drawn(state.first, drawn, state.step + 1), Metrics(knobs["lr"])

    program = LaneProgram(Problem(init=init, step=step, knobs=("lr",)))
    lanes = lanes_of(program.problem, 5, seeds=[3, 3, 8, 3], lr=[1.0, 2.0, 1.0, 3.0])
    lanes.steps[3] = 2
    trace, _ = run(program, lanes, [0, 70, 5, 200])
    first, drawn = np.asarray(trace.state.first), np.asarray(trace.state.drawn)
    assert first[0] == first[70] == first[200] != first[5]
    assert drawn[0].tolist() == drawn[70].tolist()
    assert drawn[0, :2].tolist() == drawn[200, :2].tolist()
    assert not set(drawn[0]) & set(drawn[5])
    assert len(set(drawn[0])) == 5
    # Another machine, JAX or default generator must draw the same: threefry is pinned.
    with jax.default_prng_impl("rbg"):
        key = keys.for_purpose(keys.for_step(step_key(jnp.int64(3)), 0), "batch")
        assert jax.random.bits(key, dtype=jnp.uint32) == drawn[0, 0]
    assert drawn[0, 0] == 224255630


@pytest.mark.parametrize(
    ("name", "value"),
    sampled(
        [("activation", "tanh"), ("loss", "softmax_cross_entropy"), ("width", 4),
         ("optimizer", "sgd")], 4, first=2,
    ),
)  # fmt: skip
def test_two_trainings_that_differ_in_a_factor_share_batches_and_base_draws(name, value):
    base = make_training(TINY)
    key = keys.for_step(step_key(jnp.int64(5)), 7)
    knobs = plain_knobs(base)
    state, batch = jax.jit(base.init)(knobs, key), jax.jit(base.batch)
    inputs, targets = batch(state, knobs, key)
    other_inputs, other_targets = jax.jit(make_training({**TINY, name: value}).batch)(
        state, knobs, key
    )
    assert (other_inputs == inputs).all() and (other_targets == targets).all()
    assert (batch(state, {**knobs, "lr": jnp.float64(9)}, key)[0] == inputs).all()
    scaled, _ = batch(state, {**knobs, "input_scale": jnp.float64(255)}, key)
    assert (scaled == inputs * np.float32(255)).all()
    assert not (batch(state, knobs, keys.for_step(key, 1))[0] == inputs).all()


@pytest.mark.parametrize("precision", sampled(["float32", "float64", "bfloat16", "float16"], 3))
def test_init_scale_multiplies_draws_that_every_precision_shares(precision):
    key = init_key(jnp.int64(2))
    knobs = plain_knobs(make_training(TINY))

    def kernels(problem, **more):
        params = problem.init({**knobs, **more}, key).params["params"]
        return [np.asarray(layer["kernel"], np.float64) for layer in params.values()]

    problem = make_training({**TINY, "precision": precision})
    plain, wide = kernels(problem), kernels(problem, init_scale=jnp.float64(4))
    dtype = jnp.dtype(precision)
    for kernel, wider, draw in zip(plain, wide, kernels(make_training(TINY)), strict=True):
        assert (wider == 4 * kernel).all()
        assert (kernel == draw.astype(dtype).astype(np.float64)).all()


def test_codes_order_from_finite_to_nan():
    # `stop_at` compares them.
    assert FINITE < INF < NAN
