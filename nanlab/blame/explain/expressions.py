"""Value -> expression: how a value was computed, in Python-like notation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nanlab.blame.program.program import Equation, Program, Value

EXPRESSION_DEPTH = 3
"""Number of nested operations in an expression; deeper ones are shown as "..."."""

_INFIX = {"add": "+", "add_any": "+", "sub": "-", "mul": "*", "div": "/", "pow": "**", "rem": "%"}
_COMPARED = {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!="}
_SILENT = {
    "convert_element_type", "broadcast_in_dim", "reshape", "squeeze", "expand_dims", "copy",
    "copy_p", "stop_gradient", "pvary", "reduce_precision",
}  # fmt: skip
_SHORT = {"dot_general": "dot", "reduce_sum": "sum", "reduce_max": "max", "reduce_min": "min"}


class Expressions:
    """Writes expressions for the values of one program.

    Args:
        program: the program.
        names: names of the top frame's arguments.
    """

    def __init__(self, program: Program, names: Sequence[str]) -> None:
        self._program, self._names = program, names

    def of(self, value: int, depth: int = EXPRESSION_DEPTH) -> str:
        """Return the expression of a value, by number."""
        info = self._program.values[value]
        if info.argument is not None:
            return self._argument(info, depth)
        if info.equation is None:
            if info.shape == ():
                return f"{np.asarray(info.constant).item()!r}"
            return f"constant {info.dtype}{list(info.shape)}"
        return self._result(self._program.equations[info.equation], value, depth)

    def _argument(self, info: Value, depth: int) -> str:
        frame = self._program.frames[info.frame]
        assert info.argument is not None
        if frame.parent is None:
            return self._names[info.argument]
        equation = self._program.equations[frame.parent]
        assert equation.opened is not None
        operands = equation.opened.operands[equation.frames.index(frame.index)]
        outside = self.of(equation.operands[operands[info.argument]], max(depth - 1, 0))
        if frame.kind not in ("scan", "while") or info.argument < equation.opened.consts:
            return outside
        is_carried = info.argument < equation.opened.consts + equation.opened.carry
        if is_carried:
            # The initial value identifies the carry; it is not its current value.
            return f"carry (first: {outside})" if depth == EXPRESSION_DEPTH else "carry"
        return f"({outside})[i]" if " " in outside else f"{outside}[i]"

    def _result(self, equation: Equation, value: int, depth: int) -> str:
        name = equation.primitive
        if name in _SILENT:
            return self.of(equation.operands[0], depth)
        if depth == 0:
            return "..."
        parts = [self.of(operand, depth - 1) for operand in equation.operands]
        if name in _INFIX or name in _COMPARED:
            left, right = (f"({p})" if " " in p else p for p in parts)
            return f"{left} {(_INFIX | _COMPARED)[name]} {right}"
        if name == "neg":
            return f"-({parts[0]})" if " " in parts[0] else f"-{parts[0]}"
        if name == "integer_pow":
            base = f"({parts[0]})" if " " in parts[0] else parts[0]
            return f"{base} ** {equation.eqn.params['y']}"
        if name == "select_n" and len(parts) == 3:
            return f"where({parts[0]}, {parts[2]}, {parts[1]})"
        if equation.opened is not None:
            return f"{name}(...)" if len(equation.results) == 1 else (
                f"{name}(...)[{equation.results.index(value)}]"
            )  # fmt: skip
        if len(parts) > 3:
            parts = [*parts[:3], "..."]
        return f"{_SHORT.get(name, name)}({', '.join(parts)})"
