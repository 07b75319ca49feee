"""The flight recorder: the faulty step, its arguments to the bit, and its verdict."""

import inspect
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import recorded
from flax import nnx
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


def norms(x):
    """Metrics that overflow together with a batch that is below zero; they come first."""
    large = jnp.exp(jnp.where(x < 0, 100, 0).astype(x.dtype))  # <-- tolerated
    return large - large, jnp.sqrt(jnp.where(x < 0, -1.0, x))  # <-- tolerated


def mended(w, x):
    return w + jnp.log(x)  # <-- state


def metric_first(w, x):
    metric, _ = norms(x)
    return metric, mended(w, x)


def metric_last(w, x):
    metric, _ = norms(x)
    return mended(w, x), metric


def nested(w, x):
    one, two = norms(x)
    return {"aux": {"norms": [one, two]}, "state": mended(w, x)}


def several(w, x):
    one, two = norms(x)
    return one, mended(w, x), {"two": two, "three": jnp.stack([one, two])}


def auxiliary(w, x):
    def loss_of(w):
        one, two = norms(x)
        return jnp.sum(w * jnp.sqrt(x)), {"one": one, "two": two}  # <-- state

    (_, aux), g = jax.value_and_grad(loss_of, has_aux=True)(w)
    return w - g, aux


def overflowing(w, x):
    """The state gets an inf and no NaN, the metric a NaN."""
    one, _ = norms(x)
    return one, w * jnp.exp(60 - 60 * x)  # <-- state


STATE_OF = {
    metric_first: lambda out: out[1],
    metric_last: lambda out: out[0],
    nested: lambda out: out["state"],
    several: lambda out: out[1],
    auxiliary: lambda out: out[0],
    overflowing: lambda out: out[1],
}


def marked(function):
    lines, first = inspect.getsourcelines(function)
    found = [n for n, line in enumerate(lines, first) if line.rstrip().endswith("# <-- state")]
    return found[0] if found else marked(mended)


@pytest.mark.parametrize("at", [0, 1, 9])
@pytest.mark.parametrize("function", STATE_OF)
def test_the_verdict_is_of_the_state_when_tolerated_metrics_go_bad_with_it(function, at):
    with pytest.raises(nanlab.Fault) as caught, nanlab.Recorder(every=4) as recorder:
        step, w = recorder.watch(jax.jit(function, donate_argnums=0)), jnp.ones(3, np.float32)
        for t in range(14):
            w = STATE_OF[function](step(w, np.float32(-1 if t == at else 1)))
    fault = caught.value
    assert fault.step == at and fault.exact is not False
    site = fault.verdict.culprit or fault.verdict.origin
    assert site.line == marked(function)
    assert (fault.verdict.culprit is None) == (function is overflowing)
    assert len(fault.verdict.output_faults) == 1
    (note,) = fault.verdict.notes
    assert note.startswith("not finite either, but no state: output[")
    assert not any("tolerated" in site.code for site in fault.verdict.benign)


class Model(nnx.Module):
    def __init__(self):
        self.w = nnx.Param(jnp.ones(3, np.float32))


def in_nnx(watch):
    @nnx.jit
    def step(model, x):
        one, two = norms(x)
        model.w[...] = mended(model.w[...], x)
        return one, {"two": two}

    step, model = watch(step), Model()
    return lambda x: step(model, x)


def in_equinox(watch):
    @eqx.filter_jit(donate="all")
    def step(module, x):
        one, _ = norms(x)
        return one, eqx.tree_at(lambda m: m.a, module, mended(module.a, x))

    step, held = watch(step), [recorded.Module(jnp.ones(3, np.float32), 1.0, "net")]

    def advance(x):
        _, held[0] = step(held[0], jnp.float32(x))

    return advance


def in_two_functions(watch):
    """The gradient is the fault, seen in another function's state; a metric is bad with it."""

    @jax.jit
    def gradient(w, x):
        one, two = norms(x)
        return (one, two), w * jnp.log(x)  # <-- state

    gradient, apply = watch(gradient), watch(jax.jit(lambda w, g: w - g, donate_argnums=0))
    held = [jnp.ones(3, np.float32)]

    def advance(x):
        held[0] = apply(held[0], gradient(held[0], x)[1])

    return advance


def in_one_scan(watch):
    def train(w, bad):
        def update(w, number):
            x = jnp.where(number == bad, -1.0, 1.0).astype(np.float32)
            one, two = norms(x)
            return mended(w, x), {"one": one, "two": two}

        return jax.lax.scan(update, w, jnp.arange(600))

    train, numbers = watch(jax.jit(train)), iter(range(100))

    def advance(x):
        if x < 0:
            train(jnp.ones(3, np.float32), next(numbers))
        next(numbers)

    return advance


@pytest.mark.parametrize("build", [in_nnx, in_equinox, in_two_functions, in_one_scan])
def test_the_verdict_is_of_the_state_in_frameworks_too(build):
    at = 6
    with pytest.raises(nanlab.Fault) as caught, nanlab.Recorder(every=4) as recorder:
        advance = build(recorder.watch)
        for t in range(14):
            advance(np.float32(-1 if t == at else 1))
    fault = caught.value
    assert (fault.iteration or fault.step) == at
    line = marked(build if build is in_two_functions else mended)
    assert (fault.verdict.culprit.primitive, fault.verdict.culprit.line) == ("log", line)
    (note,) = fault.verdict.notes
    assert note.startswith("not finite either, but no state: ")
    if build in (in_nnx, in_equinox):
        assert float(fault.batch) == -1


def test_with_strict_the_verdict_is_of_the_first_bad_metric():
    with pytest.raises(nanlab.Fault) as caught, nanlab.Recorder(strict=True) as recorder:
        step = recorder.watch(jax.jit(metric_last))
        step(jnp.ones(3, np.float32), np.float32(-1))
    assert "tolerated" in caught.value.verdict.culprit.code
    assert len(caught.value.verdict.output_faults) == 2


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
