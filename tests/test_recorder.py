"""The flight recorder: the faulty step, its arguments to the bit, and its verdict."""

import inspect
import os
import subprocess
import sys
import textwrap
from pathlib import Path

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


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("name", TRAININGS)
def test_faults_planted_at_random_steps(name, seed):
    rng = np.random.default_rng([seed, *name.encode()])
    at, every, lag = int(rng.integers(0, 70)), int(rng.integers(1, 40)), int(rng.integers(0, 8))
    with pytest.raises(nanlab.Fault) as caught, nanlab.Recorder(every=every, lag=lag) as recorder:
        run(TRAININGS[name], at + int(rng.integers(1, 20)), [at], recorder.watch)
    fault = caught.value
    assert fault.step // {"accumulating": 2, "two states": 2}.get(name, 1) == at
    bad = recorded.batch_of(at)
    bad[3] = -1
    assert bad.tobytes() in b"".join(data for _, data in bits(fault.arguments))
    assert fault.exact is not False and not fault.notes
    expected = unwatched(TRAININGS[name], at)[-1]
    assert not [leaf for leaf in bits(fault.state) if leaf not in expected] or "two" in name
    assert fault.verdict.culprit.primitive == "sqrt"


@pytest.mark.slow
def test_four_devices():
    """The trainings over all devices, on four of them, in a process of its own."""
    code = """
        import os
        os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"
        import jax, numpy as np, nanlab, recorded
        assert len(jax.devices()) == 4
        for name in ("sharded", "pmap"):
            for policy in ("raise", "skip"):
                recorder = nanlab.Recorder(every=6, on_fault=policy)
                training = recorded.TRAININGS[name](recorder.watch)
                try:
                    for t in range(30):
                        batch = recorded.batch_of(t)
                        batch[3] = -1 if t == 13 else batch[3]
                        training.advance(batch)
                except nanlab.Fault:
                    pass
                (fault,) = recorder.faults
                assert fault.step == 13 and fault.exact, (fault.step, fault.exact, fault.notes)
                assert fault.verdict.culprit.primitive == "sqrt"
            plain = recorded.TRAININGS[name](recorded.unwatched)
            for t in range(30):
                if t != 13:
                    plain.advance(recorded.batch_of(t))
            assert recorded.bits(plain.state()) == recorded.bits(training.state())
        print("done")
    """
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    environment = {**os.environ, "PYTHONPATH": paths}
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], env=environment,
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.stdout == "done\n", done.stderr
