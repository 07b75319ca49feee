"""Claim, strata -> verdict, by the rule of the kind of claim."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nanlab.ledger.claim import Claim
from nanlab.ledger.conditions import Key, conditions_of
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
    """The statistics of one stratum.

    Attributes:
        stratum: measurements.
        effect: mean over seeds, None without seeds.
        low: lower end of its 95 % interval.
        high: upper end of its 95 % interval.
        p: two-sided p value by sign flips over seeds, None if the rule needs none.
    """

    stratum: Stratum
    effect: float | None
    low: float | None
    high: float | None
    p: float | None


@dataclass(frozen=True, kw_only=True)
class ClaimVerdict:
    """The verdict on a claim.

    Attributes:
        word: "supported", "refuted", "conditional", "open" or "not testable here".
        condition: where the claim holds, fails or stays open, as text; or the reason.
        answers: answer of each stratum: HOLDS, FAILS or OPEN.
    """

    word: str
    condition: str
    answers: tuple[str, ...]


def finding(claim: Claim, stratum: Stratum) -> StratumResult:
    """Return the statistics of a stratum."""
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
    p = sign_flip_p(values) if claim.kind == "effect" else None
    return StratumResult(stratum=stratum, effect=effect, low=low, high=high, p=p)


def answer(claim: Claim, found: StratumResult, adjusted: float | None) -> str:
    """Return the answer of one stratum: HOLDS, FAILS or OPEN."""
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
    """Return whether the required effect is impossible: if all fail, none can fail more often."""
    if without is None:
        return False
    room = 1.0 - without if least >= 0.0 else without
    return room < abs(least) - 1e-9


def _moved(least: float, effect: float, between: tuple[float, float], p: float) -> str:
    # The smallest effect is negative if something becomes rarer: mirror both ends.
    sign = 1.0 if least >= 0.0 else -1.0
    low, high = sorted(sign * end for end in between)
    if sign * effect >= sign * least and low > 0.0 and p <= LEVEL:
        return HOLDS
    return FAILS if high < sign * least else OPEN


def verdict(
    claim: Claim, found: Sequence[StratumResult], adjusted: Sequence[float | None]
) -> ClaimVerdict:
    """Return the verdict: supported if all strata hold, refuted if none holds and some fail."""
    if claim.reason:
        return ClaimVerdict(word=NOT_TESTABLE, condition=claim.reason, answers=())
    answers = tuple(answer(claim, f, p) for f, p in zip(found, adjusted, strict=True))
    if set(answers) == {HOLDS}:
        return ClaimVerdict(word=SUPPORTED, condition="", answers=answers)
    # A cure fails in a stratum if a single placebo does as well.
    joined = _joined(found, answers)
    words = {word for _, word in joined}
    if words == {OPEN}:
        return ClaimVerdict(word=OPEN, condition="", answers=answers)
    if words == {FAILS}:
        return ClaimVerdict(word=REFUTED, condition="", answers=answers)
    if HOLDS not in words:
        return ClaimVerdict(word=REFUTED, condition=_condition(joined), answers=answers)
    return ClaimVerdict(word=CONDITIONAL, condition=_condition(joined), answers=answers)


def _joined(found: Sequence[StratumResult], answers: Sequence[str]) -> list[tuple[Key, str]]:
    """Return the answer of each stratum, with the answers of its placebos merged."""
    keys: dict[str, Key] = {}
    words: dict[str, list[str]] = {}
    for each, word in zip(found, answers, strict=True):
        keys[each.stratum.name] = each.stratum.key
        words.setdefault(each.stratum.name, []).append(word)
    return [
        (keys[name], FAILS if FAILS in given else OPEN if OPEN in given else HOLDS)
        for name, given in words.items()
    ]


def _condition(joined: Sequence[tuple[Key, str]]) -> str:
    conditions = conditions_of([key for key, _ in joined], [word for _, word in joined])
    sentences = ((HOLDS, "holds for"), (FAILS, "not for"), (OPEN, "open for"))
    return ". ".join(
        f"{sentence} {'; '.join(conditions[word])}" if any(conditions[word]) else "open"
        for word, sentence in sentences
        if word in conditions
    )


def rule(claim: Claim) -> str:
    """Return a claim's rule as a sentence."""
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
