"""The folder in which this user's compiled programs are cached."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import re
import time
import warnings
from pathlib import Path
from typing import Any

from nanlab.backend.machine import processor

_DAMAGED = re.compile(r"Error (reading|writing) persistent compilation cache entry for '(.+?)'")


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


def mend(folder: Path) -> None:
    """From now on delete kept programs of a name when JAX warns that one cannot be read or written.

    A full disk or a killed process leaves a part of one, and JAX neither writes over it nor deletes
    it, so that it would be compiled, and warned of, at every start. One that cannot be read is from
    before, one that cannot be written is not. A person is told of the first that cannot be written.
    """
    # Usually a warning of the same words is passed on once: two programs may have one name.
    warnings.filterwarnings("always", message=_DAMAGED.pattern)
    show, told, began = warnings.showwarning, set[str](), time.time()

    def look(message: Warning | str, *where: Any, **others: Any) -> None:
        damaged = _DAMAGED.match(str(message))
        if damaged is None:
            return show(message, *where, **others)
        doing, name = damaged.groups()
        for path in folder.glob(f"{glob.escape(name)}*-cache"):
            with contextlib.suppress(OSError):
                if (path.stat().st_mtime < began) == (doing == "reading"):
                    path.unlink()
        if doing == "writing" and doing not in told:
            show(message, *where, **others)
        told.add(doing)

    warnings.showwarning = look
