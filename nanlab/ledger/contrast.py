"""Tables inside [claim]: the condition that is counted, and the pairs that are compared."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from nanlab.grid.outcome import Outcome

Values = dict[str, Any]


class ClaimTable(BaseModel):
    """A table of a claim's file; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class Measure(ClaimTable):
    """A condition on a run: all that are given must hold.

    Attributes:
        outcome: outcomes, one of which the run must have.
        column: column of `runs` to compare.
        to: column to divide `column` by.
        above: lower bound; false for a run without the number.
        below: upper bound; false for a run without the number.
        equals: columns of `runs` and their required values.
    """

    outcome: tuple[Outcome, ...] = ()
    column: str | None = None
    to: str | None = None
    above: float | None = None
    below: float | None = None
    equals: Values = {}


class Contrast(ClaimTable):
    """Pairs of runs that differ only in one factor.

    Attributes:
        with_: parameters and values of the side with the factor; or a list of alternatives, each
            paired by all parameters but its own.
        without: parameters and values of the side without the factor.
        names: names of the alternatives on the side `with`, each with the values that tell it from
            the others; the strata may then have "factor", which is that name.
        with_is: the side `with` in words; by default made from its values.
        without_is: the side `without` in words.
        swapped: parameters and values of the runs for which the two sides change places.
        move: instead of both, an axis and the number of values by which the side `with` is shifted.
        at_least: smallest effect that counts; negative if the claim is that something gets rarer.
        of_failed: whether only runs whose side `without` had a fault are compared (a cure).
        placebos: moves that a cure must beat, in addition to a fresh seed.
        random_of: moves of the cure's length, of which each run gets a random one, to beat too.
    """

    with_: Values | tuple[Values, ...] = Field(default={}, alias="with")
    without: Values = {}
    names: dict[str, Values] = {}
    with_is: str = ""
    without_is: str = ""
    swapped: Values = Field(default={})
    move: dict[str, int] = {}
    at_least: float
    of_failed: bool = False
    placebos: tuple[dict[str, int], ...] = ()
    random_of: tuple[dict[str, int], ...] = ()

    @property
    def alternatives(self) -> tuple[Values, ...]:
        """The sides with the factor."""
        return self.with_ if isinstance(self.with_, tuple) else (self.with_,)
