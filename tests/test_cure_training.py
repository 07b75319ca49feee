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
from nanlab.curing.moves import Setup, limited, moves_of
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


def test_moments_in_float16_whose_eps_is_zero_are_cured_by_float32():
    # 1e-8 is no float16, and a column that is always 0 has a gradient of 0: Adam divides 0 by 0.
    start, batch = jnp.zeros(2, jnp.float16), jnp.float16([[1, 0], [1, 0]])
    loss = lambda w, x: jnp.mean((x @ w - 1) ** 2)  # noqa: E731
    cures = nanlab.cure_training(loss, optax.adam(0.01), start, [batch], steps=5)
    assert "the optimizer in float32" in {cure.name for cure in cures}, cures.reason
    with_eps = optax.inject_hyperparams(optax.adam)(0.01)
    names = {cure.name for cure in nanlab.cure_training(loss, with_eps, start, [batch], steps=5)}
    assert "eps = 0.001" in names


def test_queries_and_keys_are_limited_and_nothing_else():
    params = {"query": jnp.ones((2, 2)), "w_k": jnp.ones(3), "mlp": jnp.ones(4)}
    tx = limited()
    updates = jax.tree.map(lambda w: 9.0 * w, params)
    steps, _ = tx.update(updates, tx.init(params), params)
    after = optax.apply_updates(params, steps)
    lengths = {name: float(jnp.linalg.norm(w.ravel())) for name, w in after.items()}
    assert lengths == pytest.approx({"query": 2.0, "w_k": 3**0.5, "mlp": 20.0})
    setup = Setup(loss=squared_error, optimizer=optax.sgd(1.0))
    names = [move.name for move in moves_of(setup, params, X, 5)]
    assert "limit the norms of queries and keys" in names
    assert names.index("skip updates that are not finite") and "eps = 0.001" not in names
    assert len([*moves_of(setup, {"mlp": params["mlp"]}, X, 5)]) == len(names) - 1


def test_an_update_that_is_not_finite_is_skipped():
    # The root's derivative at 0 is inf for the batch of zeros, and only there.
    batches = [X / 30, jnp.zeros_like(X)]
    loss = lambda w, x: jnp.mean((x @ w - 1.0) ** 2) + jnp.sqrt(jnp.sum((x @ w) ** 2))  # noqa: E731
    cures = nanlab.cure_training(loss, optax.sgd(0.01), jnp.full(2, 3.0), batches)
    (skipping,) = (cure for cure in cures if "skip" in cure.name)
    assert skipping.code == "optimizer = optax.apply_if_finite(optimizer, 10)"
    assert set(skipping.placebos) == {"random direction 0", "random direction 1"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cure", "report", "training"])
def test_the_examples_in_the_docstrings_run(name):
    module = import_module(f"nanlab.curing.{name}")
    ran = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert ran.failed == 0 and ran.attempted
