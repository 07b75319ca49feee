"""Name -> parameter: what may be asked of a run, with its type, default, role and meaning.

The models below are the only place that declares a parameter: the grid file's validation, its
JSON Schema, the plan's columns and a run's identity are all made from them. A default must never
change: a run's identity leaves out what is at its default (see `nanlab.plan`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, Literal, cast

from pydantic import (
    AfterValidator,
    AllowInfNan,
    BaseModel,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    Strict,
    WrapValidator,
)
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from nanlab.parts.activations import ACTIVATIONS
from nanlab.parts.initializers import INITIALIZERS
from nanlab.parts.losses import LOSSES
from nanlab.parts.models import MODELS
from nanlab.parts.optimizers import OPTIMIZERS
from nanlab.parts.precision import PRECISIONS
from nanlab.parts.tasks import TASKS

Value = bool | int | float | str

Role = Literal["knob", "static", "address", "length", "rule"]
"""What a parameter does: `knob` is traced, so a new value costs no compile; `static` changes the
program and so the group; `address` is the seed; `length` is the number of steps, traced; `rule`
only decides the outcome's name, on the host."""

LARGEST_INT = 2**63 - 1
"""Whole numbers are held in 64 bits."""


@dataclass(frozen=True)
class Choice:
    """A string type: one of `names()`, which is asked anew each time, so that a table may grow."""

    names: Callable[[], Iterable[str]]

    def check(self, value: object) -> str:
        """`value` if it is one of the names; otherwise pydantic's error of type "choice"."""
        names = list(self.names())
        if not isinstance(value, str) or value not in names:
            raise PydanticCustomError("choice", "not a choice", {"names": names})
        return value

    def __get_pydantic_core_schema__(
        self, source: type[Any], handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.check)

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"type": "string", "enum": list(self.names())}


def sentence_error(sentence: str) -> PydanticCustomError:
    """An error of type "sentence", whose context already holds what a person is told."""
    return PydanticCustomError("sentence", "{sentence}", {"sentence": sentence})


def _size_or_full(value: Any, handler: Callable[[Any], int | str]) -> int | str:
    try:
        return handler(value)
    except ValueError as error:
        raise sentence_error('must be a whole number, 1 or more, or "full"') from error


def _without_sign_of_zero(value: float) -> float:
    return value + 0.0


Number = Annotated[float, Strict(), AllowInfNan(False)]
Whole = Annotated[int, Strict()]
Switch = Annotated[bool, Strict()]
BatchSize = Annotated[
    Annotated[int, Strict(), Field(ge=1, le=LARGEST_INT)] | Literal["full"],
    WrapValidator(_size_or_full),
]


def _asked(default: Value, role: Role, doc: str, **limits: Any) -> Any:
    return Field(default, description=doc, json_schema_extra={"role": role}, **limits)


class EveryRun(BaseModel, frozen=True, extra="forbid"):
    """What may be asked of a run of any problem."""

    problem: Annotated[str, Choice(lambda: PROBLEMS)] = _asked(
        "training", "static", "What is run: a supervised training, or one number x on a quadratic."
    )
    precision: Annotated[str, Choice(PRECISIONS.keys)] = _asked(
        "float32", "static", "Floating-point type of parameters and computation."
    )
    seed: Whole = _asked(
        0, "address", "Addresses every random number of the run; runs that share it are paired.",
        ge=0, le=LARGEST_INT,
    )  # fmt: skip
    steps: Whole = _asked(
        100, "length", "Number of optimizer steps, counted from 0.", ge=1, le=10_000_000
    )
    optimizer: Annotated[str, Choice(OPTIMIZERS.keys)] = _asked("sgd", "static", "Optax optimizer.")
    lr: Number = _asked(0.01, "knob", "Learning rate.", ge=0.0)
    momentum: Number = _asked(
        0.9, "knob", 'Heavy-ball momentum (Polyak 1964); used by optimizer "momentum".'
    )
    decay: Number = _asked(
        0.9, "knob", 'Decay rate of the mean square gradient; used by optimizer "rmsprop".'
    )
    b1: Number = _asked(
        0.9, "knob", 'Decay rate of the first moment (Kingma and Ba 2015); used by "adam".'
    )
    b2: Number = _asked(
        0.999, "knob", 'Decay rate of the second moment (Kingma and Ba 2015); used by "adam".'
    )
    optimizer_epsilon: Number = _asked(
        1e-8, "knob", 'Keeps the update\'s divisor from zero; used by "rmsprop" and "adam".', ge=0.0
    )
    trained_margin: Number = _asked(
        0.05, "rule",
        "A finite run is `trained` when its final loss is below (1 - trained_margin) times the "
        "loss of the best constant predictor.",
        ge=0.0, lt=1.0,
    )  # fmt: skip
    diverged_factor: Number = _asked(
        10.0, "rule",
        "A finite run that is not `trained` is `diverged` when its final loss is above "
        "diverged_factor times its initial loss, and otherwise `stalled`.",
        gt=1.0,
    )  # fmt: skip


class Training(EveryRun, frozen=True, extra="forbid"):
    """What may be asked of a supervised training."""

    task: Annotated[str, Choice(TASKS.keys)] = _asked(
        "digits", "static", "Data set that scikit-learn bundles: real, and there offline."
    )
    standardize: Switch = _asked(
        True, "static", "Whether each feature is brought to mean 0 and standard deviation 1."
    )
    input_scale: Number = _asked(1.0, "knob", "Multiplies the inputs, after standardize.")
    model: Annotated[str, Choice(MODELS.keys)] = _asked("mlp", "static", "Network.")
    depth: Whole = _asked(2, "static", "Number of hidden layers.", ge=1, le=1000)
    width: Whole = _asked(32, "static", "Number of units in each hidden layer.", ge=1, le=65_536)
    activation: Annotated[str, Choice(ACTIVATIONS.keys)] = _asked(
        "relu", "static", "Activation of the hidden layers."
    )
    negative_slope: Number = _asked(
        0.01, "knob", 'Slope below zero (Maas et al. 2013); used by activation "leaky_relu".'
    )
    initializer: Annotated[str, Choice(INITIALIZERS.keys)] = _asked(
        "lecun_normal", "static", "Distribution of the initial weights."
    )
    init_scale: Number = _asked(1.0, "knob", "Multiplies the initial weights.")
    loss: Annotated[str, Choice(LOSSES.keys)] = _asked(
        "softmax_cross_entropy", "static", "Loss, the mean over a batch."
    )
    batch_size: BatchSize = _asked(
        32, "static",
        'Number of examples in a batch, sampled with replacement, or "full" for all of them.',
    )  # fmt: skip


class Quadratic(EveryRun, frozen=True, extra="forbid"):
    """What may be asked of plain iteration on curvature * x^2 / 2, the exact oracle."""

    curvature: Number = _asked(1.0, "knob", "Second derivative of the loss.")
    x0: Number = _asked(1.0, "knob", "Initial value of x.")


PROBLEMS: dict[str, type[EveryRun]] = {"training": Training, "quadratic": Quadratic}


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One thing that may be asked of a run.

    Attributes:
        name: the key in a grid file, and the column in the tables.
        type: what pydantic validates a value against, strictly; an int becomes a float where a
            float is asked for, and -0.0 becomes 0.0, so that equal values are one run.
        kinds: the Python types that a valid value may have.
        default: its value where a grid does not say; never to be changed.
        role: what it does to a run.
        doc: one sentence, with the unit and the source where there is one.
        problems: names of the problems it belongs to.
    """

    name: str
    type: Any
    kinds: tuple[type[Value], ...]
    default: Value
    role: Role
    doc: str
    problems: tuple[str, ...]

    @property
    def is_number(self) -> bool:
        """Whether some of its values can be counted or measured."""
        return int in self.kinds or float in self.kinds


def _parameter(name: str, field: FieldInfo) -> Parameter:
    # The one annotation that is not a class is the union of a batch's size and "full".
    kinds = (field.annotation,) if isinstance(field.annotation, type) else (int, str)
    declared = field.rebuild_annotation()
    is_float = kinds == (float,)
    return Parameter(
        name=name,
        type=Annotated[declared, AfterValidator(_without_sign_of_zero)] if is_float else declared,
        kinds=cast(tuple[type[Value], ...], kinds),
        default=field.default,
        role=cast(dict[str, Role], field.json_schema_extra)["role"],
        doc=field.description or "",
        problems=tuple(key for key, model in PROBLEMS.items() if name in model.model_fields),
    )


def _parameters() -> dict[str, Parameter]:
    fields = dict(EveryRun.model_fields)
    for model in PROBLEMS.values():
        fields |= {name: field for name, field in model.model_fields.items() if name not in fields}
    return {name: _parameter(name, field) for name, field in fields.items()}


PARAMETERS: Mapping[str, Parameter] = MappingProxyType(_parameters())
"""Every parameter, in the order of the tables' columns: shared ones first."""
