"""Ledger -> README.md: surprises, contradictions, figures, then every claim."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from nanlab.ledger.claim import every_id
from nanlab.ledger.figures import figure_name, most_telling
from nanlab.ledger.judge import Judged, reverses, weakest
from nanlab.ledger.rules import CONDITIONAL, NOT_TESTABLE, OPEN, REFUTED, SUPPORTED
from nanlab.ledger.tables import effect_text
from nanlab.results.text_tables import markdown_table

WORDS = (REFUTED, CONDITIONAL, SUPPORTED, OPEN, NOT_TESTABLE)

HOW_TO_READ = (
    "How to read it: runs are paired, alike in seed, data and draws but for the one factor. The "
    "seed is the unit: an effect is the mean over seeds of the paired difference in the share of "
    "runs for which the claim's measure holds, or that share itself; its interval is a bootstrap "
    "over seeds, its test flips the signs of seeds' differences, and the p values are corrected "
    "over the whole ledger (Holm). The effect shown is that of the stratum furthest from "
    "the claim. A claim is *supported* where every declared stratum meets its rule, *refuted* "
    "where some fail it and none meets it, *conditional* where they differ, and *open* where there "
    "are too few seeds (fewer than 20, or none that fails without a cure), or where the other side "
    "leaves no room: if all runs fail, they cannot fail more often."
)


def ledger_page(judged: Sequence[Judged]) -> str:
    """Return the ledger as a Markdown page."""
    by_id = {each.claim.id: each for each in judged}
    telling = most_telling(judged)
    lines = ["# Claims about NaN, settled by measurement", "", *_glance(judged), "", HOW_TO_READ]
    lines += ["", "## The surprises", "", *_surprises(judged)]
    lines += ["", "## Where two articles contradict each other", "", *_contradictions(by_id)]
    lines += ["", "## The most telling ones", ""]
    for each in telling:
        lines += _figure(each)
    for word in WORDS:
        entries = [_entry(each) for each in judged if each.verdict.word == word]
        if entries:
            lines += ["", f"## {word.capitalize()}", "", *entries]
    return "\n".join(lines) + "\n"


def _glance(judged: Sequence[Judged]) -> list[str]:
    counted = Counter(each.verdict.word for each in judged)
    every = len(every_id())
    words = [word for word in WORDS if counted[word]]
    so_far = "" if len(judged) == every else f" {len(judged)} are settled so far"
    lines = [
        f"Of {every} published claims{so_far}: "
        + ", ".join(f"{counted[word]} {word}" for word in words)
        + ". `python -m nanlab.claims --all` runs the studies again; `claims.csv` holds a row for "
        "each claim, `strata.csv` one for each stratum, each study's folder the runs.",
        "",
    ]
    ids = {w: " ".join(each.claim.id for each in judged if each.verdict.word == w) for w in words}
    return [*lines, markdown_table(("verdict", "claims"), list(ids.items()))]


def _surprises(judged: Sequence[Judged]) -> list[str]:
    refuted = [each for each in judged if each.verdict.word == REFUTED]
    opposite = [each for each in refuted if reverses(each)]
    never = [
        each
        for each in refuted
        if each.claim.contrast is None and all(f.effect == 0.0 for f in each.findings)
    ]
    cures = [each for each in refuted if each.claim.contrast and each.claim.contrast.of_failed]
    lines: list[str] = []
    for heading, claims in (
        ("The opposite holds", opposite),
        ("It never happened, in any run", never),
        ("It cures nothing, by the rule that a cured run must train", cures),
    ):
        if claims:
            lines += [f"**{heading}:**", "", *(_short(each) for each in claims), ""]
    return lines[:-1] or ["None."]


def _short(each: Judged) -> str:
    return f"- **{each.claim.id}** {each.claim.says.rstrip('.')}. {_effect(each)}{_finite(each)}"


def _contradictions(by_id: Mapping[str, Judged]) -> list[str]:
    rows: list[tuple[str, str, str, str]] = []
    for each in by_id.values():
        others = [by_id[name] for name in each.claim.against if name in by_id]
        for side in [each, *others] if others else []:
            claim = f"**{side.claim.id}** {side.claim.says}"
            rows.append((claim, side.verdict.word, effect_text(side), side.verdict.condition))
        rows += [("", "", "", "")] if others else []
    if not rows:
        return ["None is settled on both sides yet."]
    return [markdown_table(("claim", "verdict", "effect", "where it holds"), rows[:-1])]


def _figure(each: Judged) -> list[str]:
    claim = each.claim
    return [
        f"![{claim.id}: {claim.says} {each.verdict.word}, effect {effect_text(each)}]"
        f"(figures/{figure_name(each)})",
        "",
    ]


def _effect(each: Judged) -> str:
    finding = each.findings[weakest(each)]
    stratum = finding.stratum
    without = f" and {stratum.runs_without:,}" if stratum.runs_without else ""
    seeds = len(stratum.values)
    units = "" if each.claim.deterministic else f"{seeds} seed{'s' * (seeds != 1)}, "
    return (
        f"Effect {effect_text(each)} ({stratum.name}; {units}{stratum.runs_with:,}{without} runs)."
    )


def _finite(each: Judged) -> str:
    """Return the share of runs that a cure keeps finite, trained or not; "" for other claims."""
    contrast, stratum = each.claim.contrast, each.findings[weakest(each)].stratum
    if contrast is None or not contrast.of_failed or stratum.finite_with is None:
        return ""
    return (
        f" Of these runs, which fail without it, {stratum.finite_with:.0%} stay finite with it and "
        f"{stratum.with_:.0%} train; with {stratum.placebo} instead, {stratum.finite_without:.0%} "
        f"and {stratum.without:.0%}."
    )


def _entry(each: Judged) -> str:
    claim = each.claim
    if not each.findings:
        return f"- **{claim.id}** {claim.says.rstrip('.')}. {claim.reason} {claim.remark}".rstrip()
    changed = " *The rule was changed after the result.*" if each.rule_changed else ""
    if claim.corrected:
        changed = (
            " *The rule was corrected after its first result was seen, and the study run again: "
            f"{claim.corrected}*"
        )
    condition = each.verdict.condition[:1].upper() + each.verdict.condition[1:]
    parts = [
        f"{claim.says.rstrip('.')}.", f"{condition}." if condition else "",
        f"{_effect(each)}{_finite(each)}", f"{claim.range.rstrip('.')}.", claim.remark,
        f"[{claim.study_stem}]({claim.study_stem}/manifest.json){changed}",
    ]  # fmt: skip
    return f"- **{claim.id}** " + " ".join(filter(None, parts))
