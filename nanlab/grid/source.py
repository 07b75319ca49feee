"""Grid file and flags -> Source: the tree of settings, and the line or flag that set each key."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path as FilePath
from typing import Any, cast

from nanlab.grid.errors import Complaint, GridError, dotted, shown, suggestion
from nanlab.grid.overrides import Overrides
from nanlab.grid.toml import Path, Tree, key_lines

MAX_DEPTH = 32
"""Maximum nesting of a file; a grid needs five levels."""

# tomllib takes time quadratic in the parts of a dotted key, so these are bounded first.
_LONG_KEY = re.compile(rf"^[ \t\[]*(?:[\w-]+[ \t]*\.[ \t]*){{{MAX_DEPTH}}}", re.MULTILINE)
_TOO_DEEP = Complaint(sentence="cannot be read: nested too deeply")
_NAME = re.compile("'([^']*)'")
_LISTED_FILES = 8


@dataclass(frozen=True, kw_only=True)
class Source:
    """A grid file with flags applied, before validation.

    Attributes:
        path: path of the file, as given.
        text: contents of the file.
        tree: settings of the file, changed by the flags.
        flags: flag that set a key, for the keys that one has set.
        complaints: flags that could not be applied.
    """

    path: str
    text: str
    tree: Tree
    flags: dict[Path, str]
    complaints: tuple[Complaint, ...] = ()

    @cached_property
    def _lines(self) -> dict[Path, int]:
        """The line of each key that no flag has set; scanned only if something is reported."""
        return {
            path: line
            for path, line in key_lines(self.text).items()
            if not any(path[:length] in self.flags for length in range(1, len(path) + 1))
        }

    def defines(self, path: Path) -> bool:
        """Return whether the file or a flag sets `path`."""
        return _written(path) in self._lines or _written(path) in self.flags

    def complaint(self, path: Path, sentence: str, *values: object) -> Complaint:
        """Return a complaint about `path`, at its line or flag or its table's, with any value."""
        known = next((p for p in _outwards(_written(path)) if self.defines(p)), ())
        flag = self.flags.get(known)
        return Complaint(
            key=dotted(path),
            value=shown(values[0]) if values else None,
            line=None if flag else self._lines.get(known),
            flag=flag,
            sentence=sentence,
        )


def _written(path: Path) -> Path:
    """Return the path as TOML has it: `knobs.alpha` is one key here and two keys there."""
    parts = [part.split(".") if isinstance(part, str) else [part] for part in path]
    return tuple(part for split in parts for part in split)


def _outwards(path: Path) -> Iterator[Path]:
    return (path[:length] for length in range(len(path), 0, -1))


def read_source(path: str, overrides: Sequence[tuple[str, str]], sets: Sequence[str]) -> Source:
    """Read the file at `path` and apply the flags; see `nanlab.grid.load_grid`."""
    text = _file_text(path)
    try:
        if _LONG_KEY.search(text):
            raise GridError(path, [_TOO_DEEP])
        changed = Overrides(tomllib.loads(text))
    except RecursionError:
        raise GridError(path, [_TOO_DEEP]) from None
    except ValueError as error:
        raise GridError(path, [_syntax_complaint(text, error)]) from None
    _check_depth(path, changed.tree)
    for key, value in overrides:
        changed.override(key, value)
    for assignment in sets:
        changed.assign(assignment)
    _check_depth(path, changed.tree)
    return Source(
        path=path, text=text, tree=changed.tree, flags=changed.flags,
        complaints=tuple(changed.complaints),
    )  # fmt: skip


def _check_depth(path: str, tree: Tree) -> None:
    nodes: list[Any] = [tree]
    for _ in range(MAX_DEPTH):
        inner = (
            cast(Tree, n).values() if isinstance(n, dict) else cast(list[Any], n) for n in nodes
        )
        nodes = [value for values in inner for value in values if isinstance(value, dict | list)]
    if nodes:
        raise GridError(path, [_TOO_DEEP])


def _file_text(path: str) -> str:
    try:
        data = FilePath(path).read_bytes()
        # Some editors write a byte-order mark, which TOML does not allow.
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        sentence = f"not UTF-8 (byte 0x{error.object[error.start]:02x}); save the file as UTF-8"
        raise GridError(path, [Complaint(line=line, sentence=sentence)]) from None
    except (OSError, ValueError) as error:
        raise GridError(path, [Complaint(sentence=_unreadable(FilePath(path), error))]) from None


def _unreadable(path: FilePath, error: Exception) -> str:
    folder = path if path.is_dir() else path.parent
    files = sorted(str(file) for file in folder.glob("*.toml")) if folder.is_dir() else []
    listed = ", ".join(files[:_LISTED_FILES]) + (", ..." if len(files) > _LISTED_FILES else "")
    if path.is_dir():
        hint = f"it contains {listed}" if files else "it contains no .toml file"
        return f"a folder, not a grid file; {hint}"
    if isinstance(error, FileNotFoundError):
        if not folder.is_dir():
            return f'no such file: there is no folder "{folder}"'
        near = suggestion(path.name, [FilePath(file).name for file in files])
        if near is not None:
            return f'no such file; did you mean "{folder / near}"?'
        return f"no such file; the folder contains {listed}" if files else "no such file"
    return f"cannot be read: {getattr(error, 'strerror', None) or error}"


_TOML_SENTENCES = {
    "Cannot overwrite a value": "this key is defined twice",
    "Invalid value": "not a value; text goes in quotes",
}


def _syntax_complaint(text: str, error: Exception) -> Complaint:
    found = re.fullmatch(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", str(error))
    if found is None:
        # Not a syntax error, but Python's limit on the digits of a number.
        return Complaint(sentence="cannot be read: a number is too long")
    what, line, column = found.groups()
    lines = text.splitlines() or [""]
    number = int(line or len(lines))
    source = lines[number - 1] if number <= len(lines) else ""
    reason = _TOML_SENTENCES.get(what, what[:1].lower() + what[1:])
    if line is None and what == "Invalid value":
        reason = "the file ends where a value should be"
    reason = re.sub(
        r"\((('[^']*',? ?)+)\)", lambda m: f"[{'.'.join(re.findall(_NAME, m[1]))}]", reason
    )
    in_line = f", in: {source.strip()[:60]}" if source.strip() else ""
    return Complaint(
        line=number, column=int(column or len(source) + 1), sentence=f"not TOML: {reason}{in_line}"
    )
