"""Form -> guarded forms: the same operation, kept away from where it is not finite."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from nanlab.curing.forms import Form, Numbers


class Guard(NamedTuple):
    """One way to guard an operation.

    Attributes:
        kind: what it is called.
        template: how it is written (see `Writer.write`).
        rank: how soon it is tried; 0 first.
    """

    kind: str
    template: str
    rank: int = 1


def _double_where(condition: str, neutral: str, template: str) -> str:
    """Return a template whose operand is replaced where the condition does not hold."""
    safe = f"$jnp.where({condition}, $0, {neutral})"
    return f"$jnp.where({condition}, {template.replace('$safe', safe)}, 0)"


_OUTSIDE = "-1 + $eps, 1 - $eps"
_CLIP_EXP = (
    Guard("clip", "$f($jnp.minimum($0, $low))"),  # its square and its gradient are finite too
    Guard("clip", "$f($jnp.minimum($0, $exponent))", 2),
)
_CLIP_BOTH = (Guard("clip", "$f($jnp.clip($0, -$exponent, $exponent))"),)
_FLOOR = (Guard("eps", "$f($0$rest) + $eps", 4), Guard("eps", "$f($0$rest) + $small", 4))
_LOG = (
    Guard("clip", "$f($jnp.maximum($0, $tiny))"),
    Guard("eps", "$f($0 + $eps)"),
    Guard("clip", "$f($jnp.maximum($0, $eps))", 2),
    Guard("double-where", _double_where("$0 > 0", "1", "$f($safe)"), 2),
)
_ROOT = (
    Guard("double-where", _double_where("$0 > 0", "1", "$f($safe)"), 0),
    Guard("clip", "$f($jnp.maximum($0, $small))"),
    Guard("eps", "$f($0 + $small)"),
)
_POSITIVE = (Guard("clip", "$f($jnp.maximum($0, $tiny)$rest)"),
             Guard("clip", "$f($jnp.maximum($0, $eps)$rest)", 2))  # fmt: skip
_INSIDE = (Guard("clip", f"$f($jnp.clip($0, {_OUTSIDE}))"),)
_FINITE = Guard("finite operand", "$f($jnp.maximum($0, -$big)$rest)", 1)
_WIDE = Guard("wider accumulation", "$f($0.astype($jnp.float32)$rest)", 1)
_FINITE_RESULT = "$jnp.nan_to_num($f($0$rest), posinf=0.0, neginf=0.0)"
_DISTINCT = "$0 + $jitter * $jnp.diag($jnp.arange($0.shape[-1], dtype=$0.dtype))"

_JITTER = (Guard("jitter", "$f($0 + $jitter * $jnp.eye($0.shape[-1], dtype=$0.dtype)$rest)"),)
_DIVISION = (
    Guard("double-where", "$jnp.where($1 == 0, 0, $0 / $jnp.where($1 == 0, 1, $1))", 1),
    # The norm of what is below 1e-19 is 0 in float32: nothing smaller than its root is safe.
    Guard("clip", "$0 / $jnp.maximum($1, $small)"),
    Guard("eps", "$0 / ($1 + $eps)"),
    Guard("clip", "$0 / $jnp.maximum($1, $eps)", 2),
    Guard("clip", "$0 / $jnp.where($1 < 0, $jnp.minimum($1, -$eps), $jnp.maximum($1, $eps))", 3),
    Guard("double-where", "$jnp.where($0 == 0, 0, $0 / $jnp.where($0 == 0, 1, $1))", 3),
    Guard("double-where", "$jnp.where($1 == 0, 1, $0 / $jnp.where($1 == 0, 1, $1))", 3),
)
_PRODUCT = (
    Guard("zero wins", "$jnp.where($0 == 0, 0, $0 * $jnp.where($0 == 0, 1, $1))", 2),
    Guard("zero wins", "$jnp.where($1 == 0, 0, $jnp.where($1 == 0, 1, $0) * $1)", 2),
    Guard("finite operand", "$jnp.maximum($0, -$big) * $1", 3),
    Guard("finite operand", "$0 * $jnp.maximum($1, -$big)", 3),
    Guard("saturate", "$jnp.clip($0 * $1, -$big, $big)", 4),
)
_SUM = (
    Guard("finite operand", "$0 {op} $jnp.nan_to_num($1, posinf=$big, neginf=-$big)", 3),
    Guard("finite operand", "$jnp.nan_to_num($0, posinf=$big, neginf=-$big) {op} $1", 4),
    Guard("saturate", "$jnp.clip($0 {op} $1, -$big, $big)", 4),
)
_POWER = (
    Guard("double-where", "$jnp.where($0 > 0, $jnp.where($0 > 0, $0, 1) ** $1, 0)"),
    Guard("clip", "$jnp.maximum($0, $eps) ** $1"),
    Guard("clip", "$jnp.maximum($0, $small) ** $1", 2),
    Guard("absolute value", "$jnp.abs($0) ** $1", 3),
)
_ROWS = (Guard("clip the index", '$f($0, $1, mode="clip"$rest2)'),
         Guard("0 for no row", '$f($0, $1, mode="fill", fill_value=0$rest2)', 2))  # fmt: skip
_LINEAR = ("matmul", "sum", "mean", "square", "var", "std", "tensordot", "vdot", "prod", "cumsum")

GUARDS: dict[str, Sequence[Guard]] = {
    "log": _LOG, "log2": _LOG, "log10": _LOG,
    "log1p": (Guard("clip", "$f($jnp.maximum($0, -1 + $eps))"),
              Guard("double-where", _double_where("$0 > -1", "0", "$f($safe)"), 2)),
    "sqrt": _ROOT,
    "rsqrt": (Guard("eps", "$f($0 + $eps)"), Guard("clip", "$f($jnp.maximum($0, $tiny))"),
              Guard("double-where", _double_where("$0 > 0", "1", "$f($safe)"), 1),
              Guard("eps", "$f($jnp.maximum($0, 0) + $eps)", 2)),
    "cbrt": (Guard("double-where", _double_where("$0 != 0", "1", "$f($safe)")),),
    "reciprocal": (Guard("double-where", _double_where("$0 != 0", "1", "$f($safe)")),
                   Guard("eps", "$f($0 + $eps)")),
    "div": _DIVISION, "mul": _PRODUCT, "pow": _POWER,
    "sub": tuple(g._replace(template=g.template.replace("{op}", "-")) for g in _SUM),
    "add": tuple(g._replace(template=g.template.replace("{op}", "+")) for g in _SUM),
    "exp": (*_CLIP_EXP, Guard("max-subtraction",
                             "$f($0 - $lax.stop_gradient($jnp.max($0, -1, keepdims=True)))", 2)),
    "expm1": _CLIP_EXP, "exp2": _CLIP_EXP, "cosh": _CLIP_BOTH, "sinh": _CLIP_BOTH,
    "softplus": _FLOOR, "sigmoid": _FLOOR, "relu": _FLOOR,
    "square": (Guard("clip", "$f($jnp.clip($0, -$big, $big))", 2),),
    "arccos": _INSIDE, "arcsin": _INSIDE, "arctanh": _INSIDE, "erfinv": _INSIDE,
    "logit": (Guard("clip", "$f($jnp.clip($0, $eps, 1 - $eps))"),),
    "arccosh": (Guard("clip", "$f($jnp.maximum($0, 1 + $eps))"),
                Guard("double-where", _double_where("$0 > 1", "2", "$f($safe)"))),
    "gammaln": _POSITIVE, "digamma": _POSITIVE, "gammainc": (
        Guard("clip", "$f($0, $jnp.clip($1, $small, 1e3))"),
        Guard("clip", "$f($jnp.maximum($0, $eps), $1)")),
    "gammaincc": (Guard("clip", "$f($0, $jnp.clip($1, $small, 1e3))"),),
    "polygamma": (Guard("clip", "$f($0, $jnp.maximum($1, $eps))"),),
    "zeta": (Guard("clip", "$f($jnp.maximum($0, 1 + $eps), $1)"),),
    "xlogy": (Guard("clip", "$f($0, $jnp.maximum($1, $tiny))"),),
    "entr": (Guard("clip", "$f($jnp.maximum($0, $tiny))"),),
    "arctan2": (Guard("double-where", "$f($0, $jnp.where(($0 == 0) & ($1 == 0), 1, $1))"),),
    "softmax": (_FINITE, *_FLOOR), "log_softmax": (_FINITE,), "logsumexp": (_FINITE,),
    "logaddexp": (
        Guard("finite operand", "$f($jnp.maximum($0, -$big), $jnp.maximum($1, -$big))"),),
    "standardize": (Guard("eps", "$f($0, epsilon=$eps)"),),
    "cholesky": _JITTER, "inv": _JITTER, "solve": _JITTER, "slogdet": _JITTER, "det": _JITTER,
    "eigh": (Guard("jitter", f"$f({_DISTINCT}$rest)"),),
    "svd": (Guard("jitter", "$f($0 + $jitter * $jnp.eye(*$0.shape[-2:], dtype=$0.dtype) * "
                            "$jnp.arange($0.shape[-1], dtype=$0.dtype)$rest)"),),
    "take": _ROWS, "take_along_axis": _ROWS,
    "segment_max": (Guard("finite result", _FINITE_RESULT),
                    Guard("finite result", "$jnp.maximum($f($0$rest), -$big)")),
    "segment_min": (Guard("finite result", _FINITE_RESULT),
                    Guard("finite result", "$jnp.minimum($f($0$rest), $big)")),
    "where": (
        Guard("finite operand", "$jnp.nan_to_num($f($0$rest), posinf=$big, neginf=-$big)", 4),),
    "global_norm": (Guard("eps", "$jnp.sqrt($f($0) ** 2 + $small)"),),
}  # fmt: skip


_CHECKED = re.compile(r".*?\$jnp\.(?:where|maximum|nan_to_num)\(\$(\d)")
"""The operand that a guard looks at."""


def is_static(node: ast.AST) -> bool:
    """Return whether an expression is a number while the program is traced: 2.0, x.size."""
    if isinstance(node, ast.Attribute):
        return node.attr in ("size", "ndim", "shape", "pi") or is_static(node.value)
    if isinstance(node, ast.Subscript):
        return is_static(node.value)
    if isinstance(node, ast.Call):
        is_method = isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value) not in (
            "jnp", "np", "numpy", "math"
        )  # fmt: skip
        return not is_method and bool(node.args) and all(map(is_static, node.args))
    if isinstance(node, ast.BinOp):
        return is_static(node.left) and is_static(node.right)
    return isinstance(node.operand if isinstance(node, ast.UnaryOp) else node, ast.Constant)


def guards_of(form: Form, numbers: Numbers) -> Iterator[Guard]:
    """Yield the guards of a form, filled in but for its operands."""
    for guard in _plain(form, numbers):
        if "$jitter" in guard.template:
            for rank, jitter in enumerate(numbers.jitters):
                yield guard._replace(template=guard.template.replace("$jitter", jitter), rank=rank)
        else:
            yield guard
    yield from _of_norms(form)
    yield from _of_types(form, numbers)
    if form.name == "index" and any(isinstance(x, ast.Name) for x in ast.walk(form.operands[1])):
        yield Guard("clip the index", f'$0.at[{form.raw(1)}].get(mode="clip")', 2)
        yield Guard("0 for no row", f'$0.at[{form.raw(1)}].get(mode="fill", fill_value=0)', 3)
    if form.name == "Embed" and form.is_applied:
        yield Guard("0 for no row", f"$jnp.nan_to_num({form.source.segment(form.node)})", 1)
    elif form.name[:1].isupper() and form.is_applied:  # a layer, whose output may be anything
        whole = form.source.segment(form.node)
        yield Guard("clip", f"$jnp.clip({whole}, -$low, $low)", 1)
    if form.name in (*_LINEAR, "segment_sum") and isinstance(form.node, ast.expr):
        whole = form.source.segment(form.node)
        yield Guard("saturate", f"$jnp.clip({whole}, -$big, $big)", 4)
    if form.name == "infinity":
        sign = "-" if form.raw(0).replace("float('", "").startswith("-") else ""
        big = numbers.big if numbers.tiny == "1e-4" else "1e9"
        yield Guard("finite mask", f"{sign}{big}", 1)


def _plain(form: Form, numbers: Numbers) -> Iterator[Guard]:
    is_whole = form.name == "pow" and ast.unparse(form.operands[1]).isdigit()
    subject = form.operands[form.name == "div" :][:1]
    is_safe = is_whole or any(map(is_static, subject))
    for guard in () if is_safe else GUARDS.get(form.name, ()):
        highest = max((int(d) for d in "0123" if f"${d}" in guard.template), default=0)
        if highest >= len(form.operands):
            continue
        template = guard.template
        checked = _CHECKED.match(template)
        if checked and is_static(form.operands[int(checked[1])]):
            continue
        if form.is_method:
            template = template.replace("$f", f"$jnp.{form.name}")
        template = template.replace("$rest2", form.rest(2, without=("mode", "fill_value")))
        if form.name == "pow" and isinstance(form.node, ast.Call):
            template = template.replace("** $1", "** ($1)")
        yield guard._replace(template=template)
    if form.name == "pow" and len(form.operands) == 2:
        yield from _of_whole_powers(form, numbers)


def _of_whole_powers(form: Form, numbers: Numbers) -> Iterator[Guard]:
    exponent = ast.unparse(form.operands[1])
    if exponent.lstrip("-").isdigit():
        if exponent.startswith("-"):
            yield Guard("double-where", "$jnp.where($0 != 0, $jnp.where($0 != 0, $0, 1) ** $1, 0)")
        else:
            most = f"{float(numbers.big) ** (2 / max(int(exponent), 2)):.0e}"
            yield Guard("clip", f"$jnp.clip($0, -{most}, {most}) ** $1", 2)


def _of_norms(form: Form) -> Iterator[Guard]:
    """Yield guards of functions that take a root of a sum of squares."""
    words = [w for w in ("axis", "keepdims", "where") if w in form.keywords]
    is_plain = len(words) == len(form.keywords) and len(form.operands) == 1
    if form.name == "norm" and is_plain and not form.is_method:
        rest = form.rest()
        any_one = f"$jnp.any($0 != 0{rest})"
        inner = f"$jnp.any($0 != 0{form.rest(without=('keepdims',))}, keepdims=True)"
        yield Guard("double-where", f"$jnp.where({any_one}, $f($jnp.where({inner}, $0, 1)"
                                        f"{rest}), 0)", 0)  # fmt: skip
        yield Guard("eps", f"$jnp.sqrt($jnp.sum($jnp.square($0){rest}) + $small)")
    if form.name == "std":
        rest = form.rest()
        safe = "$jnp.sqrt($jnp.where(VAR > 0, VAR, 1))".replace("VAR", f"$jnp.var($0{rest})")
        yield Guard("double-where", f"$jnp.where($jnp.var($0{rest}) > 0, {safe}, 0)", 0)
        yield Guard("eps", f"$jnp.sqrt($jnp.var($0{rest}) + $small)")
        yield Guard("eps", f"$jnp.sqrt($jnp.var($0{rest}) + $eps)", 2)
    if form.name == "mean" and "where" in form.keywords:
        shown = form.source.segment(form.keywords["where"])
        yield Guard("clip", f"$jnp.sum($0{form.rest()}) / $jnp.maximum($jnp.sum("
                            f"$jnp.broadcast_to({shown}, $0.shape){form.rest(without=('where',))})"
                            ", 1)")  # fmt: skip


def _of_types(form: Form, numbers: Numbers) -> Iterator[Guard]:
    """Yield guards against narrow types."""
    name = "$jnp." + form.name if form.is_method else "$f"
    if form.name == "astype" and len(form.operands) == 2:
        limit = f"float($jnp.finfo({form.raw(1)}).max)"
        yield Guard("clip before the cast", f"$jnp.clip($0, -{limit}, {limit}).astype($1)", 0)
        if numbers.is_narrow:
            yield Guard("wider type", "$0.astype($jnp.bfloat16)")
            yield Guard("wider type", "$0.astype($jnp.float32)")
    if not numbers.is_narrow:
        return
    if form.name in _LINEAR and isinstance(form.node, ast.Call) and form.name != "matmul":
        yield Guard("wider accumulation", f"{name}($0.astype($jnp.float32){form.rest()})")
    elif form.name in ("square", "mul", "add", "sub", "div", "exp") or form.name == "matmul":
        if isinstance(form.node, ast.BinOp):
            sign = {"mul": "*", "add": "+", "sub": "-", "div": "/", "matmul": "@"}[form.name]
            yield Guard("wider arithmetic", f"$0.astype($jnp.float32) {sign} $1")
        elif form.name == "exp":
            yield Guard("wider arithmetic", "$f($0.astype($jnp.float32))")
    elif form.name == "pow":
        yield Guard("wider arithmetic", "$0.astype($jnp.float32) ** $1")
    elif form.name in ("softmax", "log_softmax", "logsumexp", "rsqrt", "sqrt", "log"):
        yield Guard("wider arithmetic", f"{name}($0.astype($jnp.float32){form.rest()})")
    elif form.name == "update" and form.is_method and len(form.operands) >= 2:
        text = f"$0.update($jax.tree.map($jnp.float32, {form.raw(1)}){form.rest(2)})"
        yield Guard("wider accumulation", text, 2)
