"""Table of tasks: data bundled with scikit-learn, or synthetic; nothing is downloaded.

A task's data are the same for every run; `train_examples` draws a subset for each seed.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float64, Num

from nanlab.backend.lazy import datasets
from nanlab.parts import synthetic
from nanlab.parts.entry import Entry


class Examples(NamedTuple):
    """Data on the host.

    Attributes:
        inputs: inputs of the examples.
        targets: int64 classes, (examples,) or (examples, steps), or float64 numbers,
            (examples, outputs).
        natural: natural shape of an example if `inputs` is flat, else None.
    """

    inputs: Float64[np.ndarray, "examples ..."]
    targets: Num[np.ndarray, "examples ..."]
    natural: tuple[int, ...] | None = None

    @property
    def classes(self) -> int:
        """Number of classes; 0 if the targets are numbers."""
        return int(self.targets.max()) + 1 if self.targets.dtype.kind in "iu" else 0

    @property
    def outputs(self) -> tuple[int, ...]:
        """Shape of a model's output for an example."""
        return (*self.targets.shape[1:], self.classes) if self.classes else self.targets.shape[1:]


@dataclass(frozen=True)
class Task(Entry):
    """A task of the table.

    Attributes:
        load: statics -> (inputs, targets) or (inputs, targets, natural).
        targets: "classes" or "numbers".
        outputs: number of classes or numbers of an example (or of each of its steps).
        examples: number of examples.
        statics: statics that it reads besides `task` and `standardize`.
    """

    load: Callable[[Mapping[str, Any]], tuple[Any, ...]]
    targets: Literal["classes", "numbers"]
    outputs: int
    examples: int
    statics: tuple[str, ...] = ()


def _classes(data: Any) -> tuple[np.ndarray, np.ndarray]:
    return data.data, data.target.astype(np.int64)


def _numbers(data: Any) -> tuple[np.ndarray, np.ndarray]:
    numbers = data.target.reshape(len(data.target), -1)
    return data.data, (numbers - numbers.mean(0)) / numbers.std(0)


TASKS: dict[str, Task] = {
    "digits": Task(
        "1,797 images of digits, 8 x 8, with pixels from 0 to 16.",
        "Alpaydin and Kaynak 1998; scikit-learn",
        lambda statics: (*_classes(datasets.load_digits()), (8, 8, 1)),
        "classes",
        10,
        1797,
    ),
    "breast_cancer": Task(
        "569 tumors by 30 measures, benign or malignant.",
        "Wolberg et al. 1995; scikit-learn",
        lambda statics: _classes(datasets.load_breast_cancer()),
        "classes",
        2,
        569,
    ),
    "wine": Task(
        "178 wines by 13 chemical measures, of 3 cultivars.",
        "Aeberhard and Forina 1991; scikit-learn",
        lambda statics: _classes(datasets.load_wine()),
        "classes",
        3,
        178,
    ),
    "iris": Task(
        "150 irises by 4 lengths, of 3 species.",
        "Fisher 1936; scikit-learn",
        lambda statics: _classes(datasets.load_iris()),
        "classes",
        3,
        150,
    ),
    "diabetes": Task(
        "442 patients by 10 measures; the target is the disease's progress, standardized.",
        "Efron et al. 2004; scikit-learn",
        lambda statics: _numbers(datasets.load_diabetes(scaled=False)),
        "numbers",
        1,
        442,
    ),
    "linnerud": Task(
        "20 men by 3 exercises; the targets are weight, waist and pulse, standardized.",
        "Tenenhaus 1998; scikit-learn",
        lambda statics: _numbers(datasets.load_linnerud()),
        "numbers",
        3,
        20,
    ),
    "images": Task(
        "512 gratings of 4 directions, image_size x image_size, with pixels from 0 to 255.",
        "nanlab",
        lambda statics: synthetic.images(statics["image_size"]),
        "classes",
        4,
        synthetic.IMAGES,
        ("image_size",),
    ),
    "adding": Task(
        "1,024 sequences of numbers from 0 to 1, two of them marked; the target is their sum.",
        "Hochreiter and Schmidhuber 1997",
        lambda statics: synthetic.adding(statics["sequence_length"]),
        "numbers",
        1,
        synthetic.EXAMPLES,
        ("sequence_length",),
    ),
    "copy": Task(
        "1,024 sequences whose first quarter, of 8 symbols, must be repeated at the end.",
        "Hochreiter and Schmidhuber 1997; Arjovsky et al. 2016",
        lambda statics: synthetic.copy(statics["sequence_length"]),
        "classes",
        9,
        synthetic.EXAMPLES,
        ("sequence_length",),
    ),
    "teacher": Task(
        "1,024 normal inputs of n_features; the target is a random tanh network's output.",
        "Gardner and Derrida 1989",
        lambda statics: synthetic.teacher(statics["n_features"]),
        "numbers",
        1,
        synthetic.EXAMPLES,
        ("n_features",),
    ),
    "teacher_classes": Task(
        "1,024 normal inputs of n_features; the class is a random tanh network's largest output.",
        "Gardner and Derrida 1989",
        lambda statics: synthetic.teacher_classes(statics["n_features"]),
        "classes",
        4,
        synthetic.EXAMPLES,
        ("n_features",),
    ),
}


def load_examples(statics: Mapping[str, Any]) -> Examples:
    """Load the data of a task, standardized if `statics["standardize"]` is true."""
    examples = Examples(*TASKS[statics["task"]].load(statics))
    return standardized(examples) if statics["standardize"] else examples


def standardized(examples: Examples) -> Examples:
    """Return the data with each feature at mean 0 and standard deviation 1."""
    # A feature is a column or a pixel; in sequences, a channel over all examples and steps. One
    # that never varies is only centered, as scikit-learn's StandardScaler does. Non-finite entries
    # are ignored.
    inputs = examples.inputs
    axes = (0, 1) if inputs.ndim == 3 else (0,)
    finite = np.where(np.isfinite(inputs), inputs, np.nan)
    with warnings.catch_warnings():
        # A feature without a finite entry stays what it is.
        warnings.simplefilter("ignore", RuntimeWarning)
        mean, deviation = np.nanmean(finite, axis=axes), np.nanstd(finite, axis=axes)
    return examples._replace(inputs=(inputs - mean) / np.where(deviation > 0, deviation, 1.0))
