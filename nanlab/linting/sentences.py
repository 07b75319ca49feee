"""Danger -> sentence: what would have to happen for an inf or a NaN to arise."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from nanlab.blame.explain.expressions import Expressions
from nanlab.blame.program.program import Equation
from nanlab.blame.vocabulary import Mechanism
from nanlab.linting.abstract import Abstract
from nanlab.linting.analysis import RangeAnalysis
from nanlab.linting.axes import COPIES, MOVES
from nanlab.linting.danger import Danger
from nanlab.linting.floats import float_type, is_complex, is_float

_OPERANDS = {
    ("div", 1): "divisor", ("rem", 1): "divisor", ("pow", 0): "base", ("integer_pow", 0): "base",
    ("gather", 1): "index", ("cholesky", 0): "matrix", ("triangular_solve", 0): "matrix",
}  # fmt: skip
_LIMITS: dict[str, Callable[[float], float]] = {
    "exp": math.log,
    "expm1": math.log,
    "exp2": math.log2,
    "cosh": lambda most: math.log(most) + math.log(2),
    "sinh": lambda most: math.log(most) + math.log(2),
}
"""Arguments beyond which these functions exceed the largest number of a type."""

_PASSING = {
    *COPIES, *MOVES, "abs", "sqrt", "square", "integer_pow", "mul", "div", "neg", "reduce_sum",
    "reduce_max", "reduce_min", "slice", "gather", "dynamic_slice", "select_n", "max", "cumsum",
    "convert_element_type", "scatter-add", "reduce_prod", "concatenate", "add", "add_any",
}  # fmt: skip
_SATURATION: dict[str, tuple[str, Callable[[float], float]]] = {
    # 1 - tanh(x) rounds to 0 where 2 exp(-2x) is below half an epsilon, 1 - logistic where exp(-x).
    "tanh": ("|{}| exceeds", lambda epsilon: math.log(8 / epsilon) / 2),
    "logistic": ("{} exceeds", lambda epsilon: math.log(2 / epsilon)),
}
_UNDERFLOW = ("exp", "exp2", "logistic")


class Sentences:
    """Writes sentences for the findings of one analysis.

    Args:
        analysis: the analysis, after its run.
        expressions: expressions of the program's values.
    """

    def __init__(self, analysis: RangeAnalysis, expressions: Expressions) -> None:
        self._analysis, self._expressions = analysis, expressions
        self._program = analysis.program

    def of(self, equation: Equation, danger: Danger) -> str:
        """Return what would have to happen at an equation."""
        if danger.mechanism == Mechanism.OVERFLOW:
            return self._overflow(equation, danger)
        operand = equation.operands[danger.operand]
        word = _OPERANDS.get((equation.primitive, danger.operand), "argument")
        said = f"{equation.primitive}'s {word} {danger.what}"
        if danger.mechanism == Mechanism.OPAQUE:
            return f"{said}: {self.name(operand)}."
        reason = self._zero(operand) if danger.value.least >= 0 else ""
        return f"{said}: {self.name(operand)} {_range(danger.value)}{reason}."

    def of_meeting(self, equation: Equation, mechanism: Mechanism, source: str) -> str:
        """Return how an inf that came with the program may become NaN."""
        operands = [self.name(operand) for operand in equation.operands[:2]]
        return f"{mechanism} can arise in {equation.primitive}({', '.join(operands)}): {source}."

    def _overflow(self, equation: Equation, danger: Danger) -> str:
        name, value = equation.primitive, danger.value
        most = float_type(value.dtype).largest
        operand = equation.operands[0]
        known = self._analysis.of(operand)
        if name in _LIMITS:
            return (
                f"{name}'s argument can exceed {_number(_LIMITS[name](most))}: "
                f"{self.name(operand)} {_range(known)}."
            )
        if name in ("convert_element_type", "reduce_precision"):
            return (
                f"a number can exceed {_number(most)}, the largest {np.dtype(value.dtype).name}: "
                f"{self.name(operand)} {_range(known)}."
            )
        return (
            f"{name}'s result can exceed {_number(most)}, the largest "
            f"{np.dtype(value.dtype).name}: {self.name(equation.results[0])} {_range(value)}."
        )

    def name(self, value: int) -> str:
        """Return the expression of a value."""
        logits = self._softmax(value)
        return f"softmax({self._expressions.of(logits)})" if logits else self._expressions.of(value)

    def _maker(self, value: int) -> Equation | None:
        """Return the equation that computes a value, before copies and changes of shape."""
        maker = self._program.computed_by(value)
        while maker is not None and maker.primitive in (*COPIES, *MOVES):
            maker = self._program.computed_by(maker.operands[0])
        return maker

    def _softmax(self, value: int) -> int | None:
        """Return the logits of a value that is exp(x - max(x)) / sum(exp(x - max(x)))."""
        quotient = self._maker(value)
        if quotient is None or quotient.primitive != "div":
            return None
        above, below = (self._maker(operand) for operand in quotient.operands)
        if not above or not below or (above.primitive, below.primitive) != ("exp", "reduce_sum"):
            return None
        if self._maker(below.operands[0]) is not above:
            return None
        difference = self._maker(above.operands[0])
        is_shifted = difference is not None and difference.primitive == "sub"
        return difference.operands[0] if difference and is_shifted else above.operands[0]

    def _zero(self, value: int) -> str:
        """Return when a number that is mathematically positive is 0 after rounding."""
        for maker in self._path(value):
            operand = maker.operands[0]
            kind = float_type(self._program.values[maker.results[0]].dtype)
            known = self._analysis.of(operand)
            if maker.primitive in _UNDERFLOW and known.least < (
                limit := math.log(kind.smallest) / (math.log(2) if maker.primitive == "exp2" else 1)
            ):
                logits = self._softmax(value)
                if logits:
                    return f", and 0 is reached once logits differ by more than {_number(-limit)}"
                name = self._expressions.of(operand)
                return f", and 0 is reached once {name} is below {_number(limit)}"
            if maker.primitive in _SATURATION:
                said, beyond = _SATURATION[maker.primitive]
                limit = beyond(kind.epsilon)
                if known.magnitude > limit:
                    name = self._expressions.of(operand)
                    return f", and 0 is reached once {said.format(name)} {_number(limit)}"
        return ""

    def _path(self, value: int) -> list[Equation]:
        """Return the equations whose underflow or saturation may make a value 0, nearest first."""
        found: list[Equation] = []
        todo, seen = [value], set[int]()
        while todo and len(seen) < 40:
            maker = self._program.computed_by(todo.pop(0))
            if maker is None or maker.index in seen:
                continue
            seen.add(maker.index)
            if maker.primitive in (*_UNDERFLOW, *_SATURATION):
                found.append(maker)
            elif maker.primitive in _PASSING or maker.primitive == "sub":
                todo += maker.operands
        return found


def _range(value: Abstract) -> str:
    if value.least > value.greatest:
        return "has no finite value"
    if value.least == value.greatest:
        return f"is {_number(value.least)}"
    if is_complex(value.dtype):
        return "may be any complex number"
    if is_float(value.dtype):
        most = float_type(value.dtype).largest
        if value.least <= -most and value.greatest >= most:
            return "may be any number"
    return f"lies in [{_number(value.least)}, {_number(value.greatest)}]"


def _number(number: Any) -> str:
    return f"{number:.3g}"
