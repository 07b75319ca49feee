"""Expression -> its form: which function it calls or which operator it is, and its operands."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp

from nanlab.curing.source import Source

Node = ast.expr | ast.AugAssign

_OPERATORS: dict[type[ast.operator], str] = {
    ast.Div: "div", ast.Mult: "mul", ast.Add: "add", ast.Sub: "sub", ast.Pow: "pow",
    ast.MatMult: "matmul",
}  # fmt: skip
_SAME = {
    "acos": "arccos", "asin": "arcsin", "atanh": "arctanh", "acosh": "arccosh", "power": "pow",
    "float_power": "pow", "divide": "div", "true_divide": "div", "multiply": "mul",
    "subtract": "sub", "lgamma": "gammaln", "erf_inv": "erfinv", "ndtri": "erfinv",
    "atan2": "arctan2", "expit": "sigmoid", "psi": "digamma", "dot": "matmul", "einsum": "matmul",
}  # fmt: skip
_MODULES = {"jnp": "jax.numpy", "jax": "jax", "lax": "jax.lax", "nn": "jax.nn"}


@dataclass(frozen=True)
class Form:
    """An expression as a rule sees it.

    Attributes:
        source: the file.
        node: the expression.
        name: the function's last name, or the operator's.
        operands: its positional operands; the object of a method comes first.
        keywords: its keyword arguments, by name.
        is_method: whether it is a method of an array.
    """

    source: Source
    node: Node
    name: str
    operands: Sequence[ast.expr]
    keywords: dict[str, ast.expr] = field(default_factory=dict[str, ast.expr])
    is_method: bool = False

    @property
    def is_applied(self) -> bool:
        """Whether what is called is itself made by a call, as in nn.Dense(8)(x)."""
        return isinstance(self.node, ast.Call) and isinstance(self.node.func, ast.Call)

    def text(self, operand: int) -> str:
        """Return the text of an operand, in parentheses where it may need them."""
        return enclosed(self.source, self.operands[operand])

    def raw(self, operand: int) -> str:
        """Return the text of an operand that is an argument of a call."""
        return self.source.segment(self.operands[operand])

    @property
    def function(self) -> str:
        """Text of the function that is called."""
        assert isinstance(self.node, ast.Call)
        return self.source.segment(self.node.func)

    def rest(self, first: int = 1, leading: str = ", ", without: Sequence[str] = ()) -> str:
        """Return the arguments from this operand on, and the keyword arguments."""
        parts = [self.raw(i) for i in range(first, len(self.operands))]
        parts += [
            f"{name}={self.source.segment(value)}"
            for name, value in self.keywords.items()
            if name not in without
        ]
        return leading + ", ".join(parts) if parts else ""


def enclosed(source: Source, node: ast.expr) -> str:
    """Return the text of an expression, in parentheses where it may need them."""
    text = source.segment(node)
    simple = (ast.Name, ast.Constant, ast.Attribute, ast.Call, ast.Subscript)
    # A call over several lines is no longer inside the brackets that allowed it.
    return text if isinstance(node, simple) and "\n" not in text else f"({text})"


def form_of(source: Source, node: ast.AST) -> Form | None:
    """Return the form of a node; None if no rule could be about it."""
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return Form(source, node, _OPERATORS[type(node.op)], (node.left, node.right))
    if isinstance(node, ast.AugAssign) and type(node.op) in _OPERATORS:
        return Form(source, node, _OPERATORS[type(node.op)], (node.target, node.value))
    if is_infinity(node):
        assert isinstance(node, ast.expr)
        return Form(source, node, "infinity", (node,))
    if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load):
        return Form(source, node, "index", (node.value, node.slice))
    if not isinstance(node, ast.Call) or any(isinstance(a, ast.Starred) for a in node.args):
        return None
    keywords = {word.arg: word.value for word in node.keywords if word.arg is not None}
    if len(keywords) < len(node.keywords):
        return None
    if isinstance(node.func, ast.Name):
        return Form(source, node, _SAME.get(node.func.id, node.func.id), node.args, keywords)
    if isinstance(node.func, ast.Call):  # of a module, as nn.Embed(10, 6)(ids)
        inner = node.func.func
        name = inner.attr if isinstance(inner, ast.Attribute) else ""
        return Form(source, node, name if name[:1].isupper() else "", node.args, keywords)
    if not isinstance(node.func, ast.Attribute):
        return Form(source, node, "", node.args, keywords)
    name = _SAME.get(node.func.attr, node.func.attr)
    if _root(node.func) in source.imported:
        return Form(source, node, name, node.args, keywords)
    return Form(source, node, name, (node.func.value, *node.args), keywords, is_method=True)


def is_infinity(node: ast.AST) -> bool:
    """Return whether an expression is an infinite constant, such as -jnp.inf."""
    text = ast.unparse(node) if isinstance(node, ast.expr) else ""
    return bool(re.fullmatch(r"-?((np|jnp|numpy|math|jax\.numpy)\.inf|float\(.-?inf.\))", text))


def _root(node: ast.expr) -> str:
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def module_path(source: Source, short: str) -> tuple[str, str]:
    """Return how a file writes a module, and the import that it needs for that, if any."""
    wanted = _MODULES[short]
    paths = {path: name for name, path in source.imported.items()}
    if wanted in paths:
        return paths[wanted], ""
    if "jax" in paths:
        return wanted.replace("jax", paths["jax"], 1), ""
    if short in source.imported:  # a module of this name, under another path
        return short, ""
    return (short, f"import {wanted} as {short}") if short != "jax" else ("jax", "import jax")


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """Numbers of a floating-point type, as a rewrite writes them.

    Attributes:
        tiny: smallest that does not underflow to 0.
        small: one whose root does not vanish next to 1.
        eps: about the spacing of numbers at 1.
        big: largest whose square root of products stays finite.
        exponent: largest argument of exp.
        low: argument of exp whose result can be squared twice.
        is_narrow: whether wider types are in common use.
        jitters: what is added to a matrix' diagonal.
    """

    tiny: str
    small: str
    eps: str
    big: str
    exponent: str
    low: str
    is_narrow: bool
    jitters: tuple[str, ...]


def numbers_of(dtype: Any) -> Numbers:
    """Return the numbers of a type; those of float32 if it is no floating-point type."""
    name = str(jnp.dtype(dtype)) if jnp.issubdtype(dtype, jnp.floating) else "float32"
    jitters = ("1e-6", "1e-4", "1e-2")
    if name == "float64":
        return Numbers(tiny="1e-300", small="1e-24", eps="1e-15", big="1e150", exponent="700.0",
                       low="150.0", is_narrow=False, jitters=("1e-12", "1e-8", "1e-4"))  # fmt: skip
    if name == "bfloat16":
        return Numbers(tiny="1e-37", small="1e-12", eps="1e-2", big="1e18", exponent="80.0",
                       low="20.0", is_narrow=True, jitters=jitters)  # fmt: skip
    if name.startswith("float16") or name.startswith("float8"):
        return Numbers(tiny="1e-4", small="1e-4", eps="1e-3", big="3e4", exponent="10.0",
                       low="5.0", is_narrow=True, jitters=jitters)  # fmt: skip
    return Numbers(tiny="1e-37", small="1e-12", eps="1e-7", big="1e18", exponent="80.0",
                   low="20.0", is_narrow=False, jitters=jitters)  # fmt: skip


_TOKEN = re.compile(r"\$(\d|[a-z]+)")


class Writer:
    """Fills a template in with a form's operands; a long one is computed once.

    Args:
        form: the form.
        numbers: numbers of its type.

    Attributes:
        imports: import that what was written needs.
    """

    def __init__(self, form: Form, numbers: Numbers) -> None:
        self._form, self._numbers = form, numbers
        self.imports = ""

    def write(self, template: str) -> str:
        """Return the text of a template.

        `$0`, `$1` stand for operands, `$f` for the function that is called, `$rest` for the
        further arguments, `$jnp`, `$lax`, `$nn`, `$jax` for modules, and `$tiny`, `$small`, `$eps`,
        `$big`, `$exponent` for numbers.
        """
        counts: dict[str, int] = {}
        for token in _TOKEN.findall(template):
            counts[token] = counts.get(token, 0) + 1
        named: dict[str, str] = {}
        return _TOKEN.sub(lambda match: self._token(match[1], counts, named), template)

    def _token(self, token: str, counts: dict[str, int], named: dict[str, str]) -> str:
        form = self._form
        if token.isdigit():
            return self._operand(int(token), counts[token], named)
        if token in _MODULES:
            path, needed = module_path(form.source, token)
            self.imports = self.imports or needed
            return path
        if token == "f":
            return form.function
        if token == "rest":
            return form.rest()
        return getattr(self._numbers, token)

    def _operand(self, index: int, count: int, named: dict[str, str]) -> str:
        form = self._form
        if count == 1 or is_simple(form.operands[index]):
            return form.text(index)
        token = str(index)
        if token in named:
            return named[token]
        taken = form.source.names
        names: Iterator[str] = (n for n in ("arg", *(f"arg_{i}" for i in range(1, 99))))
        named[token] = next(n for n in names if n not in taken and n not in named.values())
        return f"({named[token]} := {form.raw(index)})"


def is_simple(node: ast.expr) -> bool:
    """Return whether an expression may be written twice: it has no side effect and is short."""
    nodes = list(ast.walk(node))
    allowed = (ast.Name, ast.Constant, ast.Attribute, ast.UnaryOp, ast.BinOp, ast.operator,
               ast.unaryop, ast.expr_context)  # fmt: skip
    return (
        all(isinstance(n, allowed) for n in nodes)
        and sum(isinstance(n, ast.BinOp | ast.UnaryOp) for n in nodes) <= 1
    )
