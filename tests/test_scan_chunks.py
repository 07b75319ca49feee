"""A training in one call, run in chunks: its bits, and its first faulty iteration."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax
from jax.experimental import io_callback
from recorded import bits

import nanlab
from nanlab.recorder import scan_calls
from nanlab.recorder.bundle import read_bundle

IGNORED = pytest.mark.filterwarnings("ignore:Some donated buffers were not usable")

pytestmark = IGNORED

W = np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)
# What the planted fault divides by; zero at one iteration.
AT = 37
HUGE = np.float32(1e30)


def loss(w, x):
    return jnp.mean(jnp.tanh(x @ w) ** 2)


def update(w, number, at):
    x = jnp.sin(number * jnp.arange(8.0).reshape(4, 2))
    value, gradient = jax.value_and_grad(loss)(w, x)
    return w - 0.1 * gradient + HUGE * jnp.where(number == at, HUGE, 0), value


def plain(w, at, length):
    w, losses = lax.scan(lambda w, k: update(w, k, at), w * 2, jnp.arange(length))
    return {"w": w, "losses": losses, "mean": losses.mean()}


def without_xs(w, at, length):
    def body(carry, _):
        w, number = carry
        w, value = update(w, number, at)
        return (w, number + 1), value

    return lax.scan(body, (w, 0), None, length)


def reverse(w, at, length):
    return lax.scan(lambda w, k: update(w, k, at), w, jnp.arange(length)[::-1], reverse=True)


def nested(w, at, length):
    def epoch(w, number):
        w, values = lax.scan(lambda w, k: update(w, k, -1), w, jnp.arange(3))
        return update(w, number, at)[0], values

    return lax.scan(epoch, w, jnp.arange(length))


def vmapped(w, at, length):
    lanes = jnp.stack([w, 2 * w, 3 * w])
    ats = jnp.array([-1, at, -1])
    return jax.vmap(plain, in_axes=(0, 0, None))(lanes, ats, length)["w"]


def with_keys(w, at, length):
    def body(carry, number):
        w, key = carry
        key, own = jax.random.split(key)
        w, value = update(w + 0.01 * jax.random.normal(own, w.shape, w.dtype), number, at)
        return (w, key), value

    (w, _), values = lax.scan(body, (w, jax.random.key(0)), jnp.arange(length))
    return w, values


def in_calls(w, at, length):
    return jax.jit(jax.checkpoint(plain, static_argnums=2), static_argnums=2)(w, at, length)


QUICK = [nested]
SLOW = [plain, vmapped, without_xs, reverse, with_keys, in_calls]
TRAININGS = [*QUICK, *(pytest.param(training, marks=pytest.mark.slow) for training in SLOW)]


def jitted(training, **options):
    return jax.jit(training, static_argnames="length", **options)


def watched(function, every=20, **options):
    return nanlab.Recorder(every=every, **{"long_scan": 2} | options).watch(function)


@pytest.mark.parametrize("training", TRAININGS, ids=lambda training: training.__name__)
def test_in_chunks_the_results_are_those_of_the_whole_to_the_bit(training):
    function = jitted(training, donate_argnums=0)
    whole = function(jnp.array(W), -1, 74)
    for every in (20, 7) if training in SLOW else (20,):
        chunked = watched(function, every)
        result = chunked(jnp.array(W), -1, length=74)
        assert chunked.whole == ""
        assert jax.tree.structure(result) == jax.tree.structure(whole)
        assert bits(result) == bits(whole), every
        for x, y in zip(jax.tree.leaves(result), jax.tree.leaves(whole), strict=True):
            assert (x.weak_type, x.committed) == (y.weak_type, y.committed)


@pytest.mark.parametrize("training", TRAININGS, ids=lambda training: training.__name__)
def test_the_faulty_iteration_and_the_carry_before_it_are_exact(training):
    with pytest.raises(nanlab.Fault, match=f"Iteration {AT} of 74 in step 0 of") as raised:
        watched(jitted(training), 8)(W, AT, 74)
    fault = raised.value
    assert fault.iteration == AT and fault.exact and not fault.notes
    # The carry before it is what a healthy training of so many iterations ends with.
    before = bits(jitted(training)(W, -1, AT))
    floats = [x for x in fault.state if jnp.issubdtype(x.dtype, jnp.inexact)]
    assert floats and all(leaf in before for leaf in bits(floats))
    site = fault.verdict.culprit or fault.verdict.origin
    assert (site.primitive, str(site.mechanism)) == ("mul", "overflow")
    assert site.iterations[0] == AT
    assert "HUGE * jnp.where" in site.code
    assert [row["iteration"] for row in fault.run_up] == list(range(max(AT - 16, 32), AT + 1))


def test_small_outputs_of_the_iterations_are_the_history(tmp_path):
    _, losses = jitted(reverse)(W, -1, 74)
    recorder = nanlab.Recorder(tmp_path / "run.nan", every=10, history=30, long_scan=2)
    with pytest.raises(nanlab.Fault) as raised:
        recorder.watch(jitted(reverse))(W, AT, 74)
    history = raised.value.history
    assert [row["iteration"] for row in history] == list(range(AT - 29, AT + 1))
    values = [row["[1]"] for row in history]
    assert values == np.asarray(losses)[::-1][AT - 29 : AT + 1].tolist()  # it runs backwards
    read = read_bundle(tmp_path / "run.nan")
    assert str(read).startswith(f"Iteration {AT} of 74 in step 0 of reverse is not finite (")
    assert f"  iteration {AT} of reverse: [1] = " in str(read)
    assert read.arguments["w"].tobytes() == np.asarray(raised.value.state[0]).tobytes()


def test_an_inf_that_is_there_from_the_start_is_meant():
    def search(best):
        return lax.scan(
            lambda b, k: (jnp.minimum(b, 100 - k * (k > 20)), b),
            best,
            jnp.arange(40, dtype=best.dtype),
        )

    assert float(watched(jax.jit(search), 5)(jnp.float32(jnp.inf))[0]) == 61


def test_a_nan_made_before_the_first_iteration_is_found_there():
    def train(w, scale):
        return lax.scan(lambda w, k: (w * 0.9, w.sum()), w + jnp.log(scale), jnp.arange(40))[0]

    with pytest.raises(nanlab.Fault, match="What precedes the scan in step 0 of ") as raised:
        watched(jax.jit(train))(W, -1.0)
    assert raised.value.verdict.culprit.primitive == "log"
    assert raised.value.iteration == -1
    passed_in = watched(jax.jit(train))(np.full_like(W, np.nan), 1.0)  # the caller's own affair
    assert np.isnan(passed_in).all()


def test_outputs_that_are_bad_with_a_healthy_carry_are_events_and_a_fault_only_if_strict():
    def logs(w):
        return lax.scan(lambda w, k: (w * 0.9, jnp.log(25.5 - k)), w, jnp.arange(40.0))

    whole = jax.jit(logs)(jnp.ones(2))
    recorder = nanlab.Recorder(long_scan=2)
    assert bits(recorder.watch(jax.jit(logs))(jnp.ones(2))) == bits(whole)
    assert [event.names for event in recorder.events] == [("[1]",)]
    with pytest.raises(nanlab.Fault, match="Iteration 26 of 40"):
        watched(jax.jit(logs), strict=True)(jnp.ones(2))


def test_a_scan_without_a_carry_is_judged_by_its_outputs():
    roots = jax.jit(lambda x: lax.map(lambda x: jnp.sqrt(x), x))
    with pytest.raises(nanlab.Fault, match="Iteration 3 of 6") as raised:
        watched(roots)(jnp.array([4.0, 3, 2, -1, 1, 1]))
    assert raised.value.verdict.culprit.primitive == "sqrt"


def of_callback(w):
    def body(w, k):
        return w + io_callback(lambda: np.float32(0), jax.ShapeDtypeStruct((), np.float32)), k

    return lax.scan(body, w, jnp.arange(40))


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (jax.jit(jnp.tanh), "it has no scan of 2 iterations at its top level"),
        (
            jax.jit(lambda w: lax.while_loop(lambda w: w[0] < 9, lambda w: w + 1, w)),
            "it has no scan of 2 iterations at its top level, and a while loop's iterations",
        ),
        (jax.jit(of_callback), "it calls back into Python (io_callback)"),
        (
            jax.jit(lambda w: [lax.scan(lambda w, k: (w + k, w), w, jnp.arange(9.0))] * 2),
            "",
        ),
        (
            jax.jit(lambda w: lax.map(jnp.sin, lax.map(jnp.cos, lax.map(jnp.sin, w)))),
            "no single scan does most of its work",
        ),
        (jax.pmap(lambda w: lax.map(jnp.sin, w)), "it is no plain function of jax.jit"),
    ],
)
def test_what_cannot_be_divided_runs_as_a_whole_and_it_is_said(function, said):
    w = jnp.ones((1, 2) if "pmap" in said or not hasattr(function, "trace") else 2)
    chunked = watched(function)
    assert bits(chunked(w)) == bits(function(w))
    assert chunked.whole.startswith(said) and bool(chunked.whole) == bool(said)


def noted(x):
    NOTED.append(int(x))
    if len(NOTED) == 31:
        raise OSError("the disk is full")


def noted_and_returned(x):
    noted(x)
    return np.float32(0)


def by_debugging(w, k):
    jax.debug.callback(noted, k, ordered=True)
    return w


def by_pure_callback(w, k):
    return w + jax.pure_callback(noted_and_returned, jax.ShapeDtypeStruct((), np.float32), k)


def by_nested_callback(w, k):
    return lax.cond(k >= 0, lambda w: lax.fori_loop(0, 1, lambda i, w: by_debugging(w, k), w),
                    lambda w: w, w)  # fmt: skip


NOTED: list[int] = []


@pytest.mark.parametrize("noting", [by_debugging, by_pure_callback, by_nested_callback])
def test_what_fails_in_the_first_call_is_not_run_again(noting):
    """Else its callbacks would run twice."""

    @jax.jit
    def train(w):
        return lax.scan(lambda w, k: (noting(w, k) * 1.01, w.sum()), w, jnp.arange(74))[0]

    def run(train):
        NOTED.clear()
        with pytest.raises(Exception, match="the disk is full"):
            jax.block_until_ready(train(W))
            jax.effects_barrier()
        return list(NOTED)

    chunked = watched(train)
    assert run(chunked)[:31] == list(range(31)) == run(train)[:31]
    assert 0 not in NOTED[31:] and chunked.scans is not None


def test_a_function_whose_calls_are_short_is_a_step_and_is_recorded_as_one(monkeypatch):
    monkeypatch.setattr(scan_calls, "STEP_S", 1e9)
    function = jitted(plain)
    chunked, w = watched(function), W
    for _ in range(4):
        w = chunked(w, -1, 74)["w"]
    assert chunked.whole == f"its calls take less than {1e9} s"
    assert len(chunked.recording.tape.epoch.entries) == 2
    with pytest.raises(nanlab.Fault) as raised:
        chunked(w, AT, 74)
        chunked.recording.flush()
    fault = raised.value
    assert (fault.step, fault.iteration) == (4, AT)
    assert fault.verdict.origin.iterations[0] == AT
    assert [bits(x) for x in fault.arguments[0]] == [bits(x) for x in (w, AT, 74)]


def test_long_scan_says_from_which_length_on():
    assert "long_scan = 0" in whole_with(0)
    assert "no scan of 75 iterations" in whole_with(75)
    assert whole_with(74) == ""


def whole_with(long_scan):
    chunked = watched(jitted(plain), long_scan=long_scan)
    chunked(W, -1, 74)
    return chunked.whole


def test_a_fault_that_skip_cannot_leave_out_is_raised_with_a_note():
    with pytest.raises(nanlab.Fault, match="an iteration of a scan cannot be left out"):
        watched(jitted(plain), on_fault="skip")(W, AT, 74)


# Reinforcement learning as purely functional programs have it: environments, policy optimization
# and its epochs in one compiled call. The environment is a point on a line that is pushed.

N_ENVS, N_STEPS, N_UPDATES = 4, 8, 300


def policy(params, observed):
    hidden = jnp.tanh(observed @ params["in"] + params["bias"])
    return hidden @ params["actor"], (hidden @ params["critic"])[..., 0]


def advance(state, action, key):
    push = jnp.where(action == 1, 0.1, -0.1)
    speed = 0.95 * state[..., 1] + push + 0.01 * jax.random.normal(key, state.shape[:-1])
    place = state[..., 0] + 0.1 * speed
    is_over = jnp.abs(place) > 1
    new = jnp.stack([place, speed], -1)
    return jnp.where(is_over[..., None], 0.0, new), 1 - jnp.abs(place), is_over


def rollout(params, env, key, at, number):
    def step(env, key):
        own, noise = jax.random.split(key)
        logits, value = policy(params, env)
        action = jax.random.categorical(own, logits)
        chance = jnp.take_along_axis(jax.nn.log_softmax(logits), action[:, None], 1)[:, 0]
        after, reward, is_over = advance(env, action, noise)
        # The planted fault: one environment leaves its domain at one update.
        reward = jnp.sqrt(jnp.where((number == at) & (jnp.arange(N_ENVS) == 2), -1.0, reward + 2))
        return after, (env, action, chance, value, reward, is_over)

    return lax.scan(step, env, jax.random.split(key, N_STEPS))


def advantages(values, rewards, overs, last):
    def back(after, now):
        total, next_value = after
        value, reward, is_over = now
        delta = reward + 0.99 * next_value * ~is_over - value
        total = delta + 0.99 * 0.95 * ~is_over * total
        return (total, value), total

    start = jnp.zeros_like(last), last
    return lax.scan(back, start, (values, rewards, overs), reverse=True)[1]


def clipped_loss(params, batch):
    env, action, chance, target, advantage = batch
    logits, value = policy(params, env)
    logs = jax.nn.log_softmax(logits)
    new = jnp.take_along_axis(logs, action[..., None], -1)[..., 0]
    ratio = jnp.exp(new - chance)
    advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
    gain = jnp.minimum(ratio * advantage, jnp.clip(ratio, 0.8, 1.2) * advantage)
    entropy = -jnp.sum(jnp.exp(logs) * logs, -1).mean()
    return -gain.mean() + 0.5 * jnp.mean((value - target) ** 2) - 0.01 * entropy


def policy_training(key, at, length=N_UPDATES):
    optimizer = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(3e-3))
    key, one, two, three = jax.random.split(key, 4)
    params = {
        "in": 0.5 * jax.random.normal(one, (2, 16)),
        "bias": jnp.zeros(16),
        "actor": 0.1 * jax.random.normal(two, (16, 2)),
        "critic": 0.1 * jax.random.normal(three, (16, 1)),
    }

    def update(state, number):
        params, inner, env, key = state
        key, own, order = jax.random.split(key, 3)
        env, (envs, actions, chances, values, rewards, overs) = rollout(
            params, env, own, at, number
        )
        gains = advantages(values, rewards, overs, policy(params, env)[1])
        data = jax.tree.map(
            lambda x: x.reshape(-1, *x.shape[2:]), (envs, actions, chances, gains + values, gains)
        )

        def epoch(state, key):
            mixed = jax.random.permutation(key, N_ENVS * N_STEPS)
            batches = jax.tree.map(lambda x: x[mixed].reshape(2, -1, *x.shape[1:]), data)

            def minibatch(state, batch):
                params, inner = state
                value, gradient = jax.value_and_grad(clipped_loss)(params, batch)
                steps, inner = optimizer.update(gradient, inner, params)
                return (optax.apply_updates(params, steps), inner), value

            return lax.scan(minibatch, state, batches)

        (params, inner), losses = lax.scan(epoch, (params, inner), jax.random.split(order, 2))
        return (params, inner, env, key), {"reward": rewards.mean(), "loss": losses}

    start = params, optimizer.init(params), jnp.zeros((N_ENVS, 2)), key
    state, metrics = lax.scan(update, start, jnp.arange(length))
    return {"params": state[0], "optimizer": state[1]}, metrics


POLICY = jax.jit(policy_training, static_argnames="length")


@pytest.mark.slow
def test_a_policy_training_in_one_call_computes_the_same_bits_and_learns():
    whole = POLICY(jax.random.key(0), -1)
    chunked = nanlab.watch(POLICY)
    assert bits(chunked(jax.random.key(0), -1)) == bits(whole)
    assert chunked.whole == ""
    rewards = np.asarray(whole[1]["reward"])
    assert rewards[-20:].mean() > rewards[:20].mean()


CASES = [(seed, int(np.random.default_rng(seed).integers(0, N_UPDATES))) for seed in range(20)]


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "at"), CASES)
def test_the_faulty_update_of_a_policy_training_is_named(seed, at):
    with pytest.raises(nanlab.Fault) as raised:
        nanlab.Recorder().watch(POLICY)(jax.random.key(seed), at)
    fault = raised.value
    assert fault.iteration == at and fault.exact and not fault.notes
    culprit = fault.verdict.culprit
    assert (culprit.primitive, culprit.iterations[0]) == ("sqrt", at)
    assert "(number == at)" in culprit.code
    assert [row["iteration"] for row in fault.history] == list(range(max(0, at - 63), at + 1))
    if at > 1:
        before = bits(POLICY(jax.random.key(seed), -1, length=at)[0])
        assert all(leaf in bits(fault.state) for leaf in before)
