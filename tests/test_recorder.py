"""The flight recorder: the faulty step, its arguments to the bit, and its verdict."""

import inspect

import jax
import numpy as np
import pytest
import recorded
from recorded import TRAININGS, bits

import nanlab

pytestmark = pytest.mark.filterwarnings("ignore:Some donated buffers were not usable")

CULPRIT = next(
    number
    for number, line in enumerate(inspect.getsource(recorded).splitlines(), 1)
    if line.endswith("# <-- culprit")
)


NAMES = [
    pytest.param(name, marks=[] if name in recorded.QUICK else [pytest.mark.slow])
    for name in TRAININGS
]


def run(build, steps, bad=(), watch=recorded.unwatched):
    """Train; the batches come in the loader's memory, which it reuses."""
    training, buffer = build(watch), np.empty_like(recorded.FIRST)
    for t in range(steps):
        buffer[...] = recorded.batch_of(t)
        if t in bad:
            buffer[3] = -1
        training.advance(buffer)
    return training


def unwatched(build, steps, bad=()):
    """The same without a recorder; each batch has memory of its own, and is waited for."""
    training, states = build(recorded.unwatched), []
    for t in range(steps):
        states.append(bits(training.state()))
        batch = recorded.batch_of(t)
        if t in bad:
            batch[3] = -1
        jax.block_until_ready(training.advance(batch))
    return [*states, bits(training.state())]


@pytest.mark.parametrize("name", NAMES)
def test_the_faulty_step_is_named_with_its_exact_arguments_and_verdict(name):
    build, at = TRAININGS[name], 13
    expected = unwatched(build, at + 1, bad=[at])
    recorder = nanlab.Recorder(every=6)
    with pytest.raises(nanlab.Fault) as caught, recorder:
        run(build, 40, [at], recorder.watch)
    fault = caught.value
    calls_a_step = {"accumulating": 2, "two states": 2}.get(name, 1)
    assert fault.step // calls_a_step == at
    leaves = bits(fault.arguments)
    missing = [leaf for leaf in expected[at] if leaf not in leaves]
    if name in ("two functions", "two states"):  # the rest of the state is another call's
        missing = [leaf for leaf in bits(fault.state) if leaf not in expected[at]]
    assert not missing
    bad = recorded.batch_of(at)
    bad[3] = -1
    assert bad.tobytes() in b"".join(data for _, data in leaves)
    assert fault.exact is not False and not fault.notes
    assert fault.exact or name == "only state"
    assert fault.verdict.culprit.primitive == "sqrt"
    assert fault.verdict.culprit.line == CULPRIT


@pytest.mark.parametrize("name", NAMES)
def test_a_watched_training_computes_the_same_bits(name):
    build = TRAININGS[name]
    expected = unwatched(build, 20)
    with nanlab.Recorder(every=6) as recorder:
        training = run(build, 20, watch=recorder.watch)
        assert bits(training.state()) == expected[-1]
    assert not recorder.remarks
    assert not recorder.events
