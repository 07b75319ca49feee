"""Claim, strata -> verdict: the four kinds of claim have each their own rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nanlab.ledger.claim import Claim
from nanlab.ledger.conditions import Key, described
from nanlab.ledger.strata import Stratum
from nanlab.results.statistics import interval, share_interval, sign_flip_p

LEVEL = 0.05
SUPPORTED, REFUTED, CONDITIONAL = "supported", "refuted", "conditional"
NOT_TESTABLE = "not testable here"
HOLDS, FAILS, OPEN = "holds", "fails", "open"

MIN_SEEDS = 20
"""With fewer seeds a stratum stays open."""


@dataclass(frozen=True, kw_only=True)
class StratumResult:
    """What one stratum says of a claim.

    Attributes:
        stratum: as it was measured.
        effect, low, high: the mean over seeds and its 95 % interval; None without any seed.
        p: two-sided, by sign flips over seeds; None where the rule needs none.
    """

    stratum: Stratum
    effect: float | None
    low: float | None
    high: float | None
    p: float | None


@dataclass(frozen=True, kw_only=True)
class ClaimVerdict:
    """What a claim comes to.

    Attributes:
        word: "supported", "refuted", "conditional", "open" where no stratum says anything, or "not
            testable here".
        condition: where it holds, where it does not and what stays open, in words; or the reason.
        answers: what each stratum says, one of HOLDS, FAILS, OPEN.
    """

    word: str
    condition: str
    answers: tuple[str, ...]


def finding(claim: Claim, stratum: Stratum) -> StratumResult:
    """The mean of a stratum's seeds with its interval, and the test where the rule asks for one."""
    values = stratum.values
    if not len(values):
        return StratumResult(stratum=stratum, effect=None, low=None, high=None, p=None)
    effect = float(np.mean(values))
    if claim.deterministic:
        low = high = effect
    elif claim.contrast is None:
        low, high = share_interval(values)
    else:
        low, high = interval(values)
    tested = claim.kind == "effect"
    p = sign_flip_p(values) if tested else None
    return StratumResult(stratum=stratum, effect=effect, low=low, high=high, p=p)


def answer(claim: Claim, found: StratumResult, adjusted: float | None) -> str:
    """What one stratum says of its claim, given its p adjusted over the ledger."""
    if found.effect is None or found.low is None or found.high is None:
        return OPEN
    if len(found.stratum.values) < MIN_SEEDS and not claim.deterministic:
        return OPEN
    if claim.within is not None:
        return _equivalent(claim.within, found.low, found.high)
    if claim.contrast is not None:
        if _leaves_no_room(claim.contrast.at_least, found.stratum.without):
            return OPEN
        p = 1.0 if adjusted is None else adjusted
        return _moved(claim.contrast.at_least, found.effect, (found.low, found.high), p)
    assert claim.share_at_least is not None
    if found.low >= claim.share_at_least:
        return HOLDS
    return FAILS if found.high < claim.share_at_least else OPEN


def _equivalent(within: float, low: float, high: float) -> str:
    if -within < low and high < within:
        return HOLDS
    return FAILS if low > within or high < -within else OPEN


def _leaves_no_room(least: float, without: float | None) -> bool:
    """Whether no effect can be as large as is asked: what all fail, cannot fail more often."""
    if without is None:
        return False
    room = 1.0 - without if least >= 0.0 else without
    return room < abs(least) - 1e-9


def _moved(least: float, effect: float, between: tuple[float, float], p: float) -> str:
    # A claim that something becomes rarer has a negative smallest effect: both ends turn over.
    sign = 1.0 if least >= 0.0 else -1.0
    low, high = sorted(sign * end for end in between)
    if sign * effect >= sign * least and low > 0.0 and p <= LEVEL:
        return HOLDS
    return FAILS if high < sign * least else OPEN


def verdict(
    claim: Claim, found: Sequence[StratumResult], adjusted: Sequence[float | None]
) -> ClaimVerdict:
    """The verdict: supported where every stratum holds, refuted where none does and some fail."""
    if claim.reason:
        return ClaimVerdict(word=NOT_TESTABLE, condition=claim.reason, answers=())
    answers = tuple(answer(claim, f, p) for f, p in zip(found, adjusted, strict=True))
    if set(answers) == {HOLDS}:
        return ClaimVerdict(word=SUPPORTED, condition="", answers=answers)
    # A cure has failed in a stratum as soon as one placebo does as well.
    joined = _joined(found, answers)
    told = {word for _, word in joined}
    if told == {OPEN}:
        return ClaimVerdict(word=OPEN, condition="", answers=answers)
    if told == {FAILS}:
        return ClaimVerdict(word=REFUTED, condition="", answers=answers)
    if HOLDS not in told:
        return ClaimVerdict(word=REFUTED, condition=_condition(joined), answers=answers)
    return ClaimVerdict(word=CONDITIONAL, condition=_condition(joined), answers=answers)


def _joined(found: Sequence[StratumResult], answers: Sequence[str]) -> list[tuple[Key, str]]:
    """What each stratum says once its placebos, if it has some, are taken together."""
    keys: dict[str, Key] = {}
    words: dict[str, list[str]] = {}
    for each, word in zip(found, answers, strict=True):
        keys[each.stratum.name] = each.stratum.key
        words.setdefault(each.stratum.name, []).append(word)
    return [
        (keys[name], FAILS if FAILS in said else OPEN if OPEN in said else HOLDS)
        for name, said in words.items()
    ]


def _condition(joined: Sequence[tuple[Key, str]]) -> str:
    told = described([key for key, _ in joined], [word for _, word in joined])
    sentences = ((HOLDS, "holds for"), (FAILS, "not for"), (OPEN, "open for"))
    return ". ".join(
        f"{sentence} {'; '.join(told[word])}" if any(told[word]) else "open"
        for word, sentence in sentences
        if word in told
    )


def rule(claim: Claim) -> str:
    """A claim's rule in a sentence."""
    if claim.reason:
        return ""
    every = f" in each {' and '.join(claim.strata)}" if claim.strata else ""
    if claim.within is not None:
        return f"the 95 % interval of the paired difference lies within ±{claim.within:g}{every}"
    if claim.contrast is not None:
        least = claim.contrast.at_least
        word = "at least" if least >= 0 else "at most"
        beyond = " beyond each placebo" if claim.contrast.of_failed else ""
        return (
            f"the paired difference{beyond} is {word} {least:+g}, its 95 % interval excludes 0 and "
            f"its adjusted p is at most {LEVEL:g}{every}"
        )
    share = claim.share_at_least
    if claim.deterministic:
        return f"the share is at least {share:g}{every}"
    return f"the lower end of the share's 95 % interval is at least {share:g}{every}"
