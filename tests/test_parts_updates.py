"""Initializers, optimizers, clipping, schedules and loss scaling; beside NumPy and Optax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sampled import sampled

from nanlab.backend.jaxpr import weak
from nanlab.parts.initializers import BIAS_INITIALIZERS, INITIALIZERS
from nanlab.parts.optimizers import CLIPS, OPTIMIZERS, build_update
from nanlab.parts.precision import PRECISIONS
from nanlab.parts.scaling import first_scale, is_finite, next_scale, unscaled
from nanlab.parts.schedules import SCHEDULES


def draws():
    """Random numbers, the same for each test whichever others run."""
    return np.random.default_rng(0)


# ---- initializers --------------------------------------------------------------------------------

FAN_IN, FAN_OUT = 500, 300
MEAN = (FAN_IN + FAN_OUT) / 2
# name -> variance, and the bound if the distribution has one.
SPREADS = {
    "lecun_normal": (1 / FAN_IN, None),
    "lecun_uniform": (1 / FAN_IN, np.sqrt(3 / FAN_IN)),
    "glorot_normal": (1 / MEAN, None),
    "glorot_uniform": (1 / MEAN, np.sqrt(3 / MEAN)),
    "he_normal": (2 / FAN_IN, None),
    "he_uniform": (2 / FAN_IN, np.sqrt(6 / FAN_IN)),
    "he_fan_out": (2 / FAN_OUT, None),
    "he_fan_avg": (2 / MEAN, None),
    "normal": (1.0, None),
    "truncated_normal": (0.7737, 2.0),
    "normal_fan_in": (1 / FAN_IN, None),
    "uniform": (1 / 3, 1.0),
    "uniform_fan_in": (1 / (3 * FAN_IN), np.sqrt(1 / FAN_IN)),
    "orthogonal": (1 / FAN_IN, None),
    "delta_orthogonal": (1 / FAN_IN, None),
    "constant": (0.0, 1.0),
    "zeros": (0.0, 0.0),
}


@pytest.mark.parametrize("name", sampled(INITIALIZERS, 2))
def test_an_initializer_has_the_variance_of_its_name(name):
    weights = INITIALIZERS[name].draw(jax.random.key(1), (FAN_IN, FAN_OUT))
    variance, bound = SPREADS[name]
    assert weights.dtype == jnp.float32
    assert float(jnp.var(weights)) == pytest.approx(variance, rel=0.02)
    if bound is not None:
        assert float(jnp.max(jnp.abs(weights))) == pytest.approx(bound, rel=1e-3)


@pytest.mark.parametrize(
    "shape",
    [(6, 4), *(pytest.param(s, marks=pytest.mark.slow) for s in [(4, 6), (5, 5), (3, 6, 4)]),
     (3, 3, 4, 6)],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("name", ["orthogonal", "delta_orthogonal"])
def test_an_orthogonal_kernel_keeps_lengths(name, shape):
    kernel = np.asarray(INITIALIZERS[name].draw(jax.random.key(1), shape), np.float64)
    if name == "delta_orthogonal" and len(shape) > 2:
        center = kernel[(1,) * (len(shape) - 2)]
        assert np.count_nonzero(kernel) == np.count_nonzero(center)
        kernel = center
    matrix = kernel.reshape(-1, shape[-1])
    few = min(matrix.shape)
    product = matrix @ matrix.T if few == len(matrix) else matrix.T @ matrix
    np.testing.assert_allclose(product, np.eye(few), atol=1e-5)


@pytest.mark.parametrize(
    "name",
    [
        "he_normal",
        *(pytest.param(n, marks=pytest.mark.slow)
          for n in ("lecun_normal", "normal_fan_in", "uniform_fan_in")),
    ],
)  # fmt: skip
def test_the_inputs_of_a_convolutions_kernel_are_all_axes_but_the_last(name):
    flat = INITIALIZERS[name].draw(jax.random.key(1), (3 * 3 * 40, 200))
    kernel = INITIALIZERS[name].draw(jax.random.key(2), (3, 3, 40, 200))
    assert float(jnp.var(kernel)) == pytest.approx(float(jnp.var(flat)), rel=0.05)


# name -> variance and bound of the biases of a layer of FAN_IN inputs.
BIASES = {
    "zeros": (0.0, 0.0),
    "constant": (0.0, 1.0),
    "normal": (1.0, None),
    "uniform_fan_in": (1 / (3 * FAN_IN), np.sqrt(1 / FAN_IN)),
}


@pytest.mark.parametrize("name", BIAS_INITIALIZERS)
def test_a_bias_initializer_has_the_variance_of_its_name(name):
    biases = BIAS_INITIALIZERS[name].draw(jax.random.key(1), (40_000,), FAN_IN)
    variance, bound = BIASES[name]
    assert biases.dtype == jnp.float32
    assert float(jnp.var(biases)) == pytest.approx(variance, rel=0.02)
    if bound is not None:
        assert float(jnp.max(jnp.abs(biases))) == pytest.approx(bound, rel=1e-3)


# ---- optimizers ----------------------------------------------------------------------------------

HYPER = {
    "lr": 0.1, "momentum": 0.7, "decay": 0.8, "b1": 0.6, "b2": 0.9, "optimizer_epsilon": 1e-3,
    "weight_decay": 0.3, "clip_at": 0.5, "clip_epsilon": 1e-3, "warmup_steps": 3.0,
}  # fmt: skip
PARAMETERS_AT = np.array([0.5, -1.0, 2.0])


def numpy_sgd(gradients):
    return [-HYPER["lr"] * g for g in gradients]


def numpy_momentum(gradients):
    trace, updates = 0.0, []
    for g in gradients:
        trace = g + HYPER["momentum"] * trace
        updates.append(-HYPER["lr"] * trace)
    return updates


def numpy_rmsprop(gradients):
    square, updates = 0.0, []
    for g in gradients:
        square = HYPER["decay"] * square + (1 - HYPER["decay"]) * g**2
        updates.append(-HYPER["lr"] * g / np.sqrt(square + HYPER["optimizer_epsilon"]))
    return updates


def numpy_adam(gradients):
    first, second, updates = 0.0, 0.0, []
    for t, g in enumerate(gradients, start=1):
        first = HYPER["b1"] * first + (1 - HYPER["b1"]) * g
        second = HYPER["b2"] * second + (1 - HYPER["b2"]) * g**2
        root = np.sqrt(second / (1 - HYPER["b2"] ** t)) + HYPER["optimizer_epsilon"]
        updates.append(-HYPER["lr"] * first / (1 - HYPER["b1"] ** t) / root)
    return updates


def numpy_nesterov(gradients):
    trace, updates = 0.0, []
    for g in gradients:
        trace = g + HYPER["momentum"] * trace
        updates.append(-HYPER["lr"] * (g + HYPER["momentum"] * trace))
    return updates


def numpy_adagrad(gradients):
    square, updates = 0.1, []
    for g in gradients:
        square = square + g**2
        updates.append(-HYPER["lr"] * g / np.sqrt(square + HYPER["optimizer_epsilon"]))
    return updates


def numpy_adamw(gradients):
    decay = HYPER["lr"] * HYPER["weight_decay"] * PARAMETERS_AT
    return [update - decay for update in numpy_adam(gradients)]


def numpy_lamb(gradients):
    updates = []
    for update in numpy_adam(gradients):
        whole = update / HYPER["lr"] - HYPER["weight_decay"] * PARAMETERS_AT
        ratio = np.linalg.norm(PARAMETERS_AT) / np.linalg.norm(whole)
        updates.append(HYPER["lr"] * ratio * whole)
    return updates


def numpy_lion(gradients):
    moment, updates = 0.0, []
    for g in gradients:
        sign = np.sign(HYPER["b1"] * moment + (1 - HYPER["b1"]) * g)
        updates.append(-HYPER["lr"] * (sign + HYPER["weight_decay"] * PARAMETERS_AT))
        moment = HYPER["b2"] * moment + (1 - HYPER["b2"]) * g
    return updates


NUMPY_OPTIMIZERS = {
    "sgd": numpy_sgd,
    "momentum": numpy_momentum,
    "nesterov": numpy_nesterov,
    "adagrad": numpy_adagrad,
    "rmsprop": numpy_rmsprop,
    "adam": numpy_adam,
    "adamw": numpy_adamw,
    "lion": numpy_lion,
    "lamb": numpy_lamb,
}


def traced(**changed):
    return {name: jnp.float64(value) for name, value in {**HYPER, **changed}.items()}


def updates_of(optimizer, gradients, parameters=PARAMETERS_AT):
    """The updates of constant parameters, one for each gradient."""
    state, made, updated = optimizer.init(jnp.asarray(parameters)), [], jax.jit(optimizer.update)
    for gradient in gradients:
        update, state = updated(jnp.asarray(gradient), state, jnp.asarray(parameters))
        made.append(np.asarray(update))
    return made


@pytest.mark.parametrize("name", NUMPY_OPTIMIZERS)
def test_an_optimizer_takes_its_knobs_as_its_paper_has_them(name):
    gradients = list(draws().standard_normal((6, 3)))
    got = updates_of(OPTIMIZERS[name].build(jnp.float64(HYPER["lr"]), traced()), gradients)
    np.testing.assert_allclose(got, NUMPY_OPTIMIZERS[name](gradients), rtol=1e-6)


# name -> Optax's own of concrete numbers, where there is no short loop to write.
OPTAX_OPTIMIZERS = {
    "amsgrad": lambda: optax.amsgrad(0.1, b1=0.6, b2=0.9, eps=1e-3),
    "adafactor": lambda: optax.adafactor(0.1, weight_decay_rate=0.3),
    "muon": lambda: optax.contrib.muon(
        0.1, beta=0.7, eps=1e-3, weight_decay=0.3, adam_b1=0.6, adam_b2=0.9
    ),
}


def test_every_optimizer_stands_beside_numpy_or_optax():
    assert OPTIMIZERS.keys() == NUMPY_OPTIMIZERS.keys() | OPTAX_OPTIMIZERS.keys()


@pytest.mark.parametrize("name", OPTAX_OPTIMIZERS)
def test_an_optimizer_of_traced_knobs_is_optaxs_of_numbers(name):
    gradients, parameters = draws().standard_normal((3, 4, 3)), np.ones((4, 3))
    build = OPTIMIZERS[name].build
    got = updates_of(build(jnp.float64(HYPER["lr"]), traced()), gradients, parameters)
    wanted = updates_of(OPTAX_OPTIMIZERS[name](), gradients, parameters)
    np.testing.assert_allclose(got, wanted, rtol=1e-6)


@pytest.mark.parametrize("name", PRECISIONS)
def test_adams_bias_correction_is_not_rounded_to_zero_over_zero(name):
    # In bfloat16 a strong 0.999 is 1, and 1 - 1^t is 0.
    precision = PRECISIONS[name]

    def update(knobs, gradient):
        knobs = {name: weak(knob, precision.traced) for name, knob in knobs.items()}
        optimizer = OPTIMIZERS["adam"].build(knobs["lr"], knobs)
        return optimizer.update(gradient, optimizer.init(gradient))[0]

    gradient = jnp.ones(3, precision.dtype)
    knobs = traced(b1=0.9, b2=0.999, optimizer_epsilon=1e-4)
    moved = jax.jit(update)(knobs, gradient)
    np.testing.assert_allclose(np.asarray(moved, np.float64), -0.1, rtol=0.02)


# ---- what stands before an optimizer -------------------------------------------------------------

STATICS = {
    "optimizer": "sgd", "clip": "none", "schedule": "constant", "apply_if_finite": 0,
    "weight_decay": False,
}  # fmt: skip


def numpy_clip(name, g):
    """The clipped gradient of PARAMETERS_AT; a vector is one unit."""
    norm, at = np.linalg.norm(g), HYPER["clip_at"]
    if name == "global_norm":
        return g * min(1.0, at / norm)
    if name == "value":
        return np.clip(g, -at, at)
    if name == "adaptive":
        largest = at * max(np.linalg.norm(PARAMETERS_AT), HYPER["clip_epsilon"])
        return g * min(1.0, largest / norm)
    return at * g / (norm + HYPER["clip_epsilon"]) if name == "normalized" else g


def built(**statics):
    return build_update({**STATICS, **statics}, traced())


@pytest.mark.parametrize("size", sampled([3.0, 0.01], 2))
@pytest.mark.parametrize("name", CLIPS)
def test_a_clipped_gradient_is_numpys(name, size):
    gradients = list(size * draws().standard_normal((4, 3)))
    wanted = [-HYPER["lr"] * numpy_clip(name, g) for g in gradients]
    np.testing.assert_allclose(updates_of(built(clip=name), gradients), wanted, rtol=1e-6)


def test_weight_decay_is_added_to_the_gradient_after_it_is_clipped():
    gradients = list(3 * draws().standard_normal((4, 3)))
    decay = HYPER["weight_decay"] * PARAMETERS_AT
    wanted = numpy_momentum([numpy_clip("value", g) + decay for g in gradients])
    update = built(optimizer="momentum", clip="value", weight_decay=True)
    np.testing.assert_allclose(updates_of(update, gradients), wanted, rtol=1e-6)


@pytest.mark.parametrize("name", [n for n, each in OPTIMIZERS.items() if each.decays_weights])
def test_an_optimizer_with_a_decay_of_its_own_gets_it_once_and_only_if_asked(name):
    gradients, ones = draws().standard_normal((2, 4, 3)), np.ones((4, 3))
    alone = OPTIMIZERS[name].build(jnp.float64(HYPER["lr"]), traced())
    decayed = updates_of(built(optimizer=name, weight_decay=True), gradients, ones)
    np.testing.assert_allclose(decayed, updates_of(alone, gradients, ones), rtol=1e-9)
    plain = updates_of(built(optimizer=name), gradients, ones)
    assert not np.allclose(plain, decayed)


def test_updates_that_are_not_finite_are_left_out_so_many_times_in_a_row():
    gradients = np.ones((6, 3)) * np.array([1.0, np.nan, np.inf, 1.0, np.nan, 1.0])[:, None]
    got = updates_of(built(optimizer="momentum", apply_if_finite=2), gradients)
    seen = iter(numpy_momentum([1.0, 1.0, 1.0]))
    wanted = [next(seen) if np.isfinite(g[0]) else 0.0 for g in gradients]
    np.testing.assert_allclose(got, np.array(wanted)[:, None] * np.ones(3), rtol=1e-6)
    through = updates_of(built(apply_if_finite=2), np.full((4, 3), np.nan))
    assert [bool(np.isfinite(update).all()) for update in through] == [True, True, False, False]


def test_a_scheduled_rate_is_that_of_the_updates_count():
    got = updates_of(built(schedule="warmup"), np.ones((5, 3)))
    wanted = -HYPER["lr"] * np.array([1 / 3, 2 / 3, 1.0, 1.0, 1.0])
    np.testing.assert_allclose(np.array(got)[:, 0], wanted, rtol=1e-6)


# ---- schedules -----------------------------------------------------------------------------------


def optax_schedule(name, warmup, decay, floor, drop_every, drop):
    ramp = optax.linear_schedule(0.0, 1.0, warmup)
    cosine = optax.cosine_decay_schedule(1.0, decay, floor)
    return {
        "warmup": lambda count: ramp(count + 1),
        "cosine": cosine,
        "warmup_cosine": lambda count: ramp(count + 1) * cosine(max(count - warmup, 0)),
        "step_decay": optax.exponential_decay(1.0, drop_every, drop, staircase=True),
    }[name]


SETTINGS = [[5, 20, 0.1, 7, 0.5], [1, 1, 0.0, 1, 0.1], [12, 8, 1.0, 30, 1.0]]


@pytest.mark.parametrize("setting", sampled(SETTINGS, 3), ids=str)
@pytest.mark.parametrize("name", [name for name, each in SCHEDULES.items() if each.factor])
def test_a_schedule_is_optaxs_of_its_name(name, setting):
    names = ["warmup_steps", "decay_steps", "decay_floor", "drop_every", "drop_factor"]
    knobs = {key: jnp.float64(value) for key, value in zip(names, setting, strict=True)}
    factor, theirs = jax.jit(SCHEDULES[name].factor), optax_schedule(name, *setting)
    counts = range(0, 40, 3)
    got = [float(factor(jnp.int32(count), knobs)) for count in counts]
    np.testing.assert_allclose(got, [float(theirs(count)) for count in counts], atol=1e-6)


@pytest.mark.parametrize("name", ["warmup", "cosine", "warmup_cosine"])
def test_a_schedule_of_no_length_is_finite(name):
    knobs = {key: jnp.float64(0.0) for key in ("warmup_steps", "decay_steps", "decay_floor")}
    got = [float(SCHEDULES[name].factor(jnp.int32(count), knobs)) for count in range(3)]
    assert np.isfinite(got).all()
    assert got[1:] == ([1.0, 1.0] if name == "warmup" else [0.0, 0.0])


# ---- loss scaling --------------------------------------------------------------------------------


@pytest.mark.parametrize(("first", "period"), [(32768.0, 3), (1.0, 1), (2.0**-125, 2), (1e38, 1)])
def test_a_dynamic_scale_is_that_of_a_loop(first, period):
    knobs = {"loss_scale": jnp.float64(first), "loss_scale_period": jnp.float64(period)}
    flags = np.concatenate([np.zeros(4, bool), draws().random(40) < 0.8])
    float32 = np.finfo(np.float32)
    state, scale, steps = first_scale(knobs), np.float32(first), 0
    following = jax.jit(next_scale)
    for finite in flags:
        assert (float(state.scale), int(state.finite_steps)) == (scale, steps)
        state = following(state, jnp.asarray(finite), knobs)
        assert (state.scale.dtype, state.finite_steps.dtype) == (jnp.float32, jnp.int32)
        steps = steps + 1 if finite else 0
        if not finite:
            scale = max(scale / 2, float32.tiny)
        elif steps >= period:
            scale, steps = min(float(scale) * 2, float(float32.max) / 2), 0


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
def test_an_unscaled_gradient_is_divided_in_its_own_type(dtype):
    gradient = {"a": jnp.asarray([8.0, -2.0], dtype), "b": jnp.asarray(4.0, dtype)}
    got = unscaled(gradient, jnp.float32(4.0))
    assert [leaf.dtype for leaf in got.values()] == [jnp.dtype(dtype)] * 2
    assert [np.asarray(leaf, np.float64).tolist() for leaf in got.values()] == [[2.0, -0.5], 1.0]


@pytest.mark.parametrize(("value", "wanted"), [(1.0, True), (np.nan, False), (-np.inf, False)])
def test_a_gradient_is_finite_where_every_entry_is(value, wanted):
    assert bool(is_finite({"a": jnp.zeros(3), "b": jnp.asarray([0.0, value])})) == wanted
