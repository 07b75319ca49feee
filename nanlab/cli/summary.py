"""What the terminal shows of a finished study: lines that wrap between words alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import polars as pl
from rich.console import Console

from nanlab.blame.explain import layout
from nanlab.blame.vocabulary import WitnessAnswer
from nanlab.grid.outcome import Outcome
from nanlab.reporting.analysis import analyze
from nanlab.reporting.answer import answer_of
from nanlab.reporting.source_lines import SourceLines
from nanlab.reporting.words import visible
from nanlab.results.blame_text import blame_cells
from nanlab.results.read import read_results
from nanlab.results.runs_table import categorical_columns
from nanlab.study.study import StudyResult

BLAMES_SHOWN = 12


def show_summary(result: StudyResult, console: Console | None = None) -> None:
    """Print outcomes by the study's choices, a search's answer, the blames, and the folder."""
    console = console or Console()
    ends = result.runs.select("outcome", *categorical_columns(result.plan)).collect()
    lines = [*_outcomes(ends, console.width), *_answer(result)]
    lines += blame_lines(result.blames, SourceLines(result.manifest))
    status = result.manifest["blame_status"]
    if failed := sum(status.values()):
        answers = dict(result.manifest["witnesses"]["said"])
        answers.pop(WitnessAnswer.NOT_ASKED, None)
        line = f"{failed:,} failed runs, of which {status.get('reproduced', 0):,} reproduced"
        if answers:
            words = ", ".join(f"{n} {word}" for word, n in answers.items())
            blames = f"{sum(answers.values()):,} distinct blames"
            line += f"; jax.debug_nans and jax.debug_infs on {blames}: {words}"
        lines.append(line)
    for line in lines:
        _show(console, wrapped_line(visible(line), console.width))
    _show(console, f"{ends.height:,} runs in {visible(str(result.folder))}")


def _show(console: Console, line: str) -> None:
    # Neither wrapped nor parsed as markup, so that a path can be copied.
    console.print(line, soft_wrap=True, markup=False, highlight=False)


def wrapped_line(line: str, width: int) -> str:
    """Return a line broken between words alone, so that paths and types stay whole."""
    if len(line) <= width:
        return line.replace(layout.NO_BREAK, " ")
    text = line.lstrip()
    indent = len(line) - len(text)
    first, *rest = layout.wrapped(text, max(width - indent - 2, 1), is_folded=False)
    return "\n".join([" " * indent + first, *(" " * (indent + 2) + piece for piece in rest)])


def _outcomes(runs: pl.DataFrame, width: int) -> list[str]:
    """Return a table of outcomes by choices; where it is too wide, a line for each row."""
    by = runs.columns[1:]
    present = [o for o in Outcome if o in set(runs.get_column("outcome"))]
    counts = ((pl.col("outcome") == o).sum().alias(f"n_{o}") for o in present)
    keys = by or [pl.lit("").alias("_")]
    counted = runs.group_by(keys, maintain_order=True).agg(*counts, pl.len().alias("n"))
    rows = [[_cell(value) for value in row][0 if by else 1 :] for row in counted.rows()]
    table = [[*by, *present, "runs"], *rows]
    wide = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    if sum(wide) + 2 * (len(wide) - 1) <= width:
        return ["outcomes", *("  ".join(
            cell.ljust(n) if i < len(by) else cell.rjust(n)
            for i, (cell, n) in enumerate(zip(row, wide, strict=True))
        ).rstrip() for row in table)]  # fmt: skip
    return ["outcomes", *(_outcome_line(row, by, present) for row in rows)]


def _outcome_line(row: Sequence[str], by: Sequence[str], present: Sequence[str]) -> str:
    numbers = zip(row[len(by) : -1], present, strict=True)
    ended = ", ".join(f"{n} {outcome}" for n, outcome in numbers if n != "0")
    label = ", ".join(row[: len(by)])
    return f"  {label}: {ended}" if label else f"  {ended}"


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def _answer(result: StudyResult) -> Iterator[str]:
    """Yield what a search or refinement found."""
    if result.manifest.get("search"):
        analysis = analyze(read_results(result.folder))
        answer = answer_of(analysis)
        yield answer.sentence
        yield from (f"  {what}: {value}" for what, value in answer.numbers)


def blame_lines(blames: pl.DataFrame, sources: SourceLines) -> Iterator[str]:
    """Yield the most frequent rows of the table of blames, each with the code of its lines."""
    if blames.height:
        yield "what made the first inf or NaN, and then the first NaN"
    for row in blames.head(BLAMES_SHOWN).iter_rows(named=True):
        origin, culprit = (blame_cells(row, role) for role in ("origin", "culprit"))
        for lead, cells in ((f"{row['runs']:>6,}  ", origin), (" " * 8, culprit)):
            if cells is culprit and culprit == origin:
                continue
            named = (cell.replace(" ", layout.NO_BREAK) for cell in cells[:2] if cell)
            yield lead + ", ".join(named)
            if cells[2]:
                yield " ".join(filter(None, (f"{'':10}{cells[2]}", sources.code(cells[2]))))
    if (left := blames.height - BLAMES_SHOWN) > 0:
        yield f"        and {left:,} more in blames.csv"
