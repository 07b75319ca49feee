"""A fault inside a derivative rule is blamed on the rule's line, however the rule is reached."""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from sampled import sampled

import nanlab

LINES = Path(__file__).read_text().splitlines()
X = np.float32([0, 1])


def line_of(mark):
    (number,) = [i for i, line in enumerate(LINES, 1) if line.endswith(f"# <-- {mark}")]
    return number


def helper(x):
    return 0.5 / jnp.sqrt(x)  # <-- slope in a helper


@jax.custom_vjp
def by_vjp(x):
    return jnp.sqrt(x)


def vjp_forward(x):
    return by_vjp(x), x


def vjp_backward(x, g):
    slope = 0.5 / jnp.sqrt(x)  # <-- slope in bwd
    return (slope * g,)  # <-- product in bwd


by_vjp.defvjp(vjp_forward, vjp_backward)


@jax.custom_vjp
def by_residual(x):
    return jnp.sqrt(x)


def residual_forward(x):
    slope = 0.5 / jnp.sqrt(x)  # <-- slope in fwd
    return by_residual(x), slope


by_residual.defvjp(residual_forward, lambda slope, g: (slope * g,))  # <-- product in lambda


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def by_static(x, power):
    return x**power


def static_forward(x, power):
    return by_static(x, power), x


def static_backward(power, x, g):
    slope = power * jnp.log(x)  # <-- slope with a static argument
    return (slope * g,)  # <-- product with a static argument


by_static.defvjp(static_forward, static_backward)


@jax.custom_jvp
def by_jvp(x):
    return jnp.sqrt(x)


@by_jvp.defjvp
def jvp_rule(primals, tangents):
    (x,), (t,) = primals, tangents
    slope = helper(x)
    return by_jvp(x), slope * t  # <-- product in jvp


@jax.custom_jvp
def by_jvps(x):
    return jnp.sqrt(x)


by_jvps.defjvps(lambda t, out, x: t * (0.5 / out))  # <-- in defjvps


@jax.custom_gradient
def by_gradient(x):
    def back(g):
        return g * jnp.reciprocal(jnp.sqrt(x))  # <-- in custom_gradient

    return jnp.sqrt(x), back


@jax.custom_jvp
@jax.jit
def by_jitted_rule(x):
    return jnp.sqrt(x)


@by_jitted_rule.defjvp
@jax.jit
def jitted_rule(primals, tangents):
    (x,), (t,) = primals, tangents
    return by_jitted_rule(x), t * (0.5 / jnp.sqrt(x))  # <-- in a jitted rule


RULES = {  # the function, where the inf begins and where it becomes a NaN
    "bwd": (by_vjp, "slope in bwd", "product in bwd"),
    "fwd": (by_residual, "slope in fwd", "product in lambda"),
    "static": (
        partial(by_static, power=2.0),
        "slope with a static argument",
        "product with a static argument",
    ),
    "jvp": (by_jvp, "slope in a helper", "product in jvp"),
    "jvps": (by_jvps, "in defjvps", "in defjvps"),
    "gradient": (by_gradient, "in custom_gradient", "in custom_gradient"),
    "jitted": (by_jitted_rule, "in a jitted rule", "in a jitted rule"),
}


def scanned(loss):
    return lambda x: lax.scan(lambda c, _: (c + loss(x), None), 0.0, None, length=2)[0]


WAYS = {  # from a loss to what is called
    "grad": jax.grad,
    "jit of grad": lambda loss: jax.jit(jax.grad(loss)),
    "grad of jit": lambda loss: jax.grad(jax.jit(loss)),
    "value and grad of jit of jit": lambda loss: jax.value_and_grad(jax.jit(jax.jit(loss))),
    "grad of checkpoint": lambda loss: jax.grad(jax.checkpoint(loss)),
    "grad of jit of checkpoint": lambda loss: jax.grad(jax.jit(jax.checkpoint(loss))),
    "grad of scan": lambda loss: jax.grad(scanned(loss)),
    "grad of scan of checkpoint": lambda loss: jax.grad(scanned(jax.checkpoint(loss))),
    "grad of cond": lambda loss: jax.grad(lambda x: lax.cond(x[1] > 0, loss, lambda x: x.sum(), x)),
    "vmap of grad": lambda loss: lambda x: jax.vmap(jax.grad(loss))(jnp.stack([x, x + 1])),
    "grad of vmap of jit": lambda loss: jax.grad(
        lambda x: jax.vmap(jax.jit(loss))(jnp.stack([x, x + 1])).sum()
    ),
    "grad of vmap of scan": lambda loss: jax.grad(
        lambda x: jax.vmap(scanned(loss))(jnp.stack([x, x + 1])).sum()
    ),
    "vjp": lambda loss: lambda x: jax.vjp(loss, x)[1](jnp.float32(1)),
    "vjp of jit": lambda loss: lambda x: jax.vjp(jax.jit(loss), x)[1](jnp.float32(1)),
    "jacrev": lambda loss: jax.jacrev(jax.jit(loss)),
    "fori_loop of grad": lambda loss: (
        lambda x: lax.fori_loop(0, 2, lambda i, w: w + jax.grad(jax.jit(loss))(x), x)
    ),
}


def loss_of(function):
    return lambda x: jnp.sum(function(x) * 0)


EACH_WAY = [(rule, way) for rule in ("bwd", "jvp") for way in WAYS]
EACH_RULE = [(rule, way) for rule in RULES for way in ("grad of jit", "grad of vmap of scan")]


@pytest.mark.parametrize(("rule", "way"), sampled(sorted({*EACH_WAY, *EACH_RULE}), 5))
def test_the_line_is_the_rules_own(rule, way):
    function, slope, product = RULES[rule]
    verdict = nanlab.pinpoint(WAYS[way](loss_of(function)), X)
    assert (verdict.origin.line, verdict.culprit.line) == (line_of(slope), line_of(product))
    assert verdict.culprit.phase == "backward"


@pytest.mark.parametrize(
    "way",
    [
        lambda f: lambda x: jax.jvp(jax.jit(f), (x,), (x * 0,)),
        lambda f: lambda x: jax.jvp(f, (x,), (x * 0,)),
        lambda f: jax.jacfwd(jax.jit(loss_of(f))),
        lambda f: lambda x: jax.linearize(jax.jit(f), x)[1](x * 0),
    ],
)
def test_forward_mode_too(way):
    verdict = nanlab.pinpoint(way(by_jvp), X)
    assert (verdict.origin.line, verdict.culprit.line) == (
        line_of("slope in a helper"),
        line_of("product in jvp"),
    )


def test_a_hessian_of_a_rule_names_the_line_that_was_differentiated():
    verdict = nanlab.pinpoint(jax.hessian(jax.jit(lambda x: by_jvp(x).sum())), X)
    assert verdict.origin.line == line_of("slope in a helper")


@pytest.mark.parametrize("way", ["grad of jit", "grad of scan of checkpoint"])
def test_the_body_is_blamed_on_its_own_line(way):
    @jax.custom_vjp
    def f(x):
        return jnp.log(x)  # <-- body

    f.defvjp(lambda x: (f(x), x), lambda x, g: (g / x,))
    squared = WAYS[way](lambda x: (f(x) ** 2).sum())
    assert nanlab.pinpoint(squared, -X - 1).culprit.line == line_of("body")


def test_a_rule_of_a_vmap_is_located():
    @jax.custom_batching.custom_vmap
    def f(x):
        return x * 2

    @f.def_vmap
    def rule(size, batched, x):
        return jnp.log(x), True  # <-- custom_vmap

    @jax.jit
    def inner(x):
        return f(x)

    assert nanlab.pinpoint(jax.vmap(inner), -X).culprit.line == line_of("custom_vmap")


def test_functions_that_ran_before_are_traced_again_with_the_rules_lines_and_only_there():
    traces = []

    @jax.custom_vjp
    def f(x):
        traces.append("body")
        return jnp.sqrt(x)

    def backward(x, g):
        traces.append("rule")
        return (g * (0.5 / jnp.sqrt(x)),)  # <-- cached

    f.defvjp(lambda x: (f(x), x), backward)
    step = jax.jit(jax.grad(jax.jit(lambda x: jnp.sum(f(x) * 0))))
    step(X)
    n_before = len(traces)
    assert nanlab.pinpoint(step, X).culprit.line == line_of("cached")
    n_after = len(traces)
    assert n_after > n_before
    step(X)
    assert len(traces) == n_after, "the user's function was compiled again"


@pytest.mark.parametrize("way", ["grad", "grad of jit", "grad of scan"])
def test_a_librarys_rule_is_at_the_line_that_called_the_function(way):
    def loss(x):
        return jax.scipy.special.xlogy(x, x * 0).sum() * 0  # <-- xlogy

    verdict = nanlab.pinpoint(WAYS[way](loss), X + 1)
    assert verdict.culprit.line == line_of("xlogy")
