"""Remedy -> the sentences that describe it, with a number that is safe for each function."""

from __future__ import annotations

import math

import jax.numpy as jnp

_CALLS = {
    "exp": ("exp({})", "x", "0"),
    "exp2": ("exp2({})", "x", "0"),
    "expm1": ("expm1({})", "x", "0"),
    "sinh": ("sinh({})", "x", "0"),
    "cosh": ("cosh({})", "x", "0"),
    "log": ("log({})", "x", "1"),
    "log1p": ("log1p({})", "x", "0"),
    "sqrt": ("sqrt({})", "x", "1"),
    "rsqrt": ("rsqrt({})", "x", "1"),
    "cbrt": ("cbrt({})", "x", "1"),
    "pow": ("{} ** p", "x", "1"),
    "integer_pow": ("{} ** n", "x", "1"),
    "square": ("{} ** 2", "x", "0"),
    "div": ("n / {}", "d", "1"),
    "acos": ("arccos({})", "x", "0"),
    "asin": ("arcsin({})", "x", "0"),
    "atanh": ("arctanh({})", "x", "0"),
    "acosh": ("arccosh({})", "x", "2"),
    "atan2": ("arctan2(y, {})", "x", "1"),
    "erf_inv": ("erf_inv({})", "x", "0"),
    "tan": ("tan({})", "x", "0"),
    "lgamma": ("gammaln({})", "x", "1"),
    "digamma": ("digamma({})", "x", "1"),
    "norm": ("norm({})", "x", "1"),
}
"""Of each primitive: a call, its argument at risk, and a number at which it has a derivative."""

REMEDIES: dict[str, str] = {
    # exp
    "softmax": "exp(x) / sum(exp(x)) overflows: use jax.nn.softmax(x), which "
    "subtracts the maximum.",
    "logsumexp": "log(sum(exp(x))) overflows for large x: use jax.nn.logsumexp(x), which subtracts "
    "the maximum.",
    "softplus": "log(1 + exp(x)) overflows for large x: use jax.nn.softplus(x).",
    "sigmoid": "exp overflows in a sigmoid written by hand: use jax.nn.sigmoid(x).",
    "tanh": "exp overflows in a tanh written by hand: use jnp.tanh(x).",
    "ratio": "The exponential of a difference, such as a ratio of probabilities, overflows: bound "
    "the difference first, exp(clip(a - b, -20, 20)).",
    "exp": "exp overflows above {limit} in {dtype}: bound its argument, exp(minimum(x, {bound})), "
    "use softplus(x) where a positive number is all that is needed, or compute with logarithms.",
    # loops
    "diverges": "Each iteration computes from the result of the one before, and the numbers grow "
    "until {name} overflows: take smaller steps (a smaller learning rate, damping, a bound on each "
    "step), or start closer to the solution. A change to {name} alone would hide that.",
    # logarithms
    "log_softmax": "A probability of softmax rounds to 0: compute its logarithm directly, "
    "jax.nn.log_softmax(x).",
    "log_sigmoid": "A sigmoid rounds to 0 or 1: compute its logarithm directly, "
    "jax.nn.log_sigmoid(x), or jax.nn.log_sigmoid(-x) for log(1 - sigmoid(x)).",
    "tanh squared": "tanh(x) rounds to 1: compute log(1 - tanh(x) ** 2) as "
    "2 * (log(2) - x - softplus(-2 * x)).",
    "log product": "The product underflows to 0, or overflows: sum the logarithms instead, "
    "sum(log(x)).",
    "log det": "The determinant underflows or overflows: use jnp.linalg.slogdet(a)[1].",
    "log1mexp": "1 - exp(x) rounds to 0: use log(-expm1(x)), and keep x below 0.",
    "log cdf": "The tail rounds to 0: use jax.scipy.stats.norm.logcdf(x), or log_ndtr(x).",
    "xlogx": "The limit of p * log(p) at 0 is 0, but 0 * -inf is NaN: make the argument safe, "
    "where(p > 0, p * log(where(p > 0, p, 1)), 0).",
    "log 0": "The argument of log is 0: keep it above 0, log(maximum(x, eps)) with an eps such as "
    "1e-6 (one that does not round to 0 in {dtype}), or let the model predict the logarithm.",
    "log negative": "The argument of log is negative: keep it above 0, log(maximum(x, eps)), or "
    "make it positive, for example with softplus, or let the model predict the logarithm.",
    "log1p": "The argument of log1p is at or below -1: log1p(maximum(x, -1 + eps)), with an eps "
    "such as 1e-6.",
    "probs": "A probability of the distribution is 0, and log(0) has no finite derivative: pass "
    "logits= in place of probs=, or keep the probabilities above 0, "
    "p = maximum(p, 1e-6); p / p.sum().",
    # masks
    "mask inside": "The result of {call} is masked, but its derivative is still computed at the "
    "masked elements, where {meets} is NaN. Mask the argument as well: "
    "where(ok, {safe_call}, 0).",
    "mask product": "A product does not mask: 0 * inf is NaN. A where() on the result alone "
    "leaves NaN in the gradient; mask the argument as well: where(ok, {safe_call}, 0).",
    "mask product later": "A product does not mask: 0 * inf and 0 * NaN are NaN. Replace the bad "
    "elements before they are used, where(ok, x, 0), and mask the result with where() as well.",
    "clip inside": "The result of {call} is clipped, but its derivative is still computed, and it "
    "is infinite there. Clip the argument in place of the result.",
    "inf mask": "inf times a mask is NaN where the mask is 0: use where(mask, inf, 0), or better a "
    "large finite number such as 1e9.",
    "inf argument": "An inf that was passed in meets a 0, and 0 * inf is NaN: mask with a large "
    "finite number, such as -1e9, in place of -inf.",
    "masked row": "All elements of a row are masked with -inf, and -inf - -inf is NaN. Mask with a "
    "large finite number, where(mask, x, -1e9), and set the results of such rows to 0 with "
    "where().",
    "padding": "The NaN is masked in the forward pass, but its derivative is not: 0 * NaN is NaN. "
    "Replace the bad elements before they are used, y = where(ok, y, 0), and mask the result as "
    "well.",
    "written padding": "The NaN that is written into the program is masked in the forward pass, "
    "but its derivative is not: 0 * NaN is NaN. Write a finite number such as 0 in its place, and "
    "mask the result with where().",
    # derivatives at a singular point
    "norm at 0": "A norm has no derivative at 0, and sqrt an infinite one: put eps inside the "
    "root, sqrt(sum(x ** 2) + eps), or use optax.safe_norm(x, eps).",
    "std at 0": "The spread is 0, where sqrt has an infinite derivative: use sqrt(var(x) + eps).",
    "sqrt at 0": "The derivative of sqrt is infinite at 0: sqrt(maximum(x, eps)), or "
    "sqrt(x + eps).",
    "abs at 0": "sqrt(x ** 2) has no derivative at 0: use abs(x).",
    "pow at 0": "The derivative of x ** p with p < 1 is infinite at 0: maximum(x, eps) ** p.",
    "cbrt at 0": "The derivative of cbrt is infinite at 0: keep the argument away from 0.",
    "edge": "The derivative of {call} is infinite at -1 and 1: clip the argument inside, "
    "clip(x, -1 + eps, 1 - eps), with an eps such as 1e-6 (1e-3 in half precision).",
    "acosh at 1": "The derivative of arccosh is infinite at 1: maximum(x, 1 + eps).",
    "atan2 at 0": "arctan2(0, 0) has no derivative: make one argument safe, "
    "arctan2(y, where((x == 0) & (y == 0), 1, x)).",
    "eigenvalues": "The derivative divides by differences of eigenvalues or singular values, and "
    "two of them are equal: break the tie with a small diagonal, a + eps * diag(arange(n)), or use "
    "the values alone, whose derivative does not need it.",
    "gamma": "gammaln, digamma and the like have poles at 0 and below: keep the argument above 0, "
    "maximum(x, eps).",
    "all -inf": "All that is summed has the logarithm -inf, where logsumexp has no derivative: use "
    "a large finite number, such as -1e9, in place of -inf.",
    "log at 0": "The derivative of log is 1 / x, and x is 0: keep the argument above 0, "
    "log(maximum(x, eps)).",
    "div by 0": "The derivative of a division by 0 is infinite: make the divisor safe before "
    "dividing, n / where(d == 0, 1, d), and select after it.",
    "derivative": "A derivative is infinite where it is multiplied by 0. Find the function behind "
    "it on this line, and keep its argument away from the point at which its derivative is "
    "infinite.",
    # divisions
    "cosine": "A vector has length 0: pass epsilon=1e-6 to the cosine loss (it is 0 unless given), "
    "and leave padded positions out of the mean with where().",
    "unit": "A vector has length 0: compute its length as sqrt(sum(x ** 2) + eps), which is above "
    "0 and has a derivative. maximum(norm(x), eps) would leave NaN in the gradient.",
    "standardize": "The spread is 0, as all elements are equal: (x - mean) * rsqrt(var + eps).",
    "layer epsilon": "The variance is 0 and so is the layer's epsilon: pass a positive one, "
    "such as 1e-6.",
    "adam": "The second moment is 0 and so is eps: pass a positive one to the optimizer, such as "
    "eps=1e-8 (1e-4 in half precision, in which 1e-8 is 0).",
    "count": "The mask is empty, so that its sum is 0: divide by maximum(sum(mask), 1).",
    "empty": "It is a mean of no elements: leave empty arrays out.",
    "range": "The range is 0, as all elements are equal: (x - min) / maximum(max - min, eps).",
    "0/0": "Numerator and divisor are both 0: make the divisor safe before dividing, "
    "n / where(d == 0, 1, d).",
    "n/0": "The divisor is 0: make it safe before dividing, n / where(d == 0, 1, d), and choose "
    "with where() what the result is there.",
    "negative power": "A negative power of 0: make the base safe, where(x == 0, 1, x) ** -n, and "
    "choose with where() what the result is there.",
    "rem": "The divisor of a remainder is 0: make it safe, x % where(d == 0, 1, d).",
    "rsqrt": "The argument of rsqrt is 0: put eps inside, rsqrt(x + eps).",
    "inf/inf": "Both are inf: find where the infs began and remove them there.",
    # domains
    "variance": "A variance as E[x^2] - E[x]^2 rounds below 0: compute mean((x - mean) ** 2).",
    "sqrt negative": "The argument of sqrt is negative: sqrt(maximum(x, eps)), with an eps above 0 "
    "if it is differentiated.",
    "rsqrt negative": "The argument of rsqrt is negative: rsqrt(maximum(x, 0) + eps).",
    "outside": "The argument of {call} is outside its domain or at its edge, often by rounding: "
    "clip it inside, clip(x, -1 + eps, 1 - eps), with an eps such as 1e-6 (1e-3 in half "
    "precision).",
    "acosh below 1": "The argument of arccosh is below 1: maximum(x, 1 + eps).",
    "pow negative": "A negative base has no real power with this exponent: "
    "maximum(x, eps) ** p, or sign(x) * maximum(abs(x), eps) ** p.",
    # overflows
    "norm overflow": "The squares in a norm overflow: take out the largest element first, "
    "m = max(abs(x)); m * norm(x / m).",
    "wider": "{dtype} ends at {largest}: compute this in float32.",
    "square": "The number is too large to be squared: scale it first, or use a loss that grows "
    "more slowly, such as Huber's.",
    "product": "The product of many numbers overflows: sum their logarithms.",
    "matmul": "The activations or the weights have grown too large: a smaller learning rate or "
    "initial scale, a normalization layer, or gradient clipping.",
    "sum": "The sum overflows: take the mean of scaled terms, or sum in a wider type.",
    "cast": "The number does not fit into the smaller type, which ends at {largest}: clip or scale "
    "it before the cast, or keep the wider type here.",
    "cast float16": "The number does not fit into float16, which ends at 65,504: use bfloat16, "
    "which has the range of float32, scale it down, or clip it before the cast.",
    "cast float8": "The number does not fit into {dtype}, which ends at {largest}: divide by a "
    "scale such as max(abs(x)) / {largest} before the cast and multiply by it after, or clip.",
    "loss scale": "The gradient does not fit into float16: use a smaller loss scale, and skip "
    "steps with a gradient that is not finite.",
    # kernels
    "cholesky": "The matrix is not positive definite: add jitter to its diagonal, "
    "a + eps * eye(n), symmetrize it, or use float64.",
    "singular": "The matrix is singular: add jitter to its diagonal, a + eps * eye(n), or solve "
    "by least squares.",
    # not computed here
    "fill": "An index is out of bounds, and JAX fills in NaN: check the indices against the axis, "
    'or say mode="clip".',
    "labels": "A label is out of range, and JAX fills in NaN: labels must be in [0, classes). "
    "Replace padding labels before the loss, where(labels < 0, 0, labels), and mask the loss.",
    "input": "It was passed in as an argument: check the data, the loaded checkpoint, or the "
    "previous step.",
    "written NaN": "A NaN is written into the program. Libraries select one where a requirement is "
    "not met (the variance of a single element, a singular matrix, an index out of bounds): check "
    "the condition of the selection that returns it.",
    "constant": "It is written into the program. An inf in a mask is usual; a large finite number "
    "is safer there.",
    # what is known without the surroundings
    "overflow": "The number is too large for its type: look at why it has grown. A wider type, "
    "scaling, or the same formula in logarithms may help.",
    "pole": "The function has a pole there: keep its argument away from it.",
    "domain": "The argument is outside the function's domain: keep it inside before the call.",
    "inf-inf": "Infs of opposite sign are added: find where the infs began and remove them there.",
    "0*inf": "A 0 is multiplied by an inf: find where the inf began and remove it there.",
    "opaque": "It was computed inside a kernel: check what the kernel requires of its operands "
    "(positive definite, not singular, finite).",
}  # fmt: skip
"""What usually cures a fault, by its kind; braces are filled in by `advice`."""


AT_SINGULARITY = {
    "sqrt": "sqrt at 0", "rsqrt": "rsqrt", "pow": "pow at 0", "cbrt": "cbrt at 0",
    "log": "log at 0", "acosh": "acosh at 1", "atan2": "atan2 at 0", "div": "div by 0",
    "log1p": "log1p", "integer_pow": "negative power", "acos": "edge", "asin": "edge",
    "atanh": "edge", "erf_inv": "edge", "eigh": "eigenvalues", "svd": "eigenvalues",
    "eig": "eigenvalues", "lgamma": "gamma", "digamma": "gamma",
}  # fmt: skip
"""Of each primitive, the remedy where its derivative is infinite."""

OUTSIDE = {
    "pow": "pow negative", "acos": "outside", "asin": "outside", "atanh": "outside",
    "sqrt": "sqrt negative", "rsqrt": "rsqrt negative", "acosh": "acosh below 1",
}  # fmt: skip
"""Of each primitive, the remedy where its argument is outside its domain."""

FORWARD = {
    ("pole", "log"): "log 0", ("domain", "log"): "log negative", ("pole", "log1p"): "log1p",
    ("domain", "log1p"): "log1p", ("pole", "pow"): "negative power",
    ("domain", "pow"): "pow negative", ("pole", "integer_pow"): "negative power",
    ("pole", "rsqrt"): "rsqrt", ("domain", "sqrt"): "sqrt negative",
    ("domain", "rsqrt"): "rsqrt negative", ("domain", "acos"): "outside",
    ("domain", "asin"): "outside", ("domain", "atanh"): "outside", ("pole", "atanh"): "outside",
    ("domain", "erf_inv"): "outside", ("pole", "erf_inv"): "outside",
    ("domain", "acosh"): "acosh below 1", ("pole", "lgamma"): "gamma",
    ("pole", "digamma"): "gamma", ("pole", "polygamma"): "gamma", ("domain", "rem"): "rem",
    ("opaque", "cholesky"): "cholesky", ("opaque", "lu"): "singular",
    ("opaque", "triangular_solve"): "singular", ("pole", "div"): "n/0", ("0/0", "div"): "0/0",
}  # fmt: skip
"""Of each mechanism and primitive of the forward pass, the remedy."""

OVERFLOWS = {
    "square": "square", "integer_pow": "square", "dot_general": "matmul",
    "conv_general_dilated": "matmul", "reduce_sum": "sum", "cumsum": "sum",
    "reduce_prod": "product", "cumprod": "product",
}  # fmt: skip
"""Of each primitive, the remedy where it overflows."""

_SPOKEN = {
    "mul": "the product", "add": "the sum", "dot_general": "the matrix product",
    "integer_pow": "the power", "square": "the square", "reduce_sum": "the sum",
    "sub": "the difference", "add_any": "the sum", "conv_general_dilated": "the convolution",
    "div": "the quotient", "pow": "the power",
}  # fmt: skip


def remedy(key: str, name: str = "", dtype: str = "float32", *, meets: str = "0 * inf") -> str:
    """Return a remedy's sentences; "" if there is no such remedy.

    Args:
        key: key in `REMEDIES`.
        name: the function that it is about, as a primitive or in words.
        dtype: type of the numbers.
        meets: what meets in the derivative.
    """
    call, argument, safe = _CALLS.get(name, ("f({})", "x", "1"))
    return REMEDIES.get(key, "").format(
        name=name,
        call=call.format(argument),
        safe_call=call.format(f"where(ok, {argument}, {safe})"),
        dtype=dtype,
        largest=_largest(dtype),
        limit=_exp_limit(dtype),
        bound="11" if dtype == "float16" else "20",
        meets=meets,
    )


def is_called(name: str) -> bool:
    """Return whether a call of a primitive's function can be written."""
    return name in _CALLS


def spoken(name: str) -> str:
    """Return a primitive in words."""
    return _SPOKEN.get(name, name)


def _largest(dtype: str) -> str:
    try:
        largest = float(jnp.finfo(dtype).max)
    except (TypeError, ValueError):
        return "its largest number"
    return f"{largest:,.0f}" if largest < 1e6 else f"{largest:.3g}"


def _exp_limit(dtype: str) -> str:
    try:
        return f"{math.log(float(jnp.finfo(dtype).max)):.1f}"
    except (TypeError, ValueError, OverflowError):
        return "its largest logarithm"
