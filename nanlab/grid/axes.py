"""`{ logspace = [a, b], num = n }` -> values: the ways to write an axis, exactly.

Every value is the float nearest to the exact one, whatever the machine's libm: values are part
of a run's identity, and `lr = 0.001` must find the third of `{ logspace = [1e-5, 0.1], num = 5 }`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from decimal import Context, Decimal
from fractions import Fraction
from functools import cache
from itertools import accumulate, repeat
from typing import Annotated, Any, TypeGuard, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    FailFast,
    Field,
    TypeAdapter,
    ValidationError,
    WrapValidator,
)

from nanlab.grid.errors import sentence_of, shown
from nanlab.grid.parameter_types import LARGEST_INT, Number, ParameterValue, Whole, sentence_error
from nanlab.grid.parameters import Parameter

POINT_LIMIT = 20_000_000
"""The most points that a study may have, those that it excludes included."""

# Ratios are multiplied up, an error of at most one unit in the last of these digits each time.
EXACT = Context(prec=60)

# A logspace's value this near to a whole number (relatively) is that number.
_ROUNDING = Decimal("1e-40")

# The end points are floats; beyond this, floats and whole numbers are not one to one.
_LARGEST_EXACT = 2**53

Integer = Annotated[Whole, Field(ge=-LARGEST_INT, le=LARGEST_INT)]
Count = Annotated[Whole, Field(ge=1, le=LARGEST_INT)]
Ends = Annotated[list[Number], Field(min_length=2, max_length=2)]
PositiveEnds = Annotated[list[Annotated[Number, Field(gt=0)]], Field(min_length=2, max_length=2)]


class _Form(BaseModel, frozen=True, extra="forbid"):
    """A way to write an axis other than a list of its values."""


class Linspace(_Form, frozen=True):
    """Numbers at equal distances, both end points included."""

    linspace: Annotated[Ends, Field(description="First and last value.")]
    num: Annotated[Count, Field(description="How many values.")]

    @property
    def many(self) -> int:
        """How many values there are."""
        return self.num

    def _quotients(self) -> tuple[Iterator[int], int]:
        """The values before they are rounded: what is above the line, and what below it."""
        (a, p), (b, q) = (Decimal(repr(end)).as_integer_ratio() for end in self.linspace)
        first, last, steps = a * q, b * p, max(self.num - 1, 1)
        return (first * steps + (last - first) * i for i in range(self.num)), p * q * steps

    def exact(self) -> Sequence[Fraction]:
        """The values before they are rounded to floats."""
        above, below = self._quotients()
        return [Fraction(n, below) for n in above]

    def values(self) -> Sequence[int | float]:
        """The values, in order; whole ones are int.  One value is the first end point."""
        above, below = self._quotients()
        # Python divides integers to the nearest float, however large they are.
        return [_quotient(n, below) for n in above]


class Logspace(_Form, frozen=True):
    """Numbers at equal ratios, both end points (not exponents) included."""

    logspace: Annotated[PositiveEnds, Field(description="First and last value, not exponents.")]
    num: Annotated[Count, Field(description="How many values.")]

    @property
    def many(self) -> int:
        """How many values there are."""
        return self.num

    def exact(self) -> Sequence[Decimal]:
        """The values before they are rounded to floats, to 58 digits at least."""
        first, last = (Decimal(repr(end)) for end in self.logspace)
        ratio = EXACT.power(EXACT.divide(last, first), EXACT.divide(1, max(self.num - 1, 1)))
        between = repeat(ratio, max(self.num - 2, 0))
        values = list(accumulate(between, EXACT.multiply, initial=first))
        return values if self.num == 1 else [*values, last]

    def values(self) -> Sequence[int | float]:
        """The values, in order; whole ones are int.  One value is the first end point."""
        return [number_of(value) for value in self.exact()]


def _quotient(above: int, below: int) -> int | float:
    whole, rest = divmod(above, below)
    return above / below if rest or abs(whole) > _LARGEST_EXACT else whole


def number_of(value: Decimal) -> int | float:
    """The float nearest to `value`, or the whole number that it is but for its rounding."""
    whole = value.to_integral_value()
    is_whole = abs(value - whole) <= whole * _ROUNDING and whole <= _LARGEST_EXACT
    return int(whole) if is_whole else float(value)


def _bounds(value: Any, handler: Callable[[Any], int | list[int]]) -> int | list[int]:
    try:
        return handler(value)
    except ValueError as error:
        raise sentence_error(
            "must be a count, 1 or more, or whole numbers [start, stop] or [start, stop, step]"
        ) from error


def _not_empty(bounds: int | list[int]) -> int | list[int]:
    if isinstance(bounds, list) and bounds[2:] == [0]:
        raise sentence_error("has step 0; a step must lead from start to stop")
    if not _range(bounds):
        raise sentence_error("is empty; stop is not part of it")
    return bounds


def _range(bounds: int | list[int]) -> range:
    return range(*bounds) if isinstance(bounds, list) else range(bounds)


Bounds = Annotated[
    Count | Annotated[list[Integer], Field(min_length=2, max_length=3)],
    WrapValidator(_bounds),
    AfterValidator(_not_empty),
]


class Range(_Form, frozen=True):
    """Whole numbers as Python's `range` counts them: stop is not part of it."""

    range: Annotated[Bounds, Field(description="n, [start, stop] or [start, stop, step].")]

    @property
    def many(self) -> int:
        """How many values there are."""
        values = _range(self.range)
        return (values[-1] - values[0]) // values.step + 1

    def values(self) -> Sequence[int]:
        """The values, in order; a `range`, so that a million seeds take no memory."""
        return _range(self.range)


FORMS: dict[str, type[Linspace | Logspace | Range]] = {
    "linspace": Linspace,
    "logspace": Logspace,
    "range": Range,
}
"""The forms by the key that tells them apart."""

AxisForm = list[ParameterValue] | Linspace | Logspace | Range
"""An axis as it was written, its values not yet known to suit their parameter unless listed."""


def is_form(value: ParameterValue | AxisForm) -> TypeGuard[AxisForm]:
    """Whether `value` is an axis, and not one value."""
    return isinstance(value, list | Linspace | Logspace | Range)


def is_value(value: ParameterValue | AxisForm) -> TypeGuard[ParameterValue]:
    """Whether `value` is one value, and not an axis."""
    return not is_form(value)


def expanded(parameter: Parameter, form: AxisForm) -> Sequence[ParameterValue]:
    """The values of an axis of `parameter`, in order; a `range` where that holds them.

    Raises:
        ValueError: a sentence about a value that does not suit, or about too many values.
    """
    if isinstance(form, list):
        return form
    if form.many > POINT_LIMIT:
        raise ValueError(f"{form.many} values; a study holds at most {POINT_LIMIT} points")
    values = form.values()
    # The limits of a whole number are limits of its range's ends.
    is_range = isinstance(values, range) and parameter.kinds == (int,)
    tried = [values[0], values[-1]] if is_range else list(values)
    try:
        valid = _valid_list_of(parameter)(tried)
    except ValidationError as invalid:
        error = invalid.errors(include_url=False)[0]
        raise ValueError(f"gives {shown(error['input'])}; it {sentence_of(error)}") from None
    return values if is_range else valid


@cache
def _valid_list_of(
    parameter: Parameter,
) -> Callable[[Sequence[ParameterValue]], list[ParameterValue]]:
    # Of a long list only the first error is told, so no other is looked for.
    many: Any = Annotated[list[parameter.type], FailFast()]
    return TypeAdapter(many).validate_python


Item = TypeVar("Item")


def repeated(values: Sequence[Item]) -> Item | None:
    """The first value that `values` holds more than once, or None."""
    if isinstance(values, range) or len(set(values)) == len(values):
        return None
    counts = Counter(values)
    return next(value for value in values if counts[value] > 1)
