"""Equation of a derivative -> the function whose derivative it computes."""

from __future__ import annotations

from nanlab.blame.diagnosis.location import user_frame
from nanlab.blame.explain.surroundings import Surroundings
from nanlab.blame.program.program import Equation

_SINGULAR = {
    "log", "log1p", "sqrt", "rsqrt", "pow", "div", "integer_pow", "atan2", "acos", "asin", "acosh",
    "atanh", "cbrt", "lgamma", "digamma", "erf_inv", "eigh", "svd", "cholesky", "eig", "lu",
}  # fmt: skip
"""Primitives whose derivative has a pole, or a kernel's."""


class Derivatives:
    """Finds the functions behind the equations of derivatives.

    Args:
        around: the surroundings of the program's values.
    """

    def __init__(self, around: Surroundings) -> None:
        self._around = around

    def of(self, equation: Equation) -> Equation | None:
        """Return the equation whose derivative this one computes; None if it computes none."""
        if "jvp(" not in equation.scopes or not equation.operands:
            return None
        here = user_frame(equation)
        found: list[tuple[int, int, Equation]] = []
        for other in self._around.program.equations:
            if other.primitive not in _SINGULAR or other is equation or not other.results:
                continue
            if "transpose(" in other.scopes and "rematted" not in other.scopes:
                continue
            is_linked = self._is_derivative(equation, other)
            if is_linked or (self._has_apart(equation, other) and user_frame(other) == here):
                distance = abs(equation.index - other.index)
                found.append((0 if is_linked else 1, distance, other))
        return min(found, key=lambda f: f[:2])[2] if found else None

    def _is_derivative(self, equation: Equation, other: Equation) -> bool:
        """Return whether the values of the two equations are those of a derivative rule."""
        name, of = equation.primitive, other.primitive
        read, result = (
            [*map(self._around.root, equation.operands)],
            self._around.root(other.results[0]),
        )
        taken = [*map(self._around.root, other.operands)]
        if of == "sqrt" and name == "div":
            return read[1] == result and self._around.constant(read[0]) is not None
        if of == "rsqrt" and name == "div":
            return read == [result, taken[0]]
        if of in ("log", "div") and name == "div":
            return "transpose(" in equation.scopes and self._around.are_same(read[1], taken[-1], 0)
        if of == "log1p" and name == "div":
            plus = self._around.made_by(read[1], "add")
            return plus is not None and taken[0] in map(self._around.root, plus.operands)
        if of == "pow" and name in ("pow", "log"):
            # The logarithm of the base is taken where the base is not 0.
            selection = self._around.made_by(read[0], "select_n")
            selected = [] if selection is None else map(self._around.root, selection.operands)
            return taken[0] in (read[0], *selected)
        if of == "erf_inv" and name == "exp":
            square = self._around.made_by(read[0], "square")
            return square is not None and self._around.root(square.operands[0]) == result
        if of == "div" and name == "integer_pow":
            return read[0] == taken[1] and equation.eqn.params["y"] == -2
        if of == "integer_pow" and name == "integer_pow":
            return read[0] == taken[0] and equation.eqn.params["y"] == other.eqn.params["y"] - 1
        if of == "cbrt" and name == "integer_pow":
            return read[0] == result
        if (of, name) in (("lgamma", "digamma"), ("digamma", "polygamma")):
            return read[-1] == taken[0]
        return False

    def _has_apart(self, equation: Equation, other: Equation) -> bool:
        """Return whether a rule has this equation, which only its line connects to the function."""
        name, of, operand = equation.primitive, other.primitive, equation.operands[-1]
        if of in ("acos", "asin", "acosh"):
            inside = self._around.made_by(operand, "sub", "one_minus_square", "mul")
            return name == "rsqrt" and inside is not None
        if of == "atan2":
            inside = self._around.made_by(operand, "add")
            squares = ("square", "integer_pow", "mul")
            is_sum = inside and all(self._around.made_by(v, *squares) for v in inside.operands)
            return name == "div" and bool(is_sum)
        if of == "atanh":
            is_inside = self._around.made_by(operand, "add", "sub") is not None
            return name in ("div", "integer_pow") and is_inside
        kernels = {"eigh", "svd", "eig"}
        return of in kernels and name in ("div", "integer_pow")
