"""Ledger -> claims.csv, strata.csv, claims.md, claims.tex: the tables that people cite."""

from __future__ import annotations

from collections.abc import Sequence

from nanlab.ledger.judge import Judged, ledger_frame

HEADING = ("id", "claim", "verdict", "condition", "effect", "seeds")


def effect_text(judged: Judged) -> str:
    """`+0.31 [+0.28, +0.34]`, of the stratum that lies furthest from the claim."""
    row = ledger_frame([judged]).row(0, named=True)
    if row["effect"] is None:
        return "none to tell"
    form = ".2f" if judged.claim.contrast is None else "+.2f"
    told = f"{row['effect']:{form}}"
    between = f"{row['low']:{form}}, {row['high']:{form}}"
    return told if judged.claim.deterministic else f"{told} [{between}]"


def _rows(judged: Sequence[Judged]) -> list[tuple[str, ...]]:
    return [
        (
            each.claim.id, each.claim.says, each.verdict.word, each.verdict.condition,
            effect_text(each),
            str(len(each.findings[0].stratum.values)) if each.findings else "",
        )
        for each in judged
    ]  # fmt: skip


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
        r"stratum furthest from the claim, with its 95\,\% bootstrap interval over seeds.}\\",
        r"\toprule",
        " & ".join(HEADING) + r" \\",
        r"\midrule",
        *(" & ".join(map(cell, row)) + r" \\" for row in _rows(judged)),
        r"\bottomrule",
        r"\end{longtable}",
    ]
    return "\n".join(lines) + "\n"
