"""What happens on a fault: skip and rollback, to the bit; events; what is exempt; the end."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import recorded
from recorded import TRAININGS, bits
from sampled import sampled

import nanlab

pytestmark = pytest.mark.filterwarnings("ignore:Some donated buffers were not usable")

QUICK = [("donated", 16), ("two functions", 5), ("only state", 5)]
SKIPPED = [
    pytest.param(name, every, marks=[] if (name, every) in QUICK else [pytest.mark.slow])
    for name in TRAININGS
    for every in (16, 5)
    if name not in ("accumulating", "eager update", "two states")
]


def batches(steps, bad=()):
    for t in range(steps):
        batch = recorded.batch_of(t)
        if t in bad:
            batch[3] = -1
        yield batch


def trained(build, stream, watch=recorded.unwatched):
    training = build(watch)
    for batch in stream:
        training.advance(batch)
    return training


def without_two(step):
    calls = itertools.count()

    def called(state, *args, **kwargs):
        return (state, 0) if next(calls) in (11, 30) else step(state, *args, **kwargs)

    return called


@pytest.mark.parametrize(("name", "every"), SKIPPED)
def test_skip_goes_on_as_if_the_batch_had_never_come(name, every):
    good = [b for t, b in enumerate(batches(60)) if t not in (11, 30)]
    if name == "odd arguments":  # its host splits a key for each batch, which nobody takes back
        expected = bits(trained(TRAININGS[name], batches(60), without_two).state())
    else:
        expected = bits(trained(TRAININGS[name], good).state())
    with nanlab.Recorder(every=every, on_fault="skip") as recorder:
        training = trained(TRAININGS[name], batches(60, [11, 30]), recorder.watch)
        recorder.flush()
        assert bits(training.state()) == expected
    assert [fault.step for fault in recorder.faults] == [11, 30]


GRADS = jax.jit(jax.value_and_grad(recorded.loss_of))
ADDS = [
    jax.jit(lambda a, g: jax.tree.map(jnp.add, a, g), donate_argnums=donate)
    for donate in ((), 0, 1)
]
APPLY = jax.jit(lambda w, a: jax.tree.map(lambda x, y: x - 0.01 * y, w, a))


def accumulated(watch, stream, add, every):
    """Add the gradients of some batches; None is a batch that was left out."""
    grads, add, apply = watch(GRADS), watch(add), watch(APPLY)
    w = recorded.params()
    total = None
    for t, batch in enumerate(stream):
        total = jax.tree.map(jnp.zeros_like, w) if t % every == 0 else total
        if batch is not None:
            _, g = grads(w, batch)
            total = add(total, g)
        if t % every == every - 1:
            w = apply(w, total)
    return w


@pytest.mark.parametrize(
    ("add", "every", "bad"),
    [
        (0, 4, [8]),
        (0, 4, [14, 30]),
        (1, 4, [12, 21, 40]),
        (2, 4, [16]),
        (0, 3, [7, 29]),
        (1, 2, [9]),
    ],
)
def test_skip_leaves_out_one_contribution_to_an_accumulated_gradient(add, every, bad):
    good = [None if t in bad else b for t, b in enumerate(batches(48))]
    expected = bits(accumulated(recorded.unwatched, good, ADDS[add], every))
    with nanlab.Recorder(on_fault="skip") as recorder:
        actual = bits(accumulated(recorder.watch, batches(48, bad), ADDS[add], every))
    assert [fault.step for fault in recorder.faults] == bad
    assert actual == expected


@pytest.mark.parametrize("add", [0, 2])
def test_an_output_of_an_earlier_call_is_never_taken_for_an_argument_from_outside(add):
    """A sum that begins with zeros now and then has a plan for each of the two."""
    with nanlab.Recorder() as recorder:
        accumulated(recorder.watch, batches(48), ADDS[add], 4)
        entries = [e for epoch in recorder.recording.tape.epochs for e in epoch.entries]
    adds = [e for e in entries if len(e.plan.donated) == 4 and e.step % 4 and e.n_outputs == 2]
    adds = [e for e in adds if e.watched.jitted is ADDS[add]]
    assert len(adds) > 8
    assert all(None not in e.plan.sources(e.bases) for e in adds)


ENDS = [(10, 6), (12, 6), (14, 6), (31, 25), (10, 9), (12, 11), (12, 10), (21, 18)]


@pytest.mark.parametrize("name", ["donated", "not donated", "two functions"])
def test_skip_raises_at_the_end_only_what_it_found_there(name):
    raised = []
    for steps, bad in ENDS:
        good = [b for t, b in enumerate(batches(steps)) if t != bad]
        recorder = nanlab.Recorder(on_fault="skip")
        try:
            with recorder:
                training = trained(TRAININGS[name], batches(steps, [bad]), recorder.watch)
        except nanlab.Fault as fault:
            raised.append((steps, bad))
            assert "skip was not possible: the training was over before" in str(fault)
            before = trained(TRAININGS[name], list(batches(steps))[:bad])
            if name != "two functions":  # there the faulty call takes the weights alone
                assert bits(fault.state) == bits(before.state())
        else:
            assert bits(training.state()) == bits(trained(TRAININGS[name], good).state())
        assert [fault.step for fault in recorder.faults] == [bad]
    assert {(10, 9), (12, 11)} <= set(raised) <= {(s, b) for s, b in ENDS if s - b < 4}


def averaged(watch, stream, donate):
    """Average the weights after every eighth step; None is a step that was left out."""
    step = watch(jax.jit(lambda w, b: (w - 0.01 * jnp.sqrt(b), w @ b**0.5), donate_argnums=donate))
    average = watch(jax.jit(lambda e, w: 0.9 * e + 0.1 * w, donate_argnums=donate))
    w, e = jnp.ones(8), jnp.ones(8)
    for t, batch in enumerate(stream):
        w = w if batch is None else step(w, batch)[0]
        e = average(e, w) if t % 8 == 7 else e
    return w, e


@pytest.mark.parametrize("donate", [(), 0])
@pytest.mark.parametrize("bad", [[7, 12], [7, 10, 14], [15, 23, 27]])
def test_a_state_that_is_taken_seldom_is_repaired_when_others_are_repaired_again(donate, bad):
    good = [None if t in bad else b for t, b in enumerate(batches(48))]
    expected = bits(averaged(recorded.unwatched, good, donate))
    with nanlab.Recorder(on_fault="skip") as recorder:
        actual = bits(averaged(recorder.watch, batches(48, bad), donate))
    assert actual == expected
    assert [fault.step for fault in recorder.faults] == bad


@pytest.mark.parametrize(
    "name",
    [
        "donated",
        "two functions",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("nnx, donated", "sharded")),
    ],
)
def test_rollback_goes_on_from_before_the_faulty_step(name):
    build = TRAININGS[name]
    with nanlab.Recorder(every=8, on_fault="rollback") as recorder:
        training = trained(build, batches(40, [13]), recorder.watch)
        (fault,) = recorder.faults
        actual = bits(training.state())
    assert fault.step == 13
    first = fault.detected // (2 if name == "two functions" else 1)
    assert first > 13
    stream = [b for t, b in enumerate(batches(40)) if not 13 <= t < first]
    assert actual == bits(trained(build, stream).state())


def test_a_function_decides_for_each_fault():
    decided = []

    def decide(fault):
        decided.append((fault.step, fault.verdict.culprit.primitive))
        return "skip" if fault.step == 5 else None

    recorder = nanlab.Recorder(on_fault=decide)
    with pytest.raises(nanlab.Fault) as caught:
        trained(TRAININGS["donated"], batches(60, [5, 20]), recorder.watch)
    assert decided == [(5, "sqrt"), (20, "sqrt")]
    assert caught.value.step == 20


def test_a_batch_that_comes_twice_is_skipped_twice():
    bad = [11, 12, 13, 14, 15]
    good = [b for t, b in enumerate(batches(40)) if t not in bad]
    with nanlab.Recorder(every=8, on_fault="skip") as recorder:
        training = trained(TRAININGS["donated"], batches(40, bad), recorder.watch)
        assert bits(training.state()) == bits(trained(TRAININGS["donated"], good).state())


# Programs with infs and NaNs that do no harm: each returns a function of (step number, watch).

INF, NAN = np.float32(np.inf), np.float32(np.nan)


def stepping(function, state, *more, donate=0):
    """A loop over `state, *metrics = function(state, batch, *more)`."""

    def train(watch, steps):
        step = watch(jax.jit(function, donate_argnums=donate))
        held = jax.tree.map(jnp.array, state)
        for t in range(steps):
            held, *_ = step(held, recorded.batch_of(t), *more)
        return held

    return train


def best_loss(start, better):
    def step(state, batch):
        w, best = state
        loss = jnp.mean((batch - w) ** 2)
        return (w - 0.1 * (w - batch.mean()), better(best, loss)), loss

    return stepping(step, (np.float32(1), start))


def never_better():
    """The best value stays -inf through the whole training."""

    def step(state, batch):
        return (state[0] * 0.9, jnp.minimum(state[1], batch.min())), state[0]

    return stepping(step, (np.float32(1), -INF))


def masked():
    mask = np.where(np.arange(8) < 5, 0, -np.inf).astype(np.float32)

    def step(w, batch, mask):
        weights = jax.nn.softmax(w * batch + mask)
        return w - 0.01 * weights.sum(), weights.max()

    return stepping(step, np.float32(1), mask)


def mask_as_state():
    mask = np.where(np.arange(8) < 5, 0, -np.inf).astype(np.float32)

    def step(state, batch):
        w, mask = state
        return (w - 0.01 * jax.nn.softmax(w * batch + mask).sum(), mask), w

    return stepping(step, (np.float32(1), mask))


def apply_if_finite():
    import optax

    optimizer = optax.apply_if_finite(optax.adam(1e-2), max_consecutive_errors=100)

    def loss_of(w, batch):
        return jnp.sum(jnp.sqrt(batch - 0.52) * w)

    def step(state, batch):
        w, inner = state
        loss, g = jax.value_and_grad(loss_of)(w, batch)
        updates, inner = optimizer.update(g, inner, w)
        return (optax.apply_updates(w, updates), inner), loss

    w = np.ones(8, np.float32)
    return stepping(step, (w, optimizer.init(w)))


def dynamic_scale():
    from flax.training.dynamic_scale import DynamicScale

    def step(state, batch):
        w, scale = state
        value = scale.value_and_grad(lambda w: jnp.mean((batch.astype(jnp.float16) * w) ** 2))
        scale, is_finite, loss, g = value(w)
        w = jnp.where(is_finite, w - jnp.float16(0.01) * g, w)
        norm = jnp.sqrt(jnp.sum(jnp.square(g)))
        return (w, scale), loss, norm

    start = DynamicScale(growth_interval=5, scale=np.float32(2.0**17))
    return stepping(step, (np.ones(8, np.float16), start))


def metric(of):
    def step(w, batch):
        return w - 0.01 * (w - batch.mean()), of(w, batch)

    return stepping(step, np.float32(1))


def sampler():
    """Metropolis: a proposal outside the support has log density -inf and is rejected."""

    def density(x):
        return jnp.where(x > 0, -x, -jnp.inf)

    def step(state, batch):
        x, key = state
        key, a, b = jax.random.split(key, 3)
        new = x + jax.random.normal(a)
        ratio = density(new) - density(x)
        accepted = jnp.log(jax.random.uniform(b)) < ratio
        return (jnp.where(accepted, new, x), key), ratio

    return stepping(step, (np.float32(0.5), np.asarray(jax.random.PRNGKey(0))))


def missing_data():
    def train(watch, steps):
        step = watch(jax.jit(lambda w, b: (w - 0.01 * jnp.nanmean(b - w), jnp.nanmax(b))))
        w = jnp.float32(0)
        for t in range(steps):
            batch = recorded.batch_of(t)
            batch[t % 8] = np.nan
            w, _ = step(w, jnp.asarray(batch) if t % 2 else batch)
        return w

    return train


def evaluation():
    def train(watch, steps):
        step = watch(jax.jit(lambda w, b: (w * 0.9 + 0.1 * b, b.sum()), donate_argnums=0))
        score = watch(jax.jit(lambda w, b: jnp.log(w[:1] - 5) + b))
        w = jnp.ones(8)
        for t in range(steps):
            score(w, recorded.batch_of(t))
            w, _ = step(w, recorded.batch_of(t))
        return w

    return train


def guarded_apply():
    """The gradient of one call is not finite, and the next one leaves it out."""

    def train(watch, steps):
        grad = watch(jax.jit(jax.value_and_grad(lambda w, b: jnp.sum(jnp.sqrt(b - 0.6) * w))))

        def guarded(w, g):
            is_good = jnp.isfinite(g).all()
            return jnp.where(is_good, w - 0.01 * jnp.where(is_good, g, 0), w)

        apply = watch(jax.jit(guarded, donate_argnums=0))
        w = jnp.ones(8)
        for t in range(steps):
            _, g = grad(w, recorded.batch_of(t))
            w = apply(w, g)
        return w

    return train


def buffer_of_nans():
    """A replay buffer begins as NaNs, and is filled in the course of the training."""

    def step(state, batch):
        w, buffer, i = state
        buffer = buffer.at[i % 64].set(batch.mean())
        return (w - 0.01 * jnp.nanmean(buffer), buffer, i + 1), w

    return stepping(step, (np.float32(1), np.full(64, np.nan, np.float32), np.int32(0)))


def begun_again():
    """The state is made again from the start, with its best value of inf, every 10 steps."""

    def train(watch, steps):
        step = watch(jax.jit(lambda s, b: ((s[0] * 0.9, jnp.minimum(s[1], b.min())), b.max())))
        for t in range(steps):
            if t % 10 == 0:
                state = (jnp.float32(1), jnp.asarray(INF))
            state, _ = step(state, recorded.batch_of(t))
        return state

    return train


def healed_by_host():
    """The program itself looks at its loss, and goes back to a copy of the state."""

    def train(watch, steps):
        step = watch(jax.jit(lambda w, b: (w - jnp.sqrt(b - 0.55), jnp.sum(b))))
        w = jnp.ones(8)
        for t in range(steps):
            new, _ = step(w, recorded.batch_of(t))
            w = new if bool(jnp.isfinite(new).all()) else w
        return w

    return train


HARMLESS = {
    "best loss from inf": lambda: best_loss(INF, jnp.minimum),
    "best score from -inf": lambda: best_loss(-INF, jnp.maximum),
    "best value stays -inf": never_better,
    "mask of -inf": masked,
    "mask of -inf in the state": mask_as_state,
    "apply_if_finite": apply_if_finite,
    "dynamic loss scaling": dynamic_scale,
    "metric is always NaN": lambda: metric(lambda w, b: b.sum() * jnp.nan),
    "metric is inf now and then": lambda: metric(lambda w, b: 1 / (b[0] > 0.8)),
    "logged norm overflows": lambda: metric(lambda w, b: jnp.sqrt(jnp.sum((b * 1e30) ** 2))),
    "metric is log of zero": lambda: metric(lambda w, b: jnp.log(jnp.maximum(b - 1, 0).sum() * 0)),
    "complex metric": lambda: metric(lambda w, b: (b[0] + 1j) / (w * 0)),
    "sampler": sampler,
    "missing data": missing_data,
    "evaluation": evaluation,
    "guarded update": guarded_apply,
    "buffer of NaNs": buffer_of_nans,
    "begun again": begun_again,
    "healed by the host": healed_by_host,
    "empty arrays": lambda: stepping(
        lambda s, b: ((s[0] * 0.9, s[1]), jnp.zeros((0,))), (np.float32(1), np.zeros((0, 3)))
    ),
    "integers": lambda: stepping(lambda s, b: (s + 1, s), np.int32(0)),
}


@pytest.mark.parametrize("name", sampled(HARMLESS, 4))
def test_what_does_no_harm_stops_no_training(name):
    train = HARMLESS[name]()
    expected = bits(train(recorded.unwatched, 50))
    with nanlab.Recorder(every=7) as recorder:
        actual = bits(train(recorder.watch, 50))
    assert actual == expected
    assert not recorder.faults


def test_metrics_are_events_while_the_state_is_good():
    with nanlab.Recorder() as recorder:
        metric(lambda w, b: 1 / (b[0] > 0.8))(recorder.watch, 40)
    expected = [t for t in range(40) if recorded.batch_of(t)[0] <= 0.8][:3]
    assert [(e.step, e.names) for e in recorder.events[:3]] == [(t, ("[1]",)) for t in expected]


def test_a_metric_that_is_always_bad_is_looked_at_three_times_and_the_user_hears_of_it():
    with nanlab.Recorder() as recorder:
        metric(lambda w, b: b.sum() * jnp.nan)(recorder.watch, 40)
    assert len(recorder.events) == 3
    (remark,) = recorder.remarks
    assert remark.endswith("was not finite 3 times while the state was: it is no longer looked at")


def test_strict_any_output_is_a_fault():
    recorder = nanlab.Recorder(strict=True)
    with pytest.raises(nanlab.Fault) as caught:
        metric(lambda w, b: 1 / (b[0] > 0.8))(recorder.watch, 40)
    assert caught.value.step == next(t for t in range(40) if recorded.batch_of(t)[0] <= 0.8)
    assert caught.value.verdict.origin.primitive == "div"


def test_an_inf_of_the_state_counts_where_it_was_finite_at_the_start():
    """The second moment of Adam overflows: no NaN comes of it, and no metric shows it."""
    train = stepping(
        lambda s, b: ((s[0], s[1] * 1e3, jnp.minimum(s[2], b.min())), b.sum()),
        (np.float32(1), np.full(100, 1, np.float32), INF),
    )
    with pytest.raises(nanlab.Fault) as caught, nanlab.Recorder(every=8) as recorder:
        train(recorder.watch, 40)
    assert caught.value.step == 12  # 1e3 ** 13 > 3.4e38
    assert caught.value.verdict.origin.primitive == "mul"


@pytest.mark.parametrize("name", ["eager update", "accumulating", "two functions", "donated"])
def test_a_fault_that_only_the_end_shows_is_found_whoever_updates_the_state(name):
    with pytest.raises(nanlab.Fault) as caught, nanlab.Recorder(lag=100) as recorder:
        trained(TRAININGS[name], batches(12, [5]), recorder.watch)
    assert caught.value.step // (2 if name == "accumulating" else 1) == 5
    assert caught.value.verdict.culprit.primitive == "sqrt"


def test_at_the_end_a_bad_metric_is_an_event_if_the_host_leaves_the_update_out():
    grad = jax.jit(jax.value_and_grad(recorded.loss_of))
    with nanlab.Recorder(lag=100) as recorder:
        watched, w = recorder.watch(grad), recorded.params()
        for batch in batches(12, [5]):
            loss, g = watched(w, batch)
            if np.isfinite(loss):
                w = jax.tree.map(lambda a, b: a - 0.01 * b, w, g)
    assert not recorder.faults and [event.step for event in recorder.events] == [5]
