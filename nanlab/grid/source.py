"""File and flags -> Source: the tree that was asked for, and where each part of it was said."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath

from nanlab.grid.errors import Complaint, GridError, dotted, shown, suggestion
from nanlab.grid.overrides import Changes
from nanlab.grid.toml import Path, Tree, key_lines

_NAME = re.compile("'([^']*)'")
_LISTED_FILES = 8


@dataclass(frozen=True, kw_only=True)
class Source:
    """What was asked, before it is understood.

    Attributes:
        path: the file, as it was asked for.
        tree: what the file and then the flags say.
        lines: the line of each key that still says what the file says.
        flags: the flag of each key that a flag has said.
        complaints: flags that could not be followed.
    """

    path: str
    tree: Tree
    lines: dict[Path, int]
    flags: dict[Path, str]
    complaints: tuple[Complaint, ...] = ()

    def knows(self, path: Path) -> bool:
        """Whether the file or a flag says something at `path`."""
        return _written(path) in self.lines or _written(path) in self.flags

    def complaint(self, path: Path, sentence: str, *values: object) -> Complaint:
        """A complaint about `path`, at its line or flag or its table's, showing a value if any."""
        known = next((p for p in _outwards(_written(path)) if self.knows(p)), ())
        flag = self.flags.get(known)
        return Complaint(
            key=dotted(path),
            value=shown(values[0]) if values else None,
            line=None if flag else self.lines.get(known),
            flag=flag,
            sentence=sentence,
        )


def _written(path: Path) -> Path:
    """`knobs.alpha` is one key to us, and two to TOML."""
    parts = [part.split(".") if isinstance(part, str) else [part] for part in path]
    return tuple(part for each in parts for part in each)


def _outwards(path: Path) -> Iterator[Path]:
    return (path[:length] for length in range(len(path), 0, -1))


def read_source(path: str, overrides: Sequence[tuple[str, str]], sets: Sequence[str]) -> Source:
    """Reads the file at `path` and lets the flags change its tree; see `nanlab.grid.load_grid`.

    Raises:
        GridError: the file cannot be read, or is not TOML.
    """
    text = _file_text(path)
    try:
        tree = tomllib.loads(text)
        lines = key_lines(text)
    except (ValueError, RecursionError) as error:
        raise GridError(path, [_syntax_complaint(text, error)]) from None
    changes = Changes(tree, lines)
    for key, value in overrides:
        changes.override(key, value)
    for assignment in sets:
        changes.assign(assignment)
    return Source(
        path=path,
        tree=tree,
        lines=changes.lines,
        flags=changes.flags,
        complaints=tuple(changes.complaints),
    )


def _file_text(path: str) -> str:
    try:
        data = FilePath(path).read_bytes()
        # Some editors begin a file with a byte-order mark; TOML knows none.
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
    held = ", ".join(files[:_LISTED_FILES]) + (", ..." if len(files) > _LISTED_FILES else "")
    if path.is_dir():
        hint = f"this folder holds {held}" if files else "this folder holds no .toml file"
        return f"a folder, not a grid file; {hint}"
    if isinstance(error, FileNotFoundError):
        if not folder.is_dir():
            return f'no such file: there is no folder "{folder}"'
        near = suggestion(path.name, [FilePath(file).name for file in files])
        if near is not None:
            return f'no such file; did you mean "{folder / near}"?'
        return f"no such file; this folder holds {held}" if files else "no such file"
    return f"cannot be read: {getattr(error, 'strerror', None) or error}"


_TOML_SAYS = {
    "Cannot overwrite a value": "this key is there twice",
    "Invalid value": "not a value; text goes in quotes",
}


def _syntax_complaint(text: str, error: Exception) -> Complaint:
    found = re.fullmatch(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", str(error))
    if found is None:
        # Not TOML's grammar but Python's limits: on nesting, and on the digits of a number.
        too = "nested too deeply" if isinstance(error, RecursionError) else "a number is too long"
        return Complaint(sentence=f"cannot be read: {too}")
    what, line, column = found.groups()
    lines = text.splitlines() or [""]
    number = int(line or len(lines))
    stands = lines[number - 1] if number <= len(lines) else ""
    said = _TOML_SAYS.get(what, what[:1].lower() + what[1:])
    if line is None and what == "Invalid value":
        said = "the file ends where a value should be"
    said = re.sub(r"\((('[^']*',? ?)+)\)", lambda m: f"[{'.'.join(re.findall(_NAME, m[1]))}]", said)
    return Complaint(
        line=number,
        column=int(column or len(stands) + 1),
        sentence=f"not TOML: {said}" + (f", in: {stands.strip()[:60]}" if stands.strip() else ""),
    )
