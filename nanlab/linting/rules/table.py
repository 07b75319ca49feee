"""Primitive -> rule. Nothing else knows which primitive has which rule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nanlab.linting.axes import COPIES, MOVES
from nanlab.linting.rules.arithmetic import BINARY
from nanlab.linting.rules.choices import CHOICES
from nanlab.linting.rules.domains import DOMAINS
from nanlab.linting.rules.elementwise import UNARY
from nanlab.linting.rules.indexing import INDEXING
from nanlab.linting.rules.integers import INTEGERS
from nanlab.linting.rules.kernels import KERNELS
from nanlab.linting.rules.powers import POWERS
from nanlab.linting.rules.reductions import REDUCTIONS
from nanlab.linting.rules.views import VIEWS

RULES: dict[str, Callable[..., Any]] = {
    **VIEWS,
    **UNARY,
    **DOMAINS,
    **POWERS,
    **BINARY,
    **CHOICES,
    **INTEGERS,
    **REDUCTIONS,
    **INDEXING,
    **KERNELS,
}
"""(an equation under analysis, its operands) -> its result, or a list of its results."""

STEEP = {
    "exp", "exp2", "expm1", "cosh", "sinh", "lgamma", "pow", "convert_element_type",
    "reduce_precision",
}  # fmt: skip
"""Primitives whose overflow is a danger in every type; other overflow is growth in wide types."""

ELEMENTWISE = {
    *UNARY,
    *DOMAINS,
    *POWERS,
    *BINARY,
    *CHOICES,
    *COPIES,
    *MOVES,
    "convert_element_type",
}
"""Primitives that guards evaluate again under a predicate."""

UNREPEATABLE = {"empty", "empty2", "random_bits", "axis_index"}
"""Primitives whose results need not be the same for the same operands."""
