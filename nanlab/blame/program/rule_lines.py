"""Trace derivative rules with their own lines.

JAX transforms a jaxpr by running its equations again, each under the traceback of its line. What
Python code computes meanwhile, such as the rule of a `custom_vjp` or a `custom_vmap`, is recorded
at the line that called the function, not at the rule's. While a function is traced here, code of
the user's that runs inside such a replay is recorded where it is.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from nanlab.backend.jaxpr import RETRACED, SOURCES
from nanlab.blame.source_path import is_installed

_LOCK = threading.RLock()
_NOTHING = "(?!)"
"""A regular expression that matches nothing."""


class _Replay(threading.local):
    frame: FrameType | None = None
    """Frame in which the innermost replay of an equation runs."""


@contextmanager
def rules_located() -> Generator[None]:
    """Record the equations of rules at their own lines while this is open."""
    with _LOCK:
        own = SOURCES.user_context, SOURCES.current
        SOURCES.user_context, SOURCES.current = _hooked(*own)
        try:
            # Functions that were called before have cached traces, without the lines.
            with RETRACED(f"{RETRACED.value or ''}{_NOTHING}"):
                yield
        finally:
            SOURCES.user_context, SOURCES.current = own


def _hooked(context: Any, current: Callable[[], Any]) -> tuple[Any, Callable[[], Any]]:
    """Return JAX's context of a replayed equation, and its reader, which recognize rules."""
    replay = _Replay()

    class Context(context):
        __slots__ = ("before",)

        def __enter__(self) -> Any:
            self.before = replay.frame
            replay.frame = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
            return super().__enter__()

        def __exit__(self, *error: Any) -> Any:
            replay.frame = self.before
            return super().__exit__(*error)

    def located() -> Any:
        info = current()
        if replay.frame is None or not _is_in_users_code(replay.frame):
            return info
        return info.replace(traceback=SOURCES.xla_client.Traceback.get_traceback())

    return Context, located


def _is_in_users_code(replay: FrameType) -> bool:
    """Return whether code of the user's has been called since the replay of an equation."""
    frame: FrameType | None = sys._getframe(2)  # pyright: ignore[reportPrivateUsage]
    is_users = False
    while frame is not None and frame is not replay:
        is_users = is_users or not is_installed(frame.f_code.co_filename)
        frame = frame.f_back
    return is_users and frame is replay
