"""Name -> task: real data that comes with scikit-learn, so that it is there offline."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np


class Examples(NamedTuple):
    """Data on the host: inputs (examples, features) float64, labels (examples,) int64."""

    inputs: np.ndarray
    labels: np.ndarray


class Task(NamedTuple):
    """A data set that scikit-learn bundles: its file there, lines before the data, and sizes."""

    file: str
    header_lines: int
    features: int
    classes: int


TASKS: dict[str, Task] = {
    "digits": Task("digits.csv.gz", 0, features=64, classes=10),
    "breast_cancer": Task("breast_cancer.csv", 1, features=30, classes=2),
    "wine": Task("wine_data.csv", 1, features=13, classes=3),
}


def load_examples(name: str, *, standardize: bool) -> Examples:
    """The data of task `name`, each feature at mean 0 and standard deviation 1 if asked.

    A feature that never varies is only centered (it has no standard deviation to divide by),
    as scikit-learn's StandardScaler does.
    """
    task = TASKS[name]
    # The files are read without importing scikit-learn, which takes seconds; a test holds them
    # equal to what its loaders return.
    spec = find_spec("sklearn")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"task {name!r} needs scikit-learn: pip install scikit-learn")
    path = Path(spec.origin).parent / "datasets" / "data" / task.file
    table = np.loadtxt(path, delimiter=",", skiprows=task.header_lines)
    inputs, labels = table[:, :-1], table[:, -1].astype(np.int64)
    if standardize:
        deviation = inputs.std(axis=0)
        inputs = (inputs - inputs.mean(axis=0)) / np.where(deviation > 0, deviation, 1.0)
    return Examples(inputs, labels)
