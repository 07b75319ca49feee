"""A training's options beside the same on paper, in NumPy: dropout, z_loss and ema_decay."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sampled import sampled

from nanlab.backend import keys
from nanlab.grid.parameters import PARAMETERS
from nanlab.problems.training import make_training

KEY = keys.run_key(5)
PLAIN = {
    "task": "wine", "standardize": True, "model": "mlp", "activation": "tanh", "optimizer": "sgd",
    "precision": "float64",
}  # fmt: skip
PRECISE = {"rtol": 1e-9, "atol": 1e-12}


class Training:
    """A training of one lane, compiled once for all of a test's knobs."""

    def __init__(self, statics):
        self._problem = make_training({**PLAIN, **statics})
        quick = {"xla_backend_optimization_level": 0}
        self._init = jax.jit(self._problem.init, compiler_options=quick)
        self._step = jax.jit(self._seen, compiler_options=quick)

    def _seen(self, state, knobs, key):
        return self._problem.batch(state, knobs, key), self._problem.step(state, knobs, key)

    def _knobs(self, values):
        asked = {name: PARAMETERS[name].default for name in self._problem.knobs} | values
        return {name: jnp.float64(value) for name, value in asked.items()}

    def init(self, **values):
        """The first state."""
        return self._init(self._knobs(values), KEY)

    def step(self, state, number=0, **values):
        """A step's examples, the state after it and its loss."""
        key = keys.for_step(KEY, number)
        data, (after, metrics) = self._step(state, self._knobs(values), key)
        return [np.asarray(each) for each in data], after, float(metrics.loss)


def layers(state):
    """[(weights, biases), ...] of the dense layers, in NumPy."""
    params = state.params["params"]
    each = [params[f"Dense_{number}"] for number in range(len(params))]
    return [(np.asarray(layer["kernel"]), np.asarray(layer["bias"])) for layer in each]


def slopes(before, after, lr):
    """The gradient, from what a step of gradient descent made of it."""
    pairs = zip(layers(before), layers(after), strict=True)
    return [tuple((b - a) / lr for b, a in zip(*pair, strict=True)) for pair in pairs]


def check_slopes(got, wanted):
    for layer, (mine, theirs) in enumerate(zip(got, wanted, strict=True)):
        for name, one, other in zip(("kernel", "bias"), mine, theirs, strict=True):
            np.testing.assert_allclose(one, other, **PRECISE, err_msg=f"Dense_{layer}/{name}")


def forward(net, x, masks=None):
    """The outputs of a tanh network, and what each of its layers gets.

    Args:
        net: [(weights, biases), ...].
        masks: what the units of each hidden layer are multiplied with.
    """
    seen = [x]
    for number, (weights, biases) in enumerate(net[:-1]):
        x = np.tanh(x @ weights + biases)
        x = x if masks is None else x * masks[number]
        seen.append(x)
    return x @ net[-1][0] + net[-1][1], seen


def backward(net, x, error, masks=None):
    """The gradient in the weights and biases, by hand, from that in the outputs."""
    seen, gradient = forward(net, x, masks)[1], []
    for number in reversed(range(len(net))):
        flat = error.reshape(-1, error.shape[-1])
        gradient.append((seen[number].reshape(len(flat), -1).T @ flat, flat.sum(axis=0)))
        if number:
            mask = 1.0 if masks is None else masks[number - 1]
            units = np.tanh(seen[number - 1] @ net[number - 1][0] + net[number - 1][1])
            error = (error @ net[number][0].T) * mask * (1 - units**2)
    return gradient[::-1]


# ---- dropout -------------------------------------------------------------------------------------

WIDTH, DRAWS = 150, 8


@pytest.fixture(scope="module")
def dropping():
    """Of one example at a time, so that a unit's weights tell whether it was kept."""
    sizes = {"depth": 2, "width": WIDTH, "batch_size": 1}
    return Training({**sizes, "dropout": True, "loss": "mse"})


def kept_units(before, after):
    """Which units of each hidden layer were kept: the others' weights have no gradient at all."""
    pairs = zip(layers(before)[1:], layers(after)[1:], strict=True)
    return [(one[0] != other[0]).any(axis=1) for one, other in pairs]


@pytest.mark.parametrize("rate", sampled([0.0, 0.1, 0.5, 0.8], 2))
def test_a_training_with_dropout_is_that_of_the_kept_units_scaled_up(dropping, rate):
    state, seen = dropping.init(), []
    net = layers(state)
    for number in range(DRAWS):
        (x, target), after, loss = dropping.step(state, number, dropout=rate, lr=1.0)
        kept = kept_units(state, after)
        masks = [mask / (1 - rate) for mask in kept]
        error = forward(net, x, masks)[0] - target
        np.testing.assert_allclose(loss, np.mean(error**2), **PRECISE)
        # The gradient passes through the very mask that the units did.
        check_slopes(slopes(state, after, 1.0), backward(net, x, 2 * error / error.size, masks))
        seen += kept
    # Five standard deviations of a binomial distribution.
    near = 5 * np.sqrt(rate * (1 - rate) / (WIDTH * len(seen)))
    assert abs(np.mean(seen) - (1 - rate)) <= near
    # Another mask for each layer and each step.
    assert len({mask.tobytes() for mask in seen}) == (2 * DRAWS if rate else 1)


# ---- z_loss --------------------------------------------------------------------------------------


def cross_entropy(outputs, targets, weight):
    """Cross-entropy plus the weighted square of the log-sum-exp; its slope in the outputs."""
    largest = outputs.max(axis=-1, keepdims=True)
    exponentials = np.exp(outputs - largest)
    total = exponentials.sum(axis=-1, keepdims=True)
    logarithm, shares = largest + np.log(total), exponentials / total
    losses = np.sum(targets * (logarithm - outputs), axis=-1) + weight * logarithm[..., 0] ** 2
    return np.mean(losses), (shares - targets + 2 * weight * logarithm * shares) / losses.size


# An example of a table has one class; of a sequence each step has, and the mean is over them too.
Z_TASKS = {"wine": {}, "copy": {"task": "copy", "sequence_length": 5}}


@pytest.mark.parametrize("task", sampled(Z_TASKS, 2))
def test_z_loss_adds_the_mean_square_of_the_log_sum_exp(task):
    sizes = {"depth": 1, "width": 6, "batch_size": 8, "loss": "softmax_cross_entropy"}
    training = Training({**sizes, "z_loss": True, **Z_TASKS[task]})
    state = training.init(init_scale=2.0)
    net, losses = layers(state), []
    for weight in (0.0, 1e-3, 0.7):
        (x, targets), after, got = training.step(state, z_loss=weight, lr=1.0)
        flat = x.reshape(len(x), -1)
        outputs = forward(net, flat)[0].reshape(targets.shape)
        loss, error = cross_entropy(outputs, targets, weight)
        np.testing.assert_allclose(got, loss, **PRECISE)
        wanted = backward(net, flat, error.reshape(len(x), -1))
        check_slopes(slopes(state, after, 1.0), wanted)
        losses.append(got)
    assert losses == sorted(set(losses))  # it adds something


# ---- ema_decay -----------------------------------------------------------------------------------


def descents(weight, bias, x, target, lr, steps):
    """The weight and the bias of a linear neuron before and after each step, by hand."""
    yield np.array([weight, bias])
    for _ in range(steps):
        slope = (x * weight + bias - target) / len(x)  # 2 * error / (2 * examples)
        weight, bias = weight - lr * slope @ x, bias - lr * slope.sum()
        yield np.array([weight, bias])


@pytest.fixture(scope="module")
def averaging():
    neuron = {"task": "breast_cancer", "model": "neuron", "activation": "identity", "depth": 1}
    initial = {"initializer": "constant", "loss": "mse", "batch_size": "full"}
    return Training({**neuron, **initial, "ema_decay": True})


@pytest.mark.parametrize("decay", [0.0, 0.6, 0.99])
def test_the_moving_average_begins_at_the_first_parameters_and_takes_each_steps(averaging, decay):
    asked = {"ema_decay": decay, "lr": 0.3, "init_scale": 0.5}
    state = averaging.init(**asked)
    (x, targets), *_ = averaging.step(state, **asked)
    average = None
    for number, wanted in enumerate(descents(0.5, 0.0, x[:, 0], targets[:, 1], 0.3, 6)):
        average = wanted if average is None else decay * average + (1 - decay) * wanted
        for tree, numbers in ((state.params, wanted), (state.average, average)):
            got = [float(tree["params"][name].squeeze()) for name in ("weight", "bias")]
            np.testing.assert_allclose(got, numbers, **PRECISE, err_msg=f"step {number}")
        _, state, _ = averaging.step(state, number, **asked)
