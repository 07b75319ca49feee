"""Activations beside their closed forms, in NumPy and SciPy and float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sampled import sampled
from scipy.special import expit, log_expit, log_softmax, ndtr, softmax

from nanlab.grid.parameters import PARAMETERS
from nanlab.parts.activations import ACTIVATIONS

DEFAULTS = {
    name: float(PARAMETERS[name].default) for each in ACTIVATIONS.values() for name in each.knobs
}
KNOBS = {name: jnp.float64(value) for name, value in DEFAULTS.items()}
OTHERS = {"negative_slope": 0.07}
# Points beside kinks, and numbers that a sum with 1 rounds.
CLOSE = [0.0, 1e-9, -1e-9, 1e-3, -1e-3, 0.9999, 1.0001, -1.0001, 5.9999, 6.0001, -2.9999, -3.0001]
POINTS = np.unique([*np.linspace(-30, 30, 121), *CLOSE]).reshape(2, -1)


def standardized(x):
    deviation = np.sqrt(x.var(axis=-1, keepdims=True) + 1e-5)
    return (x - x.mean(axis=-1, keepdims=True)) / deviation


def exponential(x):
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))


def gated(x):
    ahead, behind = np.split(x, 2, axis=-1)
    return ahead * expit(behind)


# Two constants of Klambauer et al. 2017, to which weights of mean 0 and variance 1 / n are stable.
SCALE, ALPHA = 1.0507009873554804934193349852946, 1.6732632423543772848170429916717
# name -> (x, knobs) -> what mathematics says, however the entry computes it.
CLOSED_FORMS = {
    "relu": lambda x, knobs: np.maximum(x, 0),
    "relu6": lambda x, knobs: np.clip(x, 0, 6),
    "leaky_relu": lambda x, knobs: np.where(x > 0, x, knobs["negative_slope"] * x),
    "selu": lambda x, knobs: SCALE * np.where(x > 0, x, ALPHA * exponential(x)),
    "gelu": lambda x, knobs: x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "gelu_exact": lambda x, knobs: x * ndtr(x),
    "mish": lambda x, knobs: x * np.tanh(np.logaddexp(x, 0)),
    "log_sigmoid": lambda x, knobs: log_expit(x),
    "hard_sigmoid": lambda x, knobs: np.clip(x + 3, 0, 6) / 6,
    "hard_silu": lambda x, knobs: x * np.clip(x + 3, 0, 6) / 6,
    "hard_tanh": lambda x, knobs: np.clip(x, -1, 1),
    "soft_sign": lambda x, knobs: x / (1 + np.abs(x)),
    "squareplus": lambda x, knobs: (x + np.sqrt(x**2 + 4)) / 2,
    "sparse_plus": lambda x, knobs: np.where(x <= -1, 0, np.where(x >= 1, x, (x + 1) ** 2 / 4)),
    "sparse_sigmoid": lambda x, knobs: np.clip((x + 1) / 2, 0, 1),
    "glu": lambda x, knobs: gated(x),
    "standardize": lambda x, knobs: standardized(x),
    "identity": lambda x, knobs: x,
    "square": lambda x, knobs: x**2,
    "exp": lambda x, knobs: np.exp(x),
    **dict.fromkeys(["tanh", "tanh_naive"], lambda x, knobs: np.tanh(x)),
    **dict.fromkeys(["sigmoid", "sigmoid_naive"], lambda x, knobs: expit(x)),
    **dict.fromkeys(["silu", "silu_naive"], lambda x, knobs: x * expit(x)),
    **dict.fromkeys(["softplus", "softplus_naive"], lambda x, knobs: np.logaddexp(x, 0)),
    **dict.fromkeys(["elu", "elu_naive", "celu"], lambda x, knobs: exponential(x)),
    **dict.fromkeys(["softmax", "softmax_naive"], lambda x, knobs: softmax(x, axis=-1)),
    **dict.fromkeys(["log_softmax", "log_softmax_naive"], lambda x, k: log_softmax(x, axis=-1)),
}
# Their forms take a sum of which little is left: 1 + tanh, exp(x) - 1, log(1 + exp(x)), x - mean.
ROUNDED = ["gelu", "tanh_naive", "elu_naive", "softplus_naive", "standardize"]


@pytest.mark.parametrize("values", [DEFAULTS, OTHERS], ids=["defaults", "others"])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_is_its_closed_form(name, values):
    assert name in CLOSED_FORMS, (
        f"nothing holds activation {name!r}: add what it is on paper to CLOSED_FORMS, in NumPy"
    )
    entry = ACTIVATIONS[name]
    got = jax.jit(entry.apply)(POINTS, {knob: jnp.float64(x) for knob, x in values.items()})
    assert got.dtype == jnp.float64
    assert got.shape == (2, POINTS.shape[1] // entry.inputs)
    near = 1e-14 if name in ROUNDED else 0.0
    np.testing.assert_allclose(got, CLOSED_FORMS[name](POINTS, values), rtol=1e-12, atol=near)


def test_closed_forms_are_of_activations_and_every_knob_has_another_value():
    assert CLOSED_FORMS.keys() <= ACTIVATIONS.keys()
    assert set(ROUNDED) <= ACTIVATIONS.keys()
    assert OTHERS.keys() == DEFAULTS.keys()
    assert not OTHERS.items() & DEFAULTS.items()


@pytest.mark.parametrize("name", sampled(ACTIVATIONS, 2))
def test_an_activation_is_elementwise_where_it_says_so(name):
    x, entry = jnp.asarray(np.random.default_rng(0).standard_normal(8)), ACTIVATIONS[name]
    slopes = np.asarray(jax.jit(jax.jacobian(lambda x: entry.apply(x, KNOBS)))(x))
    others = slopes[:, : slopes.shape[0]] - np.diag(np.diag(slopes))
    assert entry.is_elementwise == (slopes.shape == (8, 8) and not others.any())


# name -> an x at which the form as it is written is not finite in float32, or its slope is not.
NAIVE = {
    "tanh_naive": 100.0, "softplus_naive": 100.0, "softmax_naive": 100.0, "elu_naive": 100.0,
    "sigmoid_naive": -100.0, "silu_naive": -100.0, "log_softmax_naive": 100.0, "exp": 100.0,
}  # fmt: skip


@pytest.mark.parametrize(("name", "x"), NAIVE.items())
def test_a_naive_activation_fails_where_it_is_said_to(name, x):
    at = jnp.asarray([x, 0.0], jnp.float32)
    value = ACTIVATIONS[name].apply(at, {})
    slope = jax.grad(lambda x: ACTIVATIONS[name].apply(x, {}).sum())(at)
    assert not (np.isfinite(value).all() and np.isfinite(slope).all())
