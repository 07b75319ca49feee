"""What is wrong -> sentences: each names the place, the value and the way out, all at once.

Pydantic finds what is wrong with a value; no word of pydantic's reaches a person.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic_core import ErrorDetails

from nanlab.grid.toml import Path, value_text

SHOWN_COMPLAINTS = 50
SHOWN_CHARACTERS = 60
SHOWN_NAMES = 8


@dataclass(frozen=True, kw_only=True)
class Complaint:
    """One thing that is wrong with a grid.

    Attributes:
        key: where, as a dotted path (`axes.lr.num`); "" is the file itself.
        value: what stands there, as TOML writes it, or None where only the place is wrong.
        line: the line in the file, or None where a flag said it or there is no such line.
        column: the column, for TOML's own syntax errors.
        flag: the command-line flag that said it.
        sentence: what would be accepted, with a suggestion where there is a near one.
    """

    key: str = ""
    value: str | None = None
    line: int | None = None
    column: int | None = None
    flag: str | None = None
    sentence: str

    def __str__(self) -> str:
        """`axes.lr.num = 0 (line 13): must be 1 or more`."""
        place = self.flag or ("" if self.line is None else f"line {self.line}")
        place += "" if self.column is None else f", column {self.column}"
        value = "" if self.value is None else f" = {self.value}"
        subject = self.key + value + (f" ({place})" if place else "") if self.key else place
        return f"{subject}: {self.sentence}" if subject else self.sentence


def in_order(complaints: Iterable[Complaint]) -> list[Complaint]:
    """The complaints in the order of the file's lines; those without a line come last."""
    return sorted(complaints, key=lambda each: (each.line is None, each.line or 0))


class GridError(Exception):
    """A grid that cannot be run; holds every complaint there is about it.

    Attributes:
        path: the file, as it was asked for.
        complaints: in the order in which a person meets them in the file.
    """

    def __init__(self, path: str, complaints: Sequence[Complaint]) -> None:
        super().__init__(path, complaints)
        self.path = path
        self.complaints = tuple(complaints)

    def __str__(self) -> str:
        """A headline and a line for each complaint, ready for a person."""
        many = len(self.complaints)
        lines = [f"{self.path}: {counted(many, 'problem')}"]
        lines += [f"  {complaint}" for complaint in self.complaints[:SHOWN_COMPLAINTS]]
        if many > SHOWN_COMPLAINTS:
            lines.append(f"  ... and {many - SHOWN_COMPLAINTS} more")
        return "\n".join(lines)


def shown(value: object) -> str:
    """`value` as TOML writes it, cut where it is long."""
    text = value_text(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 3]}..."


def counted(many: int, noun: str) -> str:
    """`1 value`, `2 values`."""
    return f"{many} {noun}" if many == 1 else f"{many} {noun}s"


def dotted(path: Path) -> str:
    """`axes.lr.num`; the path may also be used on the command line."""
    return ".".join(str(part) for part in path)


def suggestion(word: object, known: Iterable[str]) -> str | None:
    """The one of `known` that is near to `word`, if any is."""
    near = difflib.get_close_matches(str(word), list(known), n=1)
    return near[0] if near else None


def one_of(names: Sequence[str]) -> str:
    """`"relu"`, or `one of "relu", "tanh"`."""
    quoted = ", ".join(f'"{name}"' for name in names)
    return quoted if len(names) == 1 else f"one of {quoted}"


def unknown_key(key: object, known: Sequence[str]) -> str:
    """What to say of a key that means nothing where it stands."""
    near = suggestion(key, known)
    if near is not None:
        return f'unknown key; did you mean "{near}"?'
    return f"unknown key; known here: {', '.join(known)}"


def _choice(context: Mapping[str, Any], value: object) -> str:
    names = context["names"]
    near = suggestion(value, names) if isinstance(value, str) else None
    asked = f"must be {one_of(names[:SHOWN_NAMES])}"
    if len(names) > SHOWN_NAMES:
        asked += f" or {len(names) - SHOWN_NAMES} more (python -m nanlab.parts lists them)"
    if context.get("own"):
        asked += f', or your own, as "{context["own"]}"'
    return asked if near is None else f'{asked}; did you mean "{near}"?'


def _plain(number: Any) -> str:
    return f"{number:g}" if isinstance(number, float) else str(number)


def _at_least(many: int) -> str:
    return f"must hold {counted(many, 'value')} or more"


def _at_most(many: int) -> str:
    return f"must hold {counted(many, 'value')} or fewer"


_SENTENCES: Mapping[str, Callable[[Mapping[str, Any], object], str]] = {
    "sentence": lambda context, value: context["sentence"],
    "choice": _choice,
    "int_type": lambda context, value: "must be a whole number",
    "float_type": lambda context, value: "must be a number",
    "finite_number": lambda context, value: "must be finite",
    "bool_type": lambda context, value: "must be true or false",
    "string_type": lambda context, value: "must be text in quotes",
    "list_type": lambda context, value: "must be a list",
    "model_type": lambda context, value: "must be a table",
    "dict_type": lambda context, value: "must be a table",
    "missing": lambda context, value: "is missing",
    "greater_than": lambda context, value: f"must be more than {_plain(context['gt'])}",
    "greater_than_equal": lambda context, value: f"must be {_plain(context['ge'])} or more",
    "less_than": lambda context, value: f"must be less than {_plain(context['lt'])}",
    "less_than_equal": lambda context, value: f"must be {_plain(context['le'])} or less",
    "too_short": lambda context, value: _at_least(context["min_length"]),
    "too_long": lambda context, value: _at_most(context["max_length"]),
}
"""Pydantic's error types -> our sentences.  A test raises each type that our models can raise."""


def sentence_of(error: ErrorDetails) -> str:
    """One of pydantic's errors in our words; "extra_forbidden" is `unknown_key`'s affair."""
    say = _SENTENCES.get(error["type"])
    return "is not accepted here" if say is None else say(error.get("ctx", {}), error["input"])
