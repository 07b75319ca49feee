"""Mechanism, primitive -> what usually cures it, in a sentence or two."""

from __future__ import annotations

_AT: dict[tuple[str, str], str] = {
    ("pole", "log"): "Keep the argument away from 0: log(x + eps), or log(maximum(x, eps)); of a "
    "softmax use log_softmax, of a sigmoid log_sigmoid, of 1 - x use log1p(-x).",
    ("pole", "log1p"): "Keep the argument above -1: clip it to [-1 + eps, ...]; of a tanh squared "
    "use 2 * (log(2) - x - softplus(-2 * x)).",
    ("pole", "rsqrt"): "Put eps inside the root: rsqrt(variance + eps).",
    ("pole", "div"): "The divisor is 0. Add eps to it, or make it safe *before* dividing: "
    "x / where(d == 0, 1, d). In a gradient it is often the derivative of a sqrt or a norm at 0: "
    "put eps inside the root.",
    ("pole", "integer_pow"): "A negative power of 0: add eps to the base. In a gradient it is "
    "often the derivative of a division or a norm at 0.",
    ("pole", "pow"): "A negative power of 0: add eps to the base. The derivative of x ** p with "
    "p < 1 is such a power.",
    ("domain", "log"): "The argument is negative: clip it with maximum(x, eps), or let the model "
    "predict the logarithm itself.",
    ("domain", "sqrt"): "The argument is negative, often a variance as E[x^2] - E[x]^2, or "
    "1 - x^2 after rounding: use maximum(x, 0), or maximum(x, eps) if it is differentiated.",
    ("domain", "rsqrt"): "The argument is negative, often a variance as E[x^2] - E[x]^2: compute "
    "it as the mean of (x - mean)^2, or use maximum(x, 0) + eps.",
    ("domain", "pow"): "A negative base with a non-integer exponent: use abs(x) ** p * sign(x), "
    "or maximum(x, eps) ** p.",
    ("domain", "acos"): "The argument is outside [-1, 1], often by rounding: clip it to "
    "[-1 + eps, 1 - eps].",
    ("domain", "asin"): "The argument is outside [-1, 1], often by rounding: clip it to "
    "[-1 + eps, 1 - eps].",
    ("domain", "atanh"): "The argument is outside (-1, 1): clip it to [-1 + eps, 1 - eps].",
    ("overflow", "exp"): "Subtract the maximum first (logsumexp, softmax and log_softmax do), or "
    "clip the argument; for a predicted log-variance use softplus or a clip.",
    ("overflow", "expm1"): "Clip the argument, or work with logarithms.",
    ("overflow", "dot_general"): "The activations or the weights have grown too large: a smaller "
    "learning rate or initial scale, a normalization layer, or gradient clipping.",
    ("overflow", "integer_pow"): "The base is too large to be squared: scale it first, take a "
    "norm as scale * norm(x / scale), or use a loss that grows more slowly (Huber).",
    ("overflow", "square"): "The base is too large to be squared: scale it first, or use a loss "
    "that grows more slowly (Huber).",
    ("overflow", "convert_element_type"): "The number does not fit into the smaller type: use "
    "bfloat16 in place of float16, scale the loss down, or clip before the cast.",
    ("overflow", "reduce_sum"): "Sum in a wider type (dtype=float32), or take the mean of scaled "
    "terms.",
    ("0*inf", "mul"): "A 0 is multiplied by an inf: find where the inf began and remove it there. "
    "Apply masks with where(), not by multiplication.",
    ("0*inf", "dot_general"): "A 0 on one side is multiplied by an inf on the other: find where "
    "the inf began.",
    ("0/0", "div"): "Numerator and divisor are both 0 (an empty mask, a norm or a variance of 0): "
    "x / where(d == 0, 1, d), or x / maximum(d, eps).",
    ("inf/inf", "div"): "Both are inf, as in exp(x) / sum(exp(x)): subtract the maximum first, or "
    "use softmax.",
    ("inf-inf", "sub"): "Two infs are subtracted, as in x - max(x) where all are -inf (a row that "
    "is masked entirely: mask with a large negative number, or leave the row out) or log p - "
    "log q: find where the inf began.",
    ("opaque", "cholesky"): "The matrix is not positive definite: add jitter to its diagonal, "
    "symmetrize it, or use float64.",
    ("opaque", "eigh"): "The matrix has an element that is not finite, or the iteration failed; "
    "its gradient divides by differences of eigenvalues, which are 0 if two are equal.",
    ("fill", "gather"): "An index is out of bounds, and JAX fills in NaN: check the indices, or "
    'say mode="clip".',
    ("fill", "dynamic_slice"): "An index is out of bounds: check the indices.",
}  # fmt: skip

_OF: dict[str, str] = {
    "overflow": "The number is too large for its type: a smaller learning rate or scale, a wider "
    "type, clipping, or the same formula in logarithms.",
    "pole": "The function has a pole there: keep the argument away from it with eps or a clip.",
    "domain": "The argument is outside the function's domain: clip it before the call; where() "
    "after the call keeps the NaN in the gradient.",
    "inf-inf": "Infs of opposite sign are added: find where the infs began and remove them there.",
    "0*inf": "A 0 is multiplied by an inf: find where the inf began and remove it there.",
    "0/0": "Both are 0: make the divisor safe before dividing.",
    "inf/inf": "Both are inf: find where the infs began and remove them there.",
    "opaque": "It was computed inside a kernel: check what the kernel requires of its operands "
    "(positive definite, not singular, finite).",
    "input": "It was passed in as an argument: check the data, the loaded checkpoint, or the "
    "previous step.",
    "constant": "It is written into the program. An inf in a mask is usual; a large finite number "
    "is safer there.",
    "fill": "It was filled in for an index out of bounds: check the indices.",
}  # fmt: skip


_BACKWARD = (
    "The chain rule multiplies 0 by an infinite derivative. Most often it is that of a where()'s "
    "branch that was not taken, or of a root, a norm or a logarithm at 0: make the argument safe "
    "*before* the operation, f(where(ok, x, 1)), and select after it."
)
_MASKED = (
    "The forward pass masks it, but its derivative does not: 0 * NaN is NaN. Replace the bad "
    "elements before they are used, y = where(ok, y, 0), and mask the result as well."
)


_WRITTEN_NAN = (
    "A NaN is written into the program. Libraries select one where a requirement is not met (the "
    "variance of a single element, a singular matrix, an index out of bounds): check the "
    "condition of the selection that returns it."
)
_CAST = (
    "The number does not fit into the smaller type: clip or scale it before the cast, or keep "
    "float32 here."
)


def cure(
    mechanism: str, primitive: str, phase: str, *, dtype: str = "float16", is_nan: bool = False
) -> str:
    """Return what usually cures a mechanism at a primitive whose result has this type."""
    if mechanism == "constant" and is_nan:
        return _WRITTEN_NAN
    if (mechanism, primitive) == ("overflow", "convert_element_type") and dtype != "float16":
        return _CAST
    if phase == "backward" and (mechanism, primitive) == ("0*inf", "mul"):
        return _BACKWARD
    if phase == "backward" and mechanism == "input":
        return _MASKED
    return _AT.get((mechanism, primitive)) or _OF.get(mechanism, "")
