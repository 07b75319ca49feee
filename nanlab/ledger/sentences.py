"""Judged claims -> sentences about their conditions, ranges and answers."""

from __future__ import annotations

from collections.abc import Sequence

from nanlab.ledger.claim import Claim
from nanlab.ledger.judge import Answer, Judged, RangeJudged
from nanlab.ledger.measures import Question, least_of
from nanlab.ledger.rules import (
    BORDERLINE,
    FAILS,
    HOLDS,
    OPEN,
    REFUTED,
    UNSEEN,
    ClaimVerdict,
    answers_of,
    has_few_seeds,
)
from nanlab.ledger.words import phrase

LEAVES = 3
"""Conditions of one answer that are listed; the number of the others is given."""

ANSWERS = ((HOLDS, "holds"), (FAILS, "fails"), (BORDERLINE, "borderline"), (OPEN, "undecided"))
"""The answers of conditions as the page names them, in its order."""


def counts_text(verdict: ClaimVerdict) -> str:
    """Return in how many conditions a claim holds, fails ...: "holds in 5 of 8, fails in 3"."""
    every = sum(verdict.counts.values())
    if every < 2:
        return ""
    parts = [
        f"{word} in {verdict.counts[name]}" for name, word in ANSWERS if name in verdict.counts
    ]
    first, *others = parts
    return ", ".join([f"{first} of {every} conditions", *others])


def conditions_text(verdict: ClaimVerdict) -> str:
    """Return where a claim holds and where not, as "Holds: ReLU. Fails: tanh, float16."."""
    return " ".join(
        f"{head.capitalize()}: {abridged(verdict.conditions[word])}."
        for word, head in ANSWERS
        if word in verdict.conditions
    )


def abridged(conditions: Sequence[str]) -> str:
    """Return some conditions as a text, the others as their number."""
    texts = [each for each in conditions if each]
    more = len(texts) - LEAVES
    if more <= 1:
        return "; ".join(texts)
    return "; ".join(texts[:LEAVES]) + f"; {more} other combinations"


def range_label(judged: Judged, one: RangeJudged) -> str:
    """Return the name of a range; an article's own numbers have none but themselves."""
    if judged.claim.usual is not None and judged.claim.usual.none:
        return "as stated"
    return f"{one.name} range"


def breaks_text(judged: Judged) -> str:
    """Return what breaks a claim: where it fails and where it is undecided, in each range."""
    parts: list[str] = []
    for each in judged.ranges:
        verdict, label = each.primary.verdict, range_label(judged, each).capitalize()
        if verdict.word == REFUTED and not verdict.conditions and label != "As stated":
            parts.append(f"{label}: fails everywhere.")
        for words, head in (
            ((FAILS,), "fails"),
            ((BORDERLINE,), "borderline"),
            ((OPEN,), "undecided"),
        ):
            listed_here = [one for word in words for one in verdict.conditions.get(word, [])]
            if listed_here:
                parts.append(f"{label}, {head}: {abridged(listed_here)}.")
    beyond = dict.fromkeys(word for each in judged.ranges for word in _beyond(each))
    if beyond:
        parts.append(f"Beyond the claim, fails: {' or '.join(beyond)}.")
    return " ".join(parts)


def _beyond(judged: RangeJudged) -> list[str]:
    """Return the values beyond the claim with which it fails somewhere."""
    failing = [f.stratum for f in judged.primary.findings
               if not f.stratum.decides and f.answer == FAILS]  # fmt: skip
    return [
        phrase(name, [value])
        for name, values in judged.claim.beyond.items()
        for value in (values if isinstance(values, list | tuple) else [values])
        if any(str(stratum.key.get(name)) == _as_key(value) for stratum in failing)
    ]


def _as_key(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def answer_label(claim: Claim, question: Question) -> str:
    """Return what an answer's verdict is about, such as "Faults more often"."""
    contrast = claim.contrast
    if question == "measure" or contrast is None:
        return "Verdict"
    if contrast.of_failed:
        return "Stays finite" if question == "faults" else "Trains"
    what = question.capitalize()
    if claim.within is not None:
        return f"{what} as often"
    return f"{what} {'more' if least_of(claim, question) >= 0.0 else 'less'} often"


def open_text(claim: Claim, answer: Answer) -> str:
    """Return why an answer is open, "" if it is not."""
    if answer.verdict.word != OPEN:
        return ""
    if sees_nothing(answer):
        return "no run fails, or so many that the effect has no room"
    strata = [f.stratum for f in answer.findings if f.stratum.decides and f.answer == OPEN]
    if all(map(has_few_seeds, strata)):
        least, most = (end(len(each.values) for each in strata) for end in (min, max))
        seeds = f"{least} to {most}" if least < most else f"{most}"
        return f"too few seeds: {seeds}"
    if claim.within is not None:
        return "the intervals reach beyond the margin"
    return "too uncertain: zero and the required size are both possible"


DEPENDENCES = ("task", "model", "loss", "depth", "width", "steps", "precision")
"""Parameters of network and training; the page says which verdicts depend on them."""


def dependences(judged: RangeJudged) -> list[str]:
    """Return the parameters on which alone it depends whether the claim holds or fails."""
    answers = answers_of(judged.claim, judged.primary.findings)
    found: list[str] = []
    for name in DEPENDENCES:
        groups: dict[tuple[tuple[str, str], ...], set[str]] = {}
        for key, word in answers:
            if name in key:
                rest = tuple((n, v) for n, v in key.items() if n != name)
                groups.setdefault(rest, set()).add(word)
        if any({HOLDS, FAILS} <= words for words in groups.values()):
            found.append(name)
    return found


def sees_nothing(answer: Answer) -> bool:
    """Return whether no stratum that decides shows anything."""
    return all(each.answer == UNSEEN for each in answer.findings if each.stratum.decides)
