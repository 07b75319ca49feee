"""Judged claims -> Markdown and LaTeX tables."""

from __future__ import annotations

from collections.abc import Sequence

from nanlab.ledger.claim import Claim
from nanlab.ledger.findings import of_placebo, shows, strongest
from nanlab.ledger.judge import Answer, Judged, RangeName
from nanlab.ledger.pairs import FACTOR
from nanlab.ledger.rules import HOLDS, NOT_TESTABLE
from nanlab.ledger.sentences import breaks_text, range_label
from nanlab.ledger.words import between, points, share_text
from nanlab.results.text_tables import latex_escape, markdown_escape, markdown_table

NOTHING = "-"
ROWS = 22
"""Rows of a page's table in LaTeX."""

COLUMNS = r"@{}>{\raggedright\arraybackslash}X p{0.2\textwidth} p{0.17\textwidth} " + (
    r"p{0.09\textwidth} p{0.09\textwidth}@{}"
)
LATEX_HEADING = ("claim", "decides", "also measured", "usual range", "stress range")
CAPTION = (
    "Published claims about NaN, put to the test. Shares of runs: with the factor against without "
    "it (of a cure, with its best placebo), their difference in points and its 95 % interval over "
    "seeds. Of a cure, the runs are those that fail without it."
)
HEADING = (
    "claim", "usual range", "holds in", "decides", "also measured", "stress range",
    "what breaks it",
)  # fmt: skip


def claims_markdown(judged: Sequence[Judged]) -> str:
    """Return the ledger as a Markdown table."""
    return claims_table(judged, link=False) + "\n"


def claims_table(judged: Sequence[Judged], *, link: bool) -> str:
    """Return the table of all claims in Markdown."""
    return markdown_table(HEADING, [table_row(each, link=link) for each in judged])


def table_row(judged: Judged, *, link: bool) -> tuple[str, ...]:
    """Return a claim's row of the table, the columns of HEADING."""
    claim, headline = judged.claim, judged.headline
    name = f"[{claim.id}](#{claim.id.lower()})" if link else claim.id
    words = [_range_word(judged, "usual"), _range_word(judged, "stress")]
    numbers, holds = [NOTHING, NOTHING], NOTHING
    if claim.usual is None:
        words[0] = NOTHING
    if headline is None:
        words = [NOT_TESTABLE, NOTHING]
    else:
        placebo = strongest(headline.claim, headline.primary).stratum.placebo
        numbers = [answer_text(headline.claim, each, placebo) for each in headline.answers]
        numbers = [*numbers, NOTHING][:2]
        counts = headline.primary.verdict.counts
        holds = f"{counts.get(HOLDS, 0)} of {sum(counts.values())}" if counts else NOTHING
        if range_label(judged, headline) == "as stated":
            words = [f"as stated: {judged.word}", NOTHING]
    return (
        f"{name} {cell(claim.says) if link else claim.says}", words[0], holds, *numbers, words[1],
        breaks_text(judged) or NOTHING,
    )  # fmt: skip


def cell(text: str) -> str:
    """Return a text escaped for a table, which escapes its bars itself."""
    return markdown_escape(text).replace(r"\|", "|")


def _range_word(judged: Judged, name: RangeName) -> str:
    found = judged.range(name)
    return "not run yet" if found is None else found.primary.verdict.word


def answer_text(claim: Claim, answer: Answer, placebo: str) -> str:
    """Return an answer's numbers: "have a fault: 41 % against 12 %, +29 [25, 33]"."""
    result = of_placebo(answer, placebo)
    if result is None or result.effect is None or result.low is None or result.high is None:
        return "no run fails"
    stratum, shown = result.stratum, shows(claim, answer)
    factor = f" ({stratum.key[FACTOR]})" if FACTOR in stratum.key else ""
    if stratum.without is None or stratum.with_ is None:
        is_exact = result.low == result.high
        interval = " exactly" if is_exact else f" {between(result.low, result.high)}"
        return f"{shown}: {share_text(result.effect)}{interval}"
    return (
        f"{shown}{factor}: {share_text(stratum.with_)} against {share_text(stratum.without)}, "
        f"{points(result.effect)} {between(result.low, result.high, signed=True)}"
    )


def claims_latex(judged: Sequence[Judged]) -> str:
    """Return the ledger as LaTeX tables over both columns; they need booktabs and tabularx."""
    lines: list[str] = []
    for start in range(0, len(judged), ROWS):
        lines += [
            r"\begin{table*}",
            r"\centering\footnotesize\setlength{\tabcolsep}{3pt}",
            r"\caption{Continued.}"
            if start
            else rf"\caption{{{latex_escape(CAPTION)}}}\label{{tab:claims}}",
            rf"\begin{{tabularx}}{{\textwidth}}{{{COLUMNS}}}",
            r"\toprule",
            _row(LATEX_HEADING),
            r"\midrule",
            *(_row(_cells(each)) for each in judged[start : start + ROWS]),
            r"\bottomrule",
            r"\end{tabularx}",
            r"\end{table*}",
        ]
    return "\n".join(lines) + "\n"


def _cells(judged: Judged) -> list[str]:
    claim, usual, _, decides, also, stress, _ = table_row(judged, link=False)
    numbers = [text.replace(" %", "").replace(" against ", " / ") for text in (decides, also)]
    return [claim, *numbers, usual, stress]


def _row(cells: Sequence[str]) -> str:
    return " & ".join(map(latex_escape, cells)) + r" \\"
