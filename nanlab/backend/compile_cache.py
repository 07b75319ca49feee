"""The folder in which this user's compiled programs are cached."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

from nanlab.backend.machine import processor

PROGRAMS_BYTES = 1 << 30
"""How much disk compiled programs may take; the ones that were used longest ago go first."""


def programs_folder() -> Path | None:
    """The folder of this user's compiled programs, made if need be; None if there can be none.

    It is this user's alone, as a program that somebody else has put there would be run; and a
    home that several machines share has a folder for each kind of processor.
    """
    kind = hashlib.sha256(processor().encode()).hexdigest()[:8]
    try:
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = caches / "nanlab" / f"programs-{kind}"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        told = folder.stat()
    except (OSError, RuntimeError):
        return None
    mine = not hasattr(os, "getuid") or told.st_uid == os.getuid()
    return folder if mine and not told.st_mode & 0o022 else None


def drop_oldest(folder: Path, most: int) -> None:
    """Delete the files of a folder that were used longest ago, until the rest fit in `most` bytes.

    JAX would do this too, at each program that it keeps: with a thousand programs that takes 0.1 s
    each time. A file that another process deletes meanwhile, or has not whole yet, is compiled.
    """
    found: list[tuple[float, int, str]] = []
    with contextlib.suppress(OSError), os.scandir(folder) as files:
        for file in files:
            with contextlib.suppress(OSError):
                told = file.stat()
                # Some systems do not say when a file was read.
                found.append((max(told.st_atime, told.st_mtime), told.st_size, file.path))
    room = most
    for _, size, path in sorted(found, reverse=True):
        room -= size
        if room < 0:
            with contextlib.suppress(OSError):
                os.unlink(path)
