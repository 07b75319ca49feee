"""Run work in a background thread, so that the main thread handles Ctrl-C at once."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from nanlab.cli.exit_status import STOPPED
from nanlab.results.ownership import leave_all

if TYPE_CHECKING:
    from nanlab.cli.progress import ProgressBar
    from nanlab.study.study import Study, StudyResult

RESUMES = "the same command resumes from there"

T = TypeVar("T")


def interruptibly(work: Callable[[], T], stopped: Callable[[], str]) -> T:
    """Run work in a background thread, and end the process on Ctrl-C.

    Args:
        work: the work; its exceptions are raised here.
        stopped: called on Ctrl-C, returns the message to print.

    Returns:
        The result of `work`.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)

    worker = threading.Thread(target=run, daemon=True)
    worker.start()
    try:
        while worker.is_alive():
            worker.join(0.1)
    except KeyboardInterrupt:
        sys.stderr.write(f"\n{stopped()}\n")
        sys.stderr.flush()
        leave_all()
        # A launch cannot be cancelled; only its results are lost.
        os._exit(STOPPED)
    if errors:
        raise errors[0]
    return results[0]


def run_interruptibly(study: Study, progress: ProgressBar, *, force: bool) -> StudyResult:
    """Run a study that Ctrl-C stops at once."""

    def stopped() -> str:
        progress.__exit__()
        done = f"{progress.done:,} of {progress.total:,} runs are stored in {study.folder}"
        return f"stopped: {done}; {RESUMES}"

    return interruptibly(lambda: study.run(force=force), stopped)
