"""The phase of a fault, wherever the derivative stands: in loops, branches, lanes and others."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from sampled import sampled

import nanlab

X = np.float32([0, 1])
grad, value_and_grad, remat = jax.grad, jax.value_and_grad, jax.checkpoint


def root(x):
    """Finite, with a derivative of 0 * inf."""
    return jnp.sum(jnp.sqrt(x) * 0)


def power(x):
    """Finite, with a second derivative of 0 * inf."""
    return jnp.sum(x**1.5) * 0


def log(x):
    return jnp.sum(jnp.log(x) * 0)


@jax.custom_vjp
def ruled(x):
    return jnp.sqrt(x)


ruled.defvjp(lambda x: (ruled(x), 0.5 / jnp.sqrt(x)), lambda slope, g: (slope * g,))


def ruled_root(x):
    return jnp.sum(ruled(x) * 0)


def scan(loss):
    return lambda x: lax.scan(lambda c, _: (c + loss(x), None), 0.0, None, length=2)[0]


def scan_over(loss):
    weights = np.float32([1, 0, 1])
    return lambda x: lax.scan(lambda c, w: (c, loss(x + w - w)), 0.0, weights)[1].sum()


def carried(loss):
    return lambda x: lax.scan(lambda c, _: (c + loss(c), None), x, None, length=2)[0].sum()


def cond(loss):
    return lambda x: lax.cond(x[1] > 0, loss, lambda x: x.sum(), x)


def lanes(loss):
    return lambda x: jax.vmap(loss)(jnp.stack([x, x + 1])).sum()


def training(derivative, loss):
    def update(w, _):
        value, g = derivative(loss)(w)
        return w - 0.1 * g, value

    return lambda x: lax.scan(update, x, None, length=2)


def until(loss):
    return lambda x: lax.while_loop(
        lambda s: s[0] < 2, lambda s: (s[0] + 1, s[1] - grad(loss)(s[1])), (0, x)
    )[1]


def transposed(loss):
    return lambda x: jax.linear_transpose(jax.linearize(loss, x)[1], x)(jnp.float32(1))[0]


BACKWARD = {
    "scan": grad(scan(root)),
    "scan over arrays": grad(scan_over(root)),
    "carry": grad(carried(root)),
    "value and scan": value_and_grad(scan(root)),
    "value and scan over arrays": value_and_grad(scan_over(root)),
    "scan of scan": value_and_grad(scan(scan_over(root))),
    "jitted": grad(jax.jit(scan(jax.jit(scan(root))))),
    "cond": value_and_grad(cond(root)),
    "scan of cond": grad(scan(cond(root))),
    "cond of scan": grad(cond(scan(root))),
    "scan of remat": value_and_grad(scan(remat(root))),
    "remat of scan": grad(remat(scan(remat(root)))),
    "vmap of scan": grad(lanes(scan(root))),
    "scan of vmap": grad(scan(lanes(root))),
    "vmap of grad": lambda x: jax.vmap(grad(scan(root)))(x[None]),
    "vjp": lambda x: jax.vjp(scan(root), x)[1](jnp.float32(1)),
    "rule": grad(scan(ruled_root)),
    "rule and value": value_and_grad(lanes(scan(ruled_root))),
    "hessian": jax.hessian(scan(power)),
    "jacrev of jacrev": jax.jacrev(jax.jacrev(scan(power))),
    "linear_transpose": transposed(scan(root)),
    "training": training(value_and_grad, root),
    "training of scan": training(value_and_grad, scan(root)),
    "while": until(scan(root)),
}
FORWARD = {
    "scan": value_and_grad(scan(log)),
    "scan of scan": value_and_grad(scan(scan_over(log))),
    "scan of remat": value_and_grad(scan(remat(log))),
    "remat of scan": value_and_grad(remat(scan(log))),
    "cond": value_and_grad(cond(log)),
    "vmap": lambda x: jax.vmap(value_and_grad(scan(log)))(x[None]),
    "training": training(value_and_grad, scan(log)),
    "forward mode": jax.jacfwd(scan(root)),
    "normalized data": lambda x: grad(scan(lambda w: jnp.sum(w * (x / x[:1] * 0))))(x),
}


@pytest.mark.parametrize(
    ("function", "phase"),
    sampled(
        [
            pytest.param(function, phase, id=f"{phase}, {name}")
            for phase, programs in (("backward", BACKWARD), ("forward", FORWARD))
            for name, function in programs.items()
        ],
        5,
    ),
)
def test_the_phase_is_that_of_the_derivative(function, phase):
    verdict = nanlab.pinpoint(function, X)
    assert verdict.culprit.phase == verdict.origin.phase == phase


def test_an_update_in_a_scan_is_the_update():
    def step(state, batch):
        w, m = state
        g = grad(scan(lambda w: jnp.sum((w * batch) ** 2)))(w)
        m = 0.9 * m + g**2
        return (w - g / jnp.sqrt(m), m), None

    def train(x):
        return lax.scan(step, (x, x * 0), np.float32([[1, 1], [1, 1]]))

    verdict = nanlab.pinpoint(train, X)
    assert (verdict.culprit.primitive, verdict.culprit.phase) == ("div", "update")
