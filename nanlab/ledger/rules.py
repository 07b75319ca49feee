"""Claim, strata -> verdict, by the rule of the kind of claim."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nanlab.ledger.claim import RULE, Claim, Usual
from nanlab.ledger.conditions import Key, conditions_of
from nanlab.ledger.measures import Question, least_of
from nanlab.ledger.strata import Stratum
from nanlab.ledger.words import enumerated, parameter, share_text
from nanlab.results.statistics import detectable, holm, seed_interval, sign_flip_p

LEVEL = 0.05
SUPPORTED, REFUTED, CONDITIONAL = "supported", "refuted", "conditional"
NOT_TESTABLE = "not testable here"
HOLDS, FAILS, BORDERLINE, OPEN = "holds", "fails", "borderline", "open"
UNSEEN = "nothing to see"
"""The answer of a stratum without a failing run, or without room for the required effect."""

MIN_SEEDS = 20
"""With fewer seeds a stratum stays open; with more its interval decides, however wide it is."""

RULES_VERSION = 3
VERSIONS = {
    1: "A stratum held where the point estimate passed the threshold and the bootstrap interval "
    "excluded 0; p values were corrected over the whole ledger; a cure had to make runs train.",
    2: "A stratum holds where the near end of its interval passes the threshold; intervals are "
    "exact where seeds agree; p values are corrected within a claim; whether faults go away and "
    "whether runs train are two answers.",
    3: "A claim is supported if it holds in at least half of the conditions and fails in none, and "
    "refuted if it fails in at least half and holds in none; before, one undecided condition made "
    "it conditional, and one that failed refuted it.",
}
"""What decides, in each version of this code."""


@dataclass(frozen=True, kw_only=True)
class StratumResult:
    """The statistics of one stratum.

    Attributes:
        stratum: measurements.
        effect: mean over seeds, None without seeds.
        low: lower end of its 95 % interval.
        high: upper end of its 95 % interval.
        p: two-sided p value by sign flips over seeds, None if the rule needs none.
        adjusted: p value adjusted over the strata that decide the same verdict.
        detectable: smallest effect that would have been found in 80 % of such studies.
        answer: HOLDS, FAILS, BORDERLINE, OPEN or UNSEEN.
    """

    stratum: Stratum
    effect: float | None
    low: float | None
    high: float | None
    p: float | None = None
    adjusted: float | None = None
    detectable: float | None = None
    answer: str = UNSEEN


@dataclass(frozen=True, kw_only=True)
class ClaimVerdict:
    """The verdict on one question about a claim, in one range.

    Attributes:
        word: "supported", "refuted", "conditional", "borderline", "open" or "not testable here".
        conditions: conditions under which the claim holds, fails ..., by answer; empty if they
            are the same everywhere.
        counts: number of conditions with each answer, of those that show something.
    """

    word: str
    conditions: dict[str, list[str]]
    counts: Mapping[str, int]


def results_of(claim: Claim, question: Question, strata: Sequence[Stratum]) -> list[StratumResult]:
    """Return the statistics and the answer of each stratum of one question."""
    found = [_measured(claim, question, stratum) for stratum in strata]
    tested = [i for i, f in enumerate(found) if f.p is not None and f.stratum.decides]
    adjusted: dict[int, float | None] = {
        i: found[i].p for i in range(len(found)) if i not in tested
    }
    adjusted |= dict(zip(tested, holm([found[i].p or 0.0 for i in tested]), strict=True))
    return [
        StratumResult(
            stratum=f.stratum, effect=f.effect, low=f.low, high=f.high, p=f.p,
            adjusted=adjusted[i], detectable=f.detectable,
            answer=answer(claim, question, f, adjusted[i]),
        )
        for i, f in enumerate(found)
    ]  # fmt: skip


def estimate(claim: Claim, stratum: Stratum) -> StratumResult:
    """Return the mean and interval of a stratum, without an answer."""
    values, effect = stratum.values, None
    low = high = None
    if len(values):
        effect = float(values.mean())
        ends = seed_interval(values, bounds=_bounds(claim))
        low, high = (effect, effect) if claim.deterministic else (float(ends[0]), float(ends[1]))
    return StratumResult(stratum=stratum, effect=effect, low=low, high=high)


def _bounds(claim: Claim) -> tuple[float, float]:
    return (0.0, 1.0) if claim.contrast is None else (-1.0, 1.0)


def _measured(claim: Claim, question: Question, stratum: Stratum) -> StratumResult:
    plain = estimate(claim, stratum)
    if plain.effect is None or claim.kind == "null" or claim.deterministic:
        return plain
    sign, least = _required(claim, question)
    smallest = detectable(sign * stratum.values, least, bounds=_bounds(claim))
    # Without room for the effect there is nothing to test, so it does not count as a test.
    is_tested = claim.kind == "effect" and not _leaves_no_room(claim, question, stratum)
    return StratumResult(
        stratum=stratum, effect=plain.effect, low=plain.low, high=plain.high,
        p=sign_flip_p(stratum.values) if is_tested else None,
        detectable=None if smallest is None else sign * smallest,
    )  # fmt: skip


def _required(claim: Claim, question: Question) -> tuple[float, float]:
    """Return the sign of the required effect, and its size."""
    if claim.contrast is None:
        return 1.0, claim.share_at_least or 0.0
    least = least_of(claim, question)
    return (1.0, least) if least >= 0.0 else (-1.0, -least)


def answer(claim: Claim, question: Question, found: StratumResult, adjusted: float | None) -> str:
    """Return the answer of one stratum: HOLDS, FAILS, BORDERLINE, OPEN or UNSEEN."""
    if found.effect is None or found.low is None or found.high is None:
        return UNSEEN
    if has_few_seeds(found.stratum) and not claim.deterministic:
        return OPEN
    if claim.within is not None:
        return _equivalent(claim.within, found.low, found.high)
    sign, least = _required(claim, question)
    # The smallest effect is negative if something becomes rarer: mirror both ends.
    low, high = sorted((sign * found.low, sign * found.high))
    if claim.contrast is not None and _leaves_no_room(claim, question, found.stratum):
        return FAILS if high < 0.0 else UNSEEN
    if high < least:
        return FAILS
    if low >= least and (adjusted is None or adjusted <= LEVEL):
        return HOLDS
    return BORDERLINE if low > 0.0 else OPEN


def has_few_seeds(stratum: Stratum) -> bool:
    """Return whether a stratum has too few seeds to be decided."""
    return len(stratum.values) < MIN_SEEDS


def _equivalent(within: float, low: float, high: float) -> str:
    if -within < low and high < within:
        return HOLDS
    return FAILS if low > within or high < -within else OPEN


def _leaves_no_room(claim: Claim, question: Question, stratum: Stratum) -> bool:
    """Return whether the required effect is impossible: if all fail, none can fail more often."""
    if stratum.without is None:
        return False
    sign, least = _required(claim, question)
    room = 1.0 - stratum.without if sign > 0.0 else stratum.without
    return room < least - 1e-9


def verdict(claim: Claim, found: Sequence[StratumResult]) -> ClaimVerdict:
    """Return the verdict of one question, from the strata that decide and show something.

    Conditional if the rule holds in some and fails in others; supported if it holds in at least
    half and fails in none; refuted if it fails in at least half and holds in none.
    """
    seen = answers_of(claim, found)
    counts = Counter(word for _, word in seen)
    conditions: dict[str, list[str]] = {}
    if len(counts) > 1:
        conditions = conditions_of([key for key, _ in seen], [word for _, word in seen])
    holds, fails, half = counts[HOLDS], counts[FAILS], len(seen) / 2
    if holds and fails:
        word = CONDITIONAL
    elif holds and holds >= half:
        word = SUPPORTED
    elif fails and fails >= half:
        word = REFUTED
    else:
        word = BORDERLINE if holds or counts[BORDERLINE] else OPEN
    return ClaimVerdict(word=word, conditions=conditions, counts=dict(counts))


def answers_of(claim: Claim, found: Sequence[StratumResult]) -> list[tuple[Key, str]]:
    """Return the answer of each stratum that decides and shows something.

    Each is over the placebos, and over the alternatives of `any_of`.
    """
    found = [each for each in found if each.stratum.decides]
    of_placebos: dict[str, list[StratumResult]] = {}
    for each in found:
        of_placebos.setdefault(each.stratum.name, []).append(each)
    groups: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for results in of_placebos.values():
        key = {n: v for n, v in results[0].stratum.key.items() if n not in claim.any_of}
        # A cure fails if a single placebo does as well.
        words = [word for each in results if (word := each.answer) != UNSEEN]
        word = min(words, key=_ORDER.index, default=UNSEEN)
        groups.setdefault(tuple(key.items()), []).append(word)
    # Where one alternative is enough and one of them shows nothing, it is not known to fail.
    best = [(dict(key), max(words, key=_OF_ALTERNATIVES.index)) for key, words in groups.items()]
    return [(key, word) for key, word in best if word != UNSEEN]


_ORDER = (UNSEEN, FAILS, OPEN, BORDERLINE, HOLDS)
_OF_ALTERNATIVES = (FAILS, UNSEEN, OPEN, BORDERLINE, HOLDS)


def rule(claim: Claim) -> str:
    """Return a claim's rule as a sentence."""
    if claim.reason:
        return ""
    names = [parameter(name) for name in claim.strata]
    every = f", in every {'combination of ' * (len(names) > 1)}{enumerated(names)}" * bool(names)
    if claim.any_of:
        every += f" (it is enough if one {' or '.join(map(parameter, claim.any_of))} meets it)"
    if claim.contrast is None:
        if claim.deterministic and claim.share_at_least == 1.0:
            return f"every run shows it{every}"
        whole = "share" if claim.deterministic else "whole interval of the share"
        return f"the {whole} is {share_text(claim.share_at_least or 0.0)} or more{every}"
    placebo = " from each placebo" if claim.contrast.of_failed else ""
    return f"the whole interval of the difference{placebo} is {required_text(claim)}{every}"


def required_text(claim: Claim) -> str:
    """Return the required difference of a contrast in words: "+5 points or more"."""
    assert claim.contrast is not None
    if claim.within is not None:
        return f"within ±{100 * claim.within:g} points"
    least = claim.contrast.at_least
    return f"{100 * least:+g} points or {'more' if least >= 0 else 'less'}"


def rule_hash(claim: Claim, version: int | None = None) -> str:
    """Return a hash of a claim's rule in both ranges and of the deciding code's version."""
    fields: dict[str, Any] = dict.fromkeys(RULE, True)
    fields["usual"] = {name for name in Usual.model_fields if name in RULE}
    rule = claim.model_dump(mode="json", by_alias=True, exclude_defaults=True, include=fields)
    for part in (rule, rule.get("usual", {})):  # what is only said does not decide
        for words in ("with_is", "without_is"):
            part.get("contrast", {}).pop(words, None)
    text = json.dumps([version or RULES_VERSION, rule], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
