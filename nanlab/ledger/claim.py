"""sweeps/claims/A01.toml -> Claim: the statement, its source, and the rule that decides it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    ValidationError,
    model_validator,
)

from nanlab.grid.errors import Complaint, GridError, sentence_of
from nanlab.ledger.contrast import ClaimTable, Contrast, Measure, Values

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

ClaimKind = Literal["effect", "null", "example", "distribution"]
Asks = Literal["faults", "trains", "measure"]
Names = Annotated[tuple[str, ...], BeforeValidator(lambda v: (v,) if isinstance(v, str) else v)]


class LedgerError(Exception):
    """A claim cannot be judged from its study; the message says why."""


class Rule(ClaimTable):
    """What is measured in which runs, and what decides.

    Attributes:
        study: names of the studies it is read from.
        where: parameters and values of the runs that it is about.
        strata: parameters; the rule must hold for each combination of their values.
        any_of: strata in which one value that meets the rule is enough.
        beyond: values of strata that go beyond what the sentence says: reported, they decide
            nothing.
        measure: condition whose frequency is measured; by default whether a run has a fault, stays
            finite (a cure) or trains.
        shows: what runs do that meet the measure, as a predicate: "come to NaN".
        contrast: pairs to compare, of an effect or a null claim only.
        share_at_least: required share of runs, of an example or a distribution only.
        within: largest difference that counts as none, of a null claim only.
        remark: what readers need to know besides the rule.
    """

    study: Names = ()
    where: Values = Field(default={})
    strata: tuple[str, ...] = ()
    any_of: tuple[str, ...] = ()
    beyond: Values = Field(default={})
    measure: Measure = Measure()
    shows: str = ""
    contrast: Contrast | None = None
    share_at_least: float | None = None
    within: float | None = None
    remark: str = ""


class Usual(Rule):
    """The same question in the range in which people train; what is given replaces [claim]'s.

    Attributes:
        none: why there is no such range; then nothing else is given.
        range: see Claim.
    """

    none: str = ""
    range: str = ""

    @model_validator(mode="after")
    def _has_a_study_or_a_reason(self) -> Usual:
        if self.none and (more := sorted(self.model_fields_set - {"none"})):
            raise ValueError(f"has a reason why there is no usual range, so it has no {more[0]}")
        if not self.none and not (self.study and self.range):
            raise ValueError("has a study and a range in words, or none and the reason")
        return self


class Claim(Rule):
    """A claim and the rule that judges it, written before its study is run.

    Its own fields are about the stress range, the table [claim.usual] about the usual one. Without
    `study` it is read from its own.

    Attributes:
        id: id, such as "A1".
        says: paraphrase of the claim.
        kind: kind of claim, which selects the rule.
        asks: what its sentence is about: faults, whether runs train, or a measure of its own.
        range: conditions under which the verdict holds, in words.
        because: reason of the threshold, in one sentence.
        of_failed: whether the share is of the runs that had a fault.
        deterministic: whether the runs use no random numbers, so that there is no interval.
        unjudged: part of its sentence that the rule does not judge.
        corrected: correction of the rule after its result was seen, if any.
        against: claims of other articles that contradict it.
        reason: why it is not testable here; such a claim has no rule and no study.
        usual: what differs in the usual range.
    """

    id: Annotated[str, Field(pattern=r"^[A-E][1-9][0-9]?$")]
    says: str
    range: str
    kind: ClaimKind
    asks: Asks = "measure"
    because: str = ""
    of_failed: bool = False
    deterministic: bool = False
    unjudged: str = ""
    corrected: str = ""
    against: tuple[str, ...] = ()
    reason: str = ""
    usual: Usual | None = None

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Claim:
        if self.reason:
            return _without_a_rule(self)
        if self.asks == "measure" and "measure" not in self.model_fields_set:
            raise ValueError(
                'has no measure; it asks "faults" or "trains", or it has a reason why it is not '
                "testable here"
            )
        if (self.contrast is None) == (self.kind in ("effect", "null")):
            raise ValueError("effect and null claims have a contrast, and no others")
        if (self.share_at_least is None) == (self.kind in ("example", "distribution")):
            raise ValueError("examples and distributions have share_at_least, and no others")
        if (self.within is None) == (self.kind == "null"):
            raise ValueError("null claims have within, and no others")
        for key in ("any_of", "beyond"):
            if unknown := sorted(set(getattr(self, key)) - set(self.strata)):
                raise ValueError(f"{key} has {unknown[0]}, which is not one of the strata")
        if self.usual is not None:
            self.in_usual_range()
        return self

    def in_usual_range(self) -> Claim | None:
        """Return the claim as it is judged in the usual range; None if there is no such range.

        Raises:
            ValueError: the two do not fit together.
        """
        if self.usual is None or self.usual.none:
            return None
        given = {name: getattr(self.usual, name) for name in self.usual.model_fields_set}
        given["study"] = tuple(f"usual/{name}" for name in self.usual.study)
        if "strata" in given:  # a value that is beyond the claim here may not be among these strata
            for name in {"any_of", "beyond"} - set(given):
                given[name] = type(getattr(self, name))()
        own = {n: getattr(self, n) for n in self.model_fields_set - {"usual"}}
        try:
            return Claim(**own | given)
        except ValidationError as invalid:
            raise ValueError("usual: " + _sentence(dict(invalid.errors()[0]))) from None

    @property
    def source(self) -> str:
        """The title and file of the article."""
        return ARTICLES[self.id[0]]

    @property
    def stem(self) -> str:
        """The name of its file and its study's folder, such as A01."""
        return stem_of(self.id)

    @property
    def every_study(self) -> tuple[str, ...]:
        """The names of the studies of both ranges."""
        usual = self.in_usual_range()
        return self.study_stems + (usual.study_stems if usual else ())

    @property
    def study_stem(self) -> str:
        """The name of the first study it is read from."""
        return self.study_stems[0]

    @property
    def study_stems(self) -> tuple[str, ...]:
        """The names of the studies it is read from: A01, usual/activations."""
        names = self.study or (self.id,)
        return tuple(name if name.startswith("usual/") else stem_of(name) for name in names)


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
        "kind", "asks", "study", "where", "strata", "any_of", "beyond", "measure", "contrast",
        "share_at_least", "of_failed", "within", "deterministic", "usual",
    )
)  # fmt: skip
"""The fields of a claim that decide its verdict; the others describe it."""
