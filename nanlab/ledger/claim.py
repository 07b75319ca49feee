"""sweeps/claims/A01.toml -> Claim: what is said, where it was read, and the rule that decides."""

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
"""The articles, title and file, by the letter with which their claims' names begin."""

CLAIMS = {"A": 12, "B": 18, "C": 9, "D": 10, "E": 13}
"""How many claims there are of each article."""

Values = dict[str, Any]
ClaimKind = Literal["effect", "null", "example", "distribution"]


class LedgerError(Exception):
    """A claim cannot be settled from its study; the message says why."""


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class Measure(_Table):
    """What is true of a run or not: how it ended, or how two of its numbers compare.

    Attributes:
        outcome: it ended as one of these.
        column: a column of `runs` that is compared; with `to`, divided by that column.
        above, below: what it is above or below; a run without the number counts as neither.
        equals: columns of `runs` and the values that they all must have.
    """

    outcome: tuple[Outcome, ...] = ()
    column: str | None = None
    to: str | None = None
    above: float | None = None
    below: float | None = None
    equals: Values = {}


class Contrast(_Table):
    """Which runs are compared, in pairs that share all but the factor.

    Attributes:
        with_, without: parameters and their values on each side; or instead
        move: an axis and by how many of its values the side `with` lies further on.
        at_least: the smallest effect that counts, in the direction that the claim says; negative
            where it says that something becomes rarer.
        of_failed: a cure, tried on the runs whose side `without` had a fault.
        placebos: moves that a cure must beat, beside a fresh seed.
        random_of: moves as long as the cure's, of which each run gets one, drawn: a cure must beat
            them as well.
    """

    with_: Values = Field({}, alias="with")
    without: Values = {}
    move: dict[str, int] = {}
    at_least: float
    of_failed: bool = False
    placebos: tuple[dict[str, int], ...] = ()
    random_of: tuple[dict[str, int], ...] = ()


class Claim(_Table):
    """A claim and the rule that settles it, written before its study is run.

    Attributes:
        id: such as "A1".
        says: the claim in our own words.
        kind: what sort of claim it is, and so how it is settled.
        range: for what the verdict holds, in words.
        study: the claim whose study it is read from, where that is not its own.
        where: the runs that it is about: parameters and their values.
        strata: parameters; the rule must hold for each combination of their values.
        measure: what is counted.
        contrast: of an effect or a null claim, and of nothing else.
        share_at_least: of an example or a distribution: the share for which it must be true.
        of_failed: whether a share is that of the runs that had a fault.
        within: of a null claim: how small a difference must be to count as none.
        deterministic: an example that draws nothing: no interval is told.
        remark: what a reader has to know beside the rule.
        corrected: what of the rule was corrected after a look at its result, if anything was.
        against: claims of other articles that say the opposite, or nearly.
        reason: why it is not testable here; such a claim has no rule and no study of its own.
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
        """Title and file of the article."""
        return ARTICLES[self.id[0]]

    @property
    def stem(self) -> str:
        """The name of its file and of its study's folder: A01."""
        return stem_of(self.id)

    @property
    def study_stem(self) -> str:
        """The name of the study that it is read from."""
        return stem_of(self.study or self.id)


def _without_a_rule(claim: Claim) -> Claim:
    if more := sorted(claim.model_fields_set & RULE - {"kind"}):
        raise ValueError(f"has a reason why it is not testable here, so it has no {more[0]}")
    return claim


def stem_of(claim_id: str) -> str:
    """A1 -> A01."""
    return f"{claim_id[0]}{int(claim_id[1:]):02d}"


def every_id() -> list[str]:
    """All claims there are, in order."""
    return [f"{letter}{i}" for letter, many in CLAIMS.items() for i in range(1, many + 1)]


def read_claim(path: str, table: Mapping[str, Any] | None) -> Claim:
    """The claim of a grid file.

    Args:
        path: the file, for complaints.
        table: its table [claim].

    Raises:
        GridError: there is none, or it is not a claim.
    """
    if not table:
        raise GridError(path, [Complaint(key="claim", sentence="is missing")])
    try:
        claim = Claim.model_validate(table)
    except ValidationError as invalid:
        errors = invalid.errors(include_url=False)
        complaints = [
            Complaint(key=".".join(["claim", *map(str, e["loc"])]), sentence=_sentence(dict(e)))
            for e in errors
        ]
        raise GridError(path, complaints) from None
    if Path(path).stem != claim.stem:
        sentence = f'must be that of the file: claim "{claim.id}" belongs into {claim.stem}.toml'
        raise GridError(path, [Complaint(key="claim.id", sentence=sentence)])
    return claim


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
"""The parts of a claim that decide its verdict; the others tell of it."""


def rule_hash(claim: Claim) -> str:
    """What tells whether a claim's rule is the one that stood there before: 16 hex digits."""
    rule = claim.model_dump(mode="json", by_alias=True, exclude_defaults=True, include=set(RULE))
    return hashlib.sha256(json.dumps(rule, sort_keys=True).encode()).hexdigest()[:16]
