"""The folder in which this user's compiled programs are cached."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

from nanlab.backend.machine import processor

PROGRAMS_BYTES = 1 << 30
"""Limit of the cache on disk; the least recently used programs are deleted first."""


def programs_folder() -> Path | None:
    """Return the folder of this user's compiled programs, created if needed; None if impossible."""
    # Nobody else may write to it: programs in it are executed. A home directory that several
    # machines share has a folder for each kind of processor.
    kind = hashlib.sha256(processor().encode()).hexdigest()[:8]
    try:
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = caches / "nanlab" / f"programs-{kind}"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
    except (OSError, RuntimeError):
        return None
    is_mine = not hasattr(os, "getuid") or status.st_uid == os.getuid()
    return folder if is_mine and not status.st_mode & 0o022 else None


def drop_oldest(folder: Path, most: int) -> None:
    """Delete the least recently used files of a folder until the rest fit in `most` bytes."""
    # JAX's own eviction runs at each program that it writes: 0.1 s with a thousand programs. A
    # program whose file is missing or incomplete is compiled again.
    found: list[tuple[float, int, str]] = []
    with contextlib.suppress(OSError), os.scandir(folder) as files:
        for file in files:
            with contextlib.suppress(OSError):
                status = file.stat()
                # Some systems do not record when a file was read.
                used = max(status.st_atime, status.st_mtime)
                found.append((used, status.st_size, file.path))
    for _, size, path in sorted(found, reverse=True):
        most -= size
        if most < 0:
            with contextlib.suppress(OSError):
                os.unlink(path)
