"""Work -> what comes of it, beside a thread that hears Ctrl-C and says how to go on."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from nanlab.cli.progress import ProgressBar
    from nanlab.study.study import Study, StudyResult

STOPPED = 130
"""The exit status of a command that was stopped by Ctrl-C, as shells have it."""

T = TypeVar("T")


def interruptibly(work: Callable[[], T], stopped: Callable[[], str]) -> T:
    """Do some work beside this thread, which stays free to hear Ctrl-C at once.

    Args:
        work: what to do.
        stopped: is called when Ctrl-C comes, for what to say then; the process ends.

    Returns:
        What `work` does; whatever it raises is raised here.
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
        # A launch cannot be called off; what it computes is lost, and nothing else is.
        os._exit(STOPPED)
    if errors:
        raise errors[0]
    return results[0]


def run_interruptibly(study: Study, watcher: ProgressBar, *, force: bool) -> StudyResult:
    """Run a study that Ctrl-C stops at once.

    Args:
        study: what to run.
        watcher: shows it, and knows how many runs are kept.
        force: run everything, whatever is there.

    Raises:
        StoreError, MemoryError: as `Study.run` does.
    """

    def stopped() -> str:
        watcher.__exit__()
        return (
            f"stopped: {watcher.done:,} of {watcher.total:,} runs are kept in {study.folder}; "
            "the same command goes on from there"
        )

    return interruptibly(lambda: study.run(force=force), stopped)
