"""The code of the claims' own problems: what they tell is what the training shows."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sampled import sampled

from nanlab.grid.parameters import PARAMETERS
from nanlab.problems.training import make_training
from nanlab.problems.user_code import user_function

FOLDER = Path(__file__).resolve().parents[1] / "sweeps/claims"
KNOBS = {"lr": 0.1, "init_scale": 1.0, "optimizer_epsilon": 1e-8, "hidden_bias": 0.0,
         "output_bias": 0.0}  # fmt: skip


def of(name):
    file, _, function = name.partition(":")
    return user_function(f"{FOLDER / file}.py:{function}", key="run.problem")


def walked(problem, steps, **knobs):
    """The states before each step and after the last, and the numbers told."""
    given = {name: jnp.float64(value) for name, value in {**KNOBS, **knobs}.items()}
    states, told = [jax.jit(problem.init)(given, jax.random.key(0))], []
    step = jax.jit(problem.step)
    for number in range(steps):
        state, value = step(states[-1], given, jax.random.key(number))
        states.append(state)
        told.append(float(value))
    return states, told


@pytest.mark.slow
def test_watching_changes_nothing_of_the_training():
    plain = make_training({"depth": 3, "batch_size": 64, "train_examples": 1000})
    knobs = {name: jnp.float64(PARAMETERS[name].default) for name in plain.knobs}
    knobs["lr"] = jnp.float64(0.1)
    state, losses = jax.jit(plain.init)(knobs, jax.random.key(0)), []
    step = jax.jit(plain.step)
    for number in range(5):
        state, metrics = step(state, knobs, jax.random.key(number))
        losses.append(float(metrics.loss))
    states, told = walked(of("watched:watched")(told="loss"), 5)
    assert [float(s["loss"]) for s in states[1:]] == pytest.approx(losses, rel=1e-5)
    assert told == pytest.approx([max(losses[: i + 1]) / losses[0] for i in range(5)], rel=1e-5)


@pytest.mark.slow
def test_hidden_units_are_told_dead_where_their_biases_are_negative_enough():
    problem = of("watched:watched")(told="dead")
    assert walked(problem, 1, hidden_bias=-1000.0)[1] == [1.0]
    assert walked(problem, 1)[1][0] < 0.1


@pytest.mark.slow
def test_biases_saturate_the_hidden_units_and_no_others():
    problem = of("watched:watched")(told="gradient", activation="tanh", task="breast_cancer")
    (state, after), _ = walked(problem, 1, hidden_bias=30.0)
    layers = state["training"].params["params"]
    assert [float(layers[f"Dense_{i}"]["bias"][0]) for i in range(4)] == [30.0, 30.0, 30.0, 0.0]
    moved = after["training"].params["params"]
    assert jnp.array_equal(moved["Dense_0"]["kernel"], layers["Dense_0"]["kernel"])
    assert not jnp.array_equal(moved["Dense_3"]["kernel"], layers["Dense_3"]["kernel"])


@pytest.mark.slow
def test_the_gradient_is_told_as_a_multiple_of_the_first():
    states, told = walked(of("watched:watched")(told="gradient"), 3)
    plain = make_training({"depth": 3, "batch_size": 64, "train_examples": 1000})
    knobs = {name: jnp.float64(PARAMETERS[name].default) for name in plain.knobs}
    observe = jax.jit(lambda *at: {"gradient_norm": plain.observe(*at)["gradient_norm", ""]})
    norms = [
        float(observe(s["training"], knobs, jax.random.key(i))["gradient_norm"])
        for i, s in enumerate(states[:3])
    ]
    assert told == pytest.approx([norm / norms[0] for norm in norms], rel=1e-4)


MONITORED = {
    # name: (knobs, static, whether a NaN comes, what the monitor is told to be at the end)
    "a loss that explodes step by step is warned of": ({"lr": 10.0}, "mse", True, 1.0),
    "a run that trains is not": ({"lr": 0.1}, "softmax_cross_entropy", False, 1.0),
    "a NaN of the first step is not": (
        {"init_scale": 1e30}, "softmax_cross_entropy", True, 0.0
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", MONITORED)
def test_the_monitor_is_right_where_it_warned_before_the_nan(name):
    knobs, loss, comes, right = MONITORED[name]
    states, told = walked(of("watched:watched")(told="warning", loss=loss), 40, **knobs)
    bad = [i for i, s in enumerate(states) if _holds_nan(s)]
    assert bool(bad) == comes
    assert told[bad[0] - 1 if bad else -1] == right


def _holds_nan(state):
    floats = [x for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.floating)]
    return any(bool(jnp.isnan(x).any()) for x in floats)


@pytest.mark.slow
def test_a_warning_of_a_run_whose_loss_is_small_is_wrong():
    problem = of("watched:watched")(told="warning")
    states, _ = walked(problem, 3)
    given = {name: jnp.float64(value) for name, value in KNOBS.items()}
    warned = {**states[-1], "warned": jnp.float64(1.0)}
    assert float(jax.jit(problem.step)(warned, given, jax.random.key(3))[1]) == 0.0


@pytest.mark.parametrize(("precision", "product"), [("int32", 410065408), ("int64", 9 * 10**9)])
def test_the_product_of_thousands_wraps_round_in_32_bit_integers(precision, product):
    # NumPy's, in the example's own type: what B11's remark says of it.
    x, matrix = np.full(3, 1000, precision), np.full((3, 3), 1000, precision)
    assert ((x @ matrix) @ matrix).tolist() == [product] * 3
    problem = of("examples:thousands")(precision=precision)
    _, loss = problem.step(problem.init({}, jax.random.key(0)), {}, jax.random.key(0))
    assert int(loss) == product


CARELESS = of("careless:careless")
KINDS = CARELESS.__globals__["KINDS"]


def stepped(function, precision, numbers):
    """The loss and the gradient of one matrix, inputs and targets multiplied by `numbers`."""
    rng = np.random.default_rng(0)
    weights, inputs, target = (rng.standard_normal(shape) for shape in ((8, 4), (16, 8), (16, 4)))
    compares = "error" in str(next(name for name, forms in KINDS.items() if function in forms))
    data = [weights / 8**0.5, inputs * numbers, target * (numbers if compares else 1.0)]
    weights, inputs, target = (jnp.asarray(each, precision) for each in data)
    classes = jnp.asarray(rng.integers(0, 4, 16))
    return jax.jit(jax.value_and_grad(lambda w: function(inputs @ w, target, classes)))(weights)


@pytest.mark.parametrize("kind", sampled(KINDS, 2))
def test_both_forms_of_a_kind_are_the_same_function(kind):
    (loss, gradient), (other, others) = (stepped(each, "float32", 1.0) for each in KINDS[kind])
    assert float(loss) == pytest.approx(float(other), rel=1e-4)
    np.testing.assert_allclose(gradient, others, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", sampled(KINDS, 2))
def test_an_edge_case_makes_the_form_as_written_fail_and_not_the_guarded_one(kind):
    written, guarded = KINDS[kind]
    failed = []
    for numbers in (0.0, 1000.0):
        for function in (written, guarded):
            is_finite = [bool(jnp.isfinite(x).all()) for x in stepped(function, "float32", numbers)]
            assert all(is_finite) or function is written
            failed.append(not all(is_finite))
    assert any(failed)


@pytest.mark.slow
def test_a_careless_loss_is_descended_from_the_knobs():
    knobs = {"lr": 0.1, "numbers": 1.0}
    problem = CARELESS(kind="relative error", form="guarded")
    assert walked(problem, 3, **knobs)[1][-1] < walked(problem, 1, **knobs)[1][0]
    zero = problem.init({"numbers": jnp.float64(0.0)}, jax.random.key(0))
    assert not zero["inputs"].any() and not zero["target"].any()
