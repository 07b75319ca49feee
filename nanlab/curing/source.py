"""File -> its text and syntax tree; a position in it -> the expression there."""

from __future__ import annotations

import ast
import linecache
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

Scope = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.Module
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


class Span(NamedTuple):
    """Where an expression stands; columns count UTF-8 bytes, as Python's own do."""

    line: int
    end_line: int
    column: int
    end_column: int


def span_of(node: ast.expr | ast.stmt) -> Span:
    """Return where a node stands."""
    end_line, end_column = node.end_lineno or node.lineno, node.end_col_offset or 0
    return Span(node.lineno, end_line, node.col_offset, end_column)


@dataclass(frozen=True, eq=False)
class Source:
    """A source file.

    Attributes:
        file: its path, as Python knows it.
        text: its text.
    """

    file: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        """Syntax tree."""
        return ast.parse(self.text)

    @cached_property
    def parents(self) -> Mapping[ast.AST, ast.AST]:
        """Parent of every node."""
        return {child: node for node in ast.walk(self.tree) for child in ast.iter_child_nodes(node)}

    @cached_property
    def _starts(self) -> list[int]:
        starts = [0]
        for line in self.text.encode().splitlines(keepends=True):
            starts.append(starts[-1] + len(line))
        return starts

    def bounds(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        """Return the first byte of a node and the one after its last."""
        span = span_of(node)
        return (
            self._starts[span.line - 1] + span.column,
            self._starts[span.end_line - 1] + span.end_column,
        )

    def segment(self, node: ast.expr | ast.stmt) -> str:
        """Return the text of a node."""
        first, last = self.bounds(node)
        return self.text.encode()[first:last].decode()

    @cached_property
    def imported(self) -> Mapping[str, str]:
        """Names that the file imports, and what they stand for."""
        found: dict[str, str] = {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                for item in node.names:
                    name = item.asname or item.name.partition(".")[0]
                    found[name] = item.name if item.asname else name
            elif isinstance(node, ast.ImportFrom) and node.module:
                for item in node.names:
                    found[item.asname or item.name] = f"{node.module}.{item.name}"
        return found

    def at(self, span: Span) -> ast.expr | ast.AugAssign | None:
        """Return the smallest expression, or augmented assignment, that covers a position."""
        first = (span.line, span.column)
        last = (span.end_line, span.end_column)
        found: list[tuple[int, ast.expr | ast.AugAssign]] = []
        for node in ast.walk(self.tree):
            if isinstance(node, ast.expr | ast.AugAssign):
                own = span_of(node)
                if (own.line, own.column) <= first and last <= (own.end_line, own.end_column):
                    start, end = self.bounds(node)
                    found.append((end - start, node))
        return min(found, key=lambda pair: pair[0])[1] if found else None

    def enclosing(self, node: ast.AST) -> Iterator[ast.AST]:
        """Yield a node's parent, its parent's, and so on."""
        while node in self.parents:
            node = self.parents[node]
            yield node

    def statement(self, node: ast.AST) -> ast.stmt:
        """Return the innermost statement around a node."""
        if isinstance(node, ast.stmt):
            return node
        return next(parent for parent in self.enclosing(node) if isinstance(parent, ast.stmt))

    def scope(self, node: ast.AST) -> Scope:
        """Return the function around a node, or the module."""
        return next(parent for parent in self.enclosing(node) if isinstance(parent, Scope))

    def is_conditional(self, node: ast.AST) -> bool:
        """Return whether a lambda or a comprehension stands between a node and its statement."""
        inner = (ast.Lambda, *_COMPREHENSIONS)
        for parent in self.enclosing(node):
            if isinstance(parent, ast.stmt):
                return False
            if isinstance(parent, inner):
                return True
        return False

    def definition(self, name: ast.Name) -> ast.expr | None:
        """Return the expression that a name stands for, if its function binds it once."""
        bindings = self._bindings.get((self.scope(name), name.id), [])
        if len(bindings) != 1 or not isinstance(bindings[0], ast.Name):
            return None
        bound, used = self.statement(bindings[0]), self.statement(name)
        return self._bound_to(bindings[0]) if bound.lineno < used.lineno else None

    @cached_property
    def _bindings(self) -> Mapping[tuple[ast.AST, str], list[ast.Name | ast.arg]]:
        found: dict[tuple[ast.AST, str], list[ast.Name | ast.arg]] = {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                found.setdefault((self.scope(node), node.id), []).append(node)
            elif isinstance(node, ast.arg):
                found.setdefault((self.scope(node), node.arg), []).append(node)
        return found

    def _bound_to(self, target: ast.Name) -> ast.expr | None:
        parent = self.parents[target]
        if isinstance(parent, ast.Assign):
            return parent.value
        if isinstance(parent, ast.Tuple) and isinstance(above := self.parents[parent], ast.Assign):
            if isinstance(above.value, ast.Tuple) and len(above.value.elts) == len(parent.elts):
                return above.value.elts[parent.elts.index(target)]
            return above.value
        return None

    def uses(self, node: ast.AST) -> Iterator[ast.Name]:
        """Yield where the names that a node's statement binds are read, in the same function."""
        statement = self.statement(node)
        bound = {n.id for n in ast.walk(statement)
                 if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}  # fmt: skip
        for other in ast.walk(self.scope(statement)):
            if not (isinstance(other, ast.Name) and isinstance(other.ctx, ast.Load)):
                continue
            if other.id in bound and other.lineno > statement.lineno:
                yield other

    @cached_property
    def names(self) -> set[str]:
        """Every name in the file."""
        nodes = list(ast.walk(self.tree))
        found = {node.id for node in nodes if isinstance(node, ast.Name)}
        return found | {node.arg for node in nodes if isinstance(node, ast.arg)}


def source_of(file: str) -> Source | None:
    """Return the source of a file; None if it cannot be read or parsed."""
    linecache.checkcache(file)
    text = "".join(linecache.getlines(file))
    source = Source(file, text)
    try:
        return source if text and source.tree.body else None
    except SyntaxError:  # a notebook's magics
        return None


def edited(source: Source, node: ast.expr | ast.AugAssign, text: str, imports: str = "") -> Source:
    """Return a source with another text in place of a node, and imports before its statement."""
    first, last = source.bounds(node)
    content = source.text.encode()
    if isinstance(node, ast.AugAssign):
        text = f"{source.segment(node.target)} = {text}"
    content = content[:first] + text.encode() + content[last:]
    if imports:
        start, _ = source.bounds(source.statement(node))
        indent = content[content.rfind(b"\n", 0, start) + 1 : start]
        content = content[:start] + imports.encode() + b"\n" + indent + content[start:]
    return Source(source.file, content.decode())
