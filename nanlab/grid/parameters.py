"""Every parameter of a run by name, with its type, default, role and meaning.

The models in `parameter_models` are the only declaration of the parameters: validation of grid
files, the JSON Schema, the plan's columns and the runs' identities all derive from them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, cast

from pydantic import AfterValidator
from pydantic.fields import FieldInfo

from nanlab.grid.parameter_models import (
    PROBLEMS,
    USER_CODE_EXAMPLES,
    USER_DEFINED,
    USER_DEFINED_PARAMETERS,
    EveryRun,
)
from nanlab.grid.parameter_types import Choice, Number, ParameterValue, Role, Scalar
from nanlab.parts.listing import PARTS, read_by


def _without_sign_of_zero(value: float) -> float:
    return value + 0.0


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One parameter of a run.

    Attributes:
        name: key in a grid file, and column in the tables.
        type: type that pydantic validates a value against, strictly; it turns an int into a
            float for float parameters and -0.0 into 0.0, so that equal values are one run.
        kinds: Python types that a valid value may have.
        default: value where the grid gives none, which never changes; None for a parameter of a
            user-defined problem, whose default is in the user's code.
        role: what it does to a run.
        doc: one sentence, with the unit and the source where there is one.
        problems: names of the problems that have it.
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
        """Whether it accepts numbers."""
        return int in self.kinds or float in self.kinds


def _parameter(name: str, field: FieldInfo) -> Parameter:
    # The only annotation that is not a class is the union of a batch size and "full".
    kinds = (field.annotation,) if isinstance(field.annotation, type) else (int, str)
    types: dict[object, Any] = {
        (float,): Annotated[field.rebuild_annotation(), AfterValidator(_without_sign_of_zero)],
        (str,): _choice(name),
    }
    sentence, readers = field.description or "", read_by(name)
    return Parameter(
        name=name,
        type=types.get(kinds) or field.rebuild_annotation(),
        kinds=cast(tuple[type[ParameterValue], ...], kinds),
        default=field.default,
        role=cast(dict[str, Role], field.json_schema_extra)["role"],
        doc=f"{sentence.rstrip('.')}; used by {readers}." if readers else sentence,
        problems=(
            *(key for key, model in PROBLEMS.items() if name in model.model_fields),
            *([USER_DEFINED] if name in USER_DEFINED_PARAMETERS else []),
        ),
    )


def _choice(name: str) -> Any:
    """Return the type of a parameter that names a part or a problem."""
    names = PARTS.get(name, PROBLEMS).keys
    endings = (".npz", ".parquet") if name == "task" else ()
    return Annotated[str, Choice(names, USER_CODE_EXAMPLES.get(name), endings)]


def _user_defined(name: str) -> Parameter:
    """Return the parameter `knobs.alpha` or `static.order` of a user-defined problem."""
    is_knob = name.startswith("knobs.")
    return Parameter(
        name=name,
        type=Annotated[Number, AfterValidator(_without_sign_of_zero)] if is_knob else Scalar,
        kinds=(float,) if is_knob else (bool, int, float, str),
        default=None,
        role="knob" if is_knob else "static",
        doc=f"A {'knob' if is_knob else 'static'} of a user-defined problem.",
        problems=(USER_DEFINED,),
    )


class _Parameters(Mapping[str, Parameter]):
    """The declared parameters; user-defined ones (`knobs.alpha`) are created on lookup.

    Only the declared ones are counted and iterated over.
    """

    def __init__(self, declared: dict[str, Parameter]) -> None:
        self._declared = declared
        self._user_defined: dict[str, Parameter] = {}

    def __getitem__(self, name: str) -> Parameter:
        if name not in self._declared and is_user_defined(name):
            return self._user_defined.setdefault(name, _user_defined(name))
        return self._declared[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._declared)

    def __len__(self) -> int:
        return len(self._declared)


def is_user_defined(name: object) -> bool:
    """Return whether a parameter belongs to user code: `knobs.alpha`, `static.order`."""
    return isinstance(name, str) and re.fullmatch(r"(knobs|static)\.[A-Za-z_]\w*", name) is not None


def kind_of(problem: ParameterValue | None) -> str:
    """Return a built-in problem's own name, or "own" for one like "my_module:make_problem"."""
    return str(problem) if problem in PROBLEMS else USER_DEFINED


def _declared() -> dict[str, Parameter]:
    fields = dict(EveryRun.model_fields)
    for model in PROBLEMS.values():
        fields |= {name: field for name, field in model.model_fields.items() if name not in fields}
    return {name: _parameter(name, field) for name, field in fields.items()}


PARAMETERS: Mapping[str, Parameter] = _Parameters(_declared())
"""Every declared parameter, in the order of the tables' columns: shared ones first."""
