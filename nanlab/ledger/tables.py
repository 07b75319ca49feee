"""Judged claims -> Markdown and LaTeX tables."""

from __future__ import annotations

from collections.abc import Sequence

from nanlab.ledger.judge import Judged, ledger_frame
from nanlab.results.text_tables import latex_table, markdown_table

HEADING = ("id", "claim", "verdict", "condition", "effect", "seeds")


def effect_text(judged: Judged) -> str:
    """Return `+0.31 [+0.28, +0.34]`, of the stratum furthest from the claim."""
    row = ledger_frame([judged]).row(0, named=True)
    if row["effect"] is None:
        return "not measured"
    form = ".2f" if judged.claim.contrast is None else "+.2f"
    effect = f"{row['effect']:{form}}"
    interval = f"{row['low']:{form}}, {row['high']:{form}}"
    return effect if judged.claim.deterministic else f"{effect} [{interval}]"


def _rows(judged: Sequence[Judged]) -> list[tuple[str, ...]]:
    return [
        (
            each.claim.id, each.claim.says, each.verdict.word, each.verdict.condition,
            effect_text(each),
            str(len(each.findings[0].stratum.values)) if each.findings else "",
        )
        for each in judged
    ]  # fmt: skip


def claims_markdown(judged: Sequence[Judged]) -> str:
    """Return the ledger as a Markdown table."""
    return markdown_table(HEADING, _rows(judged)) + "\n"


def claims_latex(judged: Sequence[Judged]) -> str:
    """Return the ledger as a LaTeX table; it needs booktabs and longtable."""
    return latex_table(
        HEADING, _rows(judged), columns=r"lp{0.34\linewidth}lp{0.22\linewidth}lr",
        caption="Published claims about NaN, settled by measurement. The effect is that of the "
        "stratum furthest from the claim, with its 95 % bootstrap interval over seeds.",
    ) + "\n"  # fmt: skip
