"""Source lines of blames -> their code, where the file is still the one that was run."""

from __future__ import annotations

import linecache
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nanlab.results.blame_text import blame_sentence
from nanlab.results.provenance import code_hash, file_hash

_ROOT = Path(__file__).resolve().parents[2]


class SourceLines:
    """The code at lines that blames name.

    Args:
        manifest: manifest of the study, with the hashes of nanlab and of the user's own files.
    """

    def __init__(self, manifest: Mapping[str, Any]) -> None:
        environment = manifest.get("environment", {})
        self._is_nanlab = environment.get("code_sha256") == code_hash()
        self._own: Mapping[str, str] = environment.get("own_code_sha256", {})

    def code(self, source: str) -> str:
        """Return the code at `file:line`; "" if the file is missing or has changed since."""
        name, _, line = source.rpartition(":")
        if not line.isdigit() or not self._is_unchanged(name):
            return ""
        path = str(self._path(name).resolve())
        linecache.checkcache(path)  # an import may have cached an older file
        return linecache.getline(path, int(line)).strip()

    def blame_sentence(self, row: Mapping[str, Any], role: str) -> str:
        """Return the sentence of a blame with the code of its line, if that is known."""
        code = self.code(row[f"{role}_source"] or "")
        return f"{blame_sentence(row, role)}{f': {code}' if code else ''}"

    def _path(self, name: str) -> Path:
        if name.startswith("nanlab/"):
            return _ROOT / name
        own = (Path(spec.rpartition(":")[0]) for spec in self._own)
        return next((path for path in own if path.name == Path(name).name), Path(name))

    def _is_unchanged(self, name: str) -> bool:
        if name.startswith("nanlab/"):
            return self._is_nanlab
        path = self._path(name)
        return path.is_file() and file_hash(path) in self._own.values()
