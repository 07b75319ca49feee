"""[search] and [refine] -> along which axes a grid is made finer where its outcome changes.

A grid with one of these tables is a coarse pass; what its runs come to decides which runs are
next. Here is what the tables accept, and what of them does not suit the grid.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import accumulate
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    GetJsonSchemaHandler,
    Strict,
)
from pydantic_core import CoreSchema

from nanlab.grid.axes import AxisForm, Count, Linspace, Logspace, expanded
from nanlab.grid.outcome import RAN, Outcome
from nanlab.grid.parameter_types import Choice, Number
from nanlab.grid.parameters import PARAMETERS
from nanlab.grid.scale import KINDS, Kind, Scale, parts

FINDS = tuple(
    f"{which} that {does}" for does in ("trains", "fails") for which in ("largest", "smallest")
)
BETWEEN = ("trains", "outcomes")
TOLERANCE = 0.01
"""In log10; a tolerance on a linear scale has to be said."""


class _Twice:
    """For each of two axes: one for both, or a list of two."""

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        both = handler(schema)
        return {"anyOf": [both["items"], both]}


def _twice(value: Any) -> Any:
    return value if isinstance(value, list) or value is None else [value, value]


_TWO = Field(min_length=2, max_length=2)
_BOTH = BeforeValidator(_twice)

Tolerance = Annotated[Number, Field(gt=0)]
Tolerances = Annotated[list[Tolerance], _TWO, _BOTH, _Twice()]
ScaleKind = Annotated[str, Choice(lambda: KINDS)]
ScaleKinds = Annotated[list[ScaleKind], _TWO, _BOTH, _Twice()]
Several = Annotated[Count, Field(ge=2, le=1_000_000)]
Severals = Annotated[list[Several], _TWO, _BOTH, _Twice()]
AxisName = Annotated[str, Strict()]

_TRAINS = "Which outcomes count as training; all others fail."
_TOLERANCE = (
    "How near together two neighbors of different outcome must be: in log10 (0.01 where left out), "
    "or on a linear scale in the axis's own unit."
)
_SCALE = "log or linear; where left out, log for logspace and for lists of positive numbers."
_COARSE = "So many values between the axis's ends as the coarse pass, in place of its own."


class Search(BaseModel, frozen=True, extra="forbid"):
    """Finds for every other point where, along one axis, runs begin or cease to train."""

    axis: Annotated[AxisName, Field(description="The axis, a number under [axes].")]
    finds: Annotated[str, Choice(lambda: FINDS), Field(description="Which value is asked for.")] = (
        FINDS[0]
    )
    trains: Annotated[
        list[Annotated[str, Choice(lambda: RAN)]], Field(min_length=1, description=_TRAINS)
    ] = [Outcome.TRAINED]
    tolerance: Annotated[Tolerance | None, Field(description=_TOLERANCE)] = None
    scale: Annotated[ScaleKind | None, Field(description=_SCALE)] = None
    coarse: Annotated[Several | None, Field(description=_COARSE)] = None

    @property
    def axes(self) -> Sequence[str]:
        """The axes that are made finer."""
        return [self.axis]

    def said(self, key: str, axis: str) -> Any:
        """What `key` says about `axis`, or None."""
        return getattr(self, key)


class Refine(BaseModel, frozen=True, extra="forbid"):
    """Samples the plane of two axes ever finer where the outcome changes."""

    axes: Annotated[
        list[AxisName],
        Field(min_length=2, max_length=2, description="Two axes, numbers under [axes]."),
    ]
    between: Annotated[
        str,
        Choice(lambda: BETWEEN),
        Field(description="What is told apart: what trains and what fails, or all outcomes."),
    ] = BETWEEN[0]
    trains: Annotated[
        list[Annotated[str, Choice(lambda: RAN)]], Field(min_length=1, description=_TRAINS)
    ] = [Outcome.TRAINED]
    tolerance: Annotated[Tolerances | None, Field(description=_TOLERANCE)] = None
    scale: Annotated[ScaleKinds | None, Field(description=_SCALE)] = None
    coarse: Annotated[Severals | None, Field(description=_COARSE)] = None

    def said(self, key: str, axis: str) -> Any:
        """What `key` says about `axis`, or None."""
        both = getattr(self, key)
        return None if both is None else both[self.axes.index(axis)]


@dataclass(frozen=True, kw_only=True, eq=False)
class RefinedAxis:
    """An axis that is made finer: its numbers at the tolerance, counted from its first value.

    Attributes:
        name: the parameter.
        scale: the continuum that they are taken from.
        tolerance: how near together two of them are at most.
        parts: into how many steps each distance between two values of the coarse pass is cut.
        coarse: the places of the coarse pass's values; the last is that of the axis's end.
    """

    name: str
    scale: Scale
    tolerance: float
    parts: tuple[int, ...]
    coarse: tuple[int, ...]
    _numbers: dict[int, float] = field(default_factory=dict[int, float])

    def number(self, place: int) -> float:
        """The number at a place."""
        if place not in self._numbers:
            self._numbers[place] = self._number(place)
        return self._numbers[place]

    def _number(self, place: int) -> float:
        step = bisect_right(self.coarse, place) - 1
        if place == self.coarse[step]:
            return self.scale.number(step, Fraction(0))
        return self.scale.number(step, Fraction(place - self.coarse[step], self.parts[step]))


def coarse_form(form: AxisForm, table: Search | Refine, name: str) -> AxisForm:
    """The axis as the coarse pass has it.

    Raises:
        ValueError: the axis holds what does not suit its parameter.
    """
    many = table.said("coarse", name)
    if many is None:
        return form
    values = [float(value) for value in expanded(PARAMETERS[name], form)]
    ends = [values[0], values[-1]]
    if kind_of_axis(form, table, name) == "log" and min(ends) > 0:
        return Logspace(logspace=ends, num=many)
    return Linspace(linspace=ends, num=many)


def kind_of_axis(form: AxisForm, table: Search | Refine, name: str) -> Kind:
    """The scale on which the axis is made finer."""
    if (asked := table.said("scale", name)) is not None:
        return asked
    if isinstance(form, list):
        positive = all(not isinstance(each, str) and each > 0 for each in form)
        return "log" if positive else "linear"
    return "log" if isinstance(form, Logspace) else "linear"


def directions_of(
    table: Search | Refine | None, axes: Mapping[str, AxisForm]
) -> Iterator[RefinedAxis]:
    """The axes of a valid grid that are made finer, in the table's order.

    Args:
        table: what the grid asks for; None where it is a plain grid.
        axes: the grid's, as they are written.
    """
    for name in () if table is None else table.axes:
        assert table is not None
        scale = Scale(coarse_form(axes[name], table, name), kind_of_axis(axes[name], table, name))
        tolerance = table.said("tolerance", name) or TOLERANCE
        cut = [parts(width, tolerance) for width in scale.widths]
        yield RefinedAxis(
            name=name, scale=scale, tolerance=tolerance, parts=tuple(cut),
            coarse=tuple(accumulate(cut, initial=0)),
        )  # fmt: skip
