"""What went wrong with recorders before this one, each as a test."""

import functools
import itertools
import threading
import traceback

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import recorded
from jax.experimental import io_callback
from recorded import TRAININGS, bits
from sampled import sampled

import nanlab


def bad_batch(t, at):
    batch = recorded.batch_of(t)
    batch[3] = -1 if t == at else batch[3]
    return batch


def fault_of(training, at, steps=40):
    with pytest.raises(nanlab.Fault) as caught:
        for t in range(steps):
            training.advance(bad_batch(t, at))
    return caught.value


@functools.partial(jax.jit, donate_argnums=0)
def descend(w, batch):
    loss, g = jax.value_and_grad(recorded.loss_of)(w, batch)
    return jax.tree.map(lambda a, b: a - 0.01 * b, w, g), loss


def test_a_loader_that_overwrites_its_memory_at_once_changes_no_result():
    """JAX on a CPU reads a NumPy argument after the call has returned."""
    rng, side = np.random.default_rng(0), 200
    big = rng.normal(size=(side, side)).astype(np.float32)
    step = jax.jit(lambda w, x: (jnp.tanh(w @ big) * 0.1, jnp.sum(w[0] * x)))
    buffer = np.empty(side * side, np.float32)
    w, sums = jnp.ones((side, side)), []
    with nanlab.Recorder() as recorder:
        watched = recorder.watch(step)
        for t in range(100):
            buffer[...] = t
            w, total = watched(w, buffer[:side])
            sums.append((w, total))
            buffer[...] = -1e9
    w = jnp.ones((side, side))
    for t, (_, total) in enumerate(sums):
        w, expected = jax.block_until_ready(step(w, np.full(side, t, np.float32)))
        assert bits(total) == bits(expected)


def test_a_step_is_neither_traced_nor_compiled_again():
    """The detective traces it, once a fault is found; recording and skipping do not."""
    traced, counts = [], {0: set(), 1: set()}

    @functools.partial(jax.jit, donate_argnums=0)
    def step(w, batch):
        traced.append(any("/nanlab/blame/" in f.filename for f in traceback.extract_stack()))
        return descend(w, batch)

    with nanlab.Recorder(every=4, on_fault="skip") as recorder:
        watched, w = recorder.watch(step), recorded.params()
        for t in range(30):
            w, _ = watched(w, bad_batch(t, 9))
            counts[len(recorder.faults)].add(len(traced))
        assert traced.count(False) == 1
        assert counts[0] == {1}
        assert len(counts[1]) == 1
        assert step._cache_size() == 1


def test_an_array_that_another_watched_function_donates_later_is_copied_then():
    grad = jax.jit(jax.value_and_grad(recorded.loss_of))
    apply = jax.jit(lambda w, g: jax.tree.map(lambda a, b: a - 0.01 * b, w, g), donate_argnums=(0,))
    recorder = nanlab.Recorder(every=5)
    grad, apply, w = recorder.watch(grad), recorder.watch(apply), recorded.params()
    with pytest.raises(nanlab.Fault) as caught:
        for t in range(40):
            _, g = grad(w, bad_batch(t, 17))
            w = apply(w, g)
    assert caught.value.step == 17 and caught.value.exact


def test_an_array_that_a_function_not_watched_donates_is_missed_and_said():
    step = jax.jit(lambda w, batch: (w - jnp.sqrt(batch), batch.sum()))
    eat = jax.jit(lambda w: w + 1, donate_argnums=0)
    recorder = nanlab.Recorder(every=5)
    watched, w = recorder.watch(step), jnp.ones(8)
    with pytest.raises(nanlab.Fault) as caught:
        for t in range(40):
            new, _ = watched(w, bad_batch(t, 17))
            eat(w)
            w = new
    assert caught.value.verdict is None
    assert any("watch that function too" in note for note in caught.value.notes)


def test_data_from_a_callback_is_said_to_make_the_replay_inexact():
    numbers = iter(range(1000))

    @jax.jit
    def step(w, batch):
        x = io_callback(lambda: np.float32(next(numbers)), jax.ShapeDtypeStruct((), np.float32))
        return w - jnp.sqrt(batch), w.sum() + x

    recorder = nanlab.Recorder(every=8)
    watched, w = recorder.watch(step), jnp.ones(8)
    with pytest.raises(nanlab.Fault) as caught:
        for t in range(40):
            w, _ = watched(w, bad_batch(t, 11))
    assert caught.value.step == 11
    assert caught.value.exact is False
    assert any("io_callback" in note for note in caught.value.notes)


def test_a_step_that_reads_what_is_no_argument_is_said_to_be_not_reproduced():
    state = {"bad": False}

    @jax.jit
    def step(w, batch):
        x = jax.pure_callback(
            lambda: np.float32(np.nan if state["bad"] else 0), jax.ShapeDtypeStruct((), np.float32)
        )
        return w - batch * x, w.sum()

    recorder = nanlab.Recorder(every=8)
    watched, w = recorder.watch(step), jnp.ones(8)
    with pytest.raises(nanlab.Fault) as caught:
        for t in range(40):
            state["bad"] = t == 11
            w, _ = watched(w, recorded.batch_of(t))
            jax.block_until_ready(w)
    assert any("not deterministic" in note for note in caught.value.notes)


def test_a_batch_of_another_shape_and_a_new_keyword_are_recorded_too():
    @functools.partial(jax.jit, static_argnames="mode")
    def step(w, batch, mode="sum", scale=1.0):
        return w - scale * getattr(jnp, mode)(jnp.sqrt(batch)), batch.sum()

    recorder = nanlab.Recorder(every=6)
    watched, w = recorder.watch(step), jnp.float32(1)
    with pytest.raises(nanlab.Fault) as caught:
        for t in range(40):
            batch = bad_batch(t, 19)[: 8 - t % 3]
            more = {"scale": 0.5} if t % 4 == 0 else {}
            w, _ = watched(w, batch, mode="mean" if t % 5 == 0 else "sum", **more)
    fault = caught.value
    assert fault.step == 19 and fault.exact
    assert fault.batch.tobytes() == bad_batch(19, 19)[:7].tobytes()


def test_memory_is_bounded_by_shorter_epochs():
    recorder = nanlab.Recorder(every=1000, memory=2000)
    fault = fault_of(TRAININGS["donated"](recorder.watch), 70, 90)
    assert fault.step == 70 and fault.exact
    assert fault.compared < 100  # of 142


def test_a_batch_larger_than_the_memory_is_recorded():
    fault = fault_of(TRAININGS["donated"](nanlab.Recorder(memory=1).watch), 7)
    assert fault.step == 7 and fault.exact
    assert fault.batch.tobytes() == bad_batch(7, 7).tobytes()


def test_copies_of_the_state_in_the_hosts_memory():
    def big(w, batch):
        return w * jnp.sqrt(batch).mean(), batch.sum()

    for options in ({}, {"on_fault": "skip"}):
        recorder = nanlab.Recorder(every=4, on_host=True, **options)
        watched, w = recorder.watch(jax.jit(big, donate_argnums=0)), jnp.ones(1000)
        try:
            for t in range(30):
                w, _ = watched(w, bad_batch(t, 13))
            recorder.flush()
        except nanlab.Fault as fault:
            assert not options and fault.step == 13 and fault.exact
    expected = jnp.ones(1000)
    for t in range(30):
        if t != 13:
            expected, _ = jax.jit(big)(expected, recorded.batch_of(t))
    assert bits(w) == bits(expected)
    assert recorder.recording.tape.epoch.entries


@pytest.mark.parametrize("is_recorded_metric", [True, False])
def test_there_is_one_copy_of_the_state_in_the_hosts_memory(is_recorded_metric):
    def big(w, batch):
        w = w * jnp.sqrt(batch).mean()
        return (w, batch.sum()) if is_recorded_metric else w

    recorder = nanlab.Recorder(every=4, on_host=True)
    watched, w = recorder.watch(jax.jit(big, donate_argnums=0)), jnp.ones(5000)
    copies = set[int]()
    for t in range(40):
        out = watched(w, recorded.batch_of(t))
        w = out[0] if is_recorded_metric else out
        copies.add(
            sum(
                x.sharding.memory_kind == "pinned_host" and x.shape == w.shape
                for x in jax.live_arrays()
            )
        )
    assert copies == {1}
    with pytest.raises(nanlab.Fault) as caught:
        for t in range(40, 60):
            out = watched(w, bad_batch(t, 50))
            w = out[0] if is_recorded_metric else out
    assert caught.value.step == 50


@pytest.mark.parametrize(
    ("every", "at"), sampled(itertools.product([1, 2, 3, 7, 64], [0, 1, 6, 7, 8, 39]), 7)
)
def test_the_first_and_last_calls_of_epochs_are_no_special_case(every, at):
    with pytest.raises(nanlab.Fault) as caught, nanlab.Recorder(every=every) as recorder:
        watched, w = recorder.watch(descend), recorded.params()
        for t in range(40):
            w, _ = watched(w, bad_batch(t, at))
    assert caught.value.step == at
    assert caught.value.batch.tobytes() == bad_batch(at, at).tobytes()


def test_a_host_that_runs_far_ahead_loses_no_fault():
    """Nothing can be read for a while: the epochs must wait for it."""

    def slow(w, batch):
        w, loss = descend(w, batch)
        x = jax.lax.fori_loop(0, 300, lambda _, x: jnp.tanh(x @ x), jnp.full((60, 60), loss))
        return w, loss + 0 * x.sum()

    recorder = nanlab.Recorder(every=3)
    watched, w = recorder.watch(jax.jit(slow, donate_argnums=0)), recorded.params()
    with pytest.raises(nanlab.Fault) as caught, recorder:
        for t in range(40):
            w, _ = watched(w, bad_batch(t, 5))
    assert caught.value.step == 5 and caught.value.exact


def test_two_threads_train_on_one_tape():
    recorder = nanlab.Recorder(every=10)
    step = recorder.watch(descend)
    results = {}

    def train(name):
        w = recorded.params()
        for t in range(60):
            w, _ = step(w, recorded.batch_of(t))
        results[name] = bits(w)

    threads = [threading.Thread(target=train, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    w = recorded.params()
    for t in range(60):
        w, _ = descend(w, recorded.batch_of(t))
    assert results == {0: bits(w), 1: bits(w)}
    with pytest.raises(nanlab.Fault) as caught:
        for t in range(40):
            w, _ = step(w, bad_batch(t, 20))
    assert caught.value.exact
    assert not recorder.remarks


def test_under_a_transformation_the_function_is_only_called():
    with nanlab.Recorder() as recorder:
        square = recorder.watch(jax.jit(lambda x: x * x))
        assert float(jax.grad(square)(3.0)) == 6
        assert jax.vmap(square)(jnp.arange(3.0)).tolist() == [0, 1, 4]
        assert recorder.recording.tape.number == 0


def test_a_new_training_after_a_fault_is_recorded_from_its_start():
    recorder = nanlab.Recorder()
    for at in (9, 12):
        step, w = recorder.watch(descend), recorded.params()
        with pytest.raises(nanlab.Fault) as caught:
            for t in range(40):
                w, _ = step(w, bad_batch(t, at))
        assert caught.value.exact


def test_any_call_on_the_tape_is_at_hand():
    recorder = nanlab.Recorder(every=8)
    step, w, states = recorder.watch(descend), recorded.params(), []
    for t in range(30):
        states.append(bits(w))
        w, _ = step(w, recorded.batch_of(t))
    (state, batch), _ = recorder.at(26)
    assert bits(state) == states[26]
    assert batch.tobytes() == recorded.batch_of(26).tobytes()
    with pytest.raises(LookupError, match="call 2 is not on the tape"):
        recorder.at(2)


def test_nanlab_watch_alone():
    step, w = nanlab.watch(descend), recorded.params()
    with pytest.raises(FloatingPointError, match=r"Step 4 of descend is not finite\.") as caught:
        for t in range(20):
            w, _ = step(w, bad_batch(t, 4))
    assert caught.value.verdict.culprit.primitive == "sqrt"
    assert bits(caught.value.state)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda: nanlab.watch(lambda x: x),
            r"<lambda> is not compiled: .* nanlab\.watch\(jax\.jit",
        ),
        (lambda: nanlab.watch(3), "3 is not compiled"),
        (lambda: nanlab.Recorder(every=0), "every = 0: must be 1 or more"),
        (
            lambda: nanlab.Recorder(on_fault="stop"),
            "on_fault = 'stop': must be 'raise', 'skip', 'r",
        ),
    ],
)
def test_mistakes_get_a_sentence(make, said):
    with pytest.raises((TypeError, ValueError), match=said):
        make()


def test_a_compiled_function_without_its_source_says_how_to_get_a_verdict():
    program = descend.lower(recorded.params(), recorded.FIRST).compile()
    step, w = nanlab.Recorder().watch(program), recorded.params()
    with pytest.raises(nanlab.Fault) as caught:
        for t in range(20):
            w, _ = step(w, bad_batch(t, 4))
    assert caught.value.step == 4 and caught.value.verdict is None
    assert any("source=jitted" in note for note in caught.value.notes)


def test_what_the_function_raises_itself_is_raised():
    with nanlab.Recorder() as recorder:
        step = recorder.watch(descend)
        w = recorded.params()
        step(w, recorded.batch_of(0))
        with pytest.raises((RuntimeError, ValueError), match=r"deleted|donated"):
            step(w, recorded.batch_of(1))
        with pytest.raises(TypeError):
            step(recorded.params(), "a")
        step(recorded.params(), recorded.batch_of(1))
    assert not recorder.remarks


def test_the_run_up_shows_how_the_state_grew_until_it_overflowed():
    """Gradient descent on x ** 2 / 2 with a rate of 5: x is multiplied by -4 in each step."""

    @functools.partial(jax.jit, donate_argnums=0)
    def descend(x):
        return x - 5 * jax.grad(lambda x: jnp.sum(x**2) / 2)(x)

    step, x = nanlab.Recorder(every=46).watch(descend), jnp.ones(4, jnp.float32)
    with pytest.raises(nanlab.Fault) as caught:
        for _ in range(120):
            x = step(x)
    fault = caught.value
    # 4 ** t passes the largest float32, 2 ** 128 - 2 ** 104, in the call that makes 4 ** 64.
    assert fault.step == 63
    assert [row["step"] for row in fault.run_up] == list(range(47, 64))
    for row in fault.run_up:
        assert row["leaf"] == "args[0]"
        exponent = row["step"] * np.log10(4)
        assert row["headroom"] == pytest.approx(38.531839 - exponent, abs=1e-4)
        assert row["norm"] == pytest.approx(2 * 4.0 ** row["step"], rel=1e-4)
