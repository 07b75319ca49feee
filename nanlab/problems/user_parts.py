"""ab.py:Model, ab.py:load, data.npz -> parts: a person's own network and data in a training."""

from __future__ import annotations

import dataclasses
import inspect
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import polars as pl
from flax import linen as nn
from jax import Array

from nanlab.parts.losses import LOSSES
from nanlab.parts.models import MODELS
from nanlab.parts.pieces import Pieces, Shape
from nanlab.parts.tasks import TASKS, Examples, load_examples, standardized
from nanlab.problems.user_code import UserCodeError, told, user_function

FIELDS: Mapping[str, tuple[str, ...]] = {
    "depth": ("depth",),
    "width": ("width",),
    "heads": ("heads",),
    "residual": ("residual",),
    "activation": ("activation", "negative_slope"),
    "kernel_init": ("initializer", "init_scale"),
    "dropout": ("dropout",),
}
"""Field of a person's own model -> the grid's parameters that it makes axes of."""

GIVEN = ("outputs", "inputs", "dtype", "param_dtype")
"""Further fields that are filled in: how many outputs (a tuple where each step has some), the
shape of an example, and the types of the computation and of the parameters."""

TARGETS = ("target", "targets", "label", "labels", "y")
"""The names that the column or array of a data file's targets may have."""

MODE = {"train": True, "training": True, "deterministic": False, "use_running_average": False}
"""Arguments of a model's call that tell a training from an evaluation, as a training has them."""


@dataclass(frozen=True, kw_only=True)
class UserModel:
    """A person's own module, called as a training calls it.

    Attributes:
        spec: what the grid calls it.
        theirs: the module.
        shape: the sizes that it is to have.
        natural: whether it asks for examples in their natural shape.
    """

    spec: str
    theirs: nn.Module
    shape: Shape
    natural: bool

    def init(self, rngs: Any, x: Array) -> Any:
        """Linen's variables."""
        return self.theirs.init(rngs, self._inputs(x), **self._mode())

    def apply(self, variables: Any, x: Array, *, rngs: Any = None, mutable: Any = False) -> Any:
        """The outputs, (examples, *outputs), and the changed variables if some are mutable."""
        made: Any = self.theirs.apply(
            variables, self._inputs(x), rngs=rngs, mutable=mutable, **self._mode()
        )
        outputs = made if mutable is False else made[0]
        asked = (x.shape[0], *self.shape.outputs)
        if not isinstance(outputs, jax.Array) or outputs.shape != asked:
            given = getattr(outputs, "shape", type(outputs).__name__)
            raise UserCodeError(
                "run.model",
                f"{self.spec} makes {given} of {x.shape[0]} examples; the task needs {asked}",
            )
        return made

    def _inputs(self, x: Array) -> Array:
        is_other = self.natural and x.shape[1:] != self.shape.inputs
        return x.reshape(-1, *self.shape.inputs) if is_other else x

    def _mode(self) -> Any:
        names = inspect.signature(type(self.theirs).__call__).parameters
        return {name: value for name, value in MODE.items() if name in names}


def is_user_part(spec: str) -> bool:
    """Whether a model or task is a person's own and not of nanlab's tables."""
    return spec not in MODELS and spec not in TASKS


def build_model(spec: str, shape: Shape, pieces: Pieces) -> nn.Module | UserModel:
    """A model of the table, or of a person's own code.

    Raises:
        OwnCodeError: their code has no such module, or it cannot be built of these pieces.
    """
    if spec in MODELS:
        return MODELS[spec].build(shape, pieces)
    made = user_function(spec, key="run.model")
    has = _fields(made)
    outputs = shape.outputs[0] if len(shape.outputs) == 1 else shape.outputs
    values: dict[str, Any] = {
        "depth": shape.depth, "width": shape.width, "outputs": outputs, "inputs": shape.inputs,
        "heads": pieces.heads, "residual": pieces.residual, "activation": pieces.activation,
        "kernel_init": pieces.kernel_init, "dropout": pieces.dropout, "dtype": pieces.dtype,
        "param_dtype": pieces.param_dtype,
    }  # fmt: skip
    try:
        theirs = made(**{name: value for name, value in values.items() if name in has})
    except Exception as error:
        raise UserCodeError(
            "run.model",
            f"{spec} fails: {told(error)}; what it may ask for is {', '.join((*FIELDS, *GIVEN))}",
        ) from error
    if not isinstance(theirs, nn.Module):
        kind = type(theirs).__name__
        raise UserCodeError(
            "run.model",
            f"{spec} makes {kind}; it must be a class of flax.linen.Module, or a function that "
            "returns one (for anything else write a problem of your own)",
        )
    return UserModel(spec=spec, theirs=theirs, shape=shape, natural="inputs" in has)


def _fields(made: Callable[..., Any]) -> tuple[str, ...]:
    """The names by which a module's class, or a function that makes one, takes its fields."""
    if dataclasses.is_dataclass(made):
        return tuple(each.name for each in dataclasses.fields(made) if each.init)
    return tuple(inspect.signature(made).parameters)


def read_by_model(spec: str) -> frozenset[str]:
    """The grid's parameters that a person's own model has fields for."""
    has = _fields(user_function(spec, key="run.model"))
    return frozenset(name for field in FIELDS if field in has for name in FIELDS[field])


def ignored_by_model(spec: str, asked: Iterable[str]) -> UserCodeError | None:
    """What to say where the grid asks for something that an own model does not read."""
    of_models = {n for names in FIELDS.values() for n in names}
    of_models |= {"bias_initializer", "bias_scale", "norm", "norm_epsilon", "norm_first"}
    of_models |= {"pooling", "query_key_norm", "attention_scale"}
    ignored = sorted((of_models & set(asked)) - read_by_model(spec))
    if not ignored:
        return None
    name = ignored[0]
    field = next((field for field, names in FIELDS.items() if name in names), None)
    way = f"give it a field {field}" if field else "build it into the model"
    return UserCodeError(
        f"run.{name}",
        f"{spec} does not read it, so it would change nothing; {way}, or leave it out",
    )


def examples_of(statics: Mapping[str, Any]) -> Examples:
    """The data of a task of the table, of a person's own function or of their file.

    Raises:
        OwnCodeError: there are none, or they are not examples.
    """
    spec = str(statics["task"])
    if spec in TASKS:
        return load_examples(statics)
    examples = _checked(spec, _of_file(spec) if is_data_file(spec) else _of_function(spec))
    return standardized(examples) if statics["standardize"] else examples


def is_data_file(spec: str) -> bool:
    """Whether a task is a file of data and not a function."""
    return spec.endswith((".npz", ".parquet"))


def _of_function(spec: str) -> tuple[Any, ...]:
    load = user_function(spec, key="run.task")
    try:
        made = load()
    except Exception as error:
        raise _wrong(spec, f"fails: {told(error)}") from error
    if not isinstance(made, tuple) or len(made) not in (2, 3):
        raise _wrong(
            spec, f"returns {type(made).__name__}; it must return (inputs, targets), or "
            "(inputs, targets, shape of an example)",
        )  # fmt: skip
    return made


def _of_file(spec: str) -> tuple[np.ndarray, np.ndarray]:
    path = Path(spec)
    if not path.is_file():
        raise _wrong(spec, "is not there; a path is taken from the folder where the command runs")
    try:
        return _of_arrays(path) if path.suffix == ".npz" else _of_columns(path)
    except (OSError, ValueError, zipfile.BadZipFile, pl.exceptions.PolarsError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise _wrong(spec, f"cannot be read: {first}") from error


def _of_arrays(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with np.load(path, allow_pickle=False) as held:
        target = _target_name(path, held.files)
        others = [name for name in held.files if name != target]
        if len(others) != 1:
            raise ValueError(
                f"beside {target} it must hold one array, the inputs, not {', '.join(others)}"
            )
        return held[others[0]], held[target]


def _of_columns(path: Path) -> tuple[np.ndarray, np.ndarray]:
    frame = pl.read_parquet(path)
    target = _target_name(path, frame.columns)
    inputs = frame.drop(target)
    texts = [name for name, kind in inputs.schema.items() if not kind.is_numeric()]
    if texts:
        raise ValueError(f"column {texts[0]} holds no numbers")
    targets = frame.get_column(target)
    if not targets.dtype.is_numeric():
        # Classes by name: numbered in alphabetical order.
        targets = targets.cast(pl.String).rank("dense").cast(pl.Int64) - 1
    return inputs.cast(pl.Float64).to_numpy(), targets.to_numpy()


def _target_name(path: Path, names: Iterable[str]) -> str:
    names = list(names)
    found = [name for name in names if name.lower() in TARGETS]
    if len(found) != 1:
        raise ValueError(
            f"one of its {'arrays' if path.suffix == '.npz' else 'columns'} must be named "
            f"{', '.join(TARGETS[:-1])} or {TARGETS[-1]}; it has {', '.join(names)}"
        )
    return found[0]


def _checked(spec: str, made: tuple[Any, ...]) -> Examples:
    """Data as tasks have them: float64 inputs, and classes from 0 or float64 targets."""
    try:
        inputs = np.asarray(made[0], np.float64)
        targets = np.asarray(made[1])
        natural = tuple(int(size) for size in made[2]) if len(made) == 3 else None
    except (TypeError, ValueError) as error:
        raise _wrong(spec, f"does not give arrays of numbers: {error}") from error
    if inputs.ndim < 2 or len(inputs) == 0 or len(inputs) != len(targets):
        raise _wrong(
            spec, "must give inputs (examples, ...) and as many targets, not arrays of shapes "
            f"{inputs.shape} and {targets.shape}",
        )  # fmt: skip
    if natural is not None and np.prod(natural) != np.prod(inputs.shape[1:]):
        raise _wrong(spec, f"an example of shape {inputs.shape[1:]} is not one of shape {natural}")
    if targets.dtype.kind in "iub":
        targets = targets.astype(np.int64)
        if targets.min() < 0:
            raise _wrong(spec, f"a class is {targets.min()}; classes are whole numbers from 0")
    elif targets.dtype.kind == "f":
        targets = targets.astype(np.float64)
        targets = targets[:, None] if targets.ndim == 1 else targets
    else:
        raise _wrong(spec, f"targets of type {targets.dtype} are neither classes nor numbers")
    return Examples(inputs, targets, natural)


def check_fit(statics: Mapping[str, Any], examples: Examples) -> None:
    """See that own data go with the rest of a training, as the grid sees it of nanlab's tasks.

    Raises:
        OwnCodeError: they do not.
    """
    spec, classes, many = str(statics["task"]), examples.classes, len(examples.inputs)
    if LOSSES[statics["loss"]].targets == "classes" and not classes:
        raise UserCodeError("run.loss", f"needs classes, and the targets of {spec} are numbers")
    if statics["imbalance"] and not classes:
        raise UserCodeError(
            "run.imbalance", f"needs classes, and the targets of {spec} are numbers"
        )
    if statics["train_examples"] > many:
        raise UserCodeError(
            "run.train_examples",
            f"{spec} has {many} examples; ask for {many} or fewer, or 0 for all",
        )


def _wrong(spec: str, what: str) -> UserCodeError:
    return UserCodeError("run.task", f"{spec}: {what}")
