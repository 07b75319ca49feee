"""scikit-learn's data files -> arrays, without importing scikit-learn, which takes seconds."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np


def table(file: str, *, header_lines: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Inputs (examples, features) and the classes in the last column (examples,)."""
    values = _read(file, header_lines, ",")
    return values[:, :-1], values[:, -1].astype(np.int64)


def two_tables(
    inputs: str, targets: str, *, header_lines: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Inputs (examples, features) and numbers (examples, outputs) at mean 0, deviation 1."""
    numbers = _read(targets, header_lines, None)
    numbers = numbers.reshape(len(numbers), -1)
    return _read(inputs, header_lines, None), (numbers - numbers.mean(0)) / numbers.std(0)


def _read(file: str, header_lines: int, delimiter: str | None) -> np.ndarray:
    spec = find_spec("sklearn")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"the data {file} need scikit-learn: pip install scikit-learn")
    path = Path(spec.origin).parent / "datasets" / "data" / file
    return np.loadtxt(path, delimiter=delimiter, skiprows=header_lines)
