"""A training's precision, and a neuron's training beside the same on paper."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sampled import sampled

from nanlab.backend.jaxpr import weak
from nanlab.engine.group_runner import GroupRunner
from nanlab.engine.lanes import Lanes
from nanlab.grid.parameters import PARAMETERS
from nanlab.parts.precision import PRECISIONS
from nanlab.parts.tasks import load_examples
from nanlab.problems.training import make_training


def lanes_of(problem, steps, **knobs):
    asked = {name: knobs.get(name, PARAMETERS[name].default) for name in problem.knobs}
    full = {name: np.array([value], np.float64) for name, value in asked.items()}
    return Lanes(full, np.zeros(1, np.int64), np.full(1, steps, np.int32))


@pytest.mark.parametrize("number", [0.1, 1e-8, 0.999, 3.0])
@pytest.mark.parametrize("name", PRECISIONS)
def test_a_traced_knob_beside_an_array_is_a_python_float_beside_it(name, number):
    precision = PRECISIONS[name]
    x = jnp.asarray(np.random.default_rng(0).standard_normal(50), precision.dtype)

    def traced(x, knob):
        return x * weak(knob, precision.traced)

    got, plain = jax.jit(traced)(x, jnp.float64(number)), jax.jit(lambda x: x * number)(x)
    assert got.dtype == plain.dtype == jnp.dtype(precision.dtype)
    assert np.asarray(got).tobytes() == np.asarray(plain).tobytes()


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
    worker = GroupRunner(statics, devices=jax.devices()[:1])
    examples = load_examples({"task": "breast_cancer", "standardize": True})
    wanted = plain_neuron(0.5, 0.0, 3 * examples.inputs, examples.targets, lr=0.05, steps=10)
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
    with pytest.raises(ValueError, match="not \\(3,\\); task 'breast_cancer' has 2 classes"):
        problem.init(knobs, jax.random.key(0))


@pytest.mark.parametrize(
    "precision",
    [pytest.param(p, marks=[pytest.mark.slow] * (p != "float16")) for p in PRECISIONS],
)
def test_a_training_lowers_the_loss(precision):
    statics = {"problem": "training", "precision": precision, "width": 8, "batch_size": "full"}
    worker = GroupRunner(statics, devices=jax.devices()[:1])
    ends = worker.run(lanes_of(worker.problem, 12, lr=0.1)).endings
    assert ends.best_loss < ends.initial_loss
    assert 0 <= ends.final_accuracy <= 1


@pytest.mark.parametrize(
    "norm", ["batch", *(pytest.param(n, marks=pytest.mark.slow) for n in ("layer", "rms"))]
)
def test_a_neuron_is_normalized_over_its_own_unit(norm):
    problem = make_training({"task": "breast_cancer", "model": "neuron", "norm": norm})
    knobs = {name: jnp.float64(PARAMETERS[name].default) for name in problem.knobs}
    state = jax.jit(problem.init)(knobs, jax.random.key(0))
    after, metrics = jax.jit(problem.step)(state, knobs, jax.random.key(1))
    assert jax.tree.structure(after) == jax.tree.structure(state)
    assert np.isfinite(metrics.loss)


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
@pytest.mark.parametrize("stored", sampled(["float16", "float32", "float64"], 3))
def test_a_recurrent_network_computes_in_its_precision_whatever_is_stored(cell, stored):
    statics = {
        "task": "adding", "loss": "mse", "sequence_length": 6, "model": cell, "width": 4,
        "precision": "bfloat16", "parameter_precision": stored, "depth": 1,
    }  # fmt: skip
    problem = make_training(statics)
    knobs = {name: jnp.float64(PARAMETERS[name].default) for name in problem.knobs}
    state = jax.eval_shape(problem.init, knobs, jax.random.key(0))
    after, metrics = jax.eval_shape(problem.step, state, knobs, jax.random.key(0))
    assert metrics.loss.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(after.params)} == {jnp.dtype(stored)}
