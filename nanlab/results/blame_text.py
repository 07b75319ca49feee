"""A blame as text, from a row of a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def operation_text(mechanism: str, primitive: str | None) -> str:
    """Return the arithmetic and its operation: `overflow in square`."""
    return f"{mechanism} in {primitive}" if primitive else mechanism


def blame_cells(row: Mapping[str, Any], role: str, *, suffix: str = "") -> tuple[str, str, str]:
    """Return what happened, where in the program, and on which line.

    Args:
        row: the columns of a blame, by name.
        role: "origin" or "culprit".
        suffix: what the names of the columns end in, after a join.
    """
    mechanism, primitive, phase, module, source = (
        row[f"{role}_{name}{suffix}"] or ""
        for name in ("mechanism", "primitive", "phase", "module", "source")
    )
    if not mechanism:
        return ("no NaN" if role == "culprit" else "not found", "", "")
    return operation_text(mechanism, primitive), ", ".join(filter(None, (phase, module))), source


def blame_sentence(
    row: Mapping[str, Any], role: str, *, line: bool = True, suffix: str = ""
) -> str:
    """Return `overflow in square, forward, MLP/Dense_1, at nanlab/parts/losses.py:122`.

    Args:
        row: the columns of a blame, by name.
        role: "origin" or "culprit".
        line: whether to name the source line.
        suffix: what the names of the columns end in, after a join.
    """
    what, where, source = blame_cells(row, role, suffix=suffix)
    return ", ".join(filter(None, (what, where, f"at {source}" if line and source else "")))
