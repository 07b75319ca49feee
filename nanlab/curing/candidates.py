"""Program, verdict -> rewrites to try: at the lines of the fault first, then at what feeds them."""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain as chained
from pathlib import Path
from typing import Any

from nanlab.backend import jaxpr as _jax
from nanlab.blame.diagnosis import location
from nanlab.blame.explain.verdict import Verdict
from nanlab.blame.program.program import Equation, Program
from nanlab.blame.site import Site
from nanlab.blame.source_path import from_package_root, is_installed
from nanlab.blame.vocabulary import Mechanism
from nanlab.curing.forms import Form, Node, Writer, form_of, numbers_of
from nanlab.curing.guards import Guard, guards_of
from nanlab.curing.idioms import idioms_of
from nanlab.curing.source import Source, Span, edited, source_of

_CURING = str(Path(__file__).parent)
MOST_USER_FRAMES = 2
MOST_PRODUCERS = 40
"""How many operations back what feeds a fault is looked for."""
LATER = 4
"""How much later a rewrite is tried whose kind is of no use against such a fault."""
FEEDS = 3
"""How far from the fault that counts as."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """An expression whose program holds an equation of the fault.

    Attributes:
        file: its file.
        span: where it stands in the file.
        dtype: type of the equation's result.
        distance: how far from the fault; 0 is the origin or the culprit.
        is_library: whether the file belongs to an installed library.
    """

    file: str
    span: Span
    dtype: Any
    distance: int
    is_library: bool


@dataclass(frozen=True, kw_only=True)
class Rewrite:
    """One rewritten file.

    Attributes:
        kind: what the rewrite does, in a word or two.
        before: the file.
        after: the file, rewritten.
        line: number of the line.
        is_library: whether the file belongs to an installed library.
        rank: how soon it is tried; 0 first.
    """

    kind: str
    before: Source
    after: Source
    line: int
    is_library: bool
    rank: int


def places_of(program: Program, verdict: Verdict) -> list[Place]:
    """Return the expressions of a fault: the origin's and the culprit's, then its chain's."""
    sites = [s for s in (verdict.origin, verdict.culprit) if s is not None]
    found: dict[tuple[str, Span], Place] = {}
    for index, site in enumerate(chained(sites, verdict.chain)):
        for equation in _equations_of(program, site):
            for place in _places(program, equation, 0 if index < len(sites) else 2):
                found.setdefault((place.file, place.span), place)
            if index < len(sites):
                for producer in _producers(program, equation):
                    for place in _places(program, producer, FEEDS):
                        found.setdefault((place.file, place.span), place)
    return sorted(found.values(), key=lambda place: place.distance)


def places_at(program: Program, equation: Equation) -> list[Place]:
    """Return the expressions whose program holds an equation."""
    return list(_places(program, equation, 0))


def _producers(program: Program, equation: Equation) -> list[Equation]:
    """Return the operations that lead to an equation's operands, the nearest first."""
    found: list[Equation] = []
    values = list(equation.operands)
    while values and len(found) < MOST_PRODUCERS:
        index = program.values[values.pop(0)].equation
        if index is not None and program.equations[index] not in found:
            found.append(program.equations[index])
            values += program.equations[index].operands
    return found


def _equations_of(program: Program, site: Site) -> list[Equation]:
    """Return the equations that a site may be."""
    found: list[Equation] = []
    for equation in program.equations:
        if equation.primitive != site.primitive:
            continue
        frame, library = location.user_frame(equation), location.library_frame(equation)
        own = (frame.file, frame.line) if frame else ("", 0)
        there = f"{from_package_root(library.file)}:{library.line}" if library else ""
        if own == (site.file, site.line) and there == site.library:
            found.append(equation)
    return found


def _places(program: Program, equation: Equation, distance: int) -> Iterator[Place]:
    dtype = program.values[equation.results[0]].dtype if equation.results else "float32"
    n_users = 0
    for eqn in (equation.eqn, *equation.callers):
        for code, instruction in _jax.equation_codes(eqn):
            file, is_library = code.co_filename, is_installed(code.co_filename)
            is_own = file.startswith(_CURING)
            if n_users >= MOST_USER_FRAMES or is_own or (is_library and _is_of_jax(file)):
                continue
            span = _span(code, instruction)
            if span is not None and (not is_library or not n_users):
                further = 6 if is_library else 2 * n_users
                yield Place(file=file, span=span, dtype=dtype, distance=distance + further,
                            is_library=is_library)  # fmt: skip
            n_users += not is_library


def _is_of_jax(file: str) -> bool:
    return location.is_plumbing(file) or from_package_root(file).startswith("jax/")


def _span(code: Any, instruction: int) -> Span | None:
    positions = list(code.co_positions())
    if not 0 <= instruction // 2 < len(positions):
        return None
    position = positions[instruction // 2]
    return None if None in position else Span(*position)


_AGAINST_OVERFLOW = {
    "scale first", "saturate", "wider accumulation", "wider arithmetic", "clip before the cast",
    "max-subtraction",
}  # fmt: skip
_AGAINST_POLES = {
    "eps", "double-where", "jitter", "absolute value", "zero wins", "finite operand",
}  # fmt: skip


def unlikely_kinds(verdict: Verdict) -> set[str]:
    """Return the kinds of rewrite that are of no use against what a verdict says of the origin."""
    mechanism = verdict.origin.mechanism if verdict.origin else None
    if mechanism == Mechanism.OVERFLOW:
        return _AGAINST_POLES
    return _AGAINST_OVERFLOW if mechanism in (Mechanism.POLE, Mechanism.DOMAIN) else set()


class Candidates:
    """The rewrites of a program's lines.

    Args:
        files: the text of files that have been rewritten already.
        unlikely: kinds of rewrite that come later.
    """

    def __init__(self, files: dict[str, Source], unlikely: Collection[str] = ()) -> None:
        self._files, self._unlikely = files, unlikely
        self._source = cache(source_of)

    def source(self, file: str) -> Source | None:
        """Return a file as it is to be rewritten."""
        return self._files.get(file) or self._source(file)

    def of(self, places: Sequence[Place]) -> Iterator[Rewrite]:
        """Yield the rewrites at these expressions, the most promising first."""
        found: dict[tuple[Node, str], tuple[int, Form, Guard, Place]] = {}
        for place in places:
            source = self.source(place.file)
            node = source.at(place.span) if source else None
            if source is None or node is None:
                continue
            near_by = _nearby(source, node) if place.distance < FEEDS else [(node, 0)]
            for near, distance in near_by:
                for form, guard in self.at(source, near, place.dtype):
                    later = LATER if guard.kind in self._unlikely else 0
                    rank = place.distance + distance + guard.rank + later
                    known = found.get((near, guard.template))
                    if known is None or rank < known[0]:
                        found[near, guard.template] = (rank, form, guard, place)
        for rank, form, guard, place in sorted(found.values(), key=lambda row: row[0]):
            after = written(form, guard, place.dtype)
            if after is not None:
                yield Rewrite(
                    kind=guard.kind, before=form.source, after=after, line=form.node.lineno,
                    is_library=place.is_library, rank=rank,
                )  # fmt: skip

    def at(self, source: Source, node: Node, dtype: Any) -> Iterator[tuple[Form, Guard]]:
        """Yield the guards and the other formulas of one expression."""
        form = form_of(source, node)
        if form is not None and not _is_bound(source, node):
            yield from ((form, guard) for guard in idioms_of(form))
            yield from ((form, guard) for guard in guards_of(form, numbers_of(dtype)))


def written(form: Form, guard: Guard, dtype: Any) -> Source | None:
    """Return a file with a guard in place of a form; None if it is not valid there."""
    writer = Writer(form, numbers_of(dtype))
    text, source, node = writer.write(guard.template), form.source, form.node
    parent = source.parents[node]
    if isinstance(parent, ast.BinOp | ast.UnaryOp | ast.Compare | ast.Attribute | ast.Subscript):
        text = text if _is_closed(text) else f"({text})"
    if "\n" in text:
        text = f"({text})"
    if writer.imports and (
        source.is_conditional(node) or isinstance(source.scope(node), ast.Module)
    ):
        return None
    after = edited(source, node, text, writer.imports)
    try:
        ast.parse(after.text)
    except SyntaxError:
        return None
    return after


def _is_closed(text: str) -> bool:
    """Return whether an expression needs no parentheses inside another."""
    try:
        node = ast.parse(text, mode="eval").body
    except SyntaxError:
        return False
    return isinstance(node, ast.Call | ast.Name | ast.Constant)


def _is_bound(source: Source, node: Node) -> bool:
    """Return whether an expression is a default, an annotation or a decorator."""
    return isinstance(source.scope(node), ast.Module) and not isinstance(
        source.statement(node), ast.Return | ast.Assign | ast.Expr
    )


def _nearby(source: Source, node: Node) -> Iterator[tuple[Node, int]]:
    """Yield an expression, its parts, what its names stand for, what it is part of, its uses."""
    yield node, 0
    yield from ((part, 1) for part in _parts(node))
    reached: list[ast.expr | ast.AugAssign] = [node]
    for depth in (2, 3):
        names = [n for r in reached for n in ast.walk(r) if isinstance(n, ast.Name)]
        values = [source.definition(n) for n in names if isinstance(n.ctx, ast.Load)]
        reached = [value for value in values if value is not None]
        for value in reached:
            yield value, depth
            yield from ((part, depth) for part in _parts(value))
    for parent in source.enclosing(node):
        if isinstance(parent, ast.stmt):
            if isinstance(parent, ast.AugAssign):
                yield parent, 2
            break
        if isinstance(parent, ast.expr):
            yield parent, 2
            yield from ((part, 3) for part in ast.iter_child_nodes(parent)
                        if isinstance(part, ast.expr) and part is not node)  # fmt: skip
    for use in source.uses(node):
        for parent in source.enclosing(use):
            if isinstance(parent, ast.stmt):
                break
            if isinstance(parent, ast.expr):
                yield parent, 3


def _parts(node: ast.AST) -> Iterator[ast.expr]:
    for part in ast.walk(node):
        if part is not node and isinstance(part, ast.expr):
            yield part
