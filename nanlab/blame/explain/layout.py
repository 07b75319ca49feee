"""Sentences and rows of cells -> lines of a terminal, which break neither paths nor types."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

# A space that is no place to break a line: float32[64, 10], [0, 2].
NO_BREAK = "\ue000"
_SHAPE = re.compile(r"\w*\[[\d, ]*\]")
_STEP = re.compile(r"[^/\\]*[/\\]+|[^/\\]+")
_GAP = 2


def printable(text: str) -> str:
    r"""Return a text with control characters, bidirectional marks and the like as \x1b."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )


def wrapped(text: str, width: int, *, is_folded: bool) -> list[str]:
    """Break a text into lines at spaces outside shapes.

    Args:
        text: the text, without line breaks.
        width: number of columns.
        is_folded: whether a longer word is broken, after a slash if it has one. Otherwise it gets
            a line of its own, which is too long.

    Returns:
        The lines.
    """
    joined = _SHAPE.sub(lambda m: m[0].replace(" ", NO_BREAK), text)
    lines = [""]
    for word in joined.split(" "):
        for i, piece in enumerate(_pieces(word, width) if is_folded else [word]):
            gap = " " if lines[-1] and i == 0 else ""
            if lines[-1] and len(lines[-1]) + len(gap) + len(piece) > width:
                lines.append(piece)
            else:
                lines[-1] += gap + piece
    return [line.replace(NO_BREAK, " ") for line in lines]


def _pieces(word: str, width: int) -> Iterator[str]:
    """Yield the parts between which a word too long for a line is broken."""
    if len(word) <= width:
        yield word
        return
    for step in _STEP.findall(word):
        yield from (step[i : i + width] for i in range(0, len(step), width))


@dataclass(frozen=True)
class Paragraph:
    """A text whose lines fit the terminal.

    Attributes:
        text: the text; what cannot be printed in it is escaped.
        style: its style.
        indent: number of columns before it.
        is_folded: see `wrapped`.
        head: the beginning of the text that has a style of its own, and that style.
    """

    text: str
    style: str = ""
    indent: int = 0
    is_folded: bool = False
    head: tuple[str, str] = ("", "")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the lines."""
        head, style = printable(self.head[0]), self.head[1]
        width = max(options.max_width - self.indent, 1)
        overflow = "fold" if self.is_folded else "ignore"
        for line in wrapped(head + printable(self.text), width, is_folded=self.is_folded):
            text = Text(" " * self.indent + line, self.style, no_wrap=True, overflow=overflow)
            text.stylize(style, self.indent, self.indent + len(head))
            head = head[len(line) :].lstrip()
            yield text


@dataclass(frozen=True)
class Rows:
    """Rows of cells: a table if it fits the terminal, else a paragraph a row.

    Attributes:
        header: titles of the columns; () without titles.
        cells: the rows.
        indent: number of columns before them.
        is_folded: see `wrapped`.
    """

    header: Sequence[str]
    cells: Sequence[Sequence[str]]
    indent: int = 0
    is_folded: bool = False

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the lines."""
        rows = [[printable(cell) for cell in row] for row in self.cells]
        table = [[*self.header], *rows] if self.header else rows
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        if self.indent + sum(widths) + _GAP * (len(widths) - 1) > options.max_width:
            for row in rows:
                text = self._sentence(row)
                yield Paragraph(text, indent=self.indent, is_folded=self.is_folded)
            return
        for i, row in enumerate(table):
            cells = (cell.ljust(w + _GAP) for cell, w in zip(row, widths, strict=True))
            style = "dim" if self.header and i == 0 else ""
            line = " " * self.indent + "".join(cells).rstrip()
            yield Text(line, style, no_wrap=True, overflow="ignore")

    def _sentence(self, row: Sequence[str]) -> str:
        """Return a row as a sentence, with the titles where they are needed."""
        titles = self.header or [""] * len(row)
        named = [
            f"{title} {cell}" if title and title != "type" else cell
            for title, cell in zip(titles, row, strict=True)
            if cell not in ("", "-")
        ]
        return f"{named[0]}: {', '.join(named[1:])}" if self.header else ", ".join(named)
