"""Form -> the same number by another formula: in log space, without a cancellation, as one call."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from nanlab.curing.algebra import Algebra, axis_of, is_number
from nanlab.curing.forms import Form
from nanlab.curing.guards import Guard

SOONER = -2
"""Ahead of what only keeps an operation inside it away from its pole."""


def idioms_of(form: Form) -> Iterator[Guard]:
    """Yield other formulas for a form."""
    rules = {
        "log": _logarithm, "log2": _logarithm, "log10": _logarithm, "log1p": _log1p,
        "div": _quotient, "sub": _difference, "mul": _product, "exp": _exponential,
        "gammaln": _gamma, "digamma": _gamma, "pow": _power, "sqrt": _root, "mean": _mean,
    }  # fmt: skip
    if form.name in rules and form.operands:
        for kind, text in rules[form.name](Algebra(form.source), form):
            sooner = 2 * SOONER if form.name.startswith("log") else SOONER
            yield Guard(kind, text, 0 if kind in ("scale first", "xlogy") else sooner)


def _logarithm(algebra: Algebra, form: Form) -> Iterator[tuple[str, str]]:
    text = algebra.log(form.operands[0], top=True)
    if text is not None:
        scale = {"log": "", "log2": " / $jnp.log(2.0)", "log10": " / $jnp.log(10.0)"}[form.name]
        yield "log space", f"({text}){scale}" if scale else text


def _log1p(algebra: Algebra, form: Form) -> Iterator[tuple[str, str]]:
    operand = algebra.meant(form.operands[0])
    if (a := algebra.argument(operand, "exp")) is not None:
        yield "log space", f"$nn.softplus({a})"
    if isinstance(operand, ast.UnaryOp) and isinstance(operand.op, ast.USub):
        if (pair := algebra.logit(operand.operand)) is not None:
            yield "log space", f"$nn.log_sigmoid({pair[1]})"
        if (a := algebra.argument(operand.operand, "exp")) is not None:
            yield "log space", f"$jnp.log(-$jnp.expm1({a}))"


def _quotient(algebra: Algebra, form: Form) -> Iterator[tuple[str, str]]:
    above, below = form.operands
    if not isinstance(form.node, ast.AugAssign):
        if (pair := algebra.logit(form.node)) is not None:
            yield "sigmoid", f"$nn.sigmoid({pair[0]})"
        if (parts := algebra.normalized(form.node)) is not None:
            scores = algebra.log(parts[0].operands[0])
            if scores is not None:
                yield "log space", f"$nn.softmax({scores}{axis_of(parts[1])})"
    product, increased = algebra.of(above, "mul"), algebra.increment(below)
    for x, power in [product.operands, product.operands[::-1]] if product and increased else []:
        a = algebra.argument(power, "exp")
        if a is not None and increased is not None and algebra.same(power, increased):
            yield "sigmoid", f"{algebra.text(x)} * $nn.sigmoid({a})"
    total = algebra.of(above, "sum")
    if total is not None and not total.is_method:
        yield "scale first", f"$jnp.sum({total.text(0)} / {algebra.text(below)}{total.rest()})"
    sine = algebra.of(above, "sin")
    if sine is not None and algebra.same(sine.operands[0], below):
        yield "sinc", f"$jnp.sinc({algebra.text(below)} / $jnp.pi)"
    logs = algebra.log(above), algebra.log(below)
    if None not in logs:
        yield "log space", f"$jnp.exp({logs[0]} - ({logs[1]}))"
    minus, plus = algebra.of(above, "sub"), algebra.of(below, "add")
    if (
        minus
        and plus
        and ast.dump(ast.Tuple(list(minus.operands))) == ast.dump(ast.Tuple(list(plus.operands)))
    ):
        a, b = (algebra.of(x, "exp") for x in minus.operands)
        if a and b and algebra.negative(a.operands[0]) == b.raw(0):
            yield "tanh", f"$jnp.tanh({a.text(0)})"


def _difference(algebra: Algebra, form: Form) -> Iterator[tuple[str, str]]:
    square, mean = form.operands
    if (a := algebra.argument(square, "exp")) is not None and is_number(mean, 1):
        yield "expm1", f"$jnp.expm1({a})"
    first = _average(algebra, square)
    second = _squared(algebra, mean)
    inner = _squared(algebra, first.operands[0]) if first else None
    average = _average(algebra, second) if second is not None else None
    if first and inner is not None and average and algebra.same(inner, average.operands[0]):
        yield "centered", f"$jnp.var({algebra.text(inner)}{first.rest()})"
    roots = [algebra.of(x, "sqrt") for x in form.operands]
    if roots[0] and roots[1]:
        a, b = (root.text(0) for root in roots if root)
        yield "conjugate", f"({a} - {b}) / ($jnp.sqrt({a}) + $jnp.sqrt({b}))"


def _average(algebra: Algebra, node: ast.expr) -> Form | None:
    """Return the mean or the sum of which an expression is the mean."""
    quotient = algebra.of(node, "div")
    return algebra.of(quotient.operands[0], "sum") if quotient else algebra.of(node, "mean")


def _squared(algebra: Algebra, node: ast.expr) -> ast.expr | None:
    form = algebra.of(node, "pow", "square", "mul")
    if form is None:
        return None
    if form.name == "pow":
        return form.operands[0] if is_number(form.operands[1], 2) else None
    if form.name == "mul" and not algebra.same(form.operands[0], form.operands[1]):
        return None
    return form.operands[0]


def _product(algebra: Algebra, form: Form) -> Iterator[tuple[str, str]]:
    for factor, other in (form.operands, form.operands[::-1]):
        logarithm = algebra.of(other, "log")
        if logarithm is not None:
            x = logarithm.text(0)
            yield "xlogy", f"$jax.scipy.special.xlogy({algebra.text(factor)}, {x})"
            if algebra.same(factor, logarithm.operands[0]):
                safe = f"$jnp.where({x} > 0, {x}, 1)"
                yield "xlogx", f"$jnp.where({x} > 0, {x} * $jnp.log({safe}), 0)"
        power = algebra.of(factor, "exp")
        if power is not None and algebra.same(power.operands[0], other):
            x = algebra.text(other)
            safe = f"$jnp.where($jnp.isneginf({x}), 0, {x})"
            yield "zero wins", f"$jnp.exp({x}) * {safe}"
    powers = [algebra.argument(x, "exp") for x in form.operands]
    if None not in powers:
        yield "log space", f"$jnp.exp({powers[0]} + {powers[1]})"


def _exponential(algebra: Algebra, form: Form) -> Iterator[tuple[str, str]]:
    total = algebra.of(form.operands[0], "cumsum", "sum")
    logarithm = algebra.of(total.operands[0], "log") if total else None
    if total and logarithm:
        name = {"cumsum": "cumprod", "sum": "prod"}[total.name]
        yield "product", f"$jnp.{name}({logarithm.text(0)}{total.rest()})"


def _gamma(algebra: Algebra, form: Form) -> Iterator[tuple[str, str]]:
    # gamma(1 + a) = a gamma(a), where a underflows and its logarithm does not.
    logarithm = algebra.log(form.operands[0])
    if logarithm is not None:
        less = logarithm if form.name == "gammaln" else f"$jnp.exp(-({logarithm}))"
        yield "log space", f"{form.function}(1 + {form.text(0)}) - ({less})"


def _power(algebra: Algebra, form: Form) -> Iterator[tuple[str, str]]:
    product = algebra.of(form.operands[0], "prod")
    if product is not None and isinstance(form.node, ast.BinOp):
        logs = f"$jnp.sum($jnp.log({product.raw(0)}){product.rest()})"
        yield "log space", f"$jnp.exp({form.text(1)} * {logs})"


def _root(algebra: Algebra, form: Form) -> Iterator[tuple[str, str]]:
    total = algebra.of(form.operands[0], "add")
    parts = [_squared(algebra, x) for x in total.operands] if total else []
    if len(parts) == 2 and parts[0] is not None and parts[1] is not None:
        yield "hypot", f"$jnp.hypot({algebra.text(parts[0])}, {algebra.text(parts[1])})"
    if (a := algebra.argument(form.operands[0], "exp")) is not None:
        yield "log space", f"$jnp.exp(({a}) / 2)"


def _mean(algebra: Algebra, form: Form) -> Iterator[tuple[str, str]]:
    if not form.is_method and not {"where", "dtype"} & set(form.keywords):
        x = form.text(0)
        yield "scale first", f"$jnp.sum({x} / {algebra.count(form, x)}{form.rest()})"
