"""Command-line flags -> changes to the tree of a grid file."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator, Sequence
from typing import Any, cast

from nanlab.grid.errors import Complaint, dotted, suggestion
from nanlab.grid.toml import Path, Tree

_FLAG = re.compile(r"--([a-z_]+(?:\.[\w-]+)+)(?:=(.*))?", re.DOTALL)


def split_arguments(argv: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Separate `--run.x v`, `--axes.lr.num=9` and all other dotted options from `argv`.

    Hyphens in a key stand for underscores.  An option without a value gets "", which `load_grid`
    complains about.  Arguments after a lone `--` are left alone.

    Returns:
        The other arguments, in order, and the overrides (key, text), in order.
    """
    rest: list[str] = []
    overrides: list[tuple[str, str]] = []
    waiting = list(argv)
    while waiting:
        argument = waiting.pop(0)
        if argument == "--":
            return [*rest, argument, *waiting], overrides
        option = _FLAG.fullmatch(argument)
        if option is None:
            rest.append(argument)
            continue
        key, value = option.groups()
        if value is None:
            value = waiting.pop(0) if waiting and not waiting[0].startswith("--") else ""
        overrides.append((key.replace("-", "_"), value))
    return rest, overrides


class Overrides:
    """Flags applied to a tree.

    Attributes:
        tree: the tree, changed in place.
        flags: the flag that set a key, for the keys that one has set.
        complaints: flags that could not be applied.
    """

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.flags: dict[Path, str] = {}
        self.complaints: list[Complaint] = []

    def override(self, key: str, text: str) -> None:
        """Apply `--run.steps 50`: a new value for an existing key."""
        flag = f"--{key}"
        if text == "":
            self._complain(key, flag, f"needs a value: {flag} VALUE")
        elif _is_there(self.tree, key):
            self._put(key, text, flag)
        else:
            add = shlex.quote(f"{key}={text}")
            near = _near_key(self.tree, key)
            hint = f'; did you mean "{near}"?' if near else ""
            self._complain(key, flag, f"not in the file; to add it, use --set {add}{hint}")

    def assign(self, assignment: str) -> None:
        """Apply `--set axes.width=[8, 16]`: a value for any key, moved between [run] and [axes]."""
        key, equals, text = (part.strip() for part in assignment.partition("="))
        if equals and text and re.fullmatch(r"[\w-]+(\.[\w-]+)*", key):
            self._put(key, text, "--set")
            self._move(key)
        else:
            self._complain("", f"--set {assignment}", "must be KEY=VALUE, as in run.steps=50")

    def _move(self, key: str) -> None:
        # A parameter that becomes an axis leaves [run], and the reverse.
        table, _, name = key.partition(".")
        other = {"run": "axes", "axes": "run"}.get(table)
        if other is not None and (other, name) not in self.flags and _is_there(self.tree, other):
            _table(self.tree[other]).pop(name, None)

    def _put(self, key: str, text: str, flag: str) -> None:
        try:
            value = parse_value(text)
        except ValueError:
            self._complain(key, flag, f"not a TOML value: {text}")
            return
        path: Path = ()
        node: Any = self.tree
        *tables, last = key.split(".")
        for part in tables:
            step = _step(node, part)
            if step is None:
                break
            path = (*path, step)
            node = node[step] if _is_there(node, part) else node.setdefault(step, {})
        step = _step(node, last) if len(path) == len(tables) else None
        if step is None:
            self._complain(key, flag, "no such key in the file")
            return
        node[step] = value
        path = (*path, step)
        self.flags = {p: other for p, other in self.flags.items() if p[: len(path)] != path}
        self.flags[path] = flag

    def _complain(self, key: str, flag: str, sentence: str) -> None:
        self.complaints.append(Complaint(key=key, flag=flag, sentence=sentence))


def parse_value(text: str) -> Any:
    """Return the TOML value of `text`, or `text` itself where it is a bare word.

    Raises:
        ValueError: `text` starts like a list, a table or quoted text, but is not one.
    """
    try:
        tree = tomllib.loads(f"value = {text}")
    except ValueError:
        if text.lstrip()[:1] in tuple("[{\"'"):
            raise
        return text
    return tree["value"] if len(tree) == 1 else text


def _table(node: object) -> Tree:
    return cast(Tree, node) if isinstance(node, dict) else {}


def _list(node: object) -> list[Any]:
    return cast(list[Any], node) if isinstance(node, list) else []


def _step(node: object, part: str) -> str | int | None:
    """Return what `part` of a dotted key is in `node`: a key, a list index, or None."""
    if isinstance(node, dict):
        return part
    return int(part) if part.isdecimal() and int(part) < len(_list(node)) else None


def _is_there(tree: object, key: str) -> bool:
    node: Any = tree
    for part in key.split("."):
        step = _step(node, part)
        if step is None or (isinstance(step, str) and step not in node):
            return False
        node = node[step]
    return True


def _near_key(tree: Tree, key: str) -> str | None:
    is_whole_table = "." not in key
    keys = [dotted(path) for path in _keys(tree, ()) if len(path) > 1 or is_whole_table]
    elsewhere = [other for other in keys if other.split(".")[-1] == key.split(".")[-1]]
    return elsewhere[0] if elsewhere else suggestion(key, keys)


def _keys(node: object, path: Path) -> Iterator[Path]:
    for key, value in _table(node).items():
        yield (*path, key)
        yield from _keys(value, (*path, key))
    for index, value in enumerate(_list(node)):
        yield from _keys(value, (*path, index))
