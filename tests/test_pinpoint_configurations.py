"""The verdict is the same under every configuration of JAX that leaves the program's meaning."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from sampled import sampled

import nanlab

X = np.float32([0.25, 1])
F32 = jnp.float32


@jax.custom_vjp
def ruled(x):
    return jnp.sqrt(x)


ruled.defvjp(lambda x: (ruled(x), x), lambda x, g: (g * (F32(0.5) / jnp.sqrt(x)),))


@jax.custom_jvp
def smooth(x):
    return jnp.maximum(x, F32(0))


smooth.defjvps(lambda t, out, x: t * jnp.where(x > F32(0), F32(1), F32(0)))


def loops(x):
    """Scans, while loops and branches, finite, whose types are all given."""
    x = lax.scan(lambda c, k: (c * k, c.sum()), x, np.ones((3, 1), np.float32))[0]
    x = lax.fori_loop(np.int32(0), x.size, lambda i, c: c / (c + F32(1)), x)

    def body(state):
        i, c, flag = state
        nested = lax.while_loop(lambda s: s[0] < 2, lambda s: (s[0] + 1, s[1] ** F32(2)), (0, c))[1]
        return i + 1, lax.cond(flag, jnp.sin, lambda c: c**3, nested) + F32(1), ~flag

    return lax.while_loop(lambda s: s[0] < 3, body, (0, x, jnp.array(True)))[1]


def types(x):
    """Float16, bfloat16, integers, booleans, complex numbers and keys."""
    half = (x.astype(jnp.float16) / jnp.float16(3)).astype(F32)
    brain = jnp.dot(x.astype(jnp.bfloat16), x.astype(jnp.bfloat16)).astype(F32)
    order = jnp.argsort(x)
    real = jnp.abs(lax.complex(x, x) ** 2) + jnp.fft.fft(x).real
    kept = jnp.where(order > 0, x, half)[order] + jnp.cumsum(x)
    return kept + brain[None] + real + jax.scipy.special.gammaln(x) + x[:, None].mean(1)


def drawn(x):
    key, other = jax.random.split(jax.random.key(1))
    noise = jax.random.uniform(key, x.shape, F32) + jax.random.bits(other, (2,)).astype(F32) * F32(
        0
    )
    return x + jax.random.permutation(other, noise)


def learned(x):
    """A gradient through rules, lanes and recomputation."""

    @jax.jit
    def loss(w):
        step = jax.checkpoint(lambda c, b: (ruled(smooth(c * b)), None))
        per_lane = jax.vmap(lambda b: lax.scan(step, w, jnp.stack([b, b]))[0])(jnp.stack([x, x]))
        return jax.nn.logsumexp(jax.nn.softmax(per_lane))

    value, g = jax.value_and_grad(loss)(x)
    return x - F32(0.1) * g / jnp.sqrt(value)


def everything(x):
    for part in (loops, types, drawn, learned):
        x = jnp.abs(part(x)) + F32(0.1)
    return x


def faulty(x):
    return jnp.log(everything(x) - F32(1e6))


def faulty_in_a_loop(x):
    def body(state):
        i, c = state
        return i + 1, c / (c - c)

    return lax.while_loop(lambda s: s[0] < 2, body, (0, x))


def faulty_in_a_rule(x):
    return jax.grad(lambda x: lax.scan(lambda c, _: (c, ruled(x - x)), 0, None, length=2)[1].sum())(
        x
    )


def faulty_in_a_draw(x):
    return jax.random.normal(jax.random.key(0), x.shape, F32) / (x - x)


PROGRAMS = {
    faulty: ("reproduced", "log"),
    faulty_in_a_loop: ("reproduced", "sub"),
    faulty_in_a_rule: ("reproduced", "add_any"),
    faulty_in_a_draw: ("reproduced", "div"),
}
ALONE = {
    "jax_numpy_dtype_promotion": "strict",
    "jax_numpy_rank_promotion": "raise",
    "jax_default_matmul_precision": "highest",
    "jax_debug_nans": True,
    "jax_debug_infs": True,
    "jax_disable_jit": True,
    "jax_check_tracer_leaks": True,
    "jax_debug_key_reuse": True,
    "jax_enable_custom_prng": True,
    "jax_default_prng_impl": "rbg",
    "jax_threefry_partitionable": False,
    "jax_softmax_custom_jvp": False,
    "jax_transfer_guard": "disallow",
    "jax_enable_checks": True,
    "jax_use_shardy_partitioner": False,
    "jax_use_direct_linearize": False,
    "jax_optimization_level": "O0",
    "jax_enable_x64": False,
    "jax_hlo_source_file_canonicalization_regex": "/tmp/.*",
    "jax_include_full_tracebacks_in_locations": False,
    "jax_traceback_in_locations_limit": 0,
}


@contextlib.contextmanager
def configured(**settings):
    before = {name: getattr(jax.config, name) for name in settings}
    try:
        for name, value in settings.items():
            jax.config.update(name, value)
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


def answer(function):
    verdict = nanlab.pinpoint(function, X)
    site = verdict.culprit or verdict.origin
    return str(verdict.status), site and site.primitive


TOGETHER = [
    ["jax_numpy_dtype_promotion", "jax_numpy_rank_promotion", "jax_debug_nans", "jax_debug_infs",
     "jax_transfer_guard", "jax_debug_key_reuse", "jax_enable_checks"],
    ["jax_enable_x64", "jax_disable_jit", "jax_check_tracer_leaks", "jax_default_prng_impl",
     "jax_enable_custom_prng", "jax_default_matmul_precision"],
    ["jax_use_direct_linearize", "jax_use_shardy_partitioner", "jax_softmax_custom_jvp",
     "jax_optimization_level", "jax_traceback_in_locations_limit"],
]  # fmt: skip
SETS = sampled([pytest.param(names, id=names[0]) for names in TOGETHER], 3)
SETS += [pytest.param([name], id=name, marks=pytest.mark.slow) for name in ALONE]


@pytest.mark.parametrize("names", SETS)
def test_a_setting_changes_no_verdict(names):
    settings = {name: ALONE[name] for name in names if hasattr(jax.config, name)}
    with configured(**settings):
        found = {function: answer(function) for function in PROGRAMS}
    assert found == PROGRAMS
