"""Special functions, powers, float16, hand-written derivatives."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import lax

from corpus.case import Built, case, f32, initial, normal


@case(
    title="float16 variance: squares overflow to inf, mean subtraction is inf-inf",
    source="tensorflow/tensorflow#43172 class; keras-team/keras-core#866",
    primitive="sub",
    mechanism="inf-inf",
    phase="forward",
    first_inf="integer_pow",
    fused=jnp.float16,
)
def fp16_square_overflow_std() -> Built:
    def fast_var(x):
        m2 = jnp.mean(x, -1) ** 2  # <-- fused
        s2 = jnp.mean(x**2, -1)  # <-- fused
        v = s2 - m2  # <-- culprit
        return v

    return fast_var, (jnp.full((2, 4), 300.0, jnp.float16),)


@case(
    title="hyperbolic distance of a point to itself, gradient of arccosh at 1",
    source="geomstats/geomstats#273; geoopt/geoopt#121; jax-ml/jax#14126 (arccosh gradient)",
    primitive="mul",
    mechanism="0*inf",
    phase="backward",
    first_inf="rsqrt",
    lane=0,
)
def poincare_arccosh() -> Built:
    def dist(u, v):
        d2 = jnp.sum((u - v) ** 2)
        a = 1.0 + 2.0 * d2 / ((1.0 - u @ u) * (1.0 - v @ v))  # <-- culprit
        return jnp.arccosh(a)

    pts = jnp.array([[0.1, 0.2], [0.3, -0.1]])
    return jax.vmap(jax.grad(dist)), (pts, pts)


@case(
    title="u**1.2 with a negative network output",
    source="prateekbhustali/Physics-Informed-Neural-Networks#1",
    primitive="pow",
    mechanism="domain",
    phase="forward",
)
def pow_negative_base() -> Built:
    class U(nn.Module):
        @nn.compact
        def __call__(self, x):
            h = nn.tanh(nn.Dense(10)(x))
            return nn.Dense(1, bias_init=nn.initializers.constant(-2.0))(h)[0]

    net, tx = U(), optax.adam(1e-3)
    pts = normal(46, 5, 2)
    params = initial(net, jax.random.PRNGKey(0), pts[0])

    def residual(p, x):
        u = partial(net.apply, p)
        D = 1.1e-9 * u(x) ** 1.2  # <-- culprit
        return jax.grad(u)(x)[1] - D

    @jax.jit
    def step(p, s):
        value, g = jax.value_and_grad(lambda q: jnp.mean(jax.vmap(partial(residual, q))(pts) ** 2))(
            p
        )
        upd, s = tx.update(g, s)
        return optax.apply_updates(p, upd), s, value

    return step, (params, tx.init(params))


@case(
    title="gradient w.r.t. the exponent with a negative base: log(negative)",
    source="tensorflow/tfjs#346",
    primitive="log",
    mechanism="domain",
    phase="backward",
)
def pow_grad_wrt_exponent() -> Built:
    def f(p, base):
        return jnp.sum(jnp.power(base, p))  # <-- culprit

    return jax.grad(f), (f32(2.0), jnp.array([3.0, -2.0]))


@case(
    title="gradient of gammainc(a, inf) w.r.t. a",
    source="pyro-ppl/numpyro#2257",
    primitive="igamma_grad_a",
    mechanism="opaque",
    phase="backward",
    causal_inf="constant",
)
def gammainc_at_inf() -> Built:
    def f(a):
        return jax.scipy.special.gammainc(a, jnp.inf)  # <-- culprit

    return jax.grad(f), (f32(2.0),)


@case(
    title="Beta policy entropy: softplus underflows, digamma(0)",
    source="Beta/Dirichlet policy heads; digamma pole",
    primitive="digamma",
    mechanism="pole",
    phase="forward",
)
def beta_policy_digamma() -> Built:
    class Head(nn.Module):
        @nn.compact
        def __call__(self, x):
            h = nn.tanh(nn.Dense(8)(x))
            return nn.softplus(nn.Dense(2, bias_init=nn.initializers.constant(-150.0))(h))

    net = Head()
    x = normal(47, 3, 4)
    params = initial(net, jax.random.PRNGKey(0), x)

    def entropy(p):
        a, b = jnp.split(net.apply(p, x), 2, -1)
        dg = lax.digamma(a)  # <-- culprit
        lb = lax.lgamma(a) + lax.lgamma(b) - lax.lgamma(a + b)
        return jnp.mean(
            lb - (a - 1.0) * dg - (b - 1.0) * lax.digamma(b) + (a + b - 2.0) * lax.digamma(a + b)
        )

    return jax.value_and_grad(entropy), (params,)


@case(
    title="linear interpolation with repeated leading knots",
    source="patrick-kidger/diffrax#305; aliutkus/torchinterp1d#5",
    primitive="div",
    mechanism="0/0",
    phase="forward",
    lane=1,
)
def interp_duplicate_knots() -> Built:
    def interp(t, ts, ys):
        i = jnp.clip(jnp.searchsorted(ts, t, side="right") - 1, 0, ts.shape[0] - 2)
        i = jnp.where(t <= ts[0], 0, i)
        w = (t - ts[i]) / (ts[i + 1] - ts[i])  # <-- culprit
        return ys[i] + w * (ys[i + 1] - ys[i])

    return jax.vmap(interp, (0, None, None)), (
        jnp.array([1.5, 1.0, 2.5]),
        jnp.array([1.0, 1.0, 2.0, 3.0]),
        jnp.array([2.0, 2.0, 3.0, 4.0]),
    )


@case(
    title="custom_vjp transmittance/cumprod that divides by its input",
    source="tensorflow/tensorflow#3862, Theano/Theano#5197 (division-based cumprod gradient)",
    primitive="div",
    mechanism="0/0",
    phase="backward",
)
def custom_vjp_cumprod_div() -> Built:
    @jax.custom_vjp
    def cumprod(x):
        return jnp.cumprod(x)

    def fwd(x):
        y = jnp.cumprod(x)
        return y, (x, y)

    def bwd(res, g):
        x, y = res
        s = jnp.cumsum((g * y)[::-1])[::-1]
        return (s / x,)  # <-- culprit

    cumprod.defvjp(fwd, bwd)

    def render(alpha):
        trans = cumprod(1.0 - alpha)  # <-- also
        return jnp.sum(trans * jnp.arange(1.0, 5.0))

    return jax.jit(jax.grad(render)), (jnp.array([0.1, 0.3, 1.0, 0.2]),)


CASES = (
    fp16_square_overflow_std,
    poincare_arccosh,
    pow_negative_base,
    pow_grad_wrt_exponent,
    gammainc_at_inf,
    beta_policy_digamma,
    interp_duplicate_knots,
    custom_vjp_cumprod_div,
)
