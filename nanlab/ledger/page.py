"""Ledger -> claims.csv, strata.csv, claims.md, claims.tex, README.md: what people read and cite."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from nanlab.ledger.claim import every_id
from nanlab.ledger.judged import Judged, ledger_frame, strata_frame
from nanlab.ledger.rules import CONDITIONAL, NOT_TESTABLE, REFUTED, SUPPORTED
from nanlab.tables import write_atomically

WORDS = (REFUTED, CONDITIONAL, SUPPORTED, NOT_TESTABLE)
TOLD = (SUPPORTED, CONDITIONAL, REFUTED, NOT_TESTABLE)


def write_ledger(folder: Path, judged: Sequence[Judged]) -> None:
    """Write the ledger's files beside its studies."""
    files = {
        "claims.csv": ledger_frame(judged).write_csv(),
        "strata.csv": strata_frame(judged).write_csv(),
        "claims.md": markdown(judged),
        "claims.tex": latex(judged),
        "README.md": page(judged),
    }
    for name, text in files.items():
        write_atomically(folder / name, lambda path, text=text: path.write_text(text, "utf-8"))


def effect_text(judged: Judged) -> str:
    """`+0.31 [+0.28, +0.34]`, of the stratum where the effect is weakest."""
    if not judged.findings:
        return ""
    row = ledger_frame([judged]).row(0, named=True)
    if judged.claim.contrast is None:
        told = f"{row['effect']:.2f}"
        bounds = f"{row['low']:.2f}, {row['high']:.2f}"
    else:
        told = f"{row['effect']:+.2f}"
        bounds = f"{row['low']:+.2f}, {row['high']:+.2f}"
    return told if judged.claim.deterministic else f"{told} [{bounds}]"


def _rows(judged: Sequence[Judged]) -> list[tuple[str, ...]]:
    return [
        (
            each.claim.id, each.claim.says, each.verdict.word, each.verdict.condition,
            effect_text(each),
            str(len(each.findings[0].stratum.values)) if each.findings else "",
        )
        for each in judged
    ]  # fmt: skip


HEADING = ("id", "claim", "verdict", "condition", "effect", "seeds")


def markdown(judged: Sequence[Judged]) -> str:
    """The ledger as a Markdown table."""
    lines = ["| " + " | ".join(HEADING) + " |", "|" + "---|" * len(HEADING)]
    lines += ["| " + " | ".join(c.replace("|", "\\|") for c in row) + " |" for row in _rows(judged)]
    return "\n".join(lines) + "\n"


_TEX = {"&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "$": r"\$", "^": r"\^{}", "±": r"$\pm$"}


def latex(judged: Sequence[Judged]) -> str:
    """The ledger as a LaTeX table (booktabs, longtable)."""

    def cell(text: str) -> str:
        return "".join(_TEX.get(letter, letter) for letter in text)

    lines = [
        r"\begin{longtable}{lp{0.34\linewidth}lp{0.22\linewidth}lr}",
        r"\caption{Published claims about NaN, settled by measurement. The effect is that of the "
        r"stratum where it is weakest, with its 95\,\% bootstrap interval over seeds.}\\",
        r"\toprule",
        " & ".join(HEADING) + r" \\",
        r"\midrule",
        *(" & ".join(map(cell, row)) + r" \\" for row in _rows(judged)),
        r"\bottomrule",
        r"\end{longtable}",
    ]
    return "\n".join(lines) + "\n"


def page(judged: Sequence[Judged]) -> str:
    """The ledger as a page: verdicts at a glance, then those that say no, then the rest."""
    counted = Counter(each.verdict.word for each in judged)
    every = len(every_id())
    lines = [
        "# Claims about NaN, settled by measurement",
        "",
        f"Of {every} published claims {len(judged)} are settled so far: "
        + ", ".join(f"{counted[word]} {word}" for word in TOLD)
        + ". `python -m nanlab.claims --all` runs the studies again; `claims.csv` holds a row for "
        "each claim, `strata.csv` one for each stratum, each study's folder the runs.",
        "",
        "How to read it: runs are paired, alike in seed, data and draws but for the one factor. "
        "The seed is the unit: an effect is the mean over seeds of the paired difference in the "
        "share of runs for which the claim's measure holds, or that share itself; its interval is "
        "a bootstrap over seeds, its test flips the signs of seeds' differences, and the p values "
        "are corrected over the whole ledger (Holm). The effect told is that of the stratum where "
        "it is weakest.",
    ]
    for word in WORDS:
        some = [each for each in judged if each.verdict.word == word]
        if some:
            lines += ["", f"## {word.capitalize()}", ""]
            lines += [line for each in some for line in _told(each)]
    return "\n".join(lines) + "\n"


def _told(each: Judged) -> list[str]:
    claim = each.claim
    if not each.findings:
        return [
            f"- **{claim.id}** {claim.says.rstrip('.')}. {claim.reason} {claim.remark}".rstrip()
        ]
    weakest = ledger_frame([each]).row(0, named=True)
    changed = " *The rule was changed after the result.*" if each.rule_changed else ""
    condition = f" {each.verdict.condition}." if each.verdict.condition else ""
    remark = f" {claim.remark}" if claim.remark else ""
    return [
        f"- **{claim.id}** {claim.says.rstrip('.')}.{condition} Effect {effect_text(each)} "
        f"({weakest['stratum']}; {weakest['seeds']} seeds, {weakest['runs_with']:,} and "
        f"{weakest['runs_without']:,} runs). {claim.range.rstrip('.')}.{remark} "
        f"[{claim.study_stem}]({claim.study_stem}/manifest.json){changed}"
    ]
