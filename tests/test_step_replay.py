"""One step of a problem written by hand, instrumented: its lanes' origins, culprits and codes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nanlab.backend.finiteness import FINITE, INF, NAN
from nanlab.blame.vocabulary import Phase
from nanlab.engine.forensics import Forensics
from nanlab.engine.lanes import Lanes
from nanlab.problems.problem import Metrics, Problem


def init(knobs, key):
    return {"memory": jnp.float32(0), "x": jnp.float32(1) / knobs["divisor"].astype(jnp.float32)}


def step(state, knobs, key):
    x = jax.lax.square(state["x"])  # <-- overflow
    loss = jax.lax.log(state["x"])  # <-- log
    return {"memory": state["memory"] + x, "x": x}, Metrics(loss=loss, grad_norm=x - x)


PROBLEM = Problem(init=init, step=step, knobs=("divisor",))
STARTS = np.float32([2.0, 1e30, -1.0, 0.0, np.nan])


def line_of(mark):
    with open(__file__) as file:
        return next(n for n, line in enumerate(file, 1) if line.rstrip().endswith(f"# <-- {mark}"))


@pytest.fixture(scope="module")
def forensics():
    return Forensics(PROBLEM, block=8, devices=jax.devices()[:1])


def lanes_of(divisors):
    count = len(divisors)
    knobs = {"divisor": np.float64(divisors)}
    return Lanes(knobs, np.arange(count), np.full(count, 9, np.int32))


def at_step(forensics, watched):
    state = {"memory": np.zeros_like(STARTS), "x": STARTS}
    lanes = lanes_of(np.ones(len(STARTS)))
    return forensics.at_step(
        state, lanes, np.arange(len(STARTS), dtype=np.int32), np.array(watched)
    )


def test_each_lane_gets_the_codes_and_sites_of_its_own_step(forensics):
    calm, large, negative, zero, came_in = at_step(forensics, [True, True])
    assert (calm.loss_code, calm.state_code) == (FINITE, FINITE)
    assert (calm.blame.origin, calm.blame.culprit) == (None, None)
    assert (large.loss_code, large.state_code) == (FINITE, INF)
    assert (large.blame.origin.primitive, large.blame.origin.mechanism) == ("square", "overflow")
    assert large.blame.origin.line == line_of("overflow") and large.blame.culprit is None
    assert (negative.loss_code, negative.state_code) == (NAN, FINITE)
    assert (negative.blame.culprit.primitive, negative.blame.culprit.mechanism) == ("log", "domain")
    assert negative.blame.culprit.line == line_of("log")
    assert (zero.loss_code, zero.state_code) == (INF, FINITE)
    assert (zero.blame.origin.mechanism, zero.blame.culprit) == ("pole", None)
    assert (came_in.loss_code, came_in.state_code) == (NAN, NAN)
    assert came_in.blame.origin.mechanism == "input"


def test_an_inf_counts_in_watched_leaves_and_a_nan_in_any(forensics):
    _, large, _, _, came_in = at_step(forensics, [False, False])
    assert (large.state_code, large.blame.origin) == (FINITE, None)
    assert came_in.state_code == NAN


def test_an_initial_state_is_blamed_in_its_own_phase(forensics):
    good, bad = forensics.at_init(lanes_of([4.0, 0.0]), np.array([True, True]))
    assert (good.state_code, good.blame.origin) == (FINITE, None)
    assert (bad.loss_code, bad.state_code) == (FINITE, INF)
    origin = bad.blame.origin
    assert (origin.primitive, origin.mechanism, origin.phase) == ("div", "pole", Phase.INIT)
