"""What an analysis records of an equation that may make an inf or a NaN."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nanlab.blame.vocabulary import Mechanism


@dataclass(frozen=True, kw_only=True)
class Danger:
    """How an equation may make an inf or a NaN from harmless operands.

    Attributes:
        mechanism: arithmetic by which it arises.
        operand: the operand to blame.
        what: what this operand would do, as "can be 0"; "" for what the result would.
        value: what this operand may be, or the result.
        is_growth: whether it is the overflow of a sum, a product or a square in a wide type.
    """

    mechanism: Mechanism
    operand: int = 0
    what: str = ""
    value: Any = None
    is_growth: bool = False
