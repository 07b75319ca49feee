"""Advice is right if a program that follows it is finite, and computes the same elsewhere."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax
from sampled import sampled

import nanlab

NAN, INF = np.nan, np.inf
EPS = 1e-6
A = partial(np.array, dtype=np.float32)
OK = np.array([True, True, False])
FEW = A([1, 4, 2])  # where most functions are finite


@dataclass(frozen=True, kw_only=True)
class Case:
    """A faulty function of x, what is advised, and the function that follows the advice."""

    faulty: Any
    x: Any
    says: str
    cured: Any
    total: float | None = None  # of the cured function's results at x, in closed form
    good: Any = None  # where both are finite and agree
    never: str = "maximum first"
    grad: bool = True


MASK, ROOT = "Mask the argument as well: where(ok, {}, 0)", "inside the root"
PRODUCT = "mask the argument as well: where(ok, {}, 0)"


def where(call):
    return MASK.format(call)


def product(call):
    return PRODUCT.format(call)


# Where a fault is inside something else, the advice stays the same.
INSIDE = {
    "jit": jax.jit,
    "checkpoint": jax.checkpoint,
    "vmap": lambda f: lambda x: jax.vmap(f)(x[:, None])[:, 0],
    "scan": lambda f: lambda x: lax.scan(lambda c, v: (c, f(v)), 0, x)[1],
    "cond": lambda f: lambda x: lax.cond(x[0] > 0, f, lambda x: x, x),
}


def safe_length(x):
    return jnp.sqrt(jnp.sum(x**2, axis=-1, keepdims=True) + 1e-12)


def newton(x, step=lambda d: d):
    return lax.fori_loop(0, 60, lambda i, x: x - step((jnp.exp(x) - 5) / jnp.exp(x)), x)


CASES = {
    # A function that where() masks, whose derivative is not.
    "sqrt where": Case(
        faulty=lambda x: jnp.where(x > 0, jnp.sqrt(x), 0), x=A([1, 4, 0]), total=3, good=FEW,
        says=where("sqrt(where(ok, x, 1))"),
        cured=lambda x: jnp.where(x > 0, jnp.sqrt(jnp.where(x > 0, x, 1)), 0),
    ),
    "sqrt of negative where": Case(
        faulty=lambda x: jnp.where(x > 0, jnp.sqrt(x), 0), x=A([1, 4, -3]), total=3, good=FEW,
        says="0 * NaN",
        cured=lambda x: jnp.where(x > 0, jnp.sqrt(jnp.where(x > 0, x, 1)), 0),
    ),
    "log where": Case(
        faulty=lambda x: jnp.where(x > 0, jnp.log(x), 0), x=A([1, 4, 0]), total=np.log(4),
        says=where("log(where(ok, x, 1))"), never="mask is empty", good=FEW,
        cured=lambda x: jnp.where(x > 0, jnp.log(jnp.where(x > 0, x, 1)), 0),
    ),
    "exp where": Case(
        faulty=lambda x: jnp.where(OK, jnp.exp(x), 0), x=A([0, 1, 200]), total=1 + np.e, good=FEW,
        says=where("exp(where(ok, x, 0))"),
        cured=lambda x: jnp.where(OK, jnp.exp(jnp.where(OK, x, 0)), 0),
    ),
    "division where": Case(
        faulty=lambda x: jnp.where(x != 0, 1 / x, 0), x=A([1, 4, 0]), total=1.25, good=FEW,
        says=where("n / where(ok, d, 1)"),
        cured=lambda x: jnp.where(x != 0, 1 / jnp.where(x != 0, x, 1), 0),
    ),
    "power where": Case(
        faulty=lambda x: jnp.where(x > 0, x**0.5, 0), x=A([1, 4, 0]), total=3, good=FEW,
        says=where("where(ok, x, 1) ** p"),
        cured=lambda x: jnp.where(x > 0, jnp.where(x > 0, x, 1) ** 0.5, 0),
    ),
    "arccos where": Case(
        faulty=lambda x: jnp.where(abs(x) < 1, jnp.arccos(x), 0), x=A([0, 0, 1]), total=np.pi,
        says=where("arccos(where(ok, x, 0))"), good=A([0.1, 0.2, -0.5]),
        cured=lambda x: jnp.where(abs(x) < 1, jnp.arccos(jnp.where(abs(x) < 1, x, 0)), 0),
    ),
    "arctan2 where": Case(
        faulty=lambda x: jnp.where(x != 0, jnp.arctan2(x, x), 0), x=A([1, 4, 0]), good=FEW,
        total=np.pi / 2, says=where("arctan2(y, where(ok, x, 1))"),
        cured=lambda x: jnp.where(x != 0, jnp.arctan2(x, jnp.where(x != 0, x, 1)), 0),
    ),
    "norm where": Case(
        faulty=lambda x: jnp.where(jnp.any(x != 0), jnp.linalg.norm(x), 0), x=A([0, 0]), total=0,
        says=where("norm(where(ok, x, 1))"), good=A([3, 4]),
        cured=lambda x: jnp.where(
            jnp.any(x != 0), jnp.linalg.norm(jnp.where(jnp.any(x != 0), x, 1)), 0
        ),
    ),
    "inverse distance where": Case(
        faulty=lambda x: jnp.where(OK, 1 / jnp.sqrt((x**2).sum(-1)), 0), total=1.2,
        x=A([[1, 0], [3, 4], [0, 0]]), says="norm(where(ok, x, 1))",
        good=A([[1, 0], [3, 4], [1, 1]]),
        cured=lambda x: jnp.where(
            OK, 1 / jnp.sqrt((jnp.where(OK[:, None], x, 1) ** 2).sum(-1)), 0
        ),
    ),
    "log clipped": Case(
        faulty=lambda x: jnp.maximum(jnp.log(x), -5), x=A([1, 4, 0]), total=np.log(4) - 5,
        says="Clip the argument in place of the result", good=FEW,
        cured=lambda x: jnp.log(jnp.maximum(x, np.exp(-5))),
    ),
    "ratio clipped": Case(
        faulty=lambda x: -jnp.minimum(r := jnp.exp(x + 1), jnp.clip(r, 0.8, 1.2)).sum(),
        x=A([-1, 199]), says="Clip the argument in place of the result", good=A([-1, -2]),
        cured=lambda x: -jnp.minimum(
            r := jnp.exp(jnp.clip(x + 1, -20, 20)), jnp.clip(r, 0.8, 1.2)
        ).sum(), total=-2.2,
    ),
    # A product that is meant as a mask.
    "exp times mask": Case(
        faulty=lambda x: jnp.exp(x) * OK, x=A([0, 1, 200]), total=1 + np.e, good=A([0, 1, 2]),
        says=product("exp(where(ok, x, 0))"),
        cured=lambda x: jnp.where(OK, jnp.exp(jnp.where(OK, x, 0)), 0),
    ),
    "log times mask": Case(
        faulty=lambda x: jnp.log(x) * OK, x=A([1, 4, 0]), total=np.log(4), good=FEW,
        says=product("log(where(ok, x, 1))"),
        cured=lambda x: jnp.where(OK, jnp.log(jnp.where(OK, x, 1)), 0),
    ),
    "distance times mask": Case(
        faulty=lambda x: jnp.sqrt((x**2).sum(-1)) * OK, x=A([[3, 4], [0, 1], [0, 0]]), total=6,
        says=product("norm(where(ok, x, 1))"), good=A([[3, 4], [0, 1], [2, 0]]),
        cured=lambda x: jnp.where(
            OK, jnp.sqrt((jnp.where(OK[:, None], x, 1) ** 2).sum(-1)), 0
        ),
    ),
    "inf times mask": Case(
        faulty=lambda m: jax.nn.softmax((1 - m) * -jnp.inf), x=A([1, 1, 0]),
        says="large finite number", total=1, grad=False,
        cured=lambda m: jax.nn.softmax(jnp.where(m > 0, 0, -1e9)),
    ),
    # A NaN in padding.
    "padding where": Case(
        faulty=lambda x: jnp.where(OK, x**2, 0), x=A([1, 2, NAN]), total=5, good=FEW,
        says="its derivative is not: 0 * NaN is NaN",
        cured=lambda x: jnp.where(OK, jnp.where(OK, x, 0) ** 2, 0),
    ),
    "padding times mask": Case(
        faulty=lambda x: x**2 * OK, x=A([1, 2, NAN]), total=5, good=FEW,
        says="Replace the bad elements before they are used",
        cured=lambda x: jnp.where(OK, jnp.where(OK, x, 0) ** 2, 0), grad=False,
    ),
    "padding written": Case(
        faulty=lambda x: jnp.nanmean(
            ((t := jnp.where(OK, x, jnp.nan)) - jnp.nanmean(t)) ** 2
        ), x=A([1, 3, 5]), total=1, says="Write a finite number such as 0 in its place",
        cured=lambda x: jnp.sum(
            jnp.where(OK, (t := jnp.where(OK, x, 0)) - jnp.sum(t) / 2, 0) ** 2
        ) / 2,
    ),
    # A derivative at a singular point.
    "norm": Case(
        faulty=jnp.linalg.norm, x=A([0, 0]), says=ROOT, total=0, good=A([3, 4]),
        cured=lambda x: jnp.sqrt(jnp.sum(x**2) + 1e-12),
    ),
    "norm by optax": Case(
        faulty=lambda x: jnp.sqrt(x @ x), x=A([0, 0]), says="optax.safe_norm(x, eps)", total=0,
        cured=lambda x: optax.safe_norm(x, EPS), good=A([3, 4]),
    ),
    "standard deviation": Case(
        faulty=jnp.std, x=A([2, 2]), says="sqrt(var(x) + eps)", total=0, good=A([2, 4]),
        cured=lambda x: jnp.sqrt(jnp.var(x) + 1e-12),
    ),
    "root of a square": Case(
        faulty=lambda x: jnp.sqrt(x**2), x=A([0, -3]), says="use abs(x)", total=3, good=A([2, -3]),
        cured=jnp.abs,
    ),
    "root": Case(
        faulty=lambda x: jnp.sqrt(x), x=A([0, 4]), says="sqrt(maximum(x, eps))", total=2, good=FEW,
        cured=lambda x: jnp.sqrt(jnp.maximum(x, EPS)),
    ),
    "power": Case(
        faulty=lambda x: x**0.5 * x, x=A([0, 4]), says="maximum(x, eps) ** p", total=8, good=FEW,
        cured=lambda x: jnp.maximum(x, EPS) ** 0.5 * x,
    ),
    "angle": Case(
        faulty=lambda x: jnp.arccos(x) * (1 - x), x=A([0, 1]), says="clip(x, -1 + eps, 1 - eps)",
        total=np.pi / 2, good=A([0.1, -0.4]),
        cured=lambda x: jnp.arccos(jnp.clip(x, -1 + EPS, 1 - EPS)) * (1 - x),
    ),
    "arctan2": Case(
        faulty=lambda x: jnp.arctan2(x, 2 * x), x=A([0, 1]), total=np.arctan(0.5), good=FEW,
        says="arctan2(y, where((x == 0) & (y == 0), 1, x))", never="empty",
        cured=lambda x: jnp.arctan2(x, jnp.where((x == 0) & (x == 0), 1, 2 * x)),
    ),
    "equal eigenvalues": Case(
        faulty=lambda x: jnp.linalg.eigh(x + jnp.eye(3))[1], x=np.zeros((3, 3), np.float32),
        says="diag(arange(n))",
        cured=lambda x: jnp.linalg.eigh(x + jnp.eye(3) + 1e-3 * jnp.diag(jnp.arange(3.0)))[1],
    ),
    # Logarithms.
    "log of softmax": Case(
        faulty=lambda x: -jnp.log(jax.nn.softmax(x)), x=A([0, 200, 0]), total=400,
        says="jax.nn.log_softmax", cured=lambda x: -jax.nn.log_softmax(x), good=FEW,
    ),
    "log of softmax by hand": Case(
        faulty=lambda x: -jnp.log(jnp.exp(x) / jnp.exp(x).sum()), x=A([-200, 0]), total=200,
        says="jax.nn.log_softmax", cured=lambda x: -jax.nn.log_softmax(x), good=FEW,
    ),
    "cross-entropy": Case(
        faulty=lambda x: -jnp.sum(A([1, 0, 0]) * jnp.log(jax.nn.softmax(x))), x=A([0, 200, 0]),
        says="jax.nn.log_softmax", total=200, never="mask", good=FEW,
        cured=lambda x: -jnp.sum(A([1, 0, 0]) * jax.nn.log_softmax(x)),
    ),
    "log of sigmoid": Case(
        faulty=lambda x: jnp.log(jax.nn.sigmoid(x)), x=A([-200, 0]), total=-200 - np.log(2),
        says="jax.nn.log_sigmoid(x)", cured=jax.nn.log_sigmoid, good=FEW,
    ),
    "log of one less sigmoid": Case(
        faulty=lambda x: jnp.log(1 - jax.nn.sigmoid(x)), x=A([200, 0]), total=-200 - np.log(2),
        says="jax.nn.log_sigmoid(-x)", cured=lambda x: jax.nn.log_sigmoid(-x), good=FEW,
    ),
    "squashed by tanh": Case(
        faulty=lambda x: jnp.log(1 - jnp.tanh(x) ** 2), x=A([20, 0]), total=2 * np.log(2) - 40,
        says="softplus(-2 * x)", good=A([0.5, 2]),
        cured=lambda x: 2 * (np.log(2) - x - jax.nn.softplus(-2 * x)),
    ),
    "entropy": Case(
        faulty=lambda p: -p * jnp.log(p), x=A([0, 0.5, 0.5]), total=np.log(2),
        says="p * log(where(p > 0, p, 1))", never="empty", good=A([0.2, 0.3, 0.5]),
        cured=lambda p: jnp.where(p > 0, -p * jnp.log(jnp.where(p > 0, p, 1)), 0),
    ),
    "entropy of softmax": Case(
        faulty=lambda x: -jnp.sum((p := jax.nn.softmax(x)) * jnp.log(p)), x=A([0, 200, 0]), total=0,
        says="jax.nn.log_softmax", good=FEW,
        cured=lambda x: -jnp.sum(jax.nn.softmax(x) * jax.nn.log_softmax(x)),
    ),
    "log of a product": Case(
        faulty=lambda x: jnp.log(jnp.prod(x)), x=A([1e-30, 1e-30]), total=-60 * np.log(10),
        says="sum(log(x))", cured=lambda x: jnp.sum(jnp.log(x)), good=FEW,
    ),
    "log of a determinant": Case(
        faulty=lambda x: jnp.log(jnp.linalg.det(jnp.diag(x))), x=A([1e-15] * 3),
        total=-45 * np.log(10), says="slogdet", good=FEW,
        cured=lambda x: jnp.linalg.slogdet(jnp.diag(x))[1],
    ),
    "log of a tail": Case(
        faulty=lambda x: jnp.log(jax.scipy.stats.norm.cdf(x)), x=A([-40, 0]), says="logcdf",
        total=-804.6084 - np.log(2), cured=jax.scipy.stats.norm.logcdf, good=A([0.1, -1]),
    ),
    "log of 0": Case(
        faulty=lambda x: jnp.log(x), x=A([0, 1]), total=np.log(EPS), good=FEW,
        says="log(maximum(x, eps))", cured=lambda x: jnp.log(jnp.maximum(x, EPS)),
    ),
    "log of a negative": Case(
        faulty=lambda x: jnp.log(x), x=A([-1, 1]), total=np.log(EPS), good=FEW,
        says="log(maximum(x, eps))", cured=lambda x: jnp.log(jnp.maximum(x, EPS)),
    ),
    # Exponentials.
    "softmax by hand": Case(
        faulty=lambda x: (e := jnp.exp(x)) / e.sum(), x=A([200, 0]), total=1, never="clip",
        says="jax.nn.softmax(x)", cured=jax.nn.softmax, good=FEW,
    ),
    "logsumexp by hand": Case(
        faulty=lambda x: jnp.log(jnp.exp(x).sum()), x=A([200, 0]), total=200,
        says="jax.nn.logsumexp(x)", cured=jax.nn.logsumexp, good=FEW,
    ),
    "softplus by hand": Case(
        faulty=lambda x: jnp.log(1 + jnp.exp(x)), x=A([200, 0]), total=200 + np.log(2),
        says="jax.nn.softplus(x)", cured=jax.nn.softplus, good=FEW,
    ),
    "sigmoid by hand": Case(
        faulty=lambda x: 1 / (1 + jnp.exp(-x)), x=A([-200, 0]), total=0.5,
        says="jax.nn.sigmoid(x)", cured=jax.nn.sigmoid, good=FEW,
    ),
    "tanh by hand": Case(
        faulty=lambda x: (jnp.exp(x) - jnp.exp(-x)) / (jnp.exp(x) + jnp.exp(-x)), x=A([200, 0]),
        total=1, says="jnp.tanh(x)", cured=jnp.tanh, good=FEW,
    ),
    "ratio": Case(
        faulty=lambda x: jnp.exp(x - jnp.flip(x)), x=A([-100, 100]), total=np.exp(20),
        says="exp(clip(a - b, -20, 20))", good=FEW,
        cured=lambda x: jnp.exp(jnp.clip(x - jnp.flip(x), -20, 20)),
    ),
    "log-variance": Case(
        faulty=lambda x: jnp.exp(x * 50), x=A([2, 0.1]), total=np.exp(20) + np.exp(5),
        says="exp(minimum(x, 20))", cured=lambda x: jnp.exp(jnp.minimum(x * 50, 20)),
        good=A([0.1, 0.2]),
    ),
    "half precision": Case(
        faulty=lambda x: jnp.exp(x.astype(jnp.float16)).astype(np.float32), x=A([12, 0]),
        says="above 11.1 in float16", total=np.exp(11) + 1, good=A([1, 2]),
        cured=lambda x: jnp.exp(jnp.minimum(x.astype(jnp.float16), 11)).astype(np.float32),
    ),
    "diverging solver": Case(
        faulty=newton, x=A(-8), says="damping", never="Subtract", total=np.log(5), good=A(1),
        cured=partial(newton, step=lambda d: jnp.clip(d, -1, 1)), grad=False,
    ),
    # Divisions.
    "unit vector": Case(
        faulty=lambda x: x / jnp.linalg.norm(x), x=A([0, 0]), total=0, good=A([3, 4]),
        says="sqrt(sum(x ** 2) + eps)", cured=lambda x: x / safe_length(x),
    ),
    "cosine by hand": Case(
        faulty=lambda x: x @ A([1, 0]) / (jnp.linalg.norm(x) * 1.0), x=A([0, 0]), total=0,
        says="sqrt(sum(x ** 2) + eps)", cured=lambda x: x @ A([1, 0]) / safe_length(x)[0],
        good=A([3, 4]),
    ),
    "cosine by optax": Case(
        faulty=lambda x: optax.cosine_distance(x, A([1, 1])), x=A([0, 0]), total=1,
        says="epsilon=1e-6", cured=lambda x: optax.cosine_distance(x, A([1, 1]), epsilon=1e-6),
        good=A([3, 4]),
    ),
    "standardized": Case(
        faulty=lambda x: (x - x.mean()) / x.std(), x=A([2, 2]), total=0, good=A([1, 4, 9]),
        says="(x - mean) * rsqrt(var + eps)",
        cured=lambda x: (x - x.mean()) * lax.rsqrt(x.var() + EPS),
    ),
    "range": Case(
        faulty=lambda x: (x - x.min()) / (x.max() - x.min()), x=A([2, 2]), total=0,
        says="maximum(max - min, eps)", good=FEW,
        cured=lambda x: (x - x.min()) / jnp.maximum(x.max() - x.min(), EPS),
    ),
    "mean over a mask": Case(
        faulty=lambda x: jnp.sum(jnp.where(x > 5, x, 0)) / jnp.sum(x > 5), x=A([1, 2]), total=0,
        says="maximum(sum(mask), 1)", good=A([1, 7, 9]),
        cured=lambda x: jnp.sum(jnp.where(x > 5, x, 0)) / jnp.maximum(jnp.sum(x > 5), 1),
    ),
    "shares": Case(
        faulty=lambda x: x / x.sum(), x=A([0, 0]), total=0, says="n / where(d == 0, 1, d)",
        cured=lambda x: x / jnp.where(x.sum() == 0, 1, x.sum()), never="mask", good=FEW,
    ),
    "layer without epsilon": Case(
        faulty=lambda x: nn.LayerNorm(
            epsilon=0.0, use_bias=False, use_scale=False, use_fast_variance=False
        ).apply({}, x), x=A([2, 2]), says="layer's epsilon", total=0,
        cured=lambda x: nn.LayerNorm(
            epsilon=1e-6, use_bias=False, use_scale=False, use_fast_variance=False
        ).apply({}, x),
    ),
    # Domains.
    "variance": Case(
        faulty=lambda x: jnp.sqrt((x**2).mean() - x.mean() ** 2), x=A([1000.44] * 5),
        says="mean((x - mean) ** 2)", total=0, grad=False, good=A([1, 4, 9]),
        cured=lambda x: jnp.sqrt(((x - x.mean()) ** 2).mean()),
    ),
    "root of a negative": Case(
        faulty=lambda x: jnp.sqrt(1 - x**2), x=A([1.0000001, 0]), says="sqrt(maximum(x, eps))",
        total=1, cured=lambda x: jnp.sqrt(jnp.maximum(1 - x**2, EPS)), good=A([0.1, 0.2]),
    ),
    "arccos outside": Case(
        faulty=lambda x: jnp.arccos(x), x=A([1.0000001, 0]), says="clip(x, -1 + eps, 1 - eps)",
        total=np.pi / 2, cured=lambda x: jnp.arccos(jnp.clip(x, -1 + EPS, 1 - EPS)),
        good=A([0.1, 0.2]),
    ),
    "negative base": Case(
        faulty=lambda x: x**1.5, x=A([-1, 4]), says="maximum(x, eps) ** p", total=8, good=FEW,
        cured=lambda x: jnp.maximum(x, EPS) ** 1.5,
    ),
    "masked row": Case(
        faulty=lambda x: jax.nn.softmax(jnp.where(x > 3, x, -jnp.inf)), x=A([1, 2]),
        says="-1e9", total=1, cured=lambda x: jax.nn.softmax(jnp.where(x > 3, x, -1e9)),
        good=A([4, 5]),
    ),
    # Overflows.
    "long vector": Case(
        faulty=lambda x: jnp.sqrt((x**2).sum()), x=A([3e30, 4e30]), total=5e30, good=A([3, 4]),
        says="m * norm(x / m)",
        cured=lambda x: (m := jnp.max(abs(x))) * jnp.sqrt(((x / m) ** 2).sum()),
    ),
    "float16 square": Case(
        faulty=lambda x: (x.astype(jnp.float16) ** 2).astype(np.float32), x=A([6e3, 1]),
        says="compute this in float32", total=36e6 + 1, cured=lambda x: x**2, good=FEW,
    ),
    "float8 cast": Case(
        faulty=lambda x: x.astype(jnp.float8_e4m3fn).astype(np.float32), x=A([4480, 1120]),
        says="max(abs(x)) / 448", total=5600, never="bfloat16", grad=False,
        cured=lambda x: (x / 10).astype(jnp.float8_e4m3fn).astype(np.float32) * 10,
    ),
    # Kernels, indices.
    "cholesky": Case(
        faulty=lambda x: jnp.linalg.cholesky(jnp.outer(x, x) - 1e-6 * jnp.eye(2)), x=A([1, 1]),
        says="jitter", total=2 + 2e-3**0.5, good=None,
        cured=lambda x: jnp.linalg.cholesky(jnp.outer(x, x) + 1e-3 * jnp.eye(2)),
    ),
    "index": Case(
        faulty=lambda x: jnp.asarray(x).at[jnp.array([0, 7])].get(mode="fill"), x=A([1, 4]),
        total=5, says='mode="clip"',
        cured=lambda x: jnp.asarray(x).at[jnp.array([0, 7])].get(mode="clip"),
    ),
}  # fmt: skip


def value_and_gradient(function):
    return jax.value_and_grad(lambda x: jnp.sum(function(x)))


def is_finite(tree):
    return all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(tree))


ROWS = sampled(CASES, 5)  # each costs half a second


@pytest.mark.parametrize("name", ROWS)
def test_a_program_that_follows_the_advice_is_finite_and_right(name):
    case = CASES[name]
    run = value_and_gradient if case.grad else (lambda function: function)
    verdict = nanlab.pinpoint(run(case.faulty), case.x)
    assert verdict.fault
    advised = (verdict.culprit or verdict.origin).cure
    assert case.says in advised
    assert case.never not in advised
    assert "".join(advised.split()) in "".join(str(verdict).split())
    cured = run(case.cured)(case.x)
    assert is_finite(cured)
    if case.total is not None:
        value = jnp.sum(case.cured(case.x))
        np.testing.assert_allclose(value, case.total, rtol=2e-3, atol=2e-3)
    if case.good is not None:
        wanted, got = run(case.faulty)(case.good), run(case.cured)(case.good)
        assert is_finite(wanted)
        for one, other in zip(jax.tree.leaves(wanted), jax.tree.leaves(got), strict=True):
            np.testing.assert_allclose(one, other, rtol=2e-3, atol=2e-3)


class Masked(nn.Module):
    @nn.compact
    def __call__(self, x):
        return CASES["log where"].faulty(x)


@pytest.mark.parametrize(
    ("wrap", "name"),
    [
        ("jit", "exp where"),
        ("checkpoint", "log where"),
        ("vmap", "division where"),
        ("scan", "sqrt where"),
        *(
            pytest.param(wrap, name, marks=pytest.mark.slow)
            for wrap in INSIDE
            for name in ("sqrt where", "log where", "division where", "power where")
        ),
    ],
)
def test_advice_is_the_same_inside_a_transformation(wrap, name):
    case = CASES[name]
    run = value_and_gradient(INSIDE[wrap](case.faulty))
    verdict = nanlab.pinpoint(run, case.x)
    assert case.says in verdict.culprit.cure


def test_advice_is_the_same_inside_a_module():
    model, case = Masked(), CASES["log where"]
    verdict = nanlab.pinpoint(value_and_gradient(lambda x: model.apply({}, x)), case.x)
    assert case.says in verdict.culprit.cure


def optimizer_step(optimizer, dtype):
    params = jnp.ones(2, dtype)
    return (
        lambda gradients: optimizer.update(gradients, optimizer.init(params), params)[0],
        jnp.zeros(2, dtype),
    )


def trained(rate, steps, loss):
    def train(w):
        return lax.fori_loop(0, steps, lambda _, w: w - rate * jax.grad(loss)(w), w)

    return train


@pytest.mark.parametrize(
    ("function", "x", "says", "never"),
    [
        (*optimizer_step(optax.adam(1e-3, eps=0.0), np.float32), "eps=1e-8", "where("),
        (*optimizer_step(optax.adam(1e-3), jnp.float16), "1e-8 is 0", "where("),
        (trained(3.0, 300, lambda w: jnp.sum(w**2)), A([1, 2]), "smaller learning rate", "Huber"),
        (
            trained(1e3, 9, lambda w: -jnp.log((e := jnp.exp(w)) / e.sum())[0]),
            A([1, 2]), "jax.nn.softmax", "smaller",
        ),
        (lambda x: lax.while_loop(lambda c: c[0] < 99, lambda c: (c[0] + 1, c[1] ** 2 + c[1]),
                                  (0, x))[1], A(3), "smaller", "Huber"),
        (lambda x: jax.grad(lambda w: jnp.sum((x.astype(jnp.float16) * w.astype(jnp.float16))
         .astype(jnp.float32) ** 2) * 2.0**15)(x), A([100, 1]), "loss scale", "bfloat16"),
        (
            lambda x: optax.softmax_cross_entropy_with_integer_labels(x, jnp.array([5])).sum(),
            np.ones((1, 3), np.float32), "labels must be in", "clip",
        ),
        (lambda x: jnp.mean(x[:0]), A([1]), "no elements", "where("),
        (lambda x: jnp.std(x, ddof=1), A([1]), "single element", "mask"),
        (lambda x: jax.nn.softmax(x), A([-INF, -INF]), "-1e9", "checkpoint"),
        (lambda x: x * 2, A([1, NAN]), "checkpoint", "mask"),
        (lambda x: jnp.sin(x * 1e38 * 1e38), A([1]), "too large for its type", "clip"),
    ],
    ids=[
        "Adam without eps", "Adam in half precision", "gradient descent", "softmax in training",
        "iteration", "loss scale", "labels", "empty", "one element", "all -inf", "checkpoint",
        "neutral",
    ],
)  # fmt: skip
def test_advice_follows_the_program_around_the_fault(function, x, says, never):
    verdict = nanlab.pinpoint(function, x)
    advised = (verdict.culprit or verdict.origin).cure
    assert says in advised
    assert never not in advised


def test_a_log_of_0_whose_derivative_is_at_fault_is_not_called_harmless():
    case = CASES["log where"]
    verdict = nanlab.pinpoint(value_and_gradient(case.faulty), case.x)
    assert verdict.benign == ()
    assert "Harmless" not in str(verdict)
    # Without the gradient it does no harm.
    assert [s.primitive for s in nanlab.pinpoint(case.faulty, case.x).benign] == ["log"]


def test_a_where_after_a_product_would_not_have_been_enough():
    case = CASES["exp times mask"]
    followed = value_and_gradient(lambda x: jnp.where(OK, jnp.exp(x), 0))(case.x)
    assert not is_finite(followed)


@pytest.mark.parametrize("optimizer", [optax.sgd, optax.adam])
def test_a_schedule_of_the_users_gets_no_advice_on_the_optimizers_eps(optimizer):
    def schedule(step):
        return 0.05 * jnp.minimum(1.0, step / 10) / jnp.sqrt(jnp.minimum(step, 10))

    transform = optimizer(schedule)
    weights = jnp.ones(3)

    def step(weights, state):
        updates, _ = transform.update(jnp.arange(3.0), state, weights)
        return optax.apply_updates(weights, updates)

    verdict = nanlab.pinpoint(step, weights, transform.init(weights))
    assert verdict.culprit.mechanism == "0/0"
    assert "make the divisor safe" in verdict.culprit.cure
    assert "eps" not in verdict.culprit.cure
