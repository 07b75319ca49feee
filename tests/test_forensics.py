"""Failed trainings on real data: every one is attributed, as JAX's own checks say too."""

import contextlib
import io
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from corpus import op_by_op

from nanlab.backend import keys
from nanlab.backend.keys import step_key
from nanlab.engine.group_runner import GroupRunner
from nanlab.engine.lanes import NEVER, Lanes
from nanlab.grid.parameters import PARAMETERS

STATICS = {
    "problem": "training", "task": "digits", "standardize": True, "model": "mlp", "depth": 1,
    "width": 12, "initializer": "he_normal", "optimizer": "sgd", "precision": "float32",
    "batch_size": 16,
}  # fmt: skip
GROUPS = [
    (loss, activation)
    for loss in ("mse", "softmax_cross_entropy", "softmax_cross_entropy_naive")
    for activation in ("relu", "tanh")
]
LRS = [1e-2, 1.0, 30.0, 1e4, 1e12, 1e25]
SCALES = [0.5, 2.0, 1e2, 1e6, 1e13, 1e30]
STEPS = 60
ALIASES = {"add_any": "add", "pjit": "jit"}


def lanes_of(problem):
    """Every learning rate with every initial scale; each run has a seed of its own."""
    lrs, scales = (grid.ravel() for grid in np.meshgrid(LRS, SCALES))
    asked = {name: PARAMETERS[name].default for name in problem.knobs}
    asked |= {"lr": lrs, "init_scale": scales}
    full = {name: np.broadcast_to(np.float64(value), len(lrs)) for name, value in asked.items()}
    seed = np.arange(len(lrs), dtype=np.int64)
    return Lanes(full, seed, np.full(len(lrs), STEPS, np.int32))


class Group:
    """One group's runs, all ended and attributed."""

    def __init__(self, loss, activation):
        self.worker = GroupRunner({**STATICS, "loss": loss, "activation": activation})
        self.lanes = lanes_of(self.worker.problem)
        self.outcome = self.worker.run(self.lanes)

    def failing_step(self, frozen, row):
        """A frozen lane's failing step, of its state alone: (function, state)."""
        place = int(np.flatnonzero(frozen.rows == row)[0])
        knobs = {name: jnp.float64(values[row]) for name, values in self.lanes.knobs.items()}
        key = step_key(jnp.int64(self.lanes.seed[row]))
        key = keys.for_step(key, int(frozen.step[place]))

        def step(state):
            state, metrics = self.worker.problem.step(state, knobs, key)
            return state, metrics.loss

        return step, jax.tree.map(lambda leaf: jnp.asarray(leaf[place]), frozen.state)

    def samples(self, frozen, kind):
        """One row for each distinct origin or culprit that a frozen lane's step shows."""
        rows = {}
        for row in frozen.rows[frozen.step >= 0].tolist():
            finding = getattr(self.outcome.attributions[row], kind)
            rows.setdefault(finding, row)
        return rows


@pytest.fixture(scope="module")
def group_of():
    """Groups by (loss, activation), each run once."""
    made = {}

    def get(loss, activation):
        if (loss, activation) not in made:
            made[loss, activation] = Group(loss, activation)
        return made[loss, activation]

    return get


QUICK = (("softmax_cross_entropy_naive", "tanh"),)
each_group = pytest.mark.parametrize(
    ("loss", "activation"),
    [pytest.param(*group, marks=[pytest.mark.slow] * (group not in QUICK)) for group in GROUPS],
)


@each_group
def test_every_failed_run_is_attributed_and_no_other(group_of, loss, activation):
    outcome = group_of(loss, activation).outcome
    failed = outcome.endings.fault_step != NEVER
    nan = outcome.endings.nan_step != NEVER
    assert failed.any() and not failed.all()
    assert nan.any()
    assert sorted(outcome.attributions) == np.flatnonzero(failed).tolist()
    for row, blame in outcome.attributions.items():
        assert blame.origin is not None
        assert (blame.culprit is not None) == nan[row]
        assert blame.status == "reproduced"


@each_group
def test_a_blame_says_where_in_the_network_and_on_which_line(group_of, loss, activation):
    for blame in group_of(loss, activation).outcome.attributions.values():
        for finding in (blame.origin, blame.culprit):
            if finding is None:
                continue
            assert finding.phase in ("init", "forward", "backward", "update")
            assert re.fullmatch(r"nanlab/[\w/]+\.py:\d+", finding.source)
            if "flax/linen" in finding.library:
                assert re.fullmatch(r"MLP/Dense_[01]", finding.module)


@each_group
def test_blames_do_not_depend_on_a_runs_place(group_of, loss, activation):
    group = group_of(loss, activation)
    order = np.random.default_rng(0).permutation(len(group.lanes.seed))
    shuffled = jax.tree.map(lambda leaf: leaf[order], group.lanes)
    blames = group.worker.run(shuffled).attributions
    assert {int(order[row]): blame for row, blame in blames.items()} == group.outcome.attributions


@each_group
def test_the_failing_step_fails_again_bit_for_bit(group_of, loss, activation):
    group = group_of(loss, activation)
    frozen = group.outcome.at_fault
    states, losses = group.worker.step_once(group.lanes, frozen)
    leaves = [leaf.reshape(len(losses), -1) for leaf in (*jax.tree.leaves(states), losses)]
    is_bad = ~np.isfinite(np.concatenate(leaves, axis=1)).all(axis=1)
    assert is_bad[frozen.step >= 0].all()
    before = [leaf.reshape(len(losses), -1) for leaf in jax.tree.leaves(frozen.state)]
    was_bad = ~np.isfinite(np.concatenate(before, axis=1)).all(axis=1)
    assert (was_bad == (frozen.step < 0)).all()


def canonical(primitive):
    return ALIASES.get(primitive, primitive)


def seen_by_jax(step, state, *, nan):
    """The primitive at which `jax.debug_nans`, or `jax.debug_infs`, stops a plain step."""
    check = jax.debug_nans if nan else jax.debug_infs
    with check(True), contextlib.redirect_stdout(io.StringIO()):
        try:
            jax.block_until_ready(step(state))
        except FloatingPointError as error:
            return canonical(re.search(r"encountered in ([\w.-]+)", str(error))[1])
    return None


def is_at(emission, finding):
    """Whether an equation that was run alone is the site that a finding names."""
    is_same = canonical(finding.primitive) == canonical(emission.primitive)
    return is_same and any(line.endswith(f"/{finding.source}") for line in emission.lines)


@pytest.mark.slow
@each_group
def test_a_culprit_is_what_jax_and_a_step_op_by_op_say(group_of, loss, activation):
    group = group_of(loss, activation)
    samples = group.samples(group.outcome.at_nan, "culprit")
    assert samples
    for finding, row in samples.items():
        step, state = group.failing_step(group.outcome.at_nan, row)
        account = op_by_op.run(step, state)
        assert is_at(account.culprit, finding)
        first = account.first(nan=True)
        assert seen_by_jax(step, state, nan=True) == canonical(first.primitive)


@pytest.mark.slow
@each_group
def test_an_origin_is_what_jax_and_a_step_op_by_op_say(group_of, loss, activation):
    group = group_of(loss, activation)
    samples = group.samples(group.outcome.at_fault, "origin")
    assert samples
    for finding, row in samples.items():
        step, state = group.failing_step(group.outcome.at_fault, row)
        account = op_by_op.run(step, state)
        assert is_at(account.emissions[account.origin], finding)
        # The first in time may be another one, and harmless: a relu takes a -inf away.
        first = account.emissions[0]
        assert seen_by_jax(step, state, nan=False) == canonical(first.primitive)
