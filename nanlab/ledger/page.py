"""Ledger -> README.md: every claim in a table, then what was found, claim by claim."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from nanlab.ledger.claim import ARTICLES, every_id
from nanlab.ledger.figures import FIGURES, Drawing
from nanlab.ledger.history import History
from nanlab.ledger.judge import Answer, Judged, RangeJudged, RangeName
from nanlab.ledger.rules import (
    BORDERLINE,
    CONDITIONAL,
    MIN_SEEDS,
    NOT_TESTABLE,
    OPEN,
    REFUTED,
    RULES_VERSION,
    SUPPORTED,
    VERSIONS,
    rule,
)
from nanlab.ledger.sentences import (
    answer_label,
    breaks_text,
    conditions_text,
    dependences,
    finding_text,
    of_placebo,
    open_text,
    range_label,
    strongest,
)
from nanlab.ledger.words import between, enumerated, parameter, percent, points
from nanlab.results.text_tables import markdown_escape, markdown_table

WORDS = (SUPPORTED, CONDITIONAL, BORDERLINE, REFUTED, OPEN, NOT_TESTABLE)

NOTHING = "-"

RANGES = (
    "The **usual range** is the one in which people train: weights of 0.5 to 4 times LeCun's, "
    "learning rates of 0.003 to 3 for SGD and those usual for adaptive optimizers. The **stress "
    "range** goes far beyond it, to see what breaks. Both were declared in each claim's file "
    "before its studies ran. The verdict of a claim is that of the usual range, where there is one."
)

HOW_TO_READ = f"""\
- **Two questions.** *Does the NaN go away?* A run has a fault if its loss or a parameter stops \
being finite. *Does it then train?* With classes, a run trains if its accuracy on the last batch \
covers a quarter of the way from always guessing the most frequent class to perfect: for the \
digits 33 %, five standard deviations above chance on a batch of 64. Without classes its loss must \
be below the best constant's. A claim is judged by the question that its sentence asks; the other \
answer stands next to it. Harms and cures have the same standard.
- **Pairs.** Two runs of a pair have the same seed, data and random draws; they differ in one \
factor. A cure is tried on the runs that fail without it, and compared with a placebo: the same \
run with a fresh seed, at least.
- **Numbers.** Shares are means over seeds, differences are in percentage points, brackets hold \
95 % intervals over seeds. A seed not yet seen may be unlike all the others, so where all seeds \
agree the interval still has the width of Clopper and Pearson's.
- **Verdicts.** A claim holds under a condition if the whole interval passes the required size, \
and the p value, corrected for the number of conditions of this claim (Holm), is at most 0.05. It \
fails if the whole interval falls short. *Supported*: it holds under every condition that shows \
anything. *Conditional*: it holds under some. *Borderline*: there is an effect, and the interval \
contains the required size. *Refuted*: it fails, and holds nowhere. *Open*: the interval contains \
both zero and the required size, or there are fewer than {MIN_SEEDS} seeds. With 20 seeds of \
one run each little can be seen: a difference has to be about 44 points to be found above zero in \
four such studies of five. `strata.csv` has every condition, and in the column `detectable` the \
smallest effect that would have been found in 80 % of such studies."""


def ledger_page(judged: Sequence[Judged], drawings: Sequence[Drawing], history: History) -> str:
    """Return the ledger as a Markdown page."""
    by_id = {each.claim.id: each for each in judged}
    lines = ["# Claims about NaN, settled by measurement", "", *_glance(judged), "", RANGES, ""]
    lines += ["## Every claim", "", TABLE_HEAD, "", claims_table(judged, link=True), ""]
    lines += ["## How to read it", "", HOW_TO_READ, ""]
    if drawings:
        lines += ["## Figures", ""]
        for each in drawings:
            lines += [f"![{each.caption}]({FIGURES}/{each.name})", "", each.caption, ""]
    if rows := _dependences(judged):
        lines += ["## What the verdicts depend on", "", DEPENDS, ""]
        lines += [markdown_table(("claim", "depends on"), rows), ""]
    if contradictions := _contradictions(by_id):
        lines += ["## Where two articles contradict each other", "", *contradictions, ""]
    lines += ["## Claim by claim", ""]
    for letter, title in ARTICLES.items():
        entries = [each for each in judged if each.claim.id[0] == letter]
        if entries:
            lines += [f"**Article {letter}**: {title}", ""]
        for each in entries:
            lines += _section(each)
    return "\n".join([*lines, *_changes(judged, history)]).rstrip() + "\n"


def _glance(judged: Sequence[Judged]) -> list[str]:
    counted = Counter(each.word for each in judged)
    every = len(every_id())
    so_far = "" if len(judged) == every else f" {len(judged)} are settled so far:"
    words = ", ".join(f"{counted[word]} {word}" for word in WORDS if counted[word])
    colon = ":" if len(judged) == every else "."
    return [
        f"Five articles make {every} claims about why networks produce NaN{colon}{so_far} {words}. "
        "`python -m nanlab.claims --all` runs the studies again; `claims.csv` holds a row for each "
        "claim, `strata.csv` one for each condition, each study's folder the runs."
    ]


TABLE_HEAD = (
    "*Prevents or causes* and *trains* are shares of runs in the usual range (in the stress range "
    "where there is no usual one): with the factor, against without it, and the difference in "
    "points with its 95 % interval. For a cure the runs are those that fail without it, and it is "
    "compared with its best placebo. A claim with a measure of its own has that in the first of "
    "the two columns."
)


def claims_table(judged: Sequence[Judged], *, link: bool) -> str:
    """Return the table of all claims in Markdown."""
    heading = (
        "claim", "prevents or causes", "trains", "usual range", "stress range", "what breaks it",
    )  # fmt: skip
    return markdown_table(heading, [table_row(each, link=link) for each in judged])


def table_row(judged: Judged, *, link: bool) -> tuple[str, ...]:
    """Return a claim's row of the table."""
    claim, headline = judged.claim, judged.headline
    name = f"[{claim.id}](#{claim.id.lower()})" if link else claim.id
    first, trains, placebo = None, None, ""
    if headline is not None:
        placebo = strongest(headline.primary).stratum.placebo
        trains = headline.answer("trains")
        first = headline.answer("faults") or headline.answer("measure")
    words = [_range_word(judged, "usual"), _range_word(judged, "stress")]
    if claim.usual is None:
        words[0] = NOTHING
    if headline is None:
        words = [NOT_TESTABLE, NOTHING]
    elif range_label(judged, headline) == "as stated":
        words = [f"as stated: {judged.word}", NOTHING]
    return (
        f"{name} {_cell(claim.says) if link else claim.says}", answer_text(first, placebo),
        answer_text(trains, placebo), *words,
        breaks_text(judged) or NOTHING,
    )  # fmt: skip


def _cell(text: str) -> str:
    """Return a text escaped for a table, which escapes its bars itself."""
    return markdown_escape(text).replace(r"\|", "|")


def _range_word(judged: Judged, name: RangeName) -> str:
    found = judged.range(name)
    return "not run yet" if found is None else found.primary.verdict.word


def answer_text(answer: Answer | None, placebo: str) -> str:
    """Return an answer's numbers: "41 % against 12 %, +29 [25, 33]"; a cure's with a placebo."""
    if answer is None:
        return NOTHING
    result = of_placebo(answer, placebo)
    stratum = result.stratum
    if result.effect is None or result.low is None or result.high is None:
        return "no run fails"
    is_exact = result.low == result.high
    if stratum.without is None or stratum.with_ is None:
        interval = " exactly" if is_exact else f" {between(result.low, result.high)}"
        return f"{percent(result.effect)}{interval}"
    return (
        f"{percent(stratum.with_)} against {percent(stratum.without)}, "
        f"{points(result.effect)} {between(result.low, result.high, signed=True)}"
    )


DEPENDS = (
    "In the usual range these claims hold in one network or training and fail in another that "
    "differs in nothing but the parameter."
)


def _dependences(judged: Sequence[Judged]) -> list[tuple[str, str]]:
    found = [(each, each.range("usual")) for each in judged]
    named = [(each, dependences(usual)) for each, usual in found if usual is not None]
    return [
        (f"[{each.claim.id}](#{each.claim.id.lower()}) {_cell(each.claim.says)}",
         enumerated([parameter(name) for name in names]))
        for each, names in named
        if names
    ]  # fmt: skip


def _contradictions(by_id: Mapping[str, Judged]) -> list[str]:
    rows: list[tuple[str, ...]] = []
    for each in by_id.values():
        others = [by_id[name] for name in each.claim.against if name in by_id]
        for one in [each, *others] if others else []:
            claim = f"[{one.claim.id}](#{one.claim.id.lower()}) {_cell(one.claim.says)}"
            rows.append((claim, one.word, finding_text(one)))
        rows += [("", "", "")] if others else []
    return [markdown_table(("claim", "verdict", "what was found"), rows[:-1])] if rows else []


def _section(each: Judged) -> list[str]:
    claim = each.claim
    lines = [f"### {claim.id}", "", f"> {markdown_escape(claim.says)}", ""]
    if not each.ranges:
        return [*lines, " ".join(filter(None, [f"**Not testable here.** {claim.reason}",
                                               claim.remark])), ""]  # fmt: skip
    verdicts = " ".join(
        f"{range_label(each, one).capitalize()}: **{one.primary.verdict.word}**."
        for one in each.ranges
    )
    if claim.usual is not None and not claim.usual.none and each.range("usual") is None:
        verdicts += " The study of its usual range has not run yet."
    lines += [f"{verdicts} {finding_text(each)}", ""]
    for one in each.ranges:
        lines += _range_lines(one, range_label(each, one))
    if claim.usual is not None and claim.usual.none:
        lines += [f"- There is no usual range: {claim.usual.none}"]
    headline = each.headline
    assert headline is not None
    because = f" {claim.because}" if claim.because else ""
    lines += [f"- Rule: {rule(headline.claim)}.{because}"]
    notes = [claim.remark]
    if headline.claim.remark != claim.remark:
        both = {"usual": headline.claim.remark, "stress": claim.remark}
        notes = [f"In the {name} range: {text}" for name, text in both.items() if text]
    if claim.corrected:
        notes.append(f"*The rule was corrected after its first result.* {claim.corrected}")
    lines += [f"- {_linked(note)}" for note in notes if note]
    return [*lines, ""]


def _linked(text: str) -> str:
    """Return a text in which the claims that it names are links."""
    return re.sub(rf"\b({'|'.join(every_id())})\b", lambda m: f"[{m[0]}](#{m[0].lower()})", text)


def _range_lines(judged: RangeJudged, label: str) -> list[str]:
    claim = judged.claim
    links = ", ".join(f"[{stem}]({stem}/manifest.json)" for stem in claim.study_stems)
    head = "Runs" if label == "as stated" else label.capitalize()
    lines = [f"- {head}: {_linked(claim.range.rstrip('.'))} ({links})."]
    for answer in judged.answers:
        where = conditions_text(answer.verdict)
        why = open_text(claim, answer)
        word = f"{answer.verdict.word} ({why})" if why else answer.verdict.word
        lines.append(f"  - {answer_label(claim, answer.question)}: {word}. {where}".rstrip())
    return lines


def _changes(judged: Sequence[Judged], history: History) -> list[str]:
    versions = [(str(number), text) for number, text in VERSIONS.items()]
    lines = ["## What was changed after a first result", ""]
    lines += [
        "A rule that is changed after its result is known can be bent to it. So each rule's hash, "
        "with those of the grids and the version of the deciding code, is in `claims.csv` "
        "(`rule_sha256`), and every change is listed here.",
        "",
        markdown_table(("rules", "what decides"), versions),
        "",
        f"The verdicts above are by version {RULES_VERSION}.",
        "",
    ]
    if history.changes:
        lines += [history.changes, ""]
    if rows := history.moved(judged):
        lines += ["### The first edition's verdicts", "",
                  markdown_table(("claim", "first edition", "now", "why"), rows)]  # fmt: skip
    return lines
