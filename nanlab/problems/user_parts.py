"""User-defined networks and data in a training: "ab.py:Model", "ab.py:load", "data.npz"."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from flax import linen as nn
from jax import Array
from jaxtyping import Shaped

from nanlab.parts.losses import LOSSES
from nanlab.parts.models import MODELS
from nanlab.parts.pieces import Pieces, Shape
from nanlab.parts.precision import PRECISIONS
from nanlab.parts.tasks import TASKS, Examples, load_examples, standardized
from nanlab.problems.data_files import read_data_file
from nanlab.problems.raw_data import DataError, RawData, examples_from, remarks_on
from nanlab.problems.user_code import UserCodeError, user_code, user_function

FIELDS: Mapping[str, tuple[str, ...]] = {
    "depth": ("depth",),
    "width": ("width",),
    "heads": ("heads",),
    "residual": ("residual",),
    "activation": ("activation", "negative_slope"),
    "kernel_init": ("initializer", "init_scale"),
    "dropout": ("dropout",),
}
"""Field of a user-defined model -> the parameters of the grid that it reads."""

GIVEN = ("outputs", "inputs", "dtype", "param_dtype")
"""Further fields that nanlab fills in: the number of outputs (a tuple for sequences), the shape of
an example, and the dtypes of the computation and of the parameters."""

MODE = {"train": True, "training": True, "deterministic": False, "use_running_average": False}
"""Arguments of `__call__` that switch between training and evaluation -> their training value."""


@dataclass(frozen=True, kw_only=True)
class UserModel:
    """A user-defined module, with the interface of the built-in models.

    Attributes:
        spec: its name in the grid.
        module: the Linen module.
        shape: the sizes that it must have.
        natural: whether it takes examples in their natural shape.
    """

    spec: str
    module: nn.Module
    shape: Shape
    natural: bool

    def init(self, rngs: dict[str, Array], x: Shaped[Array, "examples ..."]) -> Mapping[str, Any]:
        """Return Linen's variables."""
        return self.module.init(rngs, self._inputs(x), **self._mode())

    def apply(
        self,
        variables: Mapping[str, Any],
        x: Shaped[Array, "examples ..."],
        *,
        rngs: dict[str, Array] | None = None,
        mutable: Sequence[str] | bool = False,
    ) -> Any:
        """Return the outputs, (examples, *outputs), and the changed variables if any are mutable.

        Raises:
            UserCodeError: the outputs are no array of that shape.
        """
        results: Any = self.module.apply(
            variables, self._inputs(x), rngs=rngs, mutable=mutable, **self._mode()
        )
        outputs = results if mutable is False else results[0]
        expected = (x.shape[0], *self.shape.outputs)
        if not isinstance(outputs, jax.Array) or outputs.shape != expected:
            actual = getattr(outputs, "shape", type(outputs).__name__)
            raise UserCodeError(
                "run.model",
                f"{self.spec} returns {actual} for {x.shape[0]} examples; the task needs "
                f"{expected}",
            )
        return results

    def _inputs(self, x: Array) -> Array:
        is_flat = self.natural and x.shape[1:] != self.shape.inputs
        return x.reshape(-1, *self.shape.inputs) if is_flat else x

    def _mode(self) -> Any:
        names = inspect.signature(type(self.module).__call__).parameters
        return {name: value for name, value in MODE.items() if name in names}


def is_user_part(spec: str) -> bool:
    """Return whether a model or task is user-defined, not in nanlab's tables."""
    return spec not in MODELS and spec not in TASKS


def build_model(spec: str, shape: Shape, pieces: Pieces) -> nn.Module | UserModel:
    """Build a model from nanlab's table or from user-defined code.

    Returns:
        A module, or one with the same interface.

    Raises:
        UserCodeError: the code has no such module, or it cannot be built from these pieces.
    """
    if spec in MODELS:
        return MODELS[spec].build(shape, pieces)
    build = user_function(spec, key="run.model")
    fields = _fields(build, spec)
    outputs = shape.outputs[0] if len(shape.outputs) == 1 else shape.outputs
    values: dict[str, Any] = {
        "depth": shape.depth, "width": shape.width, "outputs": outputs, "inputs": shape.inputs,
        "heads": pieces.heads, "residual": pieces.residual, "activation": pieces.activation,
        "kernel_init": pieces.kernel_init, "dropout": pieces.dropout, "dtype": pieces.dtype,
        "param_dtype": pieces.param_dtype,
    }  # fmt: skip
    hint = f"; nanlab fills in the arguments {', '.join((*FIELDS, *GIVEN))}"
    with user_code("run.model", spec, hint=hint):
        module = build(**{name: value for name, value in values.items() if name in fields})
    if not isinstance(module, nn.Module):
        raise UserCodeError(
            "run.model",
            f"{spec} must be a flax.linen.Module class or a function that returns a module, got "
            f"{type(module).__name__} (for anything else, define a problem)",
        )
    return UserModel(spec=spec, module=module, shape=shape, natural="inputs" in fields)


def _fields(build: Callable[..., Any], spec: str) -> tuple[str, ...]:
    """Return the argument names of a module's class or of a function that returns a module."""
    if dataclasses.is_dataclass(build):
        return tuple(field.name for field in dataclasses.fields(build) if field.init)
    with user_code("run.model", f"inspecting {spec}"):
        return tuple(inspect.signature(build).parameters)


def read_by_model(spec: str) -> frozenset[str]:
    """Return the parameters of the grid that a user-defined model has fields for."""
    fields = _fields(user_function(spec, key="run.model"), spec)
    return frozenset(name for field in FIELDS if field in fields for name in FIELDS[field])


def ignored_by_model(spec: str, parameters: Iterable[str]) -> UserCodeError | None:
    """Return the error for a parameter set by the grid that a user-defined model does not read."""
    of_models = {n for names in FIELDS.values() for n in names}
    of_models |= {"bias_initializer", "bias_scale", "norm", "norm_epsilon", "norm_first"}
    of_models |= {"pooling", "query_key_norm", "attention_scale"}
    ignored = sorted((of_models & set(parameters)) - read_by_model(spec))
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
    """Load the data of a built-in task, a user-defined function or a data file.

    Returns:
        The examples, standardized where the statics say so.

    Raises:
        UserCodeError: there are none, or they are not examples.
    """
    spec = str(statics["task"])
    if spec in TASKS:
        return load_examples(statics)
    try:
        examples = examples_from(_read(spec))
    except DataError as error:
        raise UserCodeError("run.task", f"{spec}: {error}") from error
    return standardized(examples) if statics["standardize"] else examples


def is_data_file(spec: str) -> bool:
    """Return whether a task names a data file, not a function."""
    return spec.endswith((".npz", ".parquet"))


def remarks_on_data(statics: Mapping[str, Any], examples: Examples) -> list[str]:
    """Return sentences on what is legal in user-defined data, and hardly intended."""
    spec, dtype = str(statics["task"]), PRECISIONS[statics["precision"]].dtype
    return [f"{spec}: {remark}" for remark in remarks_on(_read(spec), examples, dtype)]


def _read(spec: str) -> RawData:
    if is_data_file(spec):
        return read_data_file(Path(spec))
    load = user_function(spec, key="run.task")
    with user_code("run.task", spec):
        data = load()
    if not isinstance(data, tuple) or len(data) not in (2, 3):
        raise DataError(
            "must return (inputs, targets) or (inputs, targets, shape of an example), got "
            f"{type(data).__name__}"
        )
    return RawData(*data)


def check_fit(statics: Mapping[str, Any], examples: Examples) -> None:
    """Check that user-defined data fit the loss and the options of a training.

    Raises:
        UserCodeError: they do not.
    """
    spec, classes, count = str(statics["task"]), examples.classes, len(examples.inputs)
    sentence = (
        f"needs classes, and the targets of {spec} are numbers; store classes as whole numbers"
    )
    if LOSSES[statics["loss"]].targets == "classes" and not classes:
        raise UserCodeError("run.loss", sentence)
    if statics["imbalance"] and not classes:
        raise UserCodeError("run.imbalance", sentence)
    if statics["train_examples"] > count:
        raise UserCodeError(
            "run.train_examples",
            f"{spec} has {count} examples; set it to {count} or less, or to 0 for all",
        )
