"""GridDocument -> subgrids: the main grid and each include, with axes expanded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nanlab.grid.axes import AxisForm, expanded, is_form, repeated
from nanlab.grid.document import GRID_TABLES, GridDocument
from nanlab.grid.errors import Complaint, shown, suggestion
from nanlab.grid.parameter_types import ParameterValue
from nanlab.grid.parameters import PARAMETERS
from nanlab.grid.points import Axis, Product, product_of
from nanlab.grid.search import coarse_form
from nanlab.grid.source import Source
from nanlab.grid.toml import Path

MAX_AXES = 64
"""Maximum number of axes of a product: NumPy's number of dimensions."""


@dataclass(frozen=True, kw_only=True)
class Subgrid:
    """The main grid, or one include.

    Attributes:
        path: () for the main grid, ("include", 0) for the first include.
        paths: where each parameter is set, for those that are.
        product: its points, for the main grid before excludes.
    """

    path: Path
    paths: Mapping[str, Path]
    product: Product


class Diagnostics:
    """Problems and warnings collected on the way from a file to its points.

    A check that would need an invalid setting is skipped, so that one mistake is one complaint.

    Attributes:
        complaints: what is wrong.
        warnings: what is legal but hardly intended.
        unknown: parameters whose values in the main grid are invalid.
    """

    def __init__(self, source: Source, document: GridDocument) -> None:
        self.complaints: list[Complaint] = []
        self.warnings: list[Complaint] = []
        self.unknown = _unknown_parameters(document.invalid)
        self._source = source
        self._invalid = document.invalid

    def complain(self, path: Path, sentence: str, *values: object) -> None:
        """Record a problem at `path`, with the value to show if any."""
        self.complaints.append(self._source.complaint(path, sentence, *values))

    def warn(self, path: Path, sentence: str) -> None:
        """Record a warning about `path`."""
        self.warnings.append(self._source.complaint(path, sentence))

    def line_of(self, path: Path) -> str:
        """Return ` (line 4)`, or nothing where there is no line."""
        line = self._source.complaint(path, "").line
        return "" if line is None else f" (line {line})"

    def is_invalid(self, path: Path) -> bool:
        """Return whether `path`, or something within it, was dropped as invalid."""
        return any(other[: len(path)] == path[: len(other)] for other in self._invalid)


def _unknown_parameters(invalid: frozenset[Path]) -> set[str]:
    """Return the parameters of the main grid that the invalid settings may refer to."""
    unknown: set[str] = set()
    for path in invalid:
        table, last = suggestion(path[0], GRID_TABLES), path[-1]
        if table not in ("run", "axes", "zip"):
            unknown |= {name for name in PARAMETERS if path == (name,)}
        elif isinstance(last, int) or len(path) == 1:
            unknown |= set(PARAMETERS)
        else:
            unknown |= {last, suggestion(last, PARAMETERS) or last}
    return unknown


def main_subgrid(document: GridDocument, diagnostics: Diagnostics) -> Subgrid:
    """Return the main grid, before excludes."""
    paths: dict[str, Path] = {name: ("run", name) for name in document.run}
    tables: list[tuple[Path, dict[str, AxisForm]]]
    tables = [
        (("axes",), {name: _coarse(name, form, document)}) for name, form in document.axes.items()
    ]
    tables += [(("zip", i), table) for i, table in enumerate(document.zips)]
    axes: list[Axis] = []
    for path, table in tables:
        if not table and not diagnostics.is_invalid(path):
            diagnostics.complain(path, "is empty; name the axes that move together")
        doubled = [name for name in table if name in paths]
        for name in doubled:
            _complain_of_double(path, name, paths[name], diagnostics)
        paths |= {name: (*path, name) for name in table if name not in paths}
        axis = _axis(path, {n: form for n, form in table.items() if n not in doubled}, diagnostics)
        axes += [axis] if axis else []
        diagnostics.unknown |= set(table if axis is None else doubled)
    product = product_of(document.run, _limited(("axes",), axes, diagnostics))
    return Subgrid(path=(), paths=paths, product=product)


def _coarse(name: str, form: AxisForm, document: GridDocument) -> AxisForm:
    """Return the axis of a search's coarse pass; of any other parameter the axis as written."""
    table = document.refinement
    if table is None or name not in table.axes:
        return form
    try:
        return coarse_form(form, table, name)
    except ValueError:
        return form  # its expansion reports what is wrong


def _complain_of_double(path: Path, name: str, first: Path, diagnostics: Diagnostics) -> None:
    table = f"[{first[0]}]" if len(first) == 2 else f"{first[0]}.{first[1]}"
    line = diagnostics.line_of(first)
    diagnostics.complain((*path, name), f"is in {table} too{line}; remove one of them")


def include_subgrids(document: GridDocument, diagnostics: Diagnostics) -> list[Subgrid]:
    """Return the valid includes: products of their own over [run] and the defaults."""
    subgrids: list[Subgrid] = []
    for i, table in enumerate(document.includes):
        path = ("include", i)
        if diagnostics.is_invalid(path):
            continue
        if not table:
            diagnostics.complain(path, "is empty; name a parameter")
            continue
        axes = [_axis(path, {n: form}, diagnostics) for n, form in table.items() if is_form(form)]
        valid = [axis for axis in axes if axis is not None]
        if len(valid) == len(axes):
            named = {name: value for name, value in table.items() if not is_form(value)}
            paths = {name: ("run", name) for name in document.run}
            paths |= {name: (*path, name) for name in table}
            product = product_of({**document.run, **named}, _limited(path, valid, diagnostics))
            subgrids.append(Subgrid(path=path, paths=paths, product=product))
    return subgrids


def _limited(path: Path, axes: list[Axis], diagnostics: Diagnostics) -> list[Axis]:
    if len(axes) > MAX_AXES:
        sentence = f"has {len(axes)} axes that vary independently; at most {MAX_AXES} are possible"
        diagnostics.complain(path, sentence)
    return axes[:MAX_AXES]


def _axis(path: Path, forms: Mapping[str, AxisForm], diagnostics: Diagnostics) -> Axis | None:
    """Return the axis of one parameter, or of several that move together; None if invalid."""
    values: dict[str, Sequence[ParameterValue]] = {}
    for name, form in forms.items():
        try:
            values[name] = expanded(PARAMETERS[name], form)
        except ValueError as error:
            diagnostics.complain((*path, name), str(error))
    if not values or len(values) < len(forms):
        return None
    if len({len(column) for column in values.values()}) > 1:
        sizes = ", ".join(f"{name} {len(column)}" for name, column in values.items())
        diagnostics.complain(path, f"axes that move together must have equal lengths, not {sizes}")
        return None
    if len(values) == 1:
        [(name, column)] = values.items()
        if (value := repeated(column)) is not None:
            diagnostics.complain((*path, name), f"contains {shown(value)} more than once")
    elif (row := repeated(list(zip(*values.values(), strict=True)))) is not None:
        pairs = shown(dict(zip(values, row, strict=True)))
        diagnostics.complain(path, f"contains {pairs} more than once")
    return Axis(values=values)
