"""Data of a user, as arrays -> Examples; what is no number, class or target is refused.

Every sentence names the column or array, and the row where there is one; rows count from 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from nanlab.parts.tasks import Examples

MOST_NUMBERS = 100_000_000
"""Maximum number of numbers in a data set: they are constants of every compiled program."""

MOST_CLASSES = 10_000
"""Maximum number of classes: each is an output of the network."""

FEWER = "keep fewer rows or columns"
_KINDS = {
    "O": "Python objects; store numbers",
    "c": "complex numbers; store the real and the imaginary part as two features",
    "U": "text; number its values, or leave it out",
    "S": "text; number its values, or leave it out",
    "M": "dates; store a number, such as days since the first, or leave it out",
    "m": "time differences; store a number, such as seconds, or leave it out",
}
"""Kinds of NumPy dtypes that are no numbers to train on, and the way out."""


class DataError(Exception):
    """The data cannot be trained on; the message says where, why, and what to do."""


class RawData(NamedTuple):
    """Data as they were read.

    Attributes:
        inputs: features, an example a row.
        targets: classes or numbers, an example a row.
        natural: natural shape of an example, or None.
        names: names of the two arrays, for messages; the target's column in a table.
        columns: names of the features' columns in a table, else ().
        nulls: number of missing values among the features, which are NaN.
    """

    inputs: Any
    targets: Any
    natural: Any = None
    names: tuple[str, str] = ("inputs", "targets")
    columns: tuple[str, ...] = ()
    nulls: int = 0

    def input_place(self, index: tuple[int, ...]) -> str:
        """Return where a feature's value is, such as "column a, row 3"."""
        if self.columns:
            return f"column {self.columns[index[1]]}, row {index[0]}"
        return f"array {self.names[0]}, row {index[0]}, entry {list(index[1:])}"

    @property
    def target(self) -> str:
        """The targets' column or array, such as "column y"."""
        return f"{'column' if self.columns else 'array'} {self.names[1]}"


def check_kind(subject: str, dtype: np.dtype[Any]) -> None:
    """Raise DataError if arrays of this dtype hold no numbers."""
    if dtype.names is not None:
        raise DataError(f"{subject} is of fields with names; store numbers")
    if dtype.kind in _KINDS:
        raise DataError(f"{subject} holds {_KINDS[dtype.kind]}")


def check_count(subject: str, shape: Iterable[int]) -> None:
    """Raise DataError if an array of this shape is too large."""
    if (count := math.prod(shape)) > MOST_NUMBERS:
        raise DataError(
            f"{subject} has {count:,} numbers, and a data set at most {MOST_NUMBERS:,}; {FEWER}"
        )


def examples_from(data: RawData) -> Examples:
    """Return data as examples: float64 inputs, and int64 classes or float64 targets.

    Raises:
        DataError: they are no numbers, of no fitting shapes, or targets that are none.
    """
    inputs, targets = _array(data.inputs, data.names[0]), _array(data.targets, data.names[1])
    natural = _natural(data.natural, inputs)
    if inputs.ndim < 2:
        raise DataError(
            f"{data.names[0]} must be of shape (examples, features), got {inputs.shape}; "
            f"{data.names[0]}[:, None] is one feature"
        )
    if targets.shape[:1] != inputs.shape[:1]:
        raise DataError(
            f"must have one target an example, got arrays of shapes {inputs.shape} and "
            f"{targets.shape}"
        )
    if 0 in (*inputs.shape, *targets.shape):
        raise DataError(
            f"has no examples or no features: arrays of shapes {inputs.shape} and {targets.shape}"
        )
    check_count(data.names[0], inputs.shape)
    is_classes = targets.dtype.kind in "iub"
    targets = _classes(data, inputs, targets) if is_classes else _numbers(data, targets)
    return Examples(inputs.astype(np.float64), targets, natural)


def _array(values: Any, name: str) -> np.ndarray:
    try:
        array = np.asarray(values)
        check_kind(f"array {name}", array.dtype)
        # Types that NumPy does not know itself, such as bfloat16, have kind "V".
        array = array.astype(np.float64) if array.dtype.kind == "V" else array
    except (TypeError, ValueError) as error:
        raise DataError(f"{name} is no array of numbers: {error}") from error
    if isinstance(values, np.ma.MaskedArray) and (count := np.ma.count_masked(values)):
        raise DataError(f"array {name} has {count:,} masked values; fill them, or drop their rows")
    return array


def _natural(natural: Any, inputs: np.ndarray) -> tuple[int, ...] | None:
    if natural is None:
        return None
    try:
        shape = tuple(int(size) for size in natural)
    except (TypeError, ValueError) as error:
        raise DataError(f"the shape of an example must be whole numbers: {error}") from error
    if min(shape, default=0) < 1 or math.prod(shape) != math.prod(inputs.shape[1:]):
        raise DataError(f"an example of shape {inputs.shape[1:]} cannot be reshaped to {shape}")
    return shape


def _classes(data: RawData, inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    is_sequence = inputs.ndim == 3 and targets.shape == inputs.shape[:2]
    if targets.ndim > 1 and not is_sequence:
        raise DataError(
            f"{data.target} must have one class an example, shape ({len(inputs)},), got "
            f"{targets.shape}; reshape it, or store numbers as floats"
        )
    smallest, largest = int(targets.min()), int(targets.max())
    if smallest < 0:
        place = rows_of(data.target, targets < 0)
        raise DataError(f"{place}: class {smallest} is negative; classes count from 0")
    if largest >= MOST_CLASSES:
        place = rows_of(data.target, targets >= MOST_CLASSES)
        raise DataError(
            f"{place}: class {largest:,} makes {largest + 1:,} classes, and {MOST_CLASSES:,} are "
            "the most; number classes from 0 without gaps, or store numbers as floats"
        )
    check_count(f"{data.target}, as one output a class,", (targets.size, int(targets.max()) + 1))
    return targets.astype(np.int64)


def _numbers(data: RawData, targets: np.ndarray) -> np.ndarray:
    targets = targets.astype(np.float64)
    bad = ~np.isfinite(targets)
    if bad.any():
        place = rows_of(data.target, bad)
        raise DataError(f"{place}: a target is {targets[bad][0]}, and must be finite; drop its row")
    return targets[:, None] if targets.ndim == 1 else targets


def rows_of(subject: str, bad: np.ndarray) -> str:
    """Return the first row that is bad, and the number of others."""
    rows = np.flatnonzero(bad.reshape(len(bad), -1).any(axis=1))
    others = f" and {len(rows) - 1:,} others" if len(rows) > 1 else ""
    return f"{subject}, row {rows[0]}{others}"


# ---- what is legal, and hardly intended ----------------------------------------------------------


def remarks_on(data: RawData, examples: Examples, dtype: Any) -> Iterator[str]:
    """Yield sentences on features that are not finite, or that a run's precision changes.

    Args:
        data: as it was read.
        examples: what was made of it, standardized where a run does.
        dtype: dtype of the run's batches.
    """
    raw = np.asarray(data.inputs).astype(np.float64)
    bad = ~np.isfinite(raw)
    if count := int(bad.sum()):
        n_nan = int(np.isnan(raw).sum()) - data.nulls
        kinds = {"null": data.nulls, "NaN": n_nan, "inf": count - n_nan - data.nulls}
        listed = ", ".join(f"{number:,} {kind}" for kind, number in kinds.items() if number)
        yield (
            f"{count:,} of {raw.size:,} values of its features are not finite ({listed}), the "
            f"first in {data.input_place(_first(bad))}; runs train on them as they are"
            + (", null as NaN" if data.nulls else "")
        )
    with np.errstate(over="ignore"):
        lost = np.isfinite(examples.inputs) & ~np.isfinite(examples.inputs.astype(dtype))
    if count := int(lost.sum()):
        yield (
            f"{count:,} values of its features are beyond the largest number of {dtype}, and inf "
            f"in it, the first in {data.input_place(_first(lost))}; scale them, or set "
            "standardize = true"
        )


def _first(mask: np.ndarray) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(mask.argmax(), mask.shape))
