"""What a training is made of, beside NumPy in float64; and every entry of every table, trained."""

from itertools import cycle, islice

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import scipy
import sklearn.datasets
from sklearn.preprocessing import StandardScaler

from nanlab._jax import weak
from nanlab.codes import FINITE, INF, NAN, array_code, largest_magnitude
from nanlab.engines import GroupWorker
from nanlab.lanes import NEVER, Lanes
from nanlab.parameters import PARAMETERS
from nanlab.parts.activations import ACTIVATIONS
from nanlab.parts.initializers import INITIALIZERS
from nanlab.parts.losses import LOSSES
from nanlab.parts.models import MODELS
from nanlab.parts.optimizers import OPTIMIZERS
from nanlab.parts.precision import PRECISIONS
from nanlab.parts.tasks import TASKS, load_examples
from nanlab.training import gradient_norm, make_training


def draws():
    """Random numbers, the same for each test whichever others run."""
    return np.random.default_rng(0)


# ---- every entry, trained ------------------------------------------------------------------------


def models_for(task):
    """The neuron has one output, so it tells two classes apart."""
    return [name for name in MODELS if name != "neuron" or TASKS[task].classes == 2]


def combinations():
    """As many trainings as the longest table has entries; between them, every entry of each."""
    tables = [ACTIVATIONS, INITIALIZERS, LOSSES, OPTIMIZERS, PRECISIONS, TASKS]
    names = ["activation", "initializer", "loss", "optimizer", "precision", "task"]
    columns = [islice(cycle(table), max(map(len, tables))) for table in tables]
    for number, entries in enumerate(zip(*columns, strict=True)):
        statics = dict(zip(names, entries, strict=True))
        models = models_for(statics["task"])
        yield {**statics, "model": models[number % len(models)]}


COMBINATIONS = list(combinations())


def lanes_of(problem, steps, **knobs):
    asked = {name: knobs.get(name, PARAMETERS[name].default) for name in problem.knobs}
    full = {name: np.array([value], np.float64) for name, value in asked.items()}
    return Lanes(full, np.zeros(1, np.int64), np.full(1, steps, np.int32))


def test_the_trainings_of_these_tests_use_every_entry_of_every_table():
    for name, table in {
        "activation": ACTIVATIONS, "initializer": INITIALIZERS, "loss": LOSSES, "model": MODELS,
        "optimizer": OPTIMIZERS, "precision": PRECISIONS, "task": TASKS,
    }.items():  # fmt: skip
        assert {statics[name] for statics in COMBINATIONS} == set(table)


@pytest.mark.parametrize("parts", COMBINATIONS, ids=lambda parts: "-".join(parts.values()))
def test_a_few_steps_of_training_lower_the_loss(parts):
    statics = {
        "problem": "training", "standardize": True, "depth": 2, "width": 8, "batch_size": "full",
        **parts,
    }  # fmt: skip
    worker = GroupWorker(statics, devices=jax.devices()[:1])
    # Adam's own epsilon is 0 in float16, and digits has pixels that are always 0: 0 / 0.
    lanes = lanes_of(worker.problem, 12, lr=1e-2, init_scale=0.3, optimizer_epsilon=1e-3)
    outcome = worker.run(lanes)
    ends = outcome.endings
    assert ends.fault_step == NEVER
    assert ends.best_loss < ends.initial_loss
    assert 0 <= ends.final_accuracy <= 1
    assert 0 < ends.grad_norm_max < np.inf
    assert worker.problem.baseline_loss > 0


# ---- losses --------------------------------------------------------------------------------------


def numpy_mse(outputs, targets):
    return np.mean((outputs - targets) ** 2)


def numpy_cross_entropy(outputs, targets):
    log_probabilities = outputs - scipy.special.logsumexp(outputs, axis=-1, keepdims=True)
    return -np.mean(np.sum(targets * log_probabilities, axis=-1))


NUMPY_LOSSES = {
    "mse": numpy_mse,
    "softmax_cross_entropy": numpy_cross_entropy,
    "softmax_cross_entropy_naive": numpy_cross_entropy,
}
PRECISE = {"float64": 1e-12, "float32": 1e-5, "bfloat16": 0.05, "float16": 0.01}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_numpys(name, precision):
    rng = draws()
    outputs, targets = 2 * rng.standard_normal((20, 5)), np.eye(5)[rng.integers(0, 5, 20)]
    dtype = jnp.dtype(precision)
    got = LOSSES[name].apply(jnp.asarray(outputs, dtype), jnp.asarray(targets, dtype))
    wanted = NUMPY_LOSSES[name](outputs.astype(dtype).astype(np.float64), targets)
    assert got.dtype == dtype
    np.testing.assert_allclose(float(got), wanted, rtol=PRECISE[precision])


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
        got = float(jax.jit(LOSSES[name].apply)(outputs, targets))
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6, err_msg=name)


SHARES = [
    [0.5, 0.5],
    [0.9, 0.1],
    [0.2, 0.3, 0.5],
    [0.0, 0.4, 0.6],
    [1.0, 0.0],
    *(np.bincount(load_examples(task, standardize=False).labels) for task in TASKS),
]


@pytest.mark.parametrize("shares", SHARES, ids=str)
@pytest.mark.parametrize("name", LOSSES)
def test_the_best_constant_is_what_a_search_finds(name, shares):
    shares = np.asarray(shares) / np.sum(shares)
    targets = np.eye(len(shares))

    def mean_loss(constant):
        each = [NUMPY_LOSSES[name](constant[None], target[None]) for target in targets]
        return shares @ np.array(each)

    found = scipy.optimize.minimize(mean_loss, np.zeros(len(shares)), tol=1e-10).fun
    best = LOSSES[name].best_constant(shares)
    # A class that never comes wants a logit of -inf: the search ends a little above.
    assert best - 1e-9 <= found <= best + 1e-4


# ---- the gradient's norm -------------------------------------------------------------------------

F32, F16 = np.float32, np.float16
BIG, SMALL = float(np.finfo(F32).max), float(np.finfo(F32).tiny)
NORMS = {
    "two leaves": ([F32([3.0]), F32([[4.0, 0.0]])], 5.0),
    "all zero": ([np.zeros(3, F32), F32(0)], 0.0),
    "a scalar": ([F32(-7.0)], 7.0),
    "squares overflow": ([F32([3e30, 4e30])], 5e30),
    "squares underflow": ([F32([3e-30, 4e-30])], 5e-30),
    "the norm itself overflows float32": ([np.full(4, BIG, F32)], 2.0 * BIG),
    "the smallest normal number": ([F32([SMALL])], SMALL),
    "half precision": ([F16([3e4, 4e4])], 5e4),
    "bfloat16": ([np.array([3.0, 4.0], ml_dtypes.bfloat16)], 5.0),
    "two precisions": ([F16([3.0]), F32([4.0])], 5.0),
    "double": ([np.float64([3e300, 4e300])], 5e300),
    "an inf": ([F32([1.0]), F32([np.inf, 2.0])], np.inf),
    "a minus inf": ([F32([-np.inf])], np.inf),
    "a NaN": ([F32([1.0, np.nan])], np.nan),
    "an inf and a NaN": ([F32([np.inf]), F32([np.nan])], np.nan),
    "a NaN and an inf": ([F32([np.nan, np.inf]), F32([0.0])], np.nan),
}


@pytest.mark.parametrize(("leaves", "wanted"), NORMS.values(), ids=NORMS)
def test_the_gradient_norm_is_exact_where_squares_are_not(leaves, wanted):
    tree = {str(number): jnp.asarray(leaf) for number, leaf in enumerate(leaves)}
    lanes = jax.tree.map(lambda leaf: jnp.stack([jnp.zeros_like(leaf), leaf]), tree)
    alone = jax.jit(gradient_norm)(tree)
    beside_zeros = jax.jit(jax.vmap(gradient_norm))(lanes)
    assert alone.dtype == jnp.float64
    np.testing.assert_allclose([alone, *beside_zeros], [wanted, 0.0, wanted], rtol=1e-6)


def test_the_gradient_norm_of_many_numbers_is_numpys():
    rng = draws()
    leaves = [rng.standard_normal(shape) * 1e25 for shape in [(64, 32), (32,), (32, 10)]]
    wanted = np.sqrt(sum(np.sum(leaf**2) for leaf in leaves))
    got = gradient_norm([jnp.asarray(leaf, jnp.float32) for leaf in leaves])
    np.testing.assert_allclose(float(got), wanted, rtol=1e-6)


# ---- activations, initializers, optimizers -------------------------------------------------------

SLOPE = 0.07
NUMPY_ACTIVATIONS = {
    "relu": lambda x: np.maximum(x, 0),
    "leaky_relu": lambda x: np.where(x > 0, x, SLOPE * x),
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "gelu": lambda x: x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "softplus": lambda x: np.logaddexp(x, 0),
    "identity": lambda x: x,
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_is_the_function_of_its_name(name):
    x = np.concatenate([np.linspace(-20, 20, 101), [0.0, 1e-9, -1e-9]])
    got = ACTIVATIONS[name](jnp.asarray(x), {"negative_slope": jnp.float64(SLOPE)})
    np.testing.assert_allclose(got, NUMPY_ACTIVATIONS[name](x), rtol=1e-12, atol=1e-14)


FAN_IN, FAN_OUT = 500, 300
# name -> variance, and the bound if the distribution has one.
SPREADS = {
    "lecun_normal": (1 / FAN_IN, None),
    "lecun_uniform": (1 / FAN_IN, np.sqrt(3 / FAN_IN)),
    "glorot_normal": (2 / (FAN_IN + FAN_OUT), None),
    "glorot_uniform": (2 / (FAN_IN + FAN_OUT), np.sqrt(6 / (FAN_IN + FAN_OUT))),
    "he_normal": (2 / FAN_IN, None),
    "he_uniform": (2 / FAN_IN, np.sqrt(6 / FAN_IN)),
    "normal": (1.0, None),
    "constant": (0.0, 1.0),
}


@pytest.mark.parametrize("name", INITIALIZERS)
def test_an_initializer_has_the_variance_of_its_name(name):
    weights = INITIALIZERS[name](jax.random.key(1), (FAN_IN, FAN_OUT))
    variance, bound = SPREADS[name]
    assert weights.dtype == jnp.float32
    assert float(jnp.var(weights)) == pytest.approx(variance, rel=0.02)
    if bound is not None:
        assert float(jnp.max(jnp.abs(weights))) == pytest.approx(bound, rel=1e-3)


HYPER = {
    "lr": 0.1, "momentum": 0.7, "decay": 0.8, "b1": 0.6, "b2": 0.9, "optimizer_epsilon": 1e-3,
}  # fmt: skip


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


NUMPY_OPTIMIZERS = {
    "sgd": numpy_sgd,
    "momentum": numpy_momentum,
    "rmsprop": numpy_rmsprop,
    "adam": numpy_adam,
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_takes_its_knobs_as_its_paper_has_them(name):
    gradients = list(draws().standard_normal((6, 3)))
    optimizer = OPTIMIZERS[name]({name: jnp.float64(value) for name, value in HYPER.items()})
    state = optimizer.init(jnp.zeros(3))
    for gradient, wanted in zip(gradients, NUMPY_OPTIMIZERS[name](gradients), strict=True):
        update, state = optimizer.update(jnp.asarray(gradient), state)
        np.testing.assert_allclose(update, wanted, rtol=1e-10)


# ---- precision and knobs -------------------------------------------------------------------------


@pytest.mark.parametrize("number", [0.1, 1e-8, 0.999, 3.0])
@pytest.mark.parametrize("name", PRECISIONS)
def test_a_traced_knob_beside_an_array_is_a_python_float_beside_it(name, number):
    precision = PRECISIONS[name]
    x = jnp.asarray(draws().standard_normal(50), precision.dtype)

    def traced(x, knob):
        return x * weak(knob, precision.traced)

    got, plain = jax.jit(traced)(x, jnp.float64(number)), jax.jit(lambda x: x * number)(x)
    assert got.dtype == plain.dtype == jnp.dtype(precision.dtype)
    assert np.asarray(got).tobytes() == np.asarray(plain).tobytes()


@pytest.mark.parametrize("name", PRECISIONS)
def test_adams_bias_correction_is_not_rounded_to_zero_over_zero(name):
    # In bfloat16 a strong 0.999 is 1, and 1 - 1^t is 0.
    precision = PRECISIONS[name]

    def update(knobs, gradient):
        knobs = {name: weak(knob, precision.traced) for name, knob in knobs.items()}
        optimizer = OPTIMIZERS["adam"](knobs)
        return optimizer.update(gradient, optimizer.init(gradient))[0]

    gradient = jnp.ones(3, precision.dtype)
    knobs = {**HYPER, "b1": 0.9, "b2": 0.999, "optimizer_epsilon": 1e-4}
    moved = jax.jit(update)({name: jnp.float64(value) for name, value in knobs.items()}, gradient)
    np.testing.assert_allclose(np.asarray(moved, np.float64), -0.1, rtol=0.02)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_training_computes_in_its_precision_and_in_no_other(precision):
    statics = {
        "task": "wine", "standardize": True, "model": "mlp", "depth": 1, "width": 4,
        "activation": "tanh", "initializer": "he_normal", "loss": "mse", "optimizer": "momentum",
        "precision": precision, "batch_size": 8,
    }  # fmt: skip
    problem = make_training(statics)
    knobs = {name: jnp.float64(PARAMETERS[name].default) for name in problem.knobs}
    state = jax.eval_shape(problem.init, knobs, jax.random.key(0))
    after, metrics = jax.eval_shape(problem.step, state, knobs, jax.random.key(0))
    assert jax.tree.structure(after) == jax.tree.structure(state)
    for leaf in (*jax.tree.leaves(state), *jax.tree.leaves(after), metrics.loss):
        assert leaf.dtype == jnp.dtype(precision)
    assert metrics.grad_norm.dtype == jnp.float64


# ---- models --------------------------------------------------------------------------------------


def plain_neuron(weight, bias, inputs, labels, lr, steps):
    """A neuron without activation, mean squared error, gradient descent; in NumPy."""
    x, target = inputs[:, 0], np.eye(2)[labels]
    losses = []
    for _ in range(steps):
        output = x * weight + bias
        error = np.stack([0 * output, output], axis=-1) - target
        losses.append(np.mean(error**2))
        slope = error[:, 1] / len(x)  # 2 * error / (2 * examples)
        weight, bias = weight - lr * slope @ x, bias - lr * slope.sum()
    return losses


def test_a_neurons_training_is_what_it_is_on_paper():
    statics = {
        "problem": "training", "task": "breast_cancer", "standardize": True, "model": "neuron",
        "depth": 1, "width": 1, "activation": "identity", "initializer": "constant",
        "loss": "mse", "optimizer": "sgd", "precision": "float64", "batch_size": "full",
    }  # fmt: skip
    worker = GroupWorker(statics, devices=jax.devices()[:1])
    examples = load_examples("breast_cancer", standardize=True)
    wanted = plain_neuron(0.5, 0.0, 3 * examples.inputs, examples.labels, lr=0.05, steps=10)
    for steps in (1, 5, 10):
        lanes = lanes_of(worker.problem, steps, lr=0.05, init_scale=0.5, input_scale=3.0)
        ends = worker.run(lanes).endings
        got = [ends.initial_loss[0], ends.final_loss[0]]
        np.testing.assert_allclose(got, [wanted[0], wanted[steps - 1]], rtol=1e-12)


def test_a_neuron_on_more_than_two_classes_is_refused_with_the_way_out():
    statics = {
        "task": "wine", "standardize": True, "model": "neuron", "depth": 1, "width": 1,
        "activation": "relu", "initializer": "normal", "loss": "mse", "optimizer": "sgd",
        "precision": "float32", "batch_size": 8,
    }  # fmt: skip
    problem = make_training(statics)
    knobs = {name: jnp.float64(1.0) for name in problem.knobs}
    with pytest.raises(ValueError, match="2 classes, not 3; task 'breast_cancer' has 2"):
        problem.init(knobs, jax.random.key(0))


# ---- tasks ---------------------------------------------------------------------------------------

LOADERS = {
    "digits": sklearn.datasets.load_digits,
    "breast_cancer": sklearn.datasets.load_breast_cancer,
    "wine": sklearn.datasets.load_wine,
}


@pytest.mark.parametrize("name", TASKS)
def test_a_task_is_scikit_learns_own_data_to_the_bit(name):
    theirs, ours = LOADERS[name](), load_examples(name, standardize=False)
    assert ours.inputs.tobytes() == np.ascontiguousarray(theirs.data).tobytes()
    assert ours.labels.tolist() == theirs.target.tolist()
    task = TASKS[name]
    assert ours.inputs.shape[1] == task.features
    assert sorted(set(ours.labels.tolist())) == list(range(task.classes))


@pytest.mark.parametrize("name", TASKS)
def test_standardized_data_is_what_standard_scaler_makes(name):
    plain, ours = (load_examples(name, standardize=flag).inputs for flag in (False, True))
    theirs = StandardScaler().fit_transform(plain)
    np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)
    varies = plain.std(axis=0) > 0
    np.testing.assert_allclose(ours.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(ours.std(axis=0), varies, atol=1e-12)


# ---- codes ---------------------------------------------------------------------------------------

DTYPES = [
    "float64", "float32", "bfloat16", "float16", "complex64", "complex128", "float8_e4m3fn",
    "float8_e5m2",
]  # fmt: skip
SHAPES = [(), (65,), (3, 5, 7), (64, 64)]
LANES = 64


def numpy_code(x):
    if x.dtype.kind not in "fc":
        x = x.astype(np.float32)
    return NAN if np.isnan(x).any() else FINITE if np.isfinite(x).all() else INF


def lanes_with(contents, shape, dtype):
    """64 arrays of which each holds none, one or two of `contents` at random places."""
    rng = draws()
    arrays = rng.standard_normal((LANES, *shape)).astype(jnp.dtype(dtype))
    for lane in range(LANES):
        flat = arrays[lane : lane + 1].reshape(-1)
        for value in rng.permutation(contents)[: lane % 3]:
            flat[rng.integers(flat.size)] = value.astype(jnp.dtype(dtype))
    return arrays


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_an_arrays_code_is_numpys(dtype, shape):
    lanes = lanes_with([np.inf, -np.inf, np.nan, -np.nan], shape, dtype)
    wanted = [numpy_code(lane) for lane in lanes]
    assert np.asarray(jax.jit(jax.vmap(array_code))(lanes)).tolist() == wanted


@pytest.mark.parametrize(
    "x", [np.arange(3), np.array([True]), np.zeros((0, 3), np.float32), np.uint8(255)]
)
def test_an_array_that_cannot_be_bad_is_finite(x):
    code = array_code(jnp.asarray(x))
    assert code == FINITE
    assert code.dtype == jnp.int8


def test_a_nan_counts_whatever_its_sign_and_payload():
    bits = np.array([0x7FC00000, 0xFFC00000, 0x7F800001, 0xFFFFFFFF, 0xFF812345], np.uint32)
    lanes = np.zeros((len(bits), 64, 64), np.float32)
    lanes[:, 40, 33] = bits.view(np.float32)
    assert (np.asarray(jax.jit(jax.vmap(array_code))(lanes)) == NAN).all()
    infinite = np.array([0x7F800000, 0xFF800000], np.uint32).view(np.float32)
    assert np.asarray(jax.jit(jax.vmap(array_code))(infinite)).tolist() == [INF, INF]


# Results that XLA knows to be no less than 0, and whose NaN has its sign bit set on x86.
NOT_NEGATIVE = {
    "x * x": lambda x: (x - x) * (x - x),
    "square": lambda x: jnp.square(x - x),
    "x ** 2": lambda x: (x - x) ** 2,
    "abs": lambda x: jnp.abs(x - x),
    "exp": lambda x: jnp.exp(x - x),
    "sqrt": lambda x: jnp.sqrt(x * 0),
    "sum of squares": lambda x: jnp.sum(jnp.square(x - x), axis=-1),
    "maximum": lambda x: jnp.maximum(x - x, 0),
}


@pytest.mark.parametrize("function", NOT_NEGATIVE.values(), ids=NOT_NEGATIVE)
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_a_nan_counts_where_the_compiler_drops_an_abs(function, dtype):
    lanes = draws().standard_normal((LANES, 64, 10)).astype(dtype)
    lanes[np.arange(1, LANES, 2), 63, 9] = np.inf

    def code(x):
        return array_code(function(x))

    codes = np.asarray(jax.jit(jax.vmap(code))(lanes))
    assert (codes[::2] == FINITE).all()
    assert (codes[1::2] == NAN).all()


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
def test_the_largest_magnitude_is_numpys(dtype):
    for contents in ([0.0], [np.inf, -np.inf], [-np.inf, -0.0], [np.nan, np.inf], [-300.0]):
        lanes = lanes_with(contents, (33, 5), dtype)
        wanted = np.abs(lanes.astype(np.float64)).max(axis=(1, 2))
        got = jax.jit(jax.vmap(largest_magnitude))(lanes)
        assert got.dtype == jnp.dtype(dtype)
        np.testing.assert_array_equal(np.asarray(got, np.float64), wanted)
