"""Study -> results, beside a thread that hears Ctrl-C and says how to go on."""

from __future__ import annotations

import os
import sys
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nanlab.study import Study, StudyResult
    from nanlab.terminal import Watcher

STOPPED = 130
"""The exit status of a command that was stopped by Ctrl-C, as shells have it."""


def run_interruptibly(study: Study, watcher: Watcher, *, force: bool) -> StudyResult:
    """Run the study beside this thread, which stays free to hear Ctrl-C at once.

    Args:
        study: what to run.
        watcher: shows it, and knows how many runs are kept.
        force: run everything, whatever is there.

    Raises:
        StoreError, MemoryError: as `Study.run` does.
    """
    results: list[StudyResult] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            results.append(study.run(force=force))
        except BaseException as error:
            errors.append(error)

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    try:
        while worker.is_alive():
            worker.join(0.1)
    except KeyboardInterrupt:
        watcher.__exit__()
        sys.stderr.write(
            f"\nstopped: {watcher.done:,} of {watcher.total:,} runs are kept in {study.folder}; "
            "the same command goes on from there\n"
        )
        sys.stderr.flush()
        # A launch cannot be called off; what it computes is lost, and nothing else is.
        os._exit(STOPPED)
    if errors:
        raise errors[0]
    return results[0]
