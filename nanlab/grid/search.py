"""[search] and [refine]: the axes that are sampled more finely where the outcome changes.

A grid with one of these tables is a coarse pass, whose outcomes decide which runs come next. This
module defines what the tables accept and the fine axes that they stand for.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import accumulate
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field, GetJsonSchemaHandler, Strict
from pydantic_core import CoreSchema

from nanlab.grid.axes import AxisForm, Linspace, Logspace, expanded
from nanlab.grid.outcome import RAN, Outcome
from nanlab.grid.parameter_types import Choice, Number, Whole
from nanlab.grid.parameters import PARAMETERS
from nanlab.grid.scale import KINDS, Kind, Scale, subdivisions

FINDS = tuple(
    f"{end} that {verb}" for verb in ("trains", "fails") for end in ("largest", "smallest")
)
BETWEEN = ("trains", "outcomes")
TOLERANCE = 0.01
"""Default tolerance on a log scale, in log10; a linear scale has no default."""


class _OneOrTwo:
    """A setting of two axes: one value for both, or a list of two."""

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        both = handler(schema)
        return {"anyOf": [both["items"], both]}


def _pair(value: Any) -> Any:
    return value if isinstance(value, list) or value is None else [value, value]


_TWO = Field(min_length=2, max_length=2)
_BOTH = BeforeValidator(_pair)

Tolerance = Annotated[Number, Field(gt=0)]
Tolerances = Annotated[list[Tolerance], _TWO, _BOTH, _OneOrTwo()]
ScaleKind = Annotated[str, Choice(lambda: KINDS)]
ScaleKinds = Annotated[list[ScaleKind], _TWO, _BOTH, _OneOrTwo()]
CoarseCount = Annotated[Whole, Field(ge=2, le=1_000_000)]
CoarseCounts = Annotated[list[CoarseCount], _TWO, _BOTH, _OneOrTwo()]
AxisName = Annotated[str, Strict()]
TrainingOutcomes = Annotated[
    list[Annotated[str, Choice(lambda: RAN)]],
    Field(
        min_length=1, description="Outcomes that count as training; all others count as failing."
    ),
]

_TOLERANCE = (
    "Maximum distance between neighboring values with different outcomes: in log10 on a log scale "
    "(default 0.01), in the axis's own unit on a linear scale."
)
_SCALE = (
    "log or linear; the default is log for logspace and for lists of positive numbers, and linear "
    "otherwise."
)
_COARSE = "Number of values of the coarse pass, spaced between the axis's end points."


class Search(BaseModel, frozen=True, extra="forbid"):
    """Find, for every point of the other axes, where runs start or stop training along one axis."""

    axis: AxisName = Field(description="Name of a numeric axis under [axes].")
    finds: Annotated[str, Choice(lambda: FINDS)] = Field(
        default=FINDS[0], description="The value to find."
    )
    trains: TrainingOutcomes = [Outcome.TRAINED]
    tolerance: Tolerance | None = Field(default=None, description=_TOLERANCE)
    scale: ScaleKind | None = Field(default=None, description=_SCALE)
    coarse: CoarseCount | None = Field(default=None, description=_COARSE)

    @property
    def axes(self) -> Sequence[str]:
        """The searched axes."""
        return [self.axis]

    def setting(self, key: str, axis: str) -> Any:
        """Return the value of `key` for `axis`, or None."""
        return getattr(self, key)


class Refine(BaseModel, frozen=True, extra="forbid"):
    """Sample the plane of two axes more finely wherever the outcome changes."""

    axes: list[AxisName] = Field(
        min_length=2, max_length=2, description="Names of two numeric axes under [axes]."
    )
    between: Annotated[str, Choice(lambda: BETWEEN)] = Field(
        default=BETWEEN[0],
        description="Boundaries to follow: between training and failing, or all outcomes.",
    )
    trains: TrainingOutcomes = [Outcome.TRAINED]
    tolerance: Tolerances | None = Field(default=None, description=_TOLERANCE)
    scale: ScaleKinds | None = Field(default=None, description=_SCALE)
    coarse: CoarseCounts | None = Field(default=None, description=_COARSE)

    def setting(self, key: str, axis: str) -> Any:
        """Return the value of `key` for `axis`, or None."""
        both = getattr(self, key)
        return None if both is None else both[self.axes.index(axis)]


@dataclass(frozen=True, kw_only=True, eq=False)
class SearchedAxis:
    """A searched axis at its tolerance, as ticks: integers that count from its first value.

    Attributes:
        name: parameter of the axis.
        scale: continuum that the axis samples.
        tolerance: maximum distance between two ticks.
        subdivisions: number of ticks from each value of the coarse pass to the next.
        coarse: ticks of the coarse pass's values; the last is the end of the axis.
    """

    name: str
    scale: Scale
    tolerance: float
    subdivisions: tuple[int, ...]
    coarse: tuple[int, ...]
    _numbers: dict[int, float] = field(default_factory=dict[int, float])

    def number(self, tick: int) -> float:
        """Return the number at a tick."""
        if tick not in self._numbers:
            step = bisect_right(self.coarse, tick) - 1
            # The last value begins no step.
            parts = 1 if tick == self.coarse[step] else self.subdivisions[step]
            self._numbers[tick] = self.scale.number(step, Fraction(tick - self.coarse[step], parts))
        return self._numbers[tick]


def coarse_form(form: AxisForm, table: Search | Refine, name: str) -> AxisForm:
    """Return the axis of the coarse pass: as written, or `coarse` values between its ends."""
    count = table.setting("coarse", name)
    if count is None:
        return form
    values = [float(value) for value in expanded(PARAMETERS[name], form)]
    ends = [values[0], values[-1]]
    if kind_of_axis(form, table, name) == "log" and min(ends) > 0:
        return Logspace(logspace=ends, num=count)
    return Linspace(linspace=ends, num=count)


def kind_of_axis(form: AxisForm, table: Search | Refine, name: str) -> Kind:
    """Return the scale on which an axis is searched."""
    if (kind := table.setting("scale", name)) is not None:
        return kind
    if isinstance(form, list):
        positive = all(not isinstance(value, str) and value > 0 for value in form)
        return "log" if positive else "linear"
    return "log" if isinstance(form, Logspace) else "linear"


def searched_axes(table: Search | Refine, axes: Mapping[str, AxisForm]) -> Iterator[SearchedAxis]:
    """Yield the searched axes of a valid grid, in the table's order."""
    for name in table.axes:
        scale = Scale(coarse_form(axes[name], table, name), kind_of_axis(axes[name], table, name))
        tolerance = table.setting("tolerance", name) or TOLERANCE
        counts = tuple(subdivisions(width, tolerance) for width in scale.widths)
        yield SearchedAxis(
            name=name, scale=scale, tolerance=tolerance, subdivisions=counts,
            coarse=tuple(accumulate(counts, initial=0)),
        )  # fmt: skip
