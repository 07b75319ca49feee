"""The progress bar of a study, or plain lines without a terminal, and its summary."""

from __future__ import annotations

import time

import polars as pl
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from nanlab.blame.explain.layout import printable
from nanlab.blame.vocabulary import WitnessAnswer
from nanlab.grid.outcome import Outcome
from nanlab.plan.plan import Group
from nanlab.results.blame_text import blame_cells
from nanlab.results.runs_table import categorical_columns
from nanlab.study.study import StudyResult

BLAMES_SHOWN = 12
PLAIN_EVERY_S = 5.0
"""Minimum time between two lines of progress without a terminal."""


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:,.0f} runs/s")


class ProgressBar:
    """Shows the progress of a study on standard error; implements `StudyCallbacks`.

    Args:
        console: the console; a terminal gets a bar, anything else a line now and then.
        total: number of runs of several studies together; None for one study.

    Attributes:
        about: name of the current one of several studies, such as "A01 (3 of 28)".
    """

    def __init__(self, console: Console | None = None, *, total: int | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[failed]} failed"),
            _Rate(),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )
        self._task = self._bar.add_task("starting", total=None, failed=0)
        self.about = ""
        self._expected = total
        self._total, self._done, self._reused, self._failed = total or 0, 0, 0, 0
        self._round = ""
        self._began = self._printed = time.monotonic()

    def __enter__(self) -> ProgressBar:
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._bar.stop()

    @property
    def done(self) -> int:
        """The number of runs that are stored."""
        return self._done

    @property
    def total(self) -> int:
        """The number of runs requested."""
        return self._total

    def started(self, total: int, reused: int) -> None:
        """Show the number of runs requested, and of those that are stored already."""
        self._total, self._round = self._expected or total, ""
        self._done, self._reused = self._done + reused, self._reused + reused
        if self._done == reused:  # the first study
            self._began = self._printed = time.monotonic()
        self._bar.update(self._task, total=self._total, completed=self._done)
        self._describe("runs")
        if reused and not self._expected:
            self.say(f"{reused:,} of {total:,} runs are there already")

    def searching(self, number: int, openings: int, runs: int, reused: int) -> None:
        """Show a search's next round: its number, open crossings or cells, and runs."""
        self._round = f"round {number}, "
        self._total, self._done = self._total + runs, self._done + reused
        self._reused += reused
        self._bar.update(self._task, total=self._total, completed=self._done)
        if not self._console.is_terminal:
            line = f"round {number}: {openings:,} to refine, {runs:,} more runs"
            self._plain(line, always=True)

    def entered(self, group: Group, number: int, groups: int) -> None:
        """Show the next group, before its programs are compiled."""
        self._describe(f"{self._round}group {number + 1}/{groups}")
        if not self._console.is_terminal and not self._round:
            self._plain(f"group {number + 1} of {groups}: {len(group.runs):,} runs", always=True)

    def advanced(self, runs: int, failed: int) -> None:
        """Count the runs and the failures of a stored chunk."""
        self._done, self._failed = self._done + runs, self._failed + failed
        self._bar.update(self._task, completed=self._done, failed=f"{self._failed:,}")
        if not self._console.is_terminal:
            rate = (self._done - self._reused) / max(time.monotonic() - self._began, 1e-9)
            left = (self._total - self._done) / max(rate, 1e-9)
            self._plain(
                f"{self._done:,} of {self._total:,} runs, {self._failed:,} failed, "
                f"{rate:,.0f} runs/s, about {left:,.0f} s left",
                always=self._done == self._total,
            )

    def crashed(self, runs: int, error: str) -> None:
        """Show an error in a chunk, whose runs are recorded as crashed."""
        self.say(f"a chunk of {runs:,} runs crashed: {error}")

    def damaged(self, chunk: str) -> None:
        """Show that a chunk is damaged, and its runs are repeated."""
        self.say(f"chunk {chunk} is damaged and was set aside; its runs are repeated")

    def cross_checking(self, blames: int) -> None:
        """Show the number of distinct blames that the witnesses check."""
        word = "blame" if blames == 1 else "blames"
        line = f"checking {blames} distinct {word} with jax.debug_nans and jax.debug_infs"
        self._describe(line)
        if not self._console.is_terminal:
            self._plain(line, always=True)

    def cross_check_failed(self, error: BaseException) -> None:
        """Show an error of the witnesses of a group, whose blames stay without."""
        first = (str(error).splitlines() or [""])[0]
        self.say(f"jax.debug_nans or jax.debug_infs failed: {type(error).__name__}: {first}")

    def _describe(self, description: str) -> None:
        self._bar.update(self._task, description=f"{self.about} {description}".strip())

    def say(self, sentence: str) -> None:
        """Print a line above the bar."""
        self._bar.console.print(sentence, markup=False, highlight=False, soft_wrap=True)

    def _plain(self, sentence: str, *, always: bool) -> None:
        if always or time.monotonic() - self._printed >= PLAIN_EVERY_S:
            self._printed = time.monotonic()
            self.say(sentence)


def show_summary(result: StudyResult, console: Console | None = None) -> None:
    """Print outcomes by the study's categorical axes, the blames, and the results folder."""
    console = console or Console()
    by = list(categorical_columns(result.plan))
    ends = result.runs.select("outcome", *by).collect()
    console.print(_outcomes_table(ends, by))
    if result.blames.height:
        _show_blames(result.blames, console)
    status = result.manifest["blame_status"]
    failed = sum(status.values())
    if failed:
        answers = dict(result.manifest["witnesses"]["said"])
        answers.pop(WitnessAnswer.NOT_ASKED, None)
        console.print(
            f"{failed:,} failed runs, of which {status.get('reproduced', 0):,} reproduced; "
            f"jax.debug_nans and jax.debug_infs on {sum(answers.values()):,} distinct blames: "
            + ", ".join(f"{n} {word}" for word, n in answers.items()),
            highlight=False,
        )
    # Neither wrapped nor parsed as markup, so that the path can be copied.
    line = Text(f"{ends.height:,} runs in ").append(str(result.folder), style="bold")
    console.print(line, soft_wrap=True)


def _outcomes_table(runs: pl.DataFrame, by: list[str]) -> Table:
    table = Table(title="outcomes", title_justify="left", box=None, pad_edge=False)
    present = [o for o in Outcome if o in set(runs.get_column("outcome"))]
    for name in by:
        table.add_column(name, no_wrap=False)
    for outcome in (*present, "runs"):
        table.add_column(outcome, justify="right")
    keys = by or [pl.lit("").alias("_")]
    counted = runs.group_by(keys, maintain_order=True).agg(
        *((pl.col("outcome") == o).sum().alias(f"n_{o}") for o in present), pl.len().alias("n")
    )
    for row in counted.iter_rows(named=True):
        cells = [_cell(row[name]) for name in by]
        table.add_row(*cells, *(f"{row[f'n_{o}']:,}" for o in present), f"{row['n']:,}")
    return table


def _cell(value: object) -> str:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _show_blames(blames: pl.DataFrame, console: Console) -> None:
    """Print the blames; a narrow terminal gets the cells of a blame below each other."""
    title = "what made the first inf or NaN, and below it the first NaN"
    rows: list[tuple[str, ...]] = []
    for row in blames.head(BLAMES_SHOWN).iter_rows(named=True):
        origin, culprit = blame_cells(row, "origin"), blame_cells(row, "culprit")
        rows.append((f"{row['runs']:,}", *map(printable, origin)))
        if culprit != origin:
            rows.append(("", *map(printable, culprit)))
    left = blames.height - BLAMES_SHOWN
    if left > 0:
        rows.append(("", f"and {left:,} more", "", "blames.csv"))
    header = ("runs", "what", "where", "line")
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    if sum(widths) + 2 * len(widths) <= console.width:
        table = Table(title=title, title_justify="left", box=None, pad_edge=False)
        table.add_column("runs", justify="right", no_wrap=True)
        for name in header[1:]:
            table.add_column(name, no_wrap=True)
        for cells in rows:
            table.add_row(*map(Text, cells))
        console.print(table)
        return
    # Neither a path nor a name is broken: at worst a line is longer than the terminal.
    console.print(title, style="italic")
    for runs, *cells in rows:
        for i, cell in enumerate(filter(None, cells)):
            line = Text(f"{runs if i == 0 else '':>{widths[0]}}  {cell}", no_wrap=True)
            console.print(line, crop=False, overflow="ignore")
