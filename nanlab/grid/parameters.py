"""Name -> parameter: what may be asked of a run, with its type, default, role and meaning.

The models in `parameters_asked` are the only place that declares a parameter: the grid file's
validation, its JSON Schema, the plan's columns and a run's identity are all made from them. A
default must never change: a run's identity leaves out what is at its default (see `nanlab.plan`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, cast

from pydantic import AfterValidator
from pydantic.fields import FieldInfo

from nanlab.grid.parameter_models import OWN_HAS, PROBLEMS, USER_DEFINED, EveryRun
from nanlab.grid.parameter_types import Number, ParameterValue, Role, Scalar
from nanlab.parts.listing import read_by


def _without_sign_of_zero(value: float) -> float:
    return value + 0.0


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One thing that may be asked of a run.

    Attributes:
        name: the key in a grid file, and the column in the tables.
        type: what pydantic validates a value against, strictly; an int becomes a float where a
            float is asked for, and -0.0 becomes 0.0, so that equal values are one run.
        kinds: the Python types that a valid value may have.
        default: its value where a grid does not say, never to be changed; None for a person's
            own, whose default is in their code.
        role: what it does to a run.
        doc: one sentence, with the unit and the source where there is one.
        problems: names of the problems it belongs to.
    """

    name: str
    type: Any
    kinds: tuple[type[ParameterValue], ...]
    default: ParameterValue | None
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
        kinds=cast(tuple[type[ParameterValue], ...], kinds),
        default=field.default,
        role=cast(dict[str, Role], field.json_schema_extra)["role"],
        doc=_doc(name, field.description or ""),
        problems=(
            *(key for key, model in PROBLEMS.items() if name in model.model_fields),
            *([USER_DEFINED] if name in OWN_HAS else []),
        ),
    )


def _doc(name: str, sentence: str) -> str:
    readers = read_by(name)
    return f"{sentence.rstrip('.')}; used by {readers}." if readers else sentence


def _own(name: str) -> Parameter:
    """The parameter `knobs.alpha` or `static.order` of a person's own problem."""
    is_knob = name.startswith("knobs.")
    return Parameter(
        name=name,
        type=Annotated[Number, AfterValidator(_without_sign_of_zero)] if is_knob else Scalar,
        kinds=(float,) if is_knob else (bool, int, float, str),
        default=None,
        role="knob" if is_knob else "static",
        doc="A number of your own problem." if is_knob else "A choice of your own problem.",
        problems=(USER_DEFINED,),
    )


class _Parameters(Mapping[str, Parameter]):
    """The parameters that are declared; `knobs.alpha` and `static.order` are made when asked for.

    Only the declared ones are counted and iterated over.
    """

    def __init__(self, declared: dict[str, Parameter]) -> None:
        self._declared = declared
        self._made: dict[str, Parameter] = {}

    def __getitem__(self, name: str) -> Parameter:
        if name not in self._declared and is_user_defined(name):
            return self._made.setdefault(name, _own(name))
        return self._declared[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._declared)

    def __len__(self) -> int:
        return len(self._declared)


def is_user_defined(name: object) -> bool:
    """Whether a parameter's name is that of a person's own: `knobs.alpha`, `static.order`."""
    return isinstance(name, str) and re.fullmatch(r"(knobs|static)\.[A-Za-z_]\w*", name) is not None


def kind_of(problem: ParameterValue | None) -> str:
    """The kind of a problem: its own name, or "own" for one like "my_module:make_problem"."""
    return str(problem) if problem in PROBLEMS else USER_DEFINED


def _parameters() -> dict[str, Parameter]:
    fields = dict(EveryRun.model_fields)
    for model in PROBLEMS.values():
        fields |= {name: field for name, field in model.model_fields.items() if name not in fields}
    return {name: _parameter(name, field) for name, field in fields.items()}


PARAMETERS: Mapping[str, Parameter] = _Parameters(_parameters())
"""Every parameter, in the order of the tables' columns: shared ones first."""


def statics_off(problem: str) -> dict[str, ParameterValue]:
    """The statics of a run that asks for nothing: every default, and no option used."""
    return {
        name: each.default if each.role == "static" else False
        for name, each in PARAMETERS.items()
        if each.role in ("static", "option") and problem in each.problems
        if each.default is not None
    }
