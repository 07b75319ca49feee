"""A long table of cases: the quick run takes one of `every`, the slow run all others."""

from collections.abc import Iterable
from typing import Any

import pytest


def sampled(rows: Iterable[Any], every: int, first: int = 0) -> list[Any]:
    """Return the rows as parameters of a test, of which the slow ones are marked.

    Args:
        rows: the table; a tuple is a row of several parameters, or `pytest.param`.
        every: the quick run takes one row of this number.
        first: the first one that it takes.
    """
    return [row if number % every == first else _slow(row) for number, row in enumerate(rows)]


def _slow(row: Any) -> Any:
    if hasattr(row, "marks"):
        return row._replace(marks=(*row.marks, pytest.mark.slow))
    return pytest.param(*(row if isinstance(row, tuple) else (row,)), marks=pytest.mark.slow)
