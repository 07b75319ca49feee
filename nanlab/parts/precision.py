"""Name -> floating-point type of parameters and computation.

`traced` is the type in which knobs are traced: what a Python float would be beside such arrays.
"""

from __future__ import annotations

from typing import NamedTuple


class Precision(NamedTuple):
    """The name of the arrays' dtype, and of the dtype in which knobs are held."""

    dtype: str
    traced: str


PRECISIONS: dict[str, Precision] = {
    "float64": Precision("float64", "float64"),
    "float32": Precision("float32", "float32"),
    "bfloat16": Precision("bfloat16", "float32"),
    "float16": Precision("float16", "float32"),
}
