"""Judged claims -> sentences for readers, written from the numbers."""

from __future__ import annotations

from collections.abc import Sequence

from nanlab.grid.outcome import FAILED
from nanlab.ledger.claim import Claim
from nanlab.ledger.contrast import Measure
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
    StratumResult,
    answers_of,
    estimate,
    has_few_seeds,
)
from nanlab.ledger.strata import Stratum
from nanlab.ledger.words import between, percent, phrase, points, side

LEAVES = 3
"""Conditions of one answer that are listed; the number of the others is given."""

FRESH_SEED = "a fresh seed"


def finding_text(judged: Judged) -> str:
    """Return what was measured in the headline's range, in one or two sentences."""
    headline = judged.headline
    if headline is None:
        return ""
    claim, answer = headline.claim, headline.primary
    best = strongest(answer)
    if best.effect is None:
        return "No run to which the claim applies failed, so there was nothing to cure."
    if claim.contrast is None:
        return _share_text(claim, answer)
    if claim.contrast.of_failed:
        return _cure_text(headline)
    return _contrast_text(headline)


def strongest(answer: Answer) -> StratumResult:
    """Return the overall result; of a cure, that against the placebo that does best."""
    return min(
        answer.overall, key=lambda each: float("inf") if each.effect is None else each.effect
    )


def _share_text(claim: Claim, answer: Answer) -> str:
    whose = "failing runs" if claim.of_failed else "runs"
    shown, result = shows(claim, answer), answer.overall[0]
    assert result.effect is not None
    least = percent(claim.share_at_least or 0.0)
    if claim.deterministic:
        met = round(result.effect * result.stratum.runs_with)
        return (
            f"{met} of {result.stratum.runs_with} {whose} {shown}. The computation is exact: it "
            "uses no random numbers."
        )
    return f"{_with_interval(result)} of {whose} {shown}; the claim requires {least} or more."


def _cure_text(judged: RangeJudged) -> str:
    faults, trains = judged.answer("faults"), judged.answer("trains")
    if faults is None or trains is None:
        return _contrast_text(judged)
    placebo = strongest(judged.primary).stratum.placebo
    finite, train = (of_placebo(each, placebo) for each in (faults, trains))
    if finite.effect is None or train.effect is None:
        return _contrast_text(judged)
    with_ = _with_share(finite), _with_share(train)
    return (
        f"Of the runs that fail without it, {with_[0]} stay finite with it and {with_[1]} train; "
        f"with {placebo_words(placebo)} instead, {percent(finite.stratum.without or 0.0)} and "
        f"{percent(train.stratum.without or 0.0)}."
    )


def of_placebo(answer: Answer, placebo: str) -> StratumResult:
    """Return the overall result of an answer against one placebo; "" if it is no cure's."""
    return next(each for each in answer.overall if each.stratum.placebo == placebo)


def placebo_words(placebo: str) -> str:
    """Return a placebo as words: "init_scale +2" is "larger weights"."""
    moved = {
        "init_scale +": "larger weights", "lr +": "a larger learning rate",
        "init_scale -": "smaller weights", "lr -": "a smaller learning rate",
    }  # fmt: skip
    return next((words for start, words in moved.items() if placebo.startswith(start)), placebo)


def _contrast_text(judged: RangeJudged) -> str:
    claim, answer = judged.claim, judged.primary
    assert claim.contrast is not None
    with_, without = side(claim.contrast.alternatives), side([claim.contrast.without])
    with_, without = (with_ or "it", without or "it")
    first = _pair_text(strongest(answer), shows(claim, answer), with_, without, claim)
    others = [each for each in judged.answers[1:] if strongest(each).effect is not None]
    for other in others:
        result = strongest(other)
        first += (
            f" {percent(result.stratum.with_ or 0.0)} and "
            f"{percent(result.stratum.without or 0.0)} {shows(claim, other)}."
        )
    return first


def _pair_text(result: StratumResult, shown: str, with_: str, without: str, claim: Claim) -> str:
    stratum = result.stratum
    assert result.effect is not None and result.low is not None and result.high is not None
    moved = points(result.effect)
    unit = "point" if moved in ("+1", "-1") else "points"
    apart = f"{moved} {unit} {between(result.low, result.high, signed=True)}"
    against = f"without {without}" if without == "it" else f"with {without}"
    margin = f"; within ±{100 * claim.within:g} points counts as none" if claim.within else ""
    return (
        f"{percent(stratum.with_ or 0.0)} of runs {shown} with {with_}, "
        f"{percent(stratum.without or 0.0)} {against}: {apart}{margin}."
    )


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
    return f"{percent(result.effect)} {between(result.low, result.high)}"


def _with_share(result: StratumResult) -> str:
    """Return the share on the side with the factor, with its interval."""
    stratum = result.stratum
    share = Stratum(
        key={}, values=stratum.with_seeds, with_seeds=stratum.with_seeds, without_seeds=None,
        runs_with=stratum.runs_with, runs_without=0, cells=stratum.cells,
    )  # fmt: skip
    return _with_interval(estimate(_A_SHARE, share))


_A_SHARE = Claim(id="A1", says="", kind="example", asks="faults", range="", share_at_least=0.0)


def conditions_text(verdict: ClaimVerdict) -> str:
    """Return where a claim holds and where not, as "Holds: ReLU. Fails: tanh, float16."."""
    heads = (
        (HOLDS, "Holds"), (FAILS, "Fails"), (BORDERLINE, "Borderline"), (OPEN, "Undecided"),
    )  # fmt: skip
    return " ".join(
        f"{head}: {listed(verdict.conditions[word])}."
        for word, head in heads
        if word in verdict.conditions
    )


def listed(conditions: Sequence[str]) -> str:
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
    """Return what breaks a claim: where it fails or is not settled, in each range."""
    parts: list[str] = []
    for each in judged.ranges:
        verdict, label = each.primary.verdict, range_label(judged, each).capitalize()
        unsettled = [
            word for name in (BORDERLINE, OPEN) for word in verdict.conditions.get(name, [])
        ]
        if FAILS in verdict.conditions:
            parts.append(f"{label}: {listed(verdict.conditions[FAILS])}.")
        elif verdict.word == REFUTED and label != "As stated":
            parts.append(f"{label}: everywhere.")
        elif unsettled:
            parts.append(f"{label}, not settled: {listed(unsettled)}.")
    beyond = dict.fromkeys(word for each in judged.ranges for word in _beyond(each))
    if beyond:
        parts.append(f"Beyond the claim: {' or '.join(beyond)}.")
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
        return "no failing run, or no room for the effect"
    strata = [f.stratum for f in answer.findings if f.stratum.decides and f.answer == OPEN]
    if all(map(has_few_seeds, strata)):
        least, most = (end(len(each.values) for each in strata) for end in (min, max))
        seeds = f"{least} to {most}" if least < most else f"{most}"
        return f"{seeds} seeds are too few"
    if claim.within is not None:
        return "the intervals reach beyond the margin"
    return "the intervals contain both zero and the required size"


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
