"""A long table of cases: the quick run takes one of `every`, the slow run all others."""

from collections.abc import Iterable
from typing import Any

import pytest


def sampled(rows: Iterable[Any], every: int, first: int = 0) -> list[Any]:
    """Return the rows as parameters of a test, of which the slow ones are marked.

    Args:
        rows: the table; a tuple is a row of several parameters.
        every: the quick run takes one row of this number.
        first: the first one that it takes.
    """
    marked: list[Any] = []
    for number, row in enumerate(rows):
        is_quick = number % every == first
        values = row if isinstance(row, tuple) else (row,)
        marked.append(row if is_quick else pytest.param(*values, marks=pytest.mark.slow))
    return marked
