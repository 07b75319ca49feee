"""Rules of complex numbers, whose size is not followed: only whether they can be 0 is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from nanlab.blame.vocabulary import Mechanism
from nanlab.linting.abstract import NEVER, Abstract
from nanlab.linting.axes import COPIES, MOVES
from nanlab.linting.floats import is_complex
from nanlab.linting.rules.indexing import INDEXING
from nanlab.linting.rules.kernels import any_numbers, cholesky, everywhere, triangular_solve

if TYPE_CHECKING:
    from nanlab.linting.here import Here

_FAR = 20
"""Equations that are followed back to a constant."""


def _nonzero(here: Here, *operands: Abstract) -> list[Abstract]:
    """Return any numbers; they are not 0 where no operand is."""
    is_nonzero = all(a.nonzero for a in operands if is_complex(a.dtype))
    return [replace(found, nonzero=is_nonzero) for found in any_numbers(here, *operands)]


def _converted(here: Here, a: Abstract) -> list[Abstract]:
    is_nonzero = is_complex(here.dtype) and not a.near(0).any()
    return [replace(found, nonzero=is_nonzero) for found in any_numbers(here, a)]


def _combined(here: Here, real: Abstract, imag: Abstract) -> list[Abstract]:
    is_nonzero = not (real.near(0) & imag.near(0)).any()
    return [replace(found, nonzero=is_nonzero) for found in any_numbers(here, real, imag)]


def _absolute(here: Here, a: Abstract) -> Abstract:
    return here.value(0.0, here.largest, NEVER, NEVER, everywhere(a.bad), nonzero=a.nonzero)


def _real_part(here: Here, a: Abstract) -> Abstract:
    """Return the real part, which is not negative for a product z * conj(z)."""
    analysis, least = here.analysis, -here.largest
    product = analysis.program.computed_by(here.root(0))
    if product is not None and product.primitive == "mul":
        roots = [analysis.root(v) for v in product.operands]
        for factor, other in (roots, roots[::-1]):
            maker = analysis.program.computed_by(other)
            if maker is not None and maker.primitive == "conj":
                least = 0.0 if analysis.root(maker.operands[0]) == factor else least
    return here.value(least, here.largest, NEVER, NEVER, everywhere(a.bad))


def _chosen(here: Here, choice: Abstract, *cases: Abstract) -> list[Abstract]:
    """Return a choice, which is not 0 if what can be 0 is taken only where it is not."""
    is_nonzero = all(
        case.nonzero or (len(cases) == 2 and _is_guarded(here, number))
        for number, case in enumerate(cases)
    )
    return [replace(x, nonzero=is_nonzero) for x in any_numbers(here, choice, *cases)]


def _is_guarded(here: Here, case: int) -> bool:
    """Return whether a case of a choice is taken only where it is not 0."""
    program = here.analysis.program
    maker, value = program.computed_by(here.root(0)), here.root(case + 1)
    if maker is None or len(maker.operands) != 2:
        return False
    name, (first, second) = maker.primitive, map(here.analysis.root, maker.operands)
    if name in ("lt", "le"):  # abs(z) < eps is eps > abs(z)
        name, first, second = {"lt": "gt", "le": "ge"}[name], second, first
    if name in ("eq", "ne"):
        pairs, is_in_true = [(first, second), (second, first)], name == "ne"
    elif name in ("gt", "ge"):
        pairs = [(first, second)] if case else [(second, first)]
        is_in_true = bool(case)
    else:
        return False
    if bool(case) != is_in_true:
        return False
    is_strict = name == ("gt" if case else "ge")
    return any(
        _is_size(here, size, value) and _is_enough(here, least, name, is_strict=is_strict)
        for size, least in pairs
    )


def _is_size(here: Here, size: int, value: int) -> bool:
    maker = here.analysis.program.computed_by(size)
    if maker is not None and maker.primitive == "abs":
        return here.analysis.root(maker.operands[0]) == value
    return size == value


def _is_enough(here: Here, value: int, name: str, *, is_strict: bool) -> bool:
    info, known = here.analysis.program.values[value], here.analysis.of(value)
    if name in ("eq", "ne"):
        return info.is_constant and not np.any(np.asarray(info.constant))
    return known.least > 0 or (is_strict and known.least >= 0)


def _divided(here: Here, a: Abstract, b: Abstract) -> list[Abstract]:
    pole = here.danger(Mechanism.POLE, np.asarray(not b.nonzero), 1, "can be 0", b)
    return any_numbers(here, a, b, nan=pole)


def _pole(number: int) -> Callable[..., list[Abstract]]:
    """Return the rule of a function with a pole at this number."""

    def rule(here: Here, a: Abstract) -> list[Abstract]:
        where = np.asarray(number != 0 or not a.nonzero)
        pole = here.danger(Mechanism.POLE, where, 0, f"can be {number}", a)
        return any_numbers(here, a, nan=pole)

    return rule


def _integer_power(here: Here, a: Abstract) -> list[Abstract]:
    return _pole(0)(here, a) if here.params["y"] < 0 else any_numbers(here, a)


def _power(here: Here, a: Abstract, b: Abstract) -> list[Abstract]:
    info = here.analysis.program.values[here.root(1)]
    exponent: Any = np.asarray(info.constant if info.is_constant else np.nan)
    is_harmless = bool(((exponent.real >= 0) & (exponent.imag == 0)).all())
    what = "can be 0, with a negative or complex exponent"
    pole = here.danger(Mechanism.POLE, np.asarray(not a.nonzero and not is_harmless), 0, what, a)
    return any_numbers(here, a, b, nan=pole)


def _exponential(here: Here, a: Abstract) -> list[Abstract]:
    """Return an exponential function, which is at most 1 of an imaginary number."""
    is_harmless = _axis(here, here.root(0)) == "imaginary"
    return any_numbers(here, a, nan=here.overflow(not is_harmless))


def _axis(here: Here, value: int, far: int = 0) -> Literal["real", "imaginary"] | None:
    """Return the axis of the complex plane on which a value is known to lie."""
    program, value = here.analysis.program, here.analysis.root(value)
    info, maker = program.values[value], program.computed_by(value)
    if not is_complex(info.dtype):
        return "real"
    if info.is_constant:
        number: Any = np.asarray(info.constant)
        if not number.imag.any():
            return "real"
        return None if number.real.any() else "imaginary"
    if maker is None or far > _FAR:
        return None
    name, operands = maker.primitive, maker.operands
    if name == "complex":
        zeros = [here.analysis.of(v).is_point and not here.analysis.of(v).least for v in operands]
        if zeros[0]:
            return "imaginary"
        return "real" if zeros[1] else None
    if name in (*COPIES, *MOVES, "neg", "conj", "convert_element_type", "reduce_sum"):
        return _axis(here, operands[0], far + 1)
    if name in ("add", "sub", "mul", "div"):
        first, second = _axis(here, operands[0], far + 1), _axis(here, operands[1], far + 1)
        if name in ("add", "sub"):
            return first if first == second else None
        if first and second:
            return "real" if first == second else "imaginary"
    return None


def _compared(here: Here, *operands: Abstract) -> Abstract:
    return here.value(0.0, 1.0)


COMPLEX: dict[str, Callable[..., Any]] = {
    **dict.fromkeys((
        *INDEXING, "add", "add_any", "sub", "mul", "square", "reduce_sum", "reduce_prod", "cumsum",
        "cumprod", "reduce_window_sum", "psum", "psum_invariant", "all_gather", "ppermute",
        "all_to_all", "dot_general", "conv_general_dilated", "fft", "imag", "sign", "eigh",
        "svd", "qr", "householder_product", "lu", "bitcast_convert_type",
    ), any_numbers),
    **dict.fromkeys((
        *COPIES, *MOVES, "rev", "slice", "dynamic_slice", "split", "unstack", "concatenate",
        "stack", "pad", "sort", "neg", "conj", "sqrt", "dynamic_update_slice",
    ), _nonzero),
    **dict.fromkeys(("eq", "ne", "eq_to", "lt_to", "le_to", "is_finite"), _compared),
    **dict.fromkeys(("exp", "exp2", "expm1", "sinh", "cosh"), _exponential),
    "abs": _absolute,
    "real": _real_part,
    "convert_element_type": _converted,
    "complex": _combined,
    "select_n": _chosen,
    "div": _divided,
    "log": _pole(0),
    "rsqrt": _pole(0),
    "log1p": _pole(-1),
    "integer_pow": _integer_power,
    "pow": _power,
    "cholesky": cholesky,
    "triangular_solve": triangular_solve,
}  # fmt: skip
"""Rules for complex operands or results; other primitives of complex numbers are unknown."""
