"""Compare nanlab with `jax.debug_nans` and checkify: correct answers and time.

The programs and their labels are those of the tests (tests/corpus). JAX's caches are cleared before
each side, so that every answer starts cold.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import jax
import tyro
from jax.experimental import checkify
from rich.console import Console
from rich.table import Table

import nanlab

Case = Any  # corpus.case.Case, of the tests
TESTS = Path(__file__).resolve().parents[1] / "tests"

ALIASES = {"add_any": "add", "pjit": "jit", "remat2": "checkpoint"}


@dataclass(frozen=True, kw_only=True)
class Options:
    """Compare the detective with JAX's own tools on the corpus.

    Attributes:
        rounds: how often each case is timed on each side; medians are shown.
        only: run the cases with this text in their name.
        each: print a line per case.
    """

    rounds: int = 1
    only: str = ""
    each: bool = False


class Answer(NamedTuple):
    """A tool's answer to a case; None for what it did not report."""

    is_fault: bool
    primitive: str | None = None
    line: str | None = None
    origin: str | None = None


def corpus_line(frames: Iterable[tuple[str, int | None]]) -> str | None:
    """Return the innermost of these (file, line) in the corpus, written as its marks are."""
    lines = (f"corpus/{Path(file).name}:{line}" for file, line in frames if _is_corpus(file))
    return next(lines, None)


def _is_corpus(file: str) -> bool:
    return Path(file).parent.name == "corpus"


Tool = Callable[[Callable[..., Any], tuple[Any, ...], bool], Answer]
"""(function, arguments, whether to look for an inf) -> the tool's answer."""


def with_nanlab(function: Callable[..., Any], arguments: tuple[Any, ...], is_inf: bool) -> Answer:
    verdict = nanlab.pinpoint(function, *arguments)
    site, origin = verdict.culprit or verdict.origin, verdict.origin
    if not verdict.fault or site is None or origin is None:
        return Answer(False)
    line = f"corpus/{Path(site.file).name}:{site.line}"
    is_given = origin.mechanism in ("input", "constant")
    return Answer(True, site.primitive, line, origin.mechanism if is_given else origin.primitive)


def with_debug_nans(
    function: Callable[..., Any], arguments: tuple[Any, ...], is_inf: bool
) -> Answer:
    check = jax.debug_infs if is_inf else jax.debug_nans
    with check(True), contextlib.redirect_stdout(io.StringIO()):
        try:
            jax.block_until_ready(jax.jit(function)(*arguments))
        except FloatingPointError as error:
            named = re.search(r"encountered in ([\w.-]+)", str(error))
            frames = traceback.extract_tb(error.__traceback__)
            line = corpus_line((f.filename, f.lineno) for f in reversed(frames))
            return Answer(True, named.group(1) if named else None, line)
    return Answer(False)


def with_checkify(checks: Any) -> Tool:
    def run(function: Callable[..., Any], arguments: tuple[Any, ...], is_inf: bool) -> Answer:
        error, _ = jax.jit(checkify.checkify(function, errors=checks))(*arguments)
        raised: Any = error.get_exception()
        if raised is None:
            return Answer(False)
        named = re.search(r"primitive:? ([\w-]+)", str(raised))
        divided = "div" if "division by zero" in str(raised) else None
        frames = [(f.file_name, f.line_num) for f in raised.traceback_info.frames]
        return Answer(True, named.group(1) if named else divided, corpus_line(frames))

    return run


def plainly(function: Callable[..., Any], arguments: tuple[Any, ...], is_inf: bool) -> Answer:
    jax.block_until_ready(jax.jit(function)(*arguments))
    return Answer(False)


SIDES: dict[str, Tool] = {
    "pinpoint": with_nanlab,
    "debug_nans": with_debug_nans,
    "checkify nan": with_checkify(checkify.nan_checks),
    "checkify float": with_checkify(checkify.float_checks),
    "plain": plainly,
}


@dataclass
class Score:
    """One side's counts over the cases: correct answers, false alarms, crashes."""

    nan: int = 0
    inf: int = 0
    origin: int = 0
    alarms: int = 0
    crashed: int = 0


def canonical(primitive: str | None) -> str | None:
    return ALIASES.get(primitive, primitive) if primitive else None


def grade(case: Case, answer: Answer, score: Score) -> str:
    """Add an answer to the score; return what is wrong with it, or ""."""
    if not case.phase:
        # No fault should be reported on a control, unless its input holds a NaN (no culprit line).
        is_alarm = answer.is_fault and case.mechanism == ""
        score.alarms += is_alarm
        return "false alarm" if is_alarm else ""
    right = {canonical(p) for p in (case.primitive or case.origin, *case.also) if p}
    # A NaN that came with the data has no primitive.
    is_primitive = not right or canonical(answer.primitive) in right
    if case.origin == "constant":
        is_primitive = answer.origin == "constant"
    is_line = answer.line in case.marked("culprit", "also", "origin")
    score.nan += is_primitive and is_line and not case.origin
    score.inf += is_primitive and is_line and bool(case.origin)
    began = case.origin or case.causal_inf or case.first_inf or case.primitive
    score.origin += answer.is_fault and (not began or canonical(answer.origin) == canonical(began))
    return "" if is_primitive and is_line else f"{answer.primitive} at {answer.line}"


def main(options: Options) -> None:
    jax.config.update("jax_num_cpu_devices", 2)
    sys.path.insert(0, str(TESTS))
    corpus: dict[str, Case] = import_module("corpus").CASES
    cases = {name: case for name, case in corpus.items() if options.only in name}
    if not cases:
        sys.exit(f"--only {options.only}: no case has this in its name")
    console = Console()
    scores = {side: Score() for side in SIDES}
    times: dict[str, list[float]] = {side: [] for side in SIDES}
    for name, case in cases.items():
        function, arguments = case.built
        for side, run in SIDES.items():
            taken: list[float] = []
            for _ in range(options.rounds):
                jax.clear_caches()
                began = time.perf_counter()
                try:
                    answer = run(function, arguments, bool(case.origin))
                except Exception as error:
                    answer, scores[side].crashed = Answer(False), scores[side].crashed + 1
                    console.print(f"{name}: {side}: {type(error).__name__}: {error}"[:200])
                taken.append(time.perf_counter() - began)
            times[side].append(median(taken))
            wrong = grade(case, answer, scores[side])
            if options.each and (wrong or side in ("pinpoint", "debug_nans")):
                console.print(f"{name}: {side}: {times[side][-1]:.3f} s {wrong}", highlight=False)
    infs = sum(bool(case.origin) for case in cases.values())
    nans = sum(bool(case.phase) for case in cases.values()) - infs
    table = Table(
        title=f"{nans} NaNs, {infs} infs without a NaN, {len(cases) - nans - infs} controls; cold",
        caption=f"{os.cpu_count()} cores, JAX {jax.__version__}, {jax.devices()[0].platform}, "
        f"load average {os.getloadavg()[0]:.1f}",
        padding=(0, 0),
    )
    table.add_column("", no_wrap=True)
    for column in ("NaN", "inf", "origin", "alarms", "crashed", "median", "mean"):
        table.add_column(column, justify="right", no_wrap=True)
    for side, score in scores.items():
        table.add_row(
            side,
            *(str(n) for n in (score.nan, score.inf, score.origin, score.alarms, score.crashed)),
            f"{median(times[side]):.3f} s",
            f"{sum(times[side]) / len(times[side]):.3f} s",
        )
    console.print(table)


if __name__ == "__main__":
    main(tyro.cli(Options))
