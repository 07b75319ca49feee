"""Changes of a training that grows: what mends it, and what only keeps it from moving."""

import doctest
import math
from importlib import import_module

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nanlab
from nanlab.curing.training import random_direction

X = jnp.linspace(1.0, 30.0, 12, dtype=jnp.float32).reshape(6, 2)


def squared_error(w, x):
    return jnp.mean((x @ w - 1.0) ** 2)


def trained(loss, optimizer, params, steps):
    """The loss after some steps, by a plain loop."""
    state = optimizer.init(params)
    for _ in range(steps):
        gradient = jax.grad(loss)(params, X)
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return float(loss(params, X))


def test_a_rate_that_is_too_high_is_cured_and_each_cure_beats_its_placebos():
    optimizer, start = optax.sgd(1.0), jnp.zeros(2, jnp.float32)
    assert not math.isfinite(trained(squared_error, optimizer, start, 20))
    cures = nanlab.cure_training(squared_error, optimizer, start, [X])
    assert "learning rate" in " ".join(cure.name for cure in cures)
    for cure in cures:
        before, after = cure.losses
        assert after < before and all(after < placebo for placebo in cure.placebos.values())
    loss, mended = cures[0].apply(squared_error, optimizer)
    assert trained(loss, mended, start, 20) == pytest.approx(cures[0].losses[1], rel=1e-3)
    scope = {"optax": optax, "optimizer": optimizer}
    exec(cures[0].code, scope)
    assert trained(loss, scope["optimizer"], start, 20) == pytest.approx(
        cures[0].losses[1], rel=1e-3
    )
    assert "Placebos end at: random direction 0" in str(cures)


def test_what_is_finite_and_learns_nothing_is_no_cure():
    # The loss does not depend on what is trained, so that a cure would be an accident.
    def loss(w, x):
        return jnp.mean(x) + 0.0 * jnp.sum(w) + jnp.where(jnp.abs(w).max() > 1e9, jnp.nan, 0.0)

    grows = optax.GradientTransformation(
        lambda _: optax.EmptyState(),
        lambda u, s, p=None: (jax.tree.map(lambda x: 1e10 + x, u), s),
    )
    cures = nanlab.cure_training(loss, grows, jnp.zeros(2, jnp.float32), [X])
    assert not cures
    assert cures.reason.startswith("No change of the training mends it: clip")


def test_a_training_that_does_not_fail_and_one_without_a_batch_get_a_sentence():
    fine = nanlab.cure_training(squared_error, optax.sgd(1e-5), jnp.zeros(2), [X], steps=3)
    assert not fine and fine.reason.startswith("The training is finite for 3 steps")
    with pytest.raises(ValueError, match=r"0 batches.*pass batches"):
        nanlab.cure_training(squared_error, optax.sgd(1.0), jnp.zeros(2), [])


def test_a_random_direction_has_the_length_of_the_update():
    updates = {"a": jnp.arange(6.0).reshape(2, 3), "b": jnp.ones(4, jnp.float16)}
    tx = random_direction(1)
    first, state = tx.update(updates, tx.init(updates))
    second, _ = tx.update(updates, state)
    lengths = [
        float(np.sqrt(sum(np.square(np.asarray(x, np.float64)).sum() for x in tree.values())))
        for tree in (first, updates)
    ]
    assert lengths[0] == pytest.approx(lengths[1], rel=1e-2)
    assert first["b"].dtype == jnp.float16
    assert not np.allclose(first["a"], second["a"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cure", "report", "training"])
def test_the_examples_in_the_docstrings_run(name):
    module = import_module(f"nanlab.curing.{name}")
    ran = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert ran.failed == 0 and ran.attempted
