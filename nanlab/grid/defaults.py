"""Defaults of parameters: the value of a run where its grid gives none, and what it leaves out.

A parameter at its default is left out of the run's identity, and an option at its default out of
the program as well. So a new parameter changes no existing run, provided that a default never
changes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped

from nanlab.grid.parameter_types import ParameterValue
from nanlab.grid.parameters import PARAMETERS


def with_defaults(values: Mapping[str, ParameterValue]) -> dict[str, ParameterValue | None]:
    """Return a value for every declared parameter: the given one or the default."""
    return {name: parameter.default for name, parameter in PARAMETERS.items()} | {**values}


def is_default(name: str, value: ParameterValue | None) -> bool:
    """Return whether a run's identity leaves out this value of a parameter."""
    return value == PARAMETERS[name].default


def static_value(name: str, value: Any) -> Any:
    """Return what the program depends on: the value, or for an option whether it is used."""
    return not is_default(name, value) if PARAMETERS[name].role == "option" else value


def default_statics(problem: str) -> dict[str, ParameterValue]:
    """Return the statics of a run of `problem` with every parameter at its default."""
    return {
        name: static_value(name, parameter.default)
        for name, parameter in PARAMETERS.items()
        if parameter.role in ("static", "option") and problem in parameter.problems
    }


def traced_parameters(problem: str) -> tuple[str, ...]:
    """Return the names of the knobs and options of `problem`: what its program traces."""
    return tuple(
        name
        for name, parameter in PARAMETERS.items()
        if parameter.role in ("knob", "option") and problem in parameter.problems
    )


def knob_values(
    column: Shaped[np.ndarray, " plan"] | None,
    runs: Int[np.ndarray, " runs"],
    default: float | None,
) -> Float[np.ndarray, " runs"]:
    """Return the values of a knob, with its default for the runs that set none."""
    if column is None:
        return np.full(len(runs), default, np.float64)
    values = column[runs]
    if values.dtype == object:
        values = np.array([default if value is None else value for value in values])
    return values.astype(np.float64)


def missing_defaults(
    names: Iterable[str], columns: Collection[str]
) -> dict[str, ParameterValue | None]:
    """Return the defaults of those parameters among `names` that have no column in a table."""
    missing = [name for name in names if name not in columns and name in PARAMETERS]
    return {name: PARAMETERS[name].default for name in missing}
