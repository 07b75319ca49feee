"""TOML text <-> tree: the line of every key, and a canonical writer.

tomllib reads TOML, but reports no lines and writes nothing. The scanner here only sees text that
tomllib has accepted, so it checks nothing.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any, cast

Path = tuple[str | int, ...]
"""Path of a value in a tree: keys of tables, and indices into lists."""

Tree = dict[str, Any]
"""A table as tomllib reads it."""

_TOKEN = re.compile(
    r"""
      (?P<text> \"{3} (?:\\.|[^\\])*? \"{3,5} (?!\") | '{3} .*? '{3,5} (?!')
              | " (?:\\.|[^"\\])* " | ' [^']* ' )
    | (?P<skip> [ \t\r]+ | \#[^\n]* )
    | (?P<mark> [\[\]{}=,.\n] )
    | (?P<bare> [^\s\[\]{}=,.#"']+ )
    """,
    re.VERBOSE | re.DOTALL,
)


def key_lines(text: str) -> dict[Path, int]:
    """Return the line, from 1, on which each table, key and list element of valid TOML begins."""
    return _Scanner(text).lines


class _Scanner:
    """A single pass over the tokens of valid TOML that records where keys and elements begin."""

    def __init__(self, text: str) -> None:
        self.lines: dict[Path, int] = {}
        self._tokens = [*_tokens(text), ("\n", 0)]
        self._at = 0
        self._tables: dict[Path, int] = {}
        header: Path = ()
        while self._at < len(self._tokens):
            token, _ = self._tokens[self._at]
            if token == "\n":
                self._at += 1
            elif token == "[":
                header = self._header()
            else:
                self._pair(header)

    def _next(self) -> tuple[str, int]:
        self._at += 1
        return self._tokens[self._at - 1]

    def _peek(self) -> str:
        return self._tokens[self._at][0]

    def _note(self, path: Path, line: int) -> None:
        for length in range(1, len(path) + 1):
            self.lines.setdefault(path[:length], line)

    def _header(self) -> Path:
        line, brackets = self._tokens[self._at][1], 0
        while self._peek() == "[":
            self._at, brackets = self._at + 1, brackets + 1
        path = self._resolved(self._key())
        if brackets == 2:
            self._tables[path] = self._tables.get(path, -1) + 1
            path = (*path, self._tables[path])
        self._at += brackets
        self._note(path, line)
        return path

    def _resolved(self, key: Path) -> Path:
        """Return the path of a header; within a list of tables it refers to the last one."""
        path: Path = ()
        for position, part in enumerate(key, start=1):
            path = (*path, part)
            if position < len(key) and path in self._tables:
                path = (*path, self._tables[path])
        return path

    def _key(self) -> Path:
        parts = [self._next()[0]]
        while self._peek() == ".":
            self._at += 1
            parts.append(self._next()[0])
        return tuple(_key_of(part) for part in parts)

    def _pair(self, header: Path) -> None:
        line = self._tokens[self._at][1]
        path = (*header, *self._key())
        self._note(path, line)
        self._at += 1  # the "="
        self._value(path)

    def _value(self, path: Path) -> None:
        token = self._peek()
        if token in "[{":
            self._at += 1
            self._elements(path, "]" if token == "[" else "}")
            return
        # The dots of a number or a date split it into several tokens.
        while self._peek() not in ",]}\n":
            self._at += 1

    def _elements(self, path: Path, closing: str) -> None:
        index = 0
        while (token := self._tokens[self._at])[0] != closing:
            if token[0] in ",\n":
                self._at += 1
            elif closing == "}":
                self._pair(path)
            else:
                self._note((*path, index), token[1])
                self._value((*path, index))
                index += 1
        self._at += 1


def _key_of(part: str) -> str:
    return tomllib.loads(f"key = {part}")["key"] if part[0] in "\"'" else part


def _tokens(text: str) -> Iterator[tuple[str, int]]:
    line = 1
    for match in _TOKEN.finditer(text):
        token = match.group()
        if match.lastgroup != "skip":
            yield token, line
        line += token.count("\n")


def value_text(value: object) -> str:
    """Return `value` as TOML on one line."""
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            # TOML has JSON's escapes, and requires DEL to be escaped too.
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case list() | tuple():
            return f"[{', '.join(map(value_text, cast(list[object], value)))}]"
        case dict():
            pairs = cast(dict[str, object], value).items()
            inside = ", ".join(f"{key_text(key)} = {value_text(inner)}" for key, inner in pairs)
            return f"{{ {inside} }}" if inside else "{}"
        case _:
            return str(value)


def key_text(key: str) -> str:
    """Return `key` as TOML: bare where allowed, else quoted; `knobs.alpha` stays dotted."""
    is_bare = re.fullmatch(r"((knobs|static)\.)?[A-Za-z0-9_-]+", key)
    return key if is_bare else value_text(key)


def file_text(tree: Mapping[str, Any]) -> str:
    """Return `tree` as a TOML file, in its order: a header per table, inline tables below that."""
    blocks: list[list[str]] = [[]]
    for key, value in tree.items():
        match value:
            case dict():
                blocks.append([f"[{key_text(key)}]", *_pairs(cast(dict[str, object], value))])
            case [dict(), *rest] if all(isinstance(item, dict) for item in rest):
                tables = cast(list[dict[str, object]], value)
                blocks += ([f"[[{key_text(key)}]]", *_pairs(table)] for table in tables)
            case _:
                blocks[0].append(f"{key_text(key)} = {value_text(value)}")
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


def _pairs(table: Mapping[str, object]) -> list[str]:
    return [f"{key_text(key)} = {value_text(value)}" for key, value in table.items()]
