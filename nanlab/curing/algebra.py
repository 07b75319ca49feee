"""Expression -> its logarithm, its parts, read through the names that stand for them."""

from __future__ import annotations

import ast

from nanlab.curing.forms import Form, enclosed, form_of
from nanlab.curing.source import Source

_SELECTIONS = (
    "index", "take", "take_along_axis", "squeeze", "reshape", "ravel", "transpose", "swapaxes",
    "moveaxis", "max", "min", "broadcast_to",
)  # fmt: skip
"""What only selects or arranges numbers, or keeps their order, so that a logarithm passes it."""


class Algebra:
    """Reads expressions through the names that stand for them.

    Args:
        source: the file.
    """

    def __init__(self, source: Source) -> None:
        self._source = source

    def form(self, node: ast.expr) -> Form | None:
        """Return the form of an expression, of what a name stands for."""
        return form_of(self._source, self.meant(node))

    def meant(self, node: ast.expr) -> ast.expr:
        """Return what a name stands for, as long as its parts still have the same meaning."""
        for _ in range(3):
            if not isinstance(node, ast.Name):
                break
            value = self._source.definition(node)
            if value is None or isinstance(self._source.parents[node], ast.AugAssign):
                break
            node = value
        return node

    def of(self, node: ast.expr, *names: str) -> Form | None:
        """Return the form of an expression if its name is one of these."""
        form = self.form(node)
        return form if form is not None and form.name in names and form.operands else None

    def text(self, node: ast.expr) -> str:
        """Return the text of an expression, in parentheses where it may need them."""
        return enclosed(self._source, node)

    def negative(self, node: ast.expr) -> str:
        """Return the text of minus an expression."""
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return self.text(node.operand)
        return f"-{self.text(node)}"

    def argument(self, node: ast.expr, name: str) -> str | None:
        """Return the text of a call's first argument if the call is of this name."""
        form = self.of(node, name)
        return None if form is None else form.text(0)

    def same(self, first: ast.expr, second: ast.expr) -> bool:
        """Return whether two expressions mean the same."""
        return ast.dump(self.meant(first)) == ast.dump(self.meant(second))

    def complement(self, node: ast.expr) -> ast.expr | None:
        """Return x where an expression is 1 - x."""
        form = self.of(node, "sub")
        return form.operands[1] if form and is_number(form.operands[0], 1) else None

    def increment(self, node: ast.expr) -> ast.expr | None:
        """Return x where an expression is 1 + x."""
        form = self.of(node, "add")
        if form is None:
            return None
        one = [is_number(operand, 1) for operand in form.operands]
        return form.operands[1 - one.index(True)] if any(one) else None

    def logit(self, node: ast.expr) -> tuple[str, str] | None:
        """Return z and -z where an expression is sigmoid(z), however it is written."""
        if (form := self.of(node, "sigmoid")) is not None:
            return form.text(0), self.negative(form.operands[0])
        if (pair := self._of_labels(node)) is not None:
            return pair
        form = self.of(node, "div")
        below = self.increment(form.operands[1]) if form else None
        power = self.of(below, "exp") if below is not None else None
        if form is None or below is None or power is None:
            return None
        if is_number(form.operands[0], 1):
            return self.negative(power.operands[0]), power.text(0)
        if self.same(form.operands[0], below):
            return power.text(0), self.negative(power.operands[0])
        return None

    def _of_labels(self, node: ast.expr) -> tuple[str, str] | None:
        """Return the same for y * p + (1 - y) * (1 - p), where y is 0 or 1 and p sigmoid(z)."""
        total = self.of(node, "add")
        terms = [self.of(x, "mul") for x in total.operands] if total else [None]
        if terms[0] is None or terms[-1] is None:
            return None
        for y, p in (terms[0].operands, terms[0].operands[::-1]):
            for other, rest in (terms[-1].operands, terms[-1].operands[::-1]):
                not_y, not_p = self.complement(other), self.complement(rest)
                if not_y is None or not_p is None:
                    continue
                if self.same(not_y, y) and self.same(not_p, p) and (pair := self.logit(p)):
                    sign = self.text(y)
                    return f"(2 * {sign} - 1) * ({pair[0]})", f"(1 - 2 * {sign}) * ({pair[0]})"
        return None

    def normalized(self, node: ast.expr) -> tuple[Form, Form] | None:
        """Return a and sum(a) where an expression is a / sum(a)."""
        form = self.of(node, "div")
        total = self.of(form.operands[1], "sum") if form else None
        if form is None or total is None or not self.same(form.operands[0], total.operands[0]):
            return None
        return form, total

    def log(self, node: ast.expr, *, top: bool = False) -> str | None:
        """Return the text of the logarithm of an expression, if it has another form."""
        form = self.form(node)
        if form is None:
            return None
        if (pair := self.logit(node)) is not None:
            return f"$nn.log_sigmoid({pair[0]})"
        if (fraction := self.normalized(node)) and (a := self.log(fraction[0].operands[0])):
            return f"$nn.log_softmax({a}{axis_of(fraction[1])})"
        return (
            self._of_sum(node, form)
            or self._of_call(form, top)
            or self._of_product(form)
            or self._of_selection(form)
        )

    def _of_selection(self, form: Form) -> str | None:
        """Return the logarithm of selected numbers: the same selection of the logarithms."""
        inner = self.log(form.operands[0]) if form.name in _SELECTIONS else None
        if inner is None:
            return None
        is_call = isinstance(ast.parse(inner.replace("$", ""), mode="eval").body, ast.Call)
        whole = inner if is_call else f"({inner})"
        if form.name == "index":
            return f"{whole}[{form.raw(1)}]"
        if form.is_method:
            return f"{whole}.{form.name}({form.rest(1, '')})"
        return f"{form.function}({inner}{form.rest()})"

    def _of_sum(self, node: ast.expr, form: Form) -> str | None:
        if (x := self.complement(node)) is not None:
            if (pair := self.logit(x)) is not None:
                return f"$nn.log_sigmoid({pair[1]})"
            if (u := self._squared_tanh(x)) is not None:
                return f"2 * ($jnp.log(2.0) - {u} - $nn.softplus(-2 * {u}))"
            if (a := self.argument(x, "exp")) is not None:
                return f"$jnp.log(-$jnp.expm1({a}))"
            return f"$jnp.log1p({self.negative(x)})"
        if (x := self.increment(node)) is not None:
            a = self.argument(x, "exp")
            return f"$nn.softplus({a})" if a is not None else f"$jnp.log1p({self.text(x)})"
        if form.name == "add":
            parts = [self.argument(x, "exp") for x in form.operands]
            if None not in parts:
                return f"$jnp.logaddexp({parts[0]}, {parts[1]})"
        return None

    def _squared_tanh(self, node: ast.expr) -> str | None:
        form = self.of(node, "pow", "square", "mul")
        if form is None:
            return None
        is_square = form.name == "square" or (
            is_number(form.operands[1], 2)
            if form.name == "pow"
            else self.same(form.operands[0], form.operands[1])
        )
        return self.argument(form.operands[0], "tanh") if is_square else None

    def _of_call(self, form: Form, top: bool) -> str | None:
        if form.name in ("sum", "mean") and (a := self._log_of_terms(form.operands[0])):
            text = f"$nn.logsumexp({a}{form.rest()})"
            return text if form.name == "sum" else f"{text} - $jnp.log({self.count(form, a)})"
        if form.name == "prod":
            inner = self.log(form.operands[0]) or f"$jnp.log({form.text(0)})"
            return f"$jnp.sum({inner}{form.rest()})"
        if form.name in ("pdf", "cdf", "sf", "pmf"):
            return f"{form.function[: -len(form.name)]}log{form.name}({form.rest(0, '')})"
        if form.name == "cumsum" and (a := self.argument(form.operands[0], "exp")):
            return f"$lax.cumlogsumexp({a}{form.rest() or ', axis=0'})"
        if form.name == "abs" and (a := self.argument(form.operands[0], "det")):
            return f"$jnp.linalg.slogdet({a})[1]"
        if form.name == "expm1" and top:
            return f"{form.text(0)} + $jnp.log(-$jnp.expm1({self.negative(form.operands[0])}))"
        single = {
            "exp": "{0}",
            "cosh": "$jnp.logaddexp({0}, -({0})) - $jnp.log(2.0)",
            "gamma": "$jax.scipy.special.gammaln({0})",
            "factorial": "$jax.scipy.special.gammaln({0} + 1)",
            "erfc": "$jnp.log(2.0) + $jax.scipy.special.log_ndtr(-({0}) * 2**0.5)",
            "softmax": "$nn.log_softmax({0}{rest})",
            "det": "$jnp.linalg.slogdet({0})[1]",
        }
        if form.name in single:
            operand = form.text(0) if form.name == "exp" else form.raw(0)
            return single[form.name].format(operand, rest=form.rest())
        return f"0.5 * $jnp.log({form.text(0)})" if top and form.name == "sqrt" else None

    def _log_of_terms(self, node: ast.expr) -> str | None:
        """Return the logarithm of what is summed if it has the factor exp(a): a + log(b)."""
        if (a := self.argument(node, "exp")) is not None:
            return a
        form = self.of(node, "mul", "div")
        return self.log(node) if form and any(self.of(x, "exp") for x in form.operands) else None

    def count(self, form: Form, text: str) -> str:
        """Return the number of elements that a reduction of `text` goes over."""
        axis = form.keywords.get("axis") or (form.operands[1] if len(form.operands) > 1 else None)
        size = f"{text}.size" if axis is None else f"{text}.shape[{self._source.segment(axis)}]"
        return f"float({size})"

    def _of_product(self, form: Form) -> str | None:
        if form.name == "pow":
            inner = self.log(form.operands[0])
            return f"{form.text(1)} * {inner}" if inner else None
        if form.name not in ("mul", "div"):
            return None
        parts = [self.log(x) for x in form.operands]
        if parts == [None, None]:
            return None
        known = [
            p or f"$jnp.log({self.text(x)})" for p, x in zip(parts, form.operands, strict=True)
        ]
        return f"{known[0]} {'+' if form.name == 'mul' else '-'} ({known[1]})"


def is_number(node: ast.expr, number: float) -> bool:
    """Return whether an expression is a constant of this value."""
    return isinstance(node, ast.Constant) and node.value == number


def axis_of(form: Form) -> str:
    """Return the axis of a reduction, as softmax takes it."""
    if len(form.operands) > 1:
        return ", axis=" + form.source.segment(form.operands[1])
    words = form.rest(9, without=("keepdims",))
    return words or ", axis=None"
