"""The provenance of a result: hash of the code, commit, and hashes of files."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

_PACKAGE = Path(__file__).parents[1]


IRRELEVANT = ("devices", "polars")
"""Entries of the environment that no run's bits depend on."""


def fingerprint(environment: dict[str, Any]) -> str:
    """Return a hash of the entries of an environment that a run's bits may depend on."""
    relevant = {k: v for k, v in environment.items() if k not in IRRELEVANT}
    return hashlib.sha256(json.dumps(relevant, sort_keys=True).encode()).hexdigest()[:16]


def code_hash() -> str:
    """Return a hash of nanlab's source files."""
    digest = hashlib.sha256()
    for path in sorted(_PACKAGE.rglob("*.py")):
        digest.update(path.relative_to(_PACKAGE).as_posix().encode() + b"\0")
        digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()


def git_state() -> dict[str, Any]:
    """Return the commit of nanlab's checkout and whether it has changes; nulls outside one."""
    # An installed nanlab may lie in the checkout of something else.
    commit = _git("rev-parse", "HEAD") if _git("ls-files", "nanlab/__init__.py") else None
    if commit is None:
        return {"commit": None, "dirty": None}
    changed = _git("status", "--porcelain", "--", "nanlab", "sweeps", "constraints.txt")
    return {"commit": commit, "dirty": bool(changed)}


def _git(*arguments: str) -> str | None:
    command = ["git", "-C", str(_PACKAGE.parent), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
