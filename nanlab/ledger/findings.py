"""Judged claims -> what was found, in sentences written from the numbers."""

from __future__ import annotations

from nanlab.grid.outcome import FAILED
from nanlab.ledger.claim import Claim
from nanlab.ledger.contrast import Measure
from nanlab.ledger.judge import Answer, Judged, RangeJudged
from nanlab.ledger.pairs import FACTOR
from nanlab.ledger.rules import HOLDS, StratumResult, estimate, required_text
from nanlab.ledger.strata import Stratum
from nanlab.ledger.words import between, points, share_text, side

FRESH_SEED = "a fresh seed"


def finding_text(judged: Judged) -> str:
    """Return what was measured in the headline's range, in two or three sentences."""
    headline = judged.headline
    if headline is None:
        return ""
    claim, answer = headline.claim, headline.primary
    if strongest(claim, answer).effect is None:
        return "No run to which the claim applies fails, so there is nothing to cure."
    if claim.contrast is None:
        return _share_text(claim, answer)
    return _cure_text(headline) if claim.contrast.of_failed else _contrast_text(headline)


def strongest(claim: Claim, answer: Answer) -> StratumResult:
    """Return the overall result; of a cure, that against the placebo that does best."""
    sign = -1.0 if claim.contrast is not None and claim.contrast.at_least < 0.0 else 1.0
    return min(
        answer.overall,
        key=lambda each: float("inf") if each.effect is None else sign * each.effect,
    )


def requirement(claim: Claim, answer: Answer) -> str:
    """Return what the rule requires and in how many conditions that is met, as a sentence."""
    if claim.contrast is not None:
        required = "a difference " * (claim.within is not None) + required_text(claim)
    else:
        required = f"{share_text(claim.share_at_least or 0.0)} or more"
    counts = answer.verdict.counts
    every = sum(counts.values())
    if every < 2:
        return f"The rule requires {required}."
    holds = counts.get(HOLDS, 0)
    met = f"{holds} of {every} {'meets' if holds == 1 else 'meet'} it"
    return f"The rule requires {required} in each condition; {met}."


def _share_text(claim: Claim, answer: Answer) -> str:
    whose = "failing runs" if claim.of_failed else "runs"
    shown, result = shows(claim, answer), answer.overall[0]
    assert result.effect is not None
    if claim.deterministic:
        every = result.stratum.runs_with
        met = round(result.effect * every)
        return (
            f"{met} of {every} {whose} {shown}. The computation is exact: it uses no random "
            "numbers."
        )
    return f"{_with_interval(result)} of {whose} {shown}. {requirement(claim, answer)}"


def _cure_text(judged: RangeJudged) -> str:
    claim, answer = judged.claim, judged.primary
    assert claim.contrast is not None
    best = strongest(claim, answer)
    assert best.effect is not None and best.low is not None and best.high is not None
    placebo = placebo_words(best.stratum.placebo)
    text = (
        f"Of the runs that fail {_without_it(claim)}, {_with_share(best)} {shows(claim, answer)} "
        f"with {_with_it(claim, best)}, {share_text(best.stratum.without or 0.0)} with {placebo}: "
        f"{_difference(best)}. {requirement(claim, answer)}"
    )
    for other in judged.answers[1:]:
        result = _same_side(other, best)
        if result is not None and result.effect is not None:
            text += (
                f" {share_text(result.stratum.with_ or 0.0)} {shows(claim, other)} with it, "
                f"{share_text(result.stratum.without or 0.0)} with {placebo}."
            )
    return text


def _same_side(other: Answer, best: StratumResult) -> StratumResult | None:
    """Return another question's result for the same factor, or against the same placebo."""
    if name := best.stratum.key.get(FACTOR):
        return next((each for each in other.factors if each.stratum.key[FACTOR] == name), None)
    return of_placebo(other, best.stratum.placebo)


def _without_it(claim: Claim) -> str:
    assert claim.contrast is not None
    if claim.contrast.without_is:
        return f"with {claim.contrast.without_is}"
    return "without a remedy" if claim.contrast.names else "without it"


def _with_it(claim: Claim, result: StratumResult) -> str:
    assert claim.contrast is not None
    if name := result.stratum.key.get(FACTOR):
        return f"{name}, the best of the alternatives" if len(claim.contrast.names) > 1 else name
    return side(claim.contrast, is_with=True)


def _difference(result: StratumResult) -> str:
    assert result.effect is not None and result.low is not None and result.high is not None
    moved = points(result.effect)
    unit = "point" if moved in ("+1", "-1") else "points"
    return f"{moved} {unit} {between(result.low, result.high, signed=True)}"


def factors_text(claim: Claim, answer: Answer) -> str:
    """Return the number of each factor: "Adam 100 %, a warm-up 17 %"; "" without names."""
    if len(answer.factors) < 2:
        return ""
    parts = [
        f"{each.stratum.key[FACTOR]} {share_text(each.stratum.with_ or 0.0)}"
        for each in sorted(answer.factors, key=lambda one: -(one.stratum.with_ or 0.0))
    ]
    others = sorted(
        {share_text(each.stratum.without or 0.0) for each in answer.factors}, key=_number
    )
    without = others[0] if len(others) == 1 else f"{others[0].removesuffix(' %')} to {others[-1]}"
    assert claim.contrast is not None
    if claim.contrast.of_failed:
        whose = f"Share of the failing runs that {shows(claim, answer)}"
        against = placebo_words(answer.factors[0].stratum.placebo)
    else:
        whose = f"Share of the runs that {shows(claim, answer)}"
        against = side(claim.contrast, is_with=False)
    return f"{whose}: {', '.join(parts)}; {without} with {against}."


def _number(text: str) -> float:
    return float(text.strip("<> %"))


def of_placebo(answer: Answer, placebo: str) -> StratumResult | None:
    """Return the overall result of an answer against one placebo; "" if it is no cure's."""
    return next((each for each in answer.overall if each.stratum.placebo == placebo), None)


def placebo_words(placebo: str) -> str:
    """Return a placebo as words: "init_scale +2" is "larger weights"."""
    moved = {
        "init_scale +": "larger weights", "lr +": "a larger learning rate",
        "init_scale -": "smaller weights", "lr -": "a smaller learning rate",
        FRESH_SEED: "only another seed", "a random direction": "a random step of the grid",
    }  # fmt: skip
    return next((words for start, words in moved.items() if placebo.startswith(start)), placebo)


def _contrast_text(judged: RangeJudged) -> str:
    claim, answer = judged.claim, judged.primary
    assert claim.contrast is not None
    result = strongest(claim, answer)
    with_, without = _with_it(claim, result), side(claim.contrast, is_with=False)
    text = (
        f"{share_text(result.stratum.with_ or 0.0)} of runs {shows(claim, answer)} with {with_}, "
        f"{share_text(result.stratum.without or 0.0)} with {without}: {_difference(result)}. "
        f"{requirement(claim, answer)}"
    )
    if is_opposite(claim, answer):
        text += " On average the opposite of the claim was measured."
    for other in judged.answers[1:]:
        other_result = _same_side(other, result)
        if other_result is not None and other_result.effect is not None:
            text += (
                f" Of the same runs {share_text(other_result.stratum.with_ or 0.0)} and "
                f"{share_text(other_result.stratum.without or 0.0)} {shows(claim, other)}."
            )
    return text


def is_opposite(claim: Claim, answer: Answer) -> bool:
    """Return whether the overall interval lies on the other side of zero from what is claimed."""
    result = strongest(claim, answer)
    if claim.contrast is None or claim.within is not None or result.low is None:
        return False
    assert result.high is not None
    return result.high < 0.0 if claim.contrast.at_least > 0.0 else result.low > 0.0


def shows(claim: Claim, answer: Answer) -> str:
    """Return what the counted runs do, as a predicate."""
    if answer.question == claim.asks and (claim.shows or claim.measure != Measure()):
        return claim.shows or _measure_words(claim.measure)
    if answer.question == "trains":
        return "train"
    is_cure = claim.contrast is not None and claim.contrast.of_failed
    return "stay finite" if is_cure else "have a fault"


def _measure_words(measure: Measure) -> str:
    outcomes = set(measure.outcome)
    words = {
        frozenset({"nan"}): "come to NaN", frozenset({"nan", "inf"}): "come to NaN or inf",
        frozenset(map(str, FAILED)): "have a fault", frozenset({"trained"}): "train",
        frozenset({"trained", "stalled", "diverged"}): "stay finite",
        frozenset({"trained", "stalled"}): "stay finite and do not diverge",
    }  # fmt: skip
    return words.get(frozenset(map(str, outcomes)), "meet the claim's measure")


def _with_interval(result: StratumResult) -> str:
    assert result.effect is not None and result.low is not None and result.high is not None
    return f"{share_text(result.effect)} {between(result.low, result.high)}"


def _with_share(result: StratumResult) -> str:
    """Return the share on the side with the factor, with its interval."""
    stratum = result.stratum
    share = Stratum(
        key={}, values=stratum.with_seeds, with_seeds=stratum.with_seeds, without_seeds=None,
        runs_with=stratum.runs_with, runs_without=0, cells=stratum.cells,
    )  # fmt: skip
    return _with_interval(estimate(_A_SHARE, share))


_A_SHARE = Claim(id="A1", says="", kind="example", asks="faults", range="", share_at_least=0.0)
