"""sweeps/claims/A01.toml -> Claim: the statement, its source, and the rule that decides it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from nanlab.grid.errors import Complaint, GridError, sentence_of
from nanlab.grid.outcome import Outcome

ARTICLES = {
    "A": "Why does ReLU activation cause NaN outputs during deep learning training, while tanh "
    "does not? (000_54f224a39ba6fff2)",
    "B": "Why does a neural network produce NaN values? (001_62b534fff68e71f7)",
    "C": "Why does my CNN model exhibit NaN loss when using LeakyReLU? (002_2cfed10dfbde5a50)",
    "D": "Why is my three-layer neural network outputting NaN values? (003_9e028b346eb42ab6)",
    "E": "Common causes of nans during training of neural networks (004_ad127e791a1d7667)",
}
"""Title and file of each article, by the first letter of its claims' ids."""

CLAIMS = {"A": 12, "B": 18, "C": 9, "D": 10, "E": 13}
"""Number of claims of each article."""

Values = dict[str, Any]
ClaimKind = Literal["effect", "null", "example", "distribution"]


class LedgerError(Exception):
    """A claim cannot be judged from its study; the message says why."""


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class Measure(_Table):
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


class Contrast(_Table):
    """Pairs of runs that differ only in one factor.

    Attributes:
        with_: parameters and values of the side with the factor.
        without: parameters and values of the side without the factor.
        move: instead of both, an axis and the number of values by which the side `with` is shifted.
        at_least: smallest effect that counts; negative if the claim is that something gets rarer.
        of_failed: whether only runs whose side `without` had a fault are compared (a cure).
        placebos: moves that a cure must beat, in addition to a fresh seed.
        random_of: moves of the cure's length, of which each run gets a random one, to beat too.
    """

    with_: Values = Field({}, alias="with")
    without: Values = {}
    move: dict[str, int] = {}
    at_least: float
    of_failed: bool = False
    placebos: tuple[dict[str, int], ...] = ()
    random_of: tuple[dict[str, int], ...] = ()


class Claim(_Table):
    """A claim and the rule that judges it, written before its study is run.

    Attributes:
        id: id, such as "A1".
        says: paraphrase of the claim.
        kind: kind of claim, which selects the rule.
        range: conditions under which the verdict holds, in words.
        study: claim whose study it is read from, by default its own.
        where: parameters and values of the runs that it is about.
        strata: parameters; the rule must hold for each combination of their values.
        measure: condition whose frequency is measured.
        contrast: pairs to compare, of an effect or a null claim only.
        share_at_least: required share of runs, of an example or a distribution only.
        of_failed: whether the share is of the runs that had a fault.
        within: largest difference that counts as none, of a null claim only.
        deterministic: whether the runs use no random numbers, so that there is no interval.
        remark: what readers need to know besides the rule.
        corrected: correction of the rule after its result was seen, if any.
        against: claims of other articles that contradict it.
        reason: why it is not testable here; such a claim has no rule and no study.
    """

    id: Annotated[str, Field(pattern=r"^[A-E][1-9][0-9]?$")]
    says: str
    kind: ClaimKind
    range: str
    study: str | None = None
    where: Values = {}
    strata: tuple[str, ...] = ()
    measure: Measure = Measure()
    contrast: Contrast | None = None
    share_at_least: float | None = None
    of_failed: bool = False
    within: float | None = None
    deterministic: bool = False
    remark: str = ""
    corrected: str = ""
    against: tuple[str, ...] = ()
    reason: str = ""

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Claim:
        if self.reason:
            return _without_a_rule(self)
        if "measure" not in self.model_fields_set:
            raise ValueError("has no measure; a claim that is not testable here has a reason")
        if (self.contrast is None) == (self.kind in ("effect", "null")):
            raise ValueError("effect and null claims have a contrast, and no others")
        if (self.share_at_least is None) == (self.kind in ("example", "distribution")):
            raise ValueError("examples and distributions have share_at_least, and no others")
        if (self.within is None) == (self.kind == "null"):
            raise ValueError("null claims have within, and no others")
        return self

    @property
    def source(self) -> str:
        """The title and file of the article."""
        return ARTICLES[self.id[0]]

    @property
    def stem(self) -> str:
        """The name of its file and its study's folder, such as A01."""
        return stem_of(self.id)

    @property
    def study_stem(self) -> str:
        """The name of the study it is read from."""
        return stem_of(self.study or self.id)


def _without_a_rule(claim: Claim) -> Claim:
    if more := sorted(claim.model_fields_set & RULE - {"kind"}):
        raise ValueError(f"has a reason why it is not testable here, so it has no {more[0]}")
    return claim


def stem_of(claim_id: str) -> str:
    """Return the file name of a claim without its suffix: A01 for A1."""
    return f"{claim_id[0]}{int(claim_id[1:]):02d}"


def every_id() -> list[str]:
    """Return the ids of all claims, in order."""
    return [f"{letter}{i}" for letter, count in CLAIMS.items() for i in range(1, count + 1)]


def read_claim(path: str, table: Mapping[str, Any] | None) -> Claim:
    """Read the claim of a grid file.

    Args:
        path: path of the file, for error messages.
        table: its table [claim].

    Returns:
        The claim.

    Raises:
        GridError: the table is missing or not valid.
    """
    if not table:
        raise GridError(path, [Complaint(key="claim", sentence="is missing")])
    try:
        claim = Claim.model_validate(table)
    except ValidationError as invalid:
        errors = invalid.errors(include_url=False)
        raise GridError(path, [complaint_of("claim", dict(e)) for e in errors]) from None
    if Path(path).stem != claim.stem:
        sentence = f'must be that of the file: claim "{claim.id}" belongs into {claim.stem}.toml'
        raise GridError(path, [Complaint(key="claim.id", sentence=sentence)])
    return claim


def complaint_of(table: str, error: dict[str, Any]) -> Complaint:
    """Return pydantic's error about a table as a complaint about its key."""
    return Complaint(key=".".join([table, *map(str, error["loc"])]), sentence=_sentence(error))


def _sentence(error: dict[str, Any]) -> str:
    if error["type"] == "extra_forbidden":
        return "unknown key"
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    try:
        return sentence_of(error)  # type: ignore[arg-type]
    except KeyError:
        return str(error["msg"])


RULE = frozenset(
    (
        "kind", "study", "where", "strata", "measure", "contrast", "share_at_least", "of_failed",
        "within", "deterministic",
    )
)  # fmt: skip
"""The fields of a claim that decide its verdict; the others describe it."""


def rule_hash(claim: Claim) -> str:
    """Return a hash of a claim's rule, 16 hex digits, to detect later changes."""
    rule = claim.model_dump(mode="json", by_alias=True, exclude_defaults=True, include=set(RULE))
    return hashlib.sha256(json.dumps(rule, sort_keys=True).encode()).hexdigest()[:16]
