"""Rows of text -> Markdown and LaTeX tables."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Container, Iterable, Sequence

FLOAT_ROWS = 40
"""Number of rows of a floating table in LaTeX, which has to fit on a page."""

_LATEX = {
    "`": r"\textasciigrave{}",
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "$": r"\$",
    "{": r"\{", "}": r"\}", "^": r"\^{}", "~": r"\textasciitilde{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", "β": r"$\beta$", "λ": r"$\lambda$",
    "è": r"\`{e}", "≥": r"$\geq$", "±": r"$\pm$",
}  # fmt: skip


def markdown_table(
    header: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: Container[int] = ()
) -> str:
    """Return a Markdown table, without a final newline.

    Args:
        header: the column names.
        rows: the cells, row by row.
        numbers: indices of the columns to align right.
    """
    rule = "|".join("---:" if i in numbers else "---" for i in range(len(header)))
    return "\n".join([_markdown_row(header), f"|{rule}|", *map(_markdown_row, rows)])


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def latex_table(
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    columns: str,
    caption: str,
    label: str = "",
) -> str:
    r"""Return a LaTeX table, without a final newline; it needs booktabs and longtable.

    Args:
        header: the column names.
        rows: the cells, row by row.
        columns: the column specification, such as "lp{0.3\linewidth}r".
        caption: the caption, as plain text like the cells.
        label: the name to refer to the table by.
    """
    lines = [
        rf"\begin{{longtable}}{{{columns}}}",
        rf"{_latex_caption(caption, label)}\\",
        r"\toprule",
        _latex_row(header),
        r"\midrule",
        r"\endhead",
        *map(_latex_row, rows),
        r"\bottomrule",
        r"\end{longtable}",
    ]
    return "\n".join(lines)


def latex_floats(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, columns: str, caption: str, label: str,
    environment: str,
) -> str:  # fmt: skip
    r"""Return a LaTeX table as floats of FLOAT_ROWS rows or fewer; they need booktabs.

    Args:
        header: the column names.
        rows: the cells, row by row.
        columns: the column specification.
        caption: the caption, as plain text like the cells.
        label: the name to refer to the first float by.
        environment: "table" for one column of a page, "table*" for both.
    """
    lines: list[str] = []
    for start in range(0, max(len(rows), 1), FLOAT_ROWS):
        lines += [
            rf"\begin{{{environment}}}",
            r"\centering\small\setlength{\tabcolsep}{4pt}",
            _latex_caption("Continued." if start else caption, "" if start else label),
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            _latex_row(header),
            r"\midrule",
            *map(_latex_row, rows[start : start + FLOAT_ROWS]),
            r"\bottomrule",
            r"\end{tabular}",
            rf"\end{{{environment}}}",
        ]
    return "\n".join(lines)


def _latex_caption(caption: str, label: str) -> str:
    mark = rf"\label{{{latex_name(label)}}}" if label else ""
    return rf"\caption{{{latex_escape(caption)}}}{mark}"


def latex_name(text: str) -> str:
    """Return a name for a label: letters, digits and -_.: alone."""
    return re.sub(r"[^A-Za-z0-9:._-]+", "-", text)


def _latex_row(cells: Sequence[str]) -> str:
    row = " & ".join(map(latex_escape, cells)) + r" \\"
    # Both are arguments of the command that ends the row before.
    return f"{{}}{row}" if row.startswith(("[", "*")) else row


def latex_escape(text: str) -> str:
    """Escape every character that LaTeX would interpret, print as another glyph, or not know."""
    escaped = "".join(map(_latex_character, text))
    return escaped.replace("--", "-{}-").replace("''", "'{}'")


def _latex_character(character: str) -> str:
    if character in _LATEX or character.isascii():
        return _LATEX.get(character, character if character.isprintable() else " ")
    if "\u00a0" <= character <= "\u017f":
        return character  # every LaTeX reads these as UTF-8
    plain = unicodedata.normalize("NFKD", character)
    return plain if plain.isascii() and plain.isalnum() else f"U+{ord(character):04X}"


def markdown_escape(text: str) -> str:
    """Escape every character that Markdown would interpret, in a paragraph or in a table."""
    special = r"([\\`*\[\]<>|$~]|(?<![^\W_])_|_(?![^\W_])|&(?=#?\w+;)|^[#+-](?=\s))"
    return re.sub(special, r"\\\1", re.sub(r"\s", " ", text))
