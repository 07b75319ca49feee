"""The progress bar of a study, or plain lines without a terminal."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
)
from rich.text import Text

from nanlab.plan.plan import Group
from nanlab.reporting.words import visible

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
            TextColumn("{task.fields[left]}"),
            console=self._console,
            transient=True,
        )
        self._task = self._bar.add_task("starting", total=None, failed=0, left="")
        self.about = ""
        self._expected = total
        self._total, self._done, self._reused, self._failed = total or 0, 0, 0, 0
        self._round = ""
        self._measured: tuple[float, int] | None = None
        self._is_compiled = False
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
        self._is_compiled = False  # how many rounds follow is not known
        self._round = f"round {number}, "
        self._total, self._done = self._total + runs, self._done + reused
        self._reused += reused
        self._bar.update(self._task, total=self._total, completed=self._done)
        if not self._console.is_terminal:
            line = f"round {number}: {openings:,} to refine, {runs:,} more runs"
            self._plain(line, always=True)

    def entered(self, group: Group, number: int, groups: int) -> None:
        """Show the next group, before its programs are compiled."""
        self._is_compiled = number + 1 == groups and not (self._round or self._expected)
        self._describe(f"{self._round}group {number + 1}/{groups}")
        if not self._console.is_terminal and not self._round:
            self._plain(f"group {number + 1} of {groups}: {len(group.runs):,} runs", always=True)

    def advanced(self, runs: int, failed: int) -> None:
        """Count the runs and the failures of a stored chunk."""
        self._done, self._failed = self._done + runs, self._failed + failed
        left = self._time_left()
        self._bar.update(self._task, completed=self._done, failed=f"{self._failed:,}", left=left)
        if not self._console.is_terminal:
            rate = (self._done - self._reused) / max(time.monotonic() - self._began, 1e-9)
            line = f"{self._done:,} of {self._total:,} runs, {self._failed:,} failed"
            parts = filter(None, (line, f"{rate:,.0f} runs/s", left))
            self._plain(", ".join(parts), always=self._done == self._total)

    def _time_left(self) -> str:
        """Return `about 12 s left`, once the rate is that of the last group's compiled program."""
        now = time.monotonic()
        if not self._is_compiled or self._done >= self._total:
            self._measured = None
            return ""
        if self._measured is None:  # this chunk's time includes the compilation
            self._measured = now, self._done
            return ""
        began, done = self._measured
        left = (self._total - self._done) * (now - began) / max(self._done - done, 1)
        return f"about {left:,.0f} s left"

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
        self._bar.console.print(visible(sentence), markup=False, highlight=False, soft_wrap=True)

    def _plain(self, sentence: str, *, always: bool) -> None:
        if always or time.monotonic() - self._printed >= PLAIN_EVERY_S:
            self._printed = time.monotonic()
            self.say(sentence)
