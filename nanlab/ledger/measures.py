"""Claim, question -> the condition on a run that answers it, and the difference that counts."""

from __future__ import annotations

from typing import Literal

import polars as pl

from nanlab.grid.outcome import FAILED, Outcome
from nanlab.ledger.claim import Claim
from nanlab.ledger.contrast import Measure
from nanlab.results.compare import completed

Question = Literal["faults", "trains", "measure"]

MOST_FREQUENT = {
    "digits": 0.102, "breast_cancer": 0.628, "wine": 0.399, "iris": 0.334, "images": 0.276,
    "teacher_classes": 0.287, "copy": 0.75,
}  # fmt: skip
"""Share of the most frequent class of each task with classes: the accuracy of a constant guess."""

WELL_ABOVE = 0.25
"""A run trains if its accuracy covers this part of the way from a constant guess to perfect.

For digits that is an accuracy of 0.33. On the batches of 64 by which it is measured, a constant
guess has a standard deviation of 0.04, so the rule lies five of them above chance.
"""


def questions_of(claim: Claim) -> tuple[Question, ...]:
    """Return the questions that a claim's runs answer, first that of its sentence."""
    if claim.asks == "measure" or claim.contrast is None:
        return (claim.asks,)
    return (claim.asks, "trains" if claim.asks == "faults" else "faults")


def condition_of(claim: Claim, question: Question) -> pl.Expr:
    """Return whether the counted condition holds for a run, as 0.0 or 1.0.

    A measure in the claim's file replaces that of the question that its sentence asks. The other
    measures are the same for all claims: a run has a fault (of a cure, it stays finite), it trains.
    """
    if question == claim.asks and claim.measure != Measure():
        return measured(claim.measure)
    if question == "trains":
        return trains().cast(pl.Float64)
    has_fault = pl.col("outcome").is_in(FAILED)
    is_cure = claim.contrast is not None and claim.contrast.of_failed
    return (~has_fault if is_cure else has_fault).cast(pl.Float64)


def least_of(claim: Claim, question: Question) -> float:
    """Return the smallest difference that counts: the same for both questions.

    What causes faults is expected to train less often, so of harms the sign is the opposite.
    """
    assert claim.contrast is not None
    least = claim.contrast.at_least
    return least if question == claim.asks or claim.contrast.of_failed else -least


def is_measured(question: Question, runs: pl.DataFrame) -> bool:
    """Return whether runs can answer a question: some problems report no training."""
    return question != "trains" or completed(runs, ["task"]).select(trains().any()).item()


def trains() -> pl.Expr:
    """Return whether a run trains: by its accuracy if there are classes, by its loss otherwise."""
    guess = pl.col("task").replace_strict(MOST_FREQUENT, default=None, return_dtype=pl.Float64)
    enough = pl.col("final_accuracy") >= guess + WELL_ABOVE * (1.0 - guess)
    by_loss = pl.col("outcome") == Outcome.TRAINED
    has_accuracy = pl.col("final_accuracy").is_not_null() & guess.is_not_null()
    return pl.when(has_accuracy).then(enough).otherwise(by_loss) & ~pl.col("outcome").is_in(FAILED)


def measured(measure: Measure) -> pl.Expr:
    """Return whether the condition holds for a run, as 0.0 or 1.0."""
    true = pl.lit(True)
    if measure.outcome:
        true = true & pl.col("outcome").is_in(list(measure.outcome))
    for name, value in measure.equals.items():
        wanted = value if isinstance(value, list | tuple) else [value]
        true = true & pl.col(name).is_in(list(wanted))
    if measure.column:
        number = pl.col(measure.column)
        number = number / pl.col(measure.to) if measure.to else number
        if measure.above is not None:
            true = true & (number > measure.above)
        if measure.below is not None:
            true = true & (number < measure.below)
    return true.fill_null(False).cast(pl.Float64)
