"""`nanlab.lint` on complex numbers: their poles, their guards, and primitives without a rule."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nanlab
from nanlab.linting.rules.complexes import COMPLEX
from nanlab.linting.rules.table import RULES

Z = jnp.array([0.1 + 0.1j, 0.2 - 0.3j, 0.3 + 0.1j], jnp.complex64)
X = jnp.array([0.1, 0.2, 0.3], jnp.float32)


def phase(x):
    return jnp.fft.fft(x) / jnp.abs(jnp.fft.fft(x))


# program -> (the program, an argument at which it is not finite, the primitive of its finding)
POLES = {
    "log": (lambda z: jnp.log(z), 0 * Z, "log"),
    "log of a magnitude": (lambda z: jnp.log(jnp.abs(z)), 0 * Z, "log"),
    "log1p": (lambda z: jnp.log1p(z), 0 * Z - 1, "log1p"),
    "inverse": (lambda z: 1 / z, 0 * Z, "div"),
    "integer power": (lambda z: z**-1, 0 * Z, "integer_pow"),
    "power": (lambda z: z**-1.0, 0 * Z, "pow"),
    "complex power": (lambda z: z**1j, 0 * Z, "pow"),
    "exp": (lambda z: jnp.exp(20 * z), 10 + 0 * Z, "exp"),
    "sinh": (lambda z: jnp.sinh(z), 100 + 0 * Z, "sinh"),
    "rsqrt": (lambda z: jax.lax.rsqrt(z), 0 * Z, "rsqrt"),
    "phase": (phase, 0 * X, "div"),
    "real part of an inverse": (lambda z: (1 / z).real.sum(), 0 * Z, "div"),
    "derivative of an angle": (
        jax.grad(lambda x: jnp.angle(x + 1j * x).sum()),
        0 * X,
        "div",
    ),
    "derivative of a root": (
        jax.grad(lambda x: jnp.abs(jnp.sqrt(x + 1j * x)).sum()),
        0 * X,
        "div",
    ),
    "the wrong case": (lambda z: z / jnp.where(jnp.abs(z) > 0, 1, z), 0 * Z, "div"),
    "another predicate": (lambda z: 1 / jnp.where(z == 1, 1, z), 0 * Z, "div"),
    "in a loop": (
        lambda z: jax.lax.fori_loop(0, 3, lambda i, c: 1 / c, z),
        0 * Z,
        "div",
    ),
}


@pytest.mark.parametrize("case", POLES)
def test_a_complex_pole_is_a_finding(case):
    function, argument, primitive = POLES[case]
    assert not np.isfinite(np.asarray(jax.jit(function)(argument))).all()
    example = Z if jnp.iscomplexobj(argument) else X
    report = nanlab.lint(function, example)
    assert [f.site.primitive for f in report.findings] == [primitive]
    assert str(report).startswith("An inf or a NaN can arise in 1 place")


GUARDED = {
    "where 0": lambda z: z / jnp.where(z == 0, 1, z),
    "where not 0": lambda z: z / jnp.where(z != 0, z, 1),
    "where small": lambda z: z / jnp.where(jnp.abs(z) < 1e-6, 1, z),
    "where large": lambda z: z / jnp.where(jnp.abs(z) > 0, z, 1),
    "magnitude": lambda z: z / (jnp.abs(z) + 1e-6),
    "mean": lambda z: z.mean(),
    "a constant": lambda z: z / (3 + 4j),
    "a square": lambda z: z**2.0,
    "an angle": lambda z: jnp.exp(-0.5j * z.real),
    "an angle and a frequency": lambda z: jnp.exp(1j * z.real * jnp.arange(3)),
    "a norm": lambda z: jnp.linalg.norm(z),
    "derivative of a magnitude": jax.grad(lambda z: jnp.abs(z).sum(), holomorphic=False),
}
SPECTRAL = {
    "spectrum": lambda x: jnp.abs(jnp.fft.rfft(x)).mean(),
    "power": lambda x: (jnp.abs(jnp.fft.rfft(x)) ** 2).mean(),
    "logarithm": lambda x: jnp.log(jnp.abs(jnp.fft.rfft(x)) ** 2 + 1e-6).mean(),
    "convolution": lambda x: jnp.fft.irfft(jnp.fft.rfft(x) * jnp.fft.rfft(x)).sum(),
    "two axes": lambda x: jnp.abs(jnp.fft.fft2(x[None] * x[:, None])).mean(),
}


@pytest.mark.parametrize("case", GUARDED)
def test_a_guarded_complex_number_is_no_finding(case):
    report = nanlab.lint(GUARDED[case], Z)
    assert not report.findings
    assert not report.unknown


@pytest.mark.parametrize("case", SPECTRAL)
def test_a_spectral_loss_and_its_gradient_are_no_finding(case):
    report = nanlab.lint(jax.value_and_grad(SPECTRAL[case]), X)
    assert not report.findings
    assert not report.unknown


@pytest.mark.parametrize("name", ["tanh", "tan", "arctan", "arcsin", "sin", "arccosh"])
def test_a_complex_function_without_a_rule_is_unknown(name):
    report = nanlab.lint(getattr(jnp, name), Z)
    assert report.unknown or report.findings
    if not report.findings:
        names = ", ".join(unknown.primitive for unknown in report.unknown)
        assert str(report).startswith("No inf or NaN was found; ")
        assert str(report).split("\n")[0].endswith(f" unknown: {names}.")


def test_what_has_no_rule_for_complex_numbers_is_unknown():
    unread = set(RULES) - set(COMPLEX)
    assert {"tanh", "sin", "cos", "asin", "atan", "acosh", "logistic", "cbrt"} <= unread


def test_a_headline_claims_nothing_of_unknown_primitives():
    report = nanlab.lint(lambda x: jnp.linalg.eigvals(x[:, None] * x).real, X)
    assert [unknown.primitive for unknown in report.unknown] == ["eig"]
    assert str(report).startswith("No inf or NaN was found; 1 primitive is unknown: eig.")


def test_bad_complex_numbers_of_arguments_and_constants_are_followed():
    bad = Z.at[1].set(jnp.nan)
    kinds = [f.site.mechanism for f in nanlab.lint(lambda z: z.real + bad.real, Z).findings]
    assert kinds == ["constant"]
    assert nanlab.lint(lambda z: z * bad, Z).findings
