"""Rows of text -> Markdown and LaTeX tables."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence

_LATEX = {
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
    mark = rf"\label{{{label}}}" if label else ""
    lines = [
        rf"\begin{{longtable}}{{{columns}}}",
        rf"\caption{{{latex_escape(caption)}}}{mark}\\",
        r"\toprule",
        _latex_row(header),
        r"\midrule",
        r"\endhead",
        *map(_latex_row, rows),
        r"\bottomrule",
        r"\end{longtable}",
    ]
    return "\n".join(lines)


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(map(latex_escape, cells)) + r" \\"


def latex_escape(text: str) -> str:
    """Escape every character that LaTeX would interpret or print as another glyph."""
    return "".join(_LATEX.get(character, character) for character in text)
