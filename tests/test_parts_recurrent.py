"""What a simple recurrent network shows of its units beside the same in NumPy, step by step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sampled import sampled

from nanlab.backend import keys
from nanlab.grid.parameters import PARAMETERS
from nanlab.parts import recurrent
from nanlab.problems.training import make_training

KEY, DEPTH, WIDTH, STEPS = keys.run_key(2), 2, 8, 5


def training_of(model, activation):
    """A problem of sequences, and its knobs."""
    task = {"task": "adding", "sequence_length": STEPS, "loss": "mse", "precision": "float64"}
    sizes = {"depth": DEPTH, "width": WIDTH, "batch_size": 6}
    problem = make_training({**task, **sizes, "model": model, "activation": activation})
    return problem, {name: jnp.float64(PARAMETERS[name].default) for name in problem.knobs}


def biased(params):
    """Numbers of our own: some units are pushed to one side, some to the other, some are not."""
    rng = np.random.default_rng(0)
    pushes = np.array([-30.0, -30.0, 30.0, 2.0, 0.0, -2.0, 0.0, 1.0])
    drawn = jax.tree.map(lambda leaf: 0.6 * rng.standard_normal(leaf.shape), params)
    for number in range(DEPTH):
        drawn["params"][f"SimpleCell_{number}"]["i"]["bias"] += np.roll(pushes, number)
    return drawn


NUMPY = {
    "relu": (lambda z: np.maximum(z, 0), lambda z: (z > 0).astype(float)),
    "tanh": (np.tanh, lambda z: 1 - np.tanh(z) ** 2),
}


def numpy_units(params, x, activation):
    """{(observable, layer): number} of Elman's network: h = f(W x + b + U h)."""
    function, slope_of = NUMPY[activation]
    seen = {}
    for number in range(DEPTH):
        cell = params["params"][f"SimpleCell_{number}"]
        h, sums, outputs = np.zeros((len(x), WIDTH)), [], []
        for step in range(x.shape[1]):
            z = x[:, step] @ cell["i"]["kernel"] + cell["i"]["bias"] + h @ cell["h"]["kernel"]
            h = function(z)
            sums.append(z)
            outputs.append(h)
        slopes, x = slope_of(np.array(sums)), np.stack(outputs, axis=1)
        # Of (steps, examples, units): dead is who has no slope at any step of any example.
        seen["dead_units", f"hidden_{number}"] = np.mean((slopes == 0).all(axis=(0, 1)))
        seen["saturated_units", f"hidden_{number}"] = np.mean(slopes < 0.01)
        seen["largest_activation", f"hidden_{number}"] = np.abs(x).max()
    return seen


@pytest.mark.parametrize("activation", sampled(NUMPY, 2))
def test_the_dead_and_saturated_units_of_each_layer_are_numpys(activation):
    problem, knobs = training_of("rnn", activation)
    shapes = jax.eval_shape(problem.init, knobs, KEY)
    state = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    state = state._replace(params=biased(state.params))

    def seen(state, knobs, key):
        return problem.observe(state, knobs, key), problem.batch(state, knobs, key)[0]

    quick = {"xla_backend_optimization_level": 0}
    got, x = jax.jit(seen, compiler_options=quick)(state, knobs, KEY)
    of_units = {key: got[key] for key in got if key[1].startswith("hidden_")}
    wanted = numpy_units(state.params, np.asarray(x), activation)
    assert of_units.keys() == wanted.keys()
    for key, value in wanted.items():
        np.testing.assert_allclose(of_units[key], value, rtol=1e-12, err_msg=str(key))
    for number in range(DEPTH):
        dead, saturated = (wanted[n, f"hidden_{number}"] for n in ("dead_units", "saturated_units"))
        assert 0 < dead < saturated < 1


def test_a_step_that_nobody_looks_at_is_the_one_without_sowing(monkeypatch):
    def traced():
        problem, knobs = training_of("rnn", "tanh")
        state = jax.eval_shape(problem.init, knobs, KEY)
        # With the modules that each equation is told by.
        return jax.make_jaxpr(problem.step)(state, knobs, KEY).pretty_print(name_stack=True)

    sowing = traced()
    monkeypatch.setattr(recurrent, "Sowing", lambda activation, name: activation)
    assert sowing == traced()
    assert "SimpleCell_1" in sowing


@pytest.mark.parametrize("model", ["lstm", "gru"])
def test_a_cell_of_gates_shows_its_outputs_alone(model):
    problem, knobs = training_of(model, "tanh")
    state = jax.eval_shape(problem.init, knobs, KEY)
    seen = jax.eval_shape(problem.observe, state, knobs, KEY)
    of_units = {key for key in seen if key[1].startswith("hidden_")}
    assert of_units == {("largest_activation", f"hidden_{number}") for number in range(DEPTH)}
