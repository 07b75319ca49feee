"""Ledger -> README.md: every claim in a table, then what was found, claim by claim."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from nanlab.ledger.claim import ARTICLES, every_id
from nanlab.ledger.figures import FIGURES, Drawing
from nanlab.ledger.findings import factors_text, finding_text
from nanlab.ledger.history import History
from nanlab.ledger.judge import Judged, RangeJudged
from nanlab.ledger.pairs import FACTOR
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
    conditions_text,
    counts_text,
    dependences,
    open_text,
    range_label,
)
from nanlab.ledger.tables import cell, claims_table
from nanlab.ledger.words import enumerated, parameter, share_text
from nanlab.results.text_tables import markdown_escape, markdown_table

WORDS = (SUPPORTED, CONDITIONAL, BORDERLINE, REFUTED, OPEN, NOT_TESTABLE)

RANGES = (
    "Networks of 32 to 256 units are trained from scratch on small data, thousands at a time, "
    "with and without what a claim is about. The **usual range** covers what people use, and "
    "reaches the values at which runs begin to fail: weights of 0.5 to 4 times LeCun's (a "
    "deviation of 1 over the root of the number of inputs; He's are 1.41 times as large), "
    "learning rates of 0.001 to 3 for SGD and 1e-4 to 0.1 for Adam and RMSprop. Some claims use "
    "only a part of it; each section says which. At 1,000 steps, in the larger networks and in "
    "float16 every other weight and rate was run. The **stress range** goes far beyond, to see "
    "what breaks. Both, and the rule that decides, are in each claim's file; they were written "
    "before the first studies, and every later change is "
    "[listed](#what-was-changed-after-a-first-result). The verdict of a claim is that of the "
    "usual range, or **as stated** where the article gives the numbers, or the claim's own "
    "condition lies outside any usual range."
)

TABLE_HEAD = (
    "*Holds in*: the number of conditions (task, loss, size of the network ...) in which the rule"
    " is met, of those in which an effect could show. *Decides*: the share of runs on which the "
    "verdict rests, with the factor named in the claim against without it, their difference in "
    "points and its 95 % interval. *Also measured*: the other question about the same runs. For a"
    " cure, the runs are those that fail without it, and it is compared with its best placebo."
)

HOW_TO_READ = f"""\
- **Two questions.** *Does the run stay finite?* A run has a fault if its loss or a parameter is \
inf or NaN at any step, even if it recovers; a run whose loss grows and stays finite has none. \
*Does it train?* With classes, if its accuracy on the last batch is at least a + (1 - a) / 4, \
where a is the share of the most frequent class: 33 % for the digits, five standard deviations \
above chance on a batch of 64; 55 % for wine. Without classes its loss must be below the best \
constant's. A claim is judged by the question that its sentence asks, and the other answer stands \
next to it.
- **Pairs.** Two runs of a pair have the same seed, data and random draws; they differ in one \
factor. A cure is tried on the runs that fail without it. Its placebo is another seed; cures that \
move along the grid also have to beat a move of the same size in a random direction. "Best" is \
the placebo that does best.
- **Shares** are means over seeds, and within a seed over the cells of the grid, so they are \
shares of this grid, over the claim's own conditions: one activation's share differs between \
claims. Differences are taken before rounding, in percentage points; brackets hold 95 % intervals \
over seeds.
- **Intervals** are wide on purpose. A seed not yet seen may be unlike all others, so an end is \
never nearer than Clopper and Pearson's: 0 of 72 seeds gives 0 to 5 %. The ends of Student's t \
alone would be nearer, and wrong where nearly all seeds agree. Exact computations have no \
interval.
- **A condition** is a combination of the parameters in a claim's rule. The rule *holds* there if \
the whole interval passes the required size and the p value, corrected for the number of \
conditions of this claim (Holm, within the claim), is at most 0.05. It *fails* if the whole \
interval falls short. *Borderline*: there is an effect, and the required size lies in its \
interval. *Undecided*: both zero and the required size lie in it, or there are fewer than \
{MIN_SEEDS} seeds.
- **A claim** is *supported* if it holds in at least half of the conditions and fails in none, \
*refuted* if it fails in at least half and holds in none, *conditional* if it holds in some and \
fails in others; else *borderline* if any condition is or holds, or *open*. Conditions that go \
beyond what the sentence says are reported and decide nothing.
- **Words.** "Causes", "prevents" and the like are read as sizes, each with its reason: 5 points \
of all runs for most harms, 10 or 20 for stronger words, half of the failing runs for "prevents", \
"tames" and "solves", a tenth of them for "helps"; each rule says its size and why.
- `claims.csv` has a row for each claim. `strata.csv` has one for each condition, range, question \
and placebo; `detectable` is the smallest effect that would have passed in 80 % of such studies."""

LIMITS = """\
- Small networks, small data, mostly 100 and 1,000 steps, on a CPU, in float32 where nothing else \
is said. What holds for 128 units need not hold for a language model.
- A pilot with other seeds chose the first grids so that runs fail in them at all; it chose no \
threshold. At LeCun's weights and rates below 0.3 hardly a run fails: the [maps](#figures) show \
where.
- The claims overlap: A2 is B2, E3 and D9 ask two questions of the same runs, D7 contains E8, A9 \
and B6 are nearly the same, as are B12 and C6; A1, D5, E5 and E6 read the same runs. The verdicts \
are not 62 independent facts.
- p values are corrected within a claim, not over the ledger, and `detectable` uses the deviation \
that was observed.
- The claims are in our words; the articles are cited by title and file."""


def ledger_page(judged: Sequence[Judged], drawings: Sequence[Drawing], history: History) -> str:
    """Return the ledger as a Markdown page."""
    by_id = {each.claim.id: each for each in judged}
    lines = ["# Claims about NaN, put to the test", "", *_glance(judged), "", RANGES, ""]
    lines += ["## Every claim", "", TABLE_HEAD, "", claims_table(judged, link=True), ""]
    if remedies := _remedies(judged):
        lines += ["## What helps", "", REMEDIES, "", remedies, ""]
    lines += ["## How to read it", "", HOW_TO_READ, "", "## Limits", "", LIMITS, ""]
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
    every = len(every_id())
    so_far = "" if len(judged) == every else f" {len(judged)} of them are tested so far."
    stated = [each for each in judged if each.headline and _is_as_stated(each)]
    others = [each for each in judged if each not in stated]
    tallies = "; ".join(
        f"{head}: {words}"
        for head, part in (("in the usual range", others), ("as stated", stated))
        if (words := _tally(part))
    )
    return [
        f"Five articles make {every} claims about why networks produce NaN and what prevents it."
        f"{so_far} {tallies[:1].upper()}{tallies[1:]}. `python -m nanlab.claims --all` runs the "
        "studies again."
    ]


def _is_as_stated(judged: Judged) -> bool:
    return judged.headline is not None and range_label(judged, judged.headline) == "as stated"


def _tally(judged: Sequence[Judged]) -> str:
    counted = Counter(each.word for each in judged)
    return ", ".join(f"{counted[word]} {word}" for word in WORDS if counted[word])


REMEDIES = (
    "Of the runs that fail in the usual range: how many stay finite with each remedy, and how "
    "many then also train; the same runs with only another seed (or the claim's best placebo) "
    "next to it. A remedy that keeps a run finite and does not let it train has removed the fault"
    " and no more."
)


def _remedies(judged: Sequence[Judged]) -> str:
    rows: dict[str, tuple[float, tuple[str, ...]]] = {}
    for each in judged:
        usual = each.range("usual")
        if usual is None or usual.claim.contrast is None or not usual.claim.contrast.of_failed:
            continue
        trains = usual.answer("trains")
        for one in usual.primary.factors:
            name = one.stratum.key[FACTOR]
            other = next(
                (t for t in (trains.factors if trains else ()) if t.stratum.key[FACTOR] == name),
                None,
            )
            link = f"[{each.claim.id}](#{each.claim.id.lower()})"
            shares = (
                *(share_text(value or 0.0) for value in (one.stratum.with_, one.stratum.without)),
                *(share_text(value or 0.0)
                  for value in ((other.stratum.with_, other.stratum.without) if other else ())),
            )  # fmt: skip
            rows.setdefault(name, (-(one.stratum.with_ or 0.0), (name, *shares, link)))
    heading = ("remedy", "stay finite", "placebo", "train", "placebo", "claim")
    return markdown_table(heading, [row for _, row in sorted(rows.values())]) if rows else ""


DEPENDS = (
    "In the usual range, changing this setting alone turns a condition in which the claim holds "
    "into one in which it fails."
)


def _dependences(judged: Sequence[Judged]) -> list[tuple[str, str]]:
    found = [(each, each.range("usual")) for each in judged]
    named = [(each, dependences(usual)) for each, usual in found if usual is not None]
    return [
        (f"[{each.claim.id}](#{each.claim.id.lower()}) {cell(each.claim.says)}",
         enumerated([parameter(name) for name in names]))
        for each, names in named
        if names
    ]  # fmt: skip


def _contradictions(by_id: Mapping[str, Judged]) -> list[str]:
    rows: list[tuple[str, ...]] = []
    for each in by_id.values():
        others = [by_id[name] for name in each.claim.against if name in by_id]
        for one in [each, *others] if others else []:
            claim = f"[{one.claim.id}](#{one.claim.id.lower()}) {cell(one.claim.says)}"
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
        f"{range_label(each, one).capitalize()}: **{one.primary.verdict.word}**{_counts(one)}."
        for one in each.ranges
    )
    if claim.usual is not None and not claim.usual.none and each.range("usual") is None:
        verdicts += " The study of its usual range has not run yet."
    lines += [verdicts, "", finding_text(each), ""]
    for one in each.ranges:
        lines += _range_lines(one, range_label(each, one))
    if claim.usual is not None and claim.usual.none:
        lines += [f"- No usual range: {claim.usual.none}"]
    headline = each.headline
    assert headline is not None
    because = f" {claim.because}" if claim.because else ""
    lines += [f"- Rule: {rule(headline.claim)}.{because}"]
    notes = [claim.remark]
    if headline.claim.remark != claim.remark:
        both = {"usual": headline.claim.remark, "stress": claim.remark}
        notes = [f"In the {name} range: {text}" for name, text in both.items() if text]
    if claim.unjudged:
        notes.append(f"Not judged: {claim.unjudged}.")
    if claim.corrected:
        notes.append(f"*The rule was corrected after its first result.* {claim.corrected}")
    elif each.rule_changed:
        notes.append(
            "*The rule was changed after a first result*; the change is listed "
            "[below](#what-was-changed-after-a-first-result)."
        )
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
        if text := factors_text(claim, answer):
            lines.append(f"    {text}")
    return lines


def _counts(judged: RangeJudged) -> str:
    text = counts_text(judged.primary.verdict)
    return f" ({text})" if text else ""


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
