"""Losses, and what the best constant gets; beside NumPy and SciPy in float64."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy
from sampled import sampled
from scipy.special import expit, log_softmax, softmax

from nanlab.parts.losses import LOSSES
from nanlab.parts.precision import PRECISIONS

KNOBS = {"huber_delta": 0.6, "loss_epsilon": 1e-3, "temperature": 0.4, "label_smoothing": 0.0}


def draws():
    """Random numbers, the same for each test whichever others run."""
    return np.random.default_rng(0)


# ---- losses --------------------------------------------------------------------------------------


def huber(outputs, targets):
    far, delta = np.abs(outputs - targets), KNOBS["huber_delta"]
    return np.mean(np.where(far <= delta, far**2 / 2, delta * (far - delta / 2)))


def cross_entropy(outputs, targets, change=lambda p: p):
    with np.errstate(divide="ignore"):
        return -np.mean(np.sum(targets * np.log(change(softmax(outputs, axis=-1))), axis=-1))


def binary(outputs, targets, change=lambda p: p):
    p = expit(outputs)
    return -np.mean(targets * np.log(change(p)) + (1 - targets) * np.log(change(1 - p)))


def clipped(p):
    return np.clip(p, KNOBS["loss_epsilon"], 1 - KNOBS["loss_epsilon"])


def with_epsilon(p):
    return p + KNOBS["loss_epsilon"]


def divergence(outputs, targets):
    logarithms = np.log(np.where(targets > 0, targets, 1.0)) - log_softmax(outputs, axis=-1)
    return np.mean(np.sum(np.where(targets > 0, targets * logarithms, 0.0), axis=-1))


def cosine(outputs, targets):
    lengths = np.linalg.norm(outputs, axis=-1) * np.linalg.norm(targets, axis=-1)
    return 1 - np.mean(np.sum(outputs * targets, axis=-1) / lengths)


def contrastive(outputs, targets):
    """Equation 2 of Khosla et al. 2020, pair by pair."""
    squares = np.sum(outputs**2, axis=-1, keepdims=True)
    unit, each = outputs / np.sqrt(squares + KNOBS["loss_epsilon"]), []
    for i in range(len(unit)):
        others = [j for j in range(len(unit)) if j != i]
        partners = [j for j in others if targets[i] @ targets[j] > 0]
        similar = {j: unit[i] @ unit[j] / KNOBS["temperature"] for j in others}
        whole = np.log(sum(np.exp(similar[j]) for j in others))
        if partners:
            each.append(-np.mean([similar[j] - whole for j in partners]))
    return np.mean(each) if each else 0.0


NUMPY_LOSSES = {
    "mse": lambda o, t: np.mean((o - t) ** 2),
    "mae": lambda o, t: np.mean(np.abs(o - t)),
    "rmse": lambda o, t: np.sqrt(np.mean((o - t) ** 2)),
    "huber": huber,
    "softmax_cross_entropy_epsilon": lambda o, t: cross_entropy(o, t, with_epsilon),
    "softmax_cross_entropy_clipped": lambda o, t: cross_entropy(o, t, clipped),
    "sigmoid_cross_entropy": binary,
    "sigmoid_cross_entropy_probabilities": binary,
    "sigmoid_cross_entropy_epsilon": lambda o, t: binary(o, t, with_epsilon),
    "sigmoid_cross_entropy_clipped": lambda o, t: binary(o, t, clipped),
    "kl_divergence": divergence,
    "kl_divergence_naive": divergence,
    "cosine": cosine,
    "cosine_naive": cosine,
    "contrastive": contrastive,
    **dict.fromkeys(
        [
            "softmax_cross_entropy", "softmax_cross_entropy_naive",
            "softmax_cross_entropy_log_sum", "softmax_cross_entropy_probabilities",
            "softmax_cross_entropy_masked", "softmax_cross_entropy_masked_twice",
        ],
        cross_entropy,
    ),
}  # fmt: skip
PRECISE = {"float64": 1e-12, "float32": 2e-5, "bfloat16": 0.05, "float16": 0.01}


def one_hot(rng, many, classes):
    return np.eye(classes)[rng.integers(0, classes, many)]


def traced(knobs=None):
    return {name: jnp.float64(value) for name, value in (knobs or KNOBS).items()}


def targets_of(name, rng, shape):
    """Numbers where they do, shares of classes (none of them 0) otherwise; pairs need classes."""
    if LOSSES[name].targets == "any":
        return rng.standard_normal(shape)
    if name == "contrastive":
        return one_hot(rng, shape[0], shape[-1])
    return rng.dirichlet(np.ones(shape[-1]), shape[:-1])


@pytest.mark.parametrize(
    "precision",
    [
        pytest.param(p, marks=[pytest.mark.slow] * (p in ("float32", "bfloat16")))
        for p in PRECISIONS
    ],
)
@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_numpys(name, precision):
    rng, dtype = draws(), jnp.dtype(precision)
    outputs = (1.5 * rng.standard_normal((20, 5))).astype(dtype)
    targets = targets_of(name, rng, (20, 5)).astype(dtype)
    knobs = {key: jnp.asarray(value, dtype) for key, value in KNOBS.items()}
    got = jax.jit(LOSSES[name].apply)(outputs, targets, knobs)
    wanted = NUMPY_LOSSES[name](outputs.astype(np.float64), targets.astype(np.float64))
    assert got.dtype == dtype
    np.testing.assert_allclose(float(got), wanted, rtol=PRECISE[precision])


ONE_HOT = [
    name
    for name, each in LOSSES.items()
    if each.targets == "classes" and name != "kl_divergence_naive"
]


@pytest.mark.parametrize("name", ONE_HOT)
def test_a_loss_of_one_hot_targets_is_numpys(name):
    rng = draws()
    outputs, targets = 2 * rng.standard_normal((20, 5)), one_hot(rng, 20, 5)
    got = jax.jit(LOSSES[name].apply)(outputs, targets, traced())
    np.testing.assert_allclose(float(got), NUMPY_LOSSES[name](outputs, targets), rtol=1e-12)


@pytest.mark.parametrize("name", sampled((name for name in LOSSES if name != "contrastive"), 3))
def test_a_loss_of_each_step_is_the_mean_over_all_steps(name):
    rng = draws()
    outputs, targets = rng.standard_normal((6, 4, 5)), targets_of(name, rng, (6, 4, 5))
    loss = jax.jit(LOSSES[name].apply)
    whole, flat = (
        loss(outputs.reshape(shape), targets.reshape(shape), traced())
        for shape in [(6, 4, 5), (24, 5)]
    )
    np.testing.assert_allclose(float(whole), float(flat), rtol=1e-12)


def test_a_naive_divergence_of_a_one_hot_target_is_nan():
    got = LOSSES["kl_divergence_naive"].apply(jnp.zeros((1, 2)), jnp.eye(2)[:1], {})
    assert np.isnan(float(got))


# logits of one example whose class is the first -> stable and naive cross-entropy in float32.
EXTREMES = [
    ([0.0, 0.0], np.log(2), np.log(2)),
    ([0.0, 80.0], 80.0, 80.0),
    ([0.0, 89.0], 89.0, np.nan),  # e^89 is inf: inf / inf
    ([89.0, 0.0], 0.0, np.nan),
    ([-104.0, -104.0], np.log(2), np.nan),  # 0 / 0
    ([200.0, 0.0], 0.0, np.nan),
    ([0.0, -np.inf], np.nan, np.nan),  # 0 * inf: a masked logit, in either form
]


@pytest.mark.parametrize(("logits", "stable", "naive"), EXTREMES)
def test_the_stable_loss_is_finite_where_the_naive_one_is_not(logits, stable, naive):
    outputs, targets = jnp.asarray([logits], jnp.float32), jnp.asarray([[1.0, 0.0]], jnp.float32)
    for name, wanted in {
        "softmax_cross_entropy": stable, "softmax_cross_entropy_naive": naive,
    }.items():  # fmt: skip
        got = float(jax.jit(LOSSES[name].apply)(outputs, targets, {}))
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6, err_msg=name)


# loss, logits, targets, whether the loss and its gradient are finite in float32.
SLOPES = [
    ("softmax_cross_entropy", [0.0, 200.0], [1.0, 0.0], True, True),
    ("softmax_cross_entropy_log_sum", [0.0, 89.0], [1.0, 0.0], False, False),
    ("softmax_cross_entropy_probabilities", [0.0, 200.0], [1.0, 0.0], False, False),
    ("softmax_cross_entropy_masked", [200.0, 0.0], [1.0, 0.0], True, False),
    ("softmax_cross_entropy_masked_twice", [200.0, 0.0], [1.0, 0.0], True, True),
    ("softmax_cross_entropy_epsilon", [0.0, 200.0], [1.0, 0.0], True, True),
    ("softmax_cross_entropy_clipped", [0.0, 200.0], [1.0, 0.0], True, True),
    ("sigmoid_cross_entropy", [200.0, -200.0], [0.0, 1.0], True, True),
    ("sigmoid_cross_entropy_probabilities", [200.0, 0.0], [1.0, 0.0], False, False),
    ("sigmoid_cross_entropy_epsilon", [200.0, -200.0], [0.0, 1.0], True, True),
    ("sigmoid_cross_entropy_clipped", [200.0, -200.0], [0.0, 1.0], True, True),
    ("kl_divergence", [0.0, 200.0], [1.0, 0.0], True, True),
    ("rmse", [1.0, 0.0], [1.0, 0.0], True, False),
    ("cosine", [0.0, 0.0], [1.0, 0.0], True, True),
    ("cosine_naive", [0.0, 0.0], [1.0, 0.0], False, False),
    ("contrastive", [0.0, 0.0], [1.0, 0.0], True, True),
]


@pytest.mark.parametrize(("name", "logits", "target", "finite", "slope_finite"), SLOPES)
def test_a_loss_and_its_gradient_fail_where_they_are_said_to(
    name, logits, target, finite, slope_finite
):
    outputs, targets = jnp.asarray([logits], jnp.float32), jnp.asarray([target], jnp.float32)
    knobs = {key: jnp.float32(value) for key, value in KNOBS.items()}
    loss, slope = jax.jit(jax.value_and_grad(LOSSES[name].apply))(outputs, targets, knobs)
    assert bool(jnp.isfinite(loss)) == finite
    assert bool(jnp.isfinite(slope).all()) == slope_finite


# ---- the best constant ---------------------------------------------------------------------------

SHARES = [[0.5, 0.5], [0.9, 0.1], [0.2, 0.3, 0.5], [0.1, 0.4, 0.3, 0.2], [0.0, 0.4, 0.6]]
NUMBERS = {
    f"{many} x {outputs}": draws().standard_normal((many, outputs)) * 2 + 1
    for many, outputs in [(9, 1), (30, 3), (7, 2)]
}


def searched(name, targets):
    """The smallest mean loss of one output for all, by a search from several starts."""

    def mean_loss(constant):
        return NUMPY_LOSSES[name](np.broadcast_to(constant, targets.shape), targets)

    starts = [np.mean(targets, axis=0), np.median(targets, axis=0), np.zeros(targets.shape[1])]
    starts = [start + 1e-3 for start in starts]
    options = {"xatol": 1e-10, "fatol": 1e-12, "maxiter": 5000, "maxfev": 10_000}
    return min(
        scipy.optimize.minimize(mean_loss, start, method="Nelder-Mead", options=options).fun
        for start in starts
    )


CLASS_CASES = [
    pytest.param(name, np.repeat(np.eye(len(shares)), (20 * np.array(shares)).astype(int), axis=0),
                 id=f"{name}-{shares}")
    for name, shares in itertools.product(LOSSES, SHARES)
    if name not in {"contrastive", "kl_divergence_naive"}
]  # fmt: skip
NUMBER_CASES = [
    pytest.param(name, targets, id=f"{name}-{told}")
    for name, (told, targets) in itertools.product(LOSSES, NUMBERS.items())
    if LOSSES[name].targets == "any"
]
# With loss_epsilon inside, the best constant is found to about that much.
ROUGH = {name: 0.05 for name in LOSSES if "epsilon" in name or "clipped" in name}


@pytest.mark.parametrize(("name", "targets"), sampled(CLASS_CASES + NUMBER_CASES, 3))
def test_the_best_constant_is_what_a_search_finds(name, targets):
    best = LOSSES[name].best_constant(targets, KNOBS, 16)
    near = ROUGH.get(name, 1e-4)
    assert best - (near if name in ROUGH else 1e-7) <= searched(name, targets) <= best + near


@pytest.mark.parametrize("name", ["softmax_cross_entropy", "kl_divergence", "kl_divergence_naive"])
def test_the_best_constant_of_smoothed_targets_is_what_a_search_finds(name):
    targets = 0.9 * one_hot(draws(), 20, 3) + 0.1 / 3
    best = LOSSES[name].best_constant(targets, KNOBS, 16)
    np.testing.assert_allclose(best, searched(name, targets), atol=1e-6)


def test_the_best_constant_of_pairs_is_what_one_embedding_for_all_gets():
    targets = one_hot(draws(), 16, 3)
    knobs = traced({**KNOBS, "loss_epsilon": 0.0})
    got = jax.jit(LOSSES["contrastive"].apply)(jnp.ones((16, 4)), targets, knobs)
    best = LOSSES["contrastive"].best_constant(targets, KNOBS, 16)
    np.testing.assert_allclose(best, float(got), rtol=1e-12)
