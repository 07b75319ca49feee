"""Exact gradient descent, iterated by NumPy, against the engine: every event and its author."""

import itertools
from typing import NamedTuple

import jax
import ml_dtypes
import numpy as np
import pytest
from sampled import sampled

from nanlab.engine.group_runner import GroupRunner
from nanlab.engine.lanes import NEVER, Lanes
from nanlab.grid.parameters import PARAMETERS

DTYPES = {
    "float64": np.float64,
    "float32": np.float32,
    "bfloat16": ml_dtypes.bfloat16,
    "float16": np.float16,
}
INIT = -1

# lr -> first iterate whose loss is inf, that is inf, that is NaN; float32, x0 = 1 (DESIGN 7).
PUBLISHED = {
    2.5: (111, 218, 219),
    3.0: (65, 128, 129),
    5.0: (33, 64, 65),
    11.0: (20, 39, 40),
}
# Above 2 it diverges; some of these overflow a precision themselves.
RISING = np.concatenate([np.linspace(2.05, 12, 180), np.logspace(1.1, 36, 36)])
SAFE = [1e-3, 0.1, 0.5, 1.0, 1.5, 1.9, 1.99, np.nextafter(2, 0), 2.0]
STEPS = 2500


class Made(NamedTuple):
    """What an operation of one step made, and which pass it belongs to."""

    primitive: str
    phase: str
    value: np.generic


class Step(NamedTuple):
    """One step of plain iteration: what reaches the loss, and what reaches the next x."""

    loss: list[Made]
    state: list[Made]

    @property
    def all(self):
        return [*self.loss, *self.state]


def plain_steps(lr, *, x0, curvature, momentum, dtype):
    """Iterate as anyone would: one NumPy operation after another, each in the precision."""
    lr, x, curvature = dtype(lr), dtype(x0), dtype(curvature)
    trace = dtype(0)
    while True:
        half = dtype(dtype(0.5) * curvature) * x
        loss = dtype(half) * x
        gradient = curvature * x
        made = [Made("mul", "backward", gradient)]
        if momentum is not None:
            kept = dtype(momentum) * trace
            trace = gradient + kept
            made += [Made("mul", "update", kept), Made("add", "update", trace)]
        moved = -lr * (gradient if momentum is None else trace)
        x = x + moved
        made += [Made("convert_element_type", "update", lr)]
        made += [Made("mul", "update", moved), Made("add", "update", x)]
        yield Step([Made("mul", "forward", half), Made("mul", "forward", loss)], made)


class Told(NamedTuple):
    """What a run is to end as: steps, then (primitive, phase, mechanism) of origin and culprit."""

    fault: int = NEVER
    nan: int = NEVER
    origin: tuple[str, str, str] | None = None
    culprit: tuple[str, str, str] | None = None


def expected(lr, *, x0=1.0, curvature=1.0, momentum=None, dtype=np.float32, steps=STEPS):
    """What plain iteration gives."""
    told = Told()
    with np.errstate(all="ignore"):
        if not np.isfinite(dtype(x0)):
            told = Told(fault=INIT, origin=("convert_element_type", "init", "overflow"))
        plain = plain_steps(lr, x0=x0, curvature=curvature, momentum=momentum, dtype=dtype)
        for number, step in enumerate(itertools.islice(plain, steps)):
            bad = [made for made in step.all if not np.isfinite(made.value)]
            if told.fault == NEVER and bad:
                told = Told(number, origin=(*bad[0][:2], "overflow"))
            nans = [made for made in step.all if np.isnan(made.value)]
            if nans:
                return told._replace(nan=number, culprit=(*nans[0][:2], "inf-inf"))
    return told


def lanes_of(problem, steps, **knobs):
    """Runs that differ in these knobs and are otherwise as a grid has them by default."""
    count = max(len(np.atleast_1d(values)) for values in knobs.values())
    asked = {name: knobs.get(name, PARAMETERS[name].default) for name in problem.knobs}
    full = {name: np.full(count, value, np.float64) for name, value in asked.items()}
    return Lanes(full, np.arange(count, dtype=np.int64), np.full(count, steps, np.int32))


def told_by(outcome, row):
    def words(finding):
        return finding and (finding.primitive, finding.phase, finding.mechanism)

    blame = outcome.attributions.get(row)
    return Told(
        int(outcome.endings.fault_step[row]),
        int(outcome.endings.nan_step[row]),
        words(blame and blame.origin),
        words(blame and blame.culprit),
    )


@pytest.fixture(scope="module")
def worker_of():
    """One worker for each (optimizer, precision): its programs are compiled once."""
    made = {}

    def get(optimizer="sgd", precision="float32"):
        statics = {"problem": "quadratic", "optimizer": optimizer, "precision": precision}
        if (optimizer, precision) not in made:
            made[optimizer, precision] = GroupRunner(statics, runs=256)
        return made[optimizer, precision]

    return get


def run(worker, steps=STEPS, **knobs):
    return worker.run(lanes_of(worker.problem, steps, **knobs))


@pytest.mark.parametrize(("lr", "published"), PUBLISHED.items())
def test_plain_iteration_overflows_at_the_published_iterates(lr, published):
    x, lr, firsts = np.float32(1), np.float32(lr), {}
    with np.errstate(all="ignore"):
        for iterate in range(published[-1] + 1):
            loss = np.float32(0.5) * x * x
            events = {"loss": np.isinf(loss), "inf": np.isinf(x), "nan": np.isnan(x)}
            for event in (name for name, came in events.items() if came):
                firsts.setdefault(event, iterate)
            x = x - lr * x
    assert (firsts["loss"], firsts["inf"], firsts["nan"]) == published


def test_the_engine_has_the_published_iterates(worker_of):
    outcome = run(worker_of(), lr=list(PUBLISHED))
    loss_inf, x_inf, x_nan = np.array(list(PUBLISHED.values())).T
    assert outcome.endings.fault_step.tolist() == loss_inf.tolist()
    # An iterate is made by the step before it.
    assert outcome.endings.nan_step.tolist() == (x_nan - 1).tolist()
    assert (outcome.at_fault.step == loss_inf).all()
    assert np.isfinite(outcome.at_fault.state.x).all()
    assert (outcome.at_nan.step == x_inf).all()
    assert np.isinf(outcome.at_nan.state.x).all()


def test_each_blame_names_the_line_of_the_quadratic_that_did_it(worker_of, repository):
    outcome = run(worker_of(), lr=list(PUBLISHED))
    lines = (repository / "nanlab/problems/quadratic.py").read_text().splitlines()

    def line_at(finding):
        file, _, number = finding.source.partition(":")
        assert file == "nanlab/problems/quadratic.py"
        return lines[int(number) - 1]

    for blame in outcome.attributions.values():
        assert "loss = " in line_at(blame.origin)
        assert "apply_updates" in line_at(blame.culprit)
        assert blame.culprit.library.startswith("optax/")
        assert blame.status == "reproduced"


@pytest.mark.parametrize(
    "precision",
    [pytest.param(p, marks=[pytest.mark.slow] * (p in ("float64", "bfloat16"))) for p in DTYPES],
)
def test_faults_and_their_authors_are_those_of_plain_iteration(worker_of, precision):
    lrs = [*PUBLISHED, *RISING]
    outcome = run(worker_of(precision=precision), lr=lrs)
    wanted = [expected(lr, dtype=DTYPES[precision]) for lr in lrs]
    assert [told_by(outcome, row) for row in range(len(lrs))] == wanted


@pytest.mark.parametrize("precision", sampled(DTYPES, 2, first=1))
def test_up_to_a_learning_rate_of_two_nothing_fails(worker_of, precision):
    outcome = run(worker_of(precision=precision), steps=10_000, lr=SAFE)
    assert not outcome.attributions
    assert (outcome.endings.fault_step == NEVER).all()
    assert (outcome.endings.final_loss <= outcome.endings.initial_loss).all()


@pytest.mark.parametrize("precision", [pytest.param("float64", marks=pytest.mark.slow), "float32"])
def test_with_momentum_it_is_heavy_ball_iteration(worker_of, precision):
    # Heavy ball is stable up to 2 (1 + momentum) / curvature.
    lrs, momenta = np.meshgrid([1.0, 2.5, 3.5, 4.5, 7.0, 30.0, 1e6], [0.0, 0.5, 0.9, 0.99])
    lrs, momenta = lrs.ravel(), momenta.ravel()
    outcome = run(worker_of("momentum", precision), lr=lrs, momentum=momenta)
    wanted = [
        expected(lr, momentum=momentum, dtype=DTYPES[precision])
        for lr, momentum in zip(lrs, momenta, strict=True)
    ]
    assert [told_by(outcome, row) for row in range(len(lrs))] == wanted
    is_stable = lrs < 2 * (1 + momenta)
    assert ((outcome.endings.fault_step == NEVER) == is_stable).all()


@pytest.mark.parametrize("lr", [2.5, 11.0])
def test_curvature_and_start_are_knobs_like_the_learning_rate(worker_of, lr):
    curvatures, starts = [1e-3, 0.5, 1.0, 1.0, 4.0, 1.0], [1.0, 1.0, -7.0, 1e-30, 1e10, 0.0]
    outcome = run(worker_of(), lr=[lr] * 6, curvature=curvatures, x0=starts)
    wanted = [
        expected(lr, curvature=curvature, x0=x0)
        for curvature, x0 in zip(curvatures, starts, strict=True)
    ]
    assert [told_by(outcome, row) for row in range(6)] == wanted


# precision -> a start that overflows it, and one that does not.
STARTS = {"float32": (1e39, 1e18), "bfloat16": (1e39, 1e18), "float16": (1e5, 100.0)}


@pytest.mark.parametrize(("precision", "starts"), STARTS.items())
def test_a_start_that_overflows_the_precision_fails_before_the_first_step(
    worker_of, precision, starts
):
    outcome = run(worker_of(precision=precision), lr=[0.5] * 2, x0=starts)
    overflowed, _ = outcome.attributions.get(0), outcome.attributions.get(1)
    assert overflowed.origin.phase == "init"
    assert overflowed.origin.mechanism == "overflow"
    assert overflowed.status == "reproduced"
    wanted = [expected(0.5, x0=x0, dtype=DTYPES[precision]) for x0 in starts]
    assert [told_by(outcome, row) for row in range(2)] == wanted
    assert wanted[0].fault == INIT
    assert wanted[1].fault == NEVER


def test_the_iterates_are_plain_float32_iterates_to_the_last_bit(worker_of):
    lrs = [*PUBLISHED, *RISING[:60], *SAFE]
    problem = worker_of().problem
    knobs, key = lanes_of(problem, 0, lr=lrs).knobs, jax.random.key(0)
    step = jax.jit(jax.vmap(lambda state, knobs: problem.step(state, knobs, key)[0]))
    state = jax.vmap(lambda knobs: problem.init(knobs, key))(knobs)
    x = np.ones(len(lrs), np.float32)
    for _ in range(19):
        state, x = step(state, knobs), x + -np.float32(lrs) * x
        assert np.asarray(state.x).tobytes() == x.tobytes()
