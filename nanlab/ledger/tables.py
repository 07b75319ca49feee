"""Judged claims -> Markdown and LaTeX tables."""

from __future__ import annotations

from collections.abc import Sequence

from nanlab.ledger.judge import Judged
from nanlab.ledger.page import claims_table, table_row
from nanlab.results.text_tables import latex_escape

ROWS = 22
"""Rows of a page's table in LaTeX."""

COLUMNS = r"@{}>{\raggedright\arraybackslash}X p{0.17\textwidth} p{0.17\textwidth} " + (
    r"p{0.1\textwidth} p{0.1\textwidth}@{}"
)
HEADING = ("claim", "prevents or causes", "trains", "usual range", "stress range")
CAPTION = (
    "Published claims about NaN, settled by measurement. In percent of runs: with the factor / "
    "without it, their difference in points and its 95 % interval over seeds; for a cure, of the "
    "runs that fail without it, against its best placebo."
)


def claims_markdown(judged: Sequence[Judged]) -> str:
    """Return the ledger as a Markdown table."""
    return claims_table(judged, link=False) + "\n"


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
            _row(HEADING),
            r"\midrule",
            *(_row(_cells(each)) for each in judged[start : start + ROWS]),
            r"\bottomrule",
            r"\end{tabularx}",
            r"\end{table*}",
        ]
    return "\n".join(lines) + "\n"


def _cells(judged: Judged) -> list[str]:
    claim, *numbers = table_row(judged, link=False)[:5]
    return [claim, *(cell.replace(" %", "").replace(" against ", " / ") for cell in numbers)]


def _row(cells: Sequence[str]) -> str:
    return " & ".join(map(latex_escape, cells)) + r" \\"
