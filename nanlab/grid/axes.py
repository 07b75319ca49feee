"""`{ logspace = [a, b], num = n }` -> values: the forms of an axis, expanded exactly.

Every value is the float nearest to the exact one, regardless of the machine's libm: values are
part of a run's identity, and `lr = 0.001` must match the third value of
`{ logspace = [1e-5, 0.1], num = 5 }`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from decimal import Context, Decimal
from fractions import Fraction
from functools import cache
from itertools import accumulate, repeat
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    FailFast,
    Field,
    TypeAdapter,
    ValidationError,
)
from typing_extensions import TypeIs

from nanlab.grid.errors import sentence_of, shown
from nanlab.grid.parameter_types import (
    LARGEST_INT,
    Number,
    ParameterValue,
    Whole,
    or_sentence,
    sentence_error,
)
from nanlab.grid.parameters import Parameter

POINT_LIMIT = 20_000_000
"""Maximum number of points of a study, excluded ones included."""

VALUE_LIMIT = 1_000_000
"""Maximum `num` of a linspace or logspace; expanding that many takes about two seconds."""

# Ratios are multiplied repeatedly; each product adds at most one unit in the last digit.
EXACT = Context(prec=60)

# A logspace value within this relative distance of a whole number is that number.
_ROUNDING = Decimal("1e-40")

# Above this, floats no longer represent every whole number.
_LARGEST_EXACT = 2**53

Integer = Annotated[Whole, Field(ge=-LARGEST_INT, le=LARGEST_INT)]
Count = Annotated[Whole, Field(ge=1, le=LARGEST_INT)]
Num = Annotated[
    Whole, Field(ge=1, le=VALUE_LIMIT, description="Number of values, end points included.")
]
Ends = Annotated[list[Number], Field(min_length=2, max_length=2)]
PositiveEnds = Annotated[list[Annotated[Number, Field(gt=0)]], Field(min_length=2, max_length=2)]


class _Form(BaseModel, frozen=True, extra="forbid"):
    """A form of an axis other than a list of values."""


class Linspace(_Form, frozen=True):
    """Equally spaced numbers, both end points included."""

    linspace: Annotated[Ends, Field(description="First and last value.")]
    num: Num

    def _quotients(self) -> tuple[Iterator[int], int]:
        """Return the exact values as fractions: their numerators, and their common denominator."""
        (a, p), (b, q) = (Decimal(repr(end)).as_integer_ratio() for end in self.linspace)
        first, last, steps = a * q, b * p, max(self.num - 1, 1)
        return (first * steps + (last - first) * i for i in range(self.num)), p * q * steps

    def exact(self) -> Sequence[Fraction]:
        """Return the values before rounding to floats."""
        numerators, denominator = self._quotients()
        return [Fraction(n, denominator) for n in numerators]

    def values(self) -> Sequence[int | float]:
        """Return the values in order, whole ones as int; a single value is the first end point."""
        numerators, denominator = self._quotients()
        # Python rounds the quotient of two integers to the nearest float, however large they are.
        return [_quotient(n, denominator) for n in numerators]


class Logspace(_Form, frozen=True):
    """Geometrically spaced numbers, both end points (not exponents) included."""

    logspace: Annotated[PositiveEnds, Field(description="First and last value, not exponents.")]
    num: Num

    def exact(self) -> Sequence[Decimal]:
        """Return the values before rounding to floats, to at least 58 digits."""
        first, last = (Decimal(repr(end)) for end in self.logspace)
        ratio = EXACT.power(EXACT.divide(last, first), EXACT.divide(1, max(self.num - 1, 1)))
        between = repeat(ratio, max(self.num - 2, 0))
        values = list(accumulate(between, EXACT.multiply, initial=first))
        return values if self.num == 1 else [*values, last]

    def values(self) -> Sequence[int | float]:
        """Return the values in order, whole ones as int; a single value is the first end point."""
        return [number_of(value) for value in self.exact()]


def _quotient(numerator: int, denominator: int) -> int | float:
    whole, rest = divmod(numerator, denominator)
    return numerator / denominator if rest or abs(whole) > _LARGEST_EXACT else whole


def number_of(value: Decimal) -> int | float:
    """Return the float nearest to `value`, or the int that it equals up to round-off."""
    whole = value.to_integral_value()
    is_whole = abs(value - whole) <= whole * _ROUNDING and whole <= _LARGEST_EXACT
    return int(whole) if is_whole else float(value)


_BOUNDS = "must be a count, 1 or more, or whole numbers [start, stop] or [start, stop, step]"


def _not_empty(bounds: int | list[int]) -> int | list[int]:
    if isinstance(bounds, list) and bounds[2:] == [0]:
        raise sentence_error("has step 0; the step must lead from start to stop")
    if not _range(bounds):
        raise sentence_error("is empty: stop is exclusive")
    return bounds


def _range(bounds: int | list[int]) -> range:
    return range(*bounds) if isinstance(bounds, list) else range(bounds)


Bounds = Annotated[
    Count | Annotated[list[Integer], Field(min_length=2, max_length=3)],
    or_sentence(_BOUNDS),
    AfterValidator(_not_empty),
]


class Range(_Form, frozen=True):
    """Whole numbers as in Python's `range`; stop is exclusive."""

    range: Annotated[Bounds, Field(description="n, [start, stop] or [start, stop, step].")]

    @property
    def count(self) -> int:
        """Number of values; `len` fails beyond 2**63."""
        values = _range(self.range)
        return (values[-1] - values[0]) // values.step + 1

    def values(self) -> Sequence[int]:
        """Return the values in order, as a `range`, so that a million seeds take no memory."""
        return _range(self.range)


FORMS: dict[str, type[Linspace | Logspace | Range]] = {
    "linspace": Linspace,
    "logspace": Logspace,
    "range": Range,
}
"""The forms by their distinguishing key."""

AxisForm = list[ParameterValue] | Linspace | Logspace | Range
"""An axis as written; only a list's values have been validated against their parameter."""


def is_form(value: ParameterValue | AxisForm) -> TypeIs[AxisForm]:
    """Return whether `value` is an axis rather than one value."""
    return isinstance(value, list | Linspace | Logspace | Range)


def expanded(parameter: Parameter, form: AxisForm) -> Sequence[ParameterValue]:
    """Return the values of an axis, a `range` for a range of whole numbers.

    Raises:
        ValueError: there are too many values, or one is invalid; the message is for the user.
    """
    if isinstance(form, list):
        return form
    if isinstance(form, Range) and form.count > POINT_LIMIT:
        raise ValueError(f"{form.count} values; a study has at most {POINT_LIMIT} points")
    values = form.values()
    # Whole numbers are within the parameter's limits if the first and the last are.
    is_range = isinstance(values, range) and int in parameter.kinds
    checked = [values[0], values[-1]] if is_range else list(values)
    try:
        valid = _validator_of(parameter)(checked)
    except ValidationError as invalid:
        error = invalid.errors(include_url=False)[0]
        raise ValueError(f"gives {shown(error['input'])}; it {sentence_of(error)}") from None
    if is_range:
        return values if parameter.kinds == (int,) else list(values)
    return valid


@cache
def _validator_of(
    parameter: Parameter,
) -> Callable[[Sequence[ParameterValue]], list[ParameterValue]]:
    # Only the first error is reported, so validation stops there.
    values: Any = Annotated[list[parameter.type], FailFast()]
    return TypeAdapter(values).validate_python


Item = TypeVar("Item")


def repeated(values: Sequence[Item]) -> Item | None:
    """Return the first value that occurs more than once, or None."""
    if isinstance(values, range) or len(set(values)) == len(values):
        return None
    counts = Counter(values)
    return next(value for value in values if counts[value] > 1)
