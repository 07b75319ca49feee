"""Output that nobody reads any more: the results of a command are in its files."""

from __future__ import annotations

import io
import os
import sys
from typing import Any


def allow_closed_output() -> None:
    """Let this process go on when its output is closed, as by `>&-`, or later by `| head -1`."""
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        stream: Any = getattr(sys, name)
        if stream is None:  # the next file that is opened must not get its number
            _connect_to_nothing(descriptor)
        else:
            stream.flush()
        raw = _Output(descriptor, "w", closefd=False)
        text = _Text(
            io.BufferedWriter(raw),
            encoding=getattr(stream, "encoding", "utf-8"),
            errors=getattr(stream, "errors", None),
            line_buffering=getattr(stream, "line_buffering", False),
            write_through=getattr(stream, "write_through", False),
        )
        setattr(sys, name, text)


class _Text(io.TextIOWrapper):
    """A stream that stays open when a user's module closes it."""

    def close(self) -> None:
        """Write what has not been written yet."""
        self.flush()


class _Output(io.FileIO):
    """A stream that drops what nobody reads."""

    def write(self, data: Any, /) -> int:
        """Write or drop the data, and return its length."""
        try:
            return super().write(data) or 0
        except BrokenPipeError:
            _connect_to_nothing(self.fileno())
            return memoryview(data).nbytes


def _connect_to_nothing(descriptor: int) -> None:
    nothing = os.open(os.devnull, os.O_WRONLY)
    if nothing != descriptor:
        os.dup2(nothing, descriptor)
        os.close(nothing)
