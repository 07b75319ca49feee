"""Asked -> parts: the main grid and its includes, each parameter in one place, axes expanded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nanlab.grid.axes import AxisForm, expanded, is_form, is_value, repeated
from nanlab.grid.document import GRID_TABLES, GridDocument
from nanlab.grid.errors import Complaint, shown, suggestion
from nanlab.grid.parameter_types import ParameterValue
from nanlab.grid.parameters import PARAMETERS
from nanlab.grid.points import Axis, Product, product_of
from nanlab.grid.search import coarse_form
from nanlab.grid.source import Source
from nanlab.grid.toml import Path


@dataclass(frozen=True, kw_only=True)
class Part:
    """The main grid, or one include.

    Attributes:
        path: () for the main grid, ("include", 0) for the first include.
        places: where each parameter that is set is set.
        product: its points; those of the main grid before excludes.
    """

    path: Path
    places: Mapping[str, Path]
    product: Product


class Findings:
    """What is found to be wrong on the way from a file to its points.

    What could not be understood is not held against the rest: a check that would need it is left
    out, so that one mistake is one complaint.

    Attributes:
        complaints: what is wrong.
        warnings: what is legal, but surely not meant.
        unknown: parameters whose values in the main grid could not be understood.
    """

    def __init__(self, source: Source, asked: GridDocument) -> None:
        self.complaints: list[Complaint] = []
        self.warnings: list[Complaint] = []
        self.unknown = _lost_parameters(asked.lost)
        self._source = source
        self._lost = asked.lost

    def complain(self, path: Path, sentence: str, *values: object) -> None:
        """Notes that what stands at `path` is wrong."""
        self.complaints.append(self._source.complaint(path, sentence, *values))

    def warn(self, path: Path, sentence: str) -> None:
        """Notes that what stands at `path` is surely not meant."""
        self.warnings.append(self._source.complaint(path, sentence))

    def line_of(self, path: Path) -> str:
        """` (line 4)`, or nothing where there is no line."""
        line = self._source.complaint(path, "").line
        return "" if line is None else f" (line {line})"

    def is_lost(self, path: Path) -> bool:
        """Whether some of what stands at `path` could not be understood."""
        return any(lost[: len(path)] == path[: len(lost)] for lost in self._lost)


def _lost_parameters(lost: frozenset[Path]) -> set[str]:
    """The parameters of the main grid that may be meant by what could not be understood."""
    unknown: set[str] = set()
    for path in lost:
        table, last = suggestion(path[0], GRID_TABLES), path[-1]
        if table not in ("run", "axes", "zip"):
            unknown |= {name for name in PARAMETERS if path == (name,)}
        elif isinstance(last, int) or len(path) == 1:
            unknown |= set(PARAMETERS)
        else:
            unknown |= {last, suggestion(last, PARAMETERS) or last}
    return unknown


def main_part(asked: GridDocument, findings: Findings) -> Part:
    """The main grid, before excludes."""
    places: dict[str, Path] = {name: ("run", name) for name in asked.run}
    tables: list[tuple[Path, dict[str, AxisForm]]]
    tables = [(("axes",), {name: _coarse(name, form, asked)}) for name, form in asked.axes.items()]
    tables += [(("zip", i), table) for i, table in enumerate(asked.zips)]
    axes: list[Axis] = []
    for path, table in tables:
        if not table and not findings.is_lost(path):
            findings.complain(path, "moves nothing; name its axes")
        doubled = [name for name in table if name in places]
        for name in doubled:
            _complain_of_double(path, name, places[name], findings)
        places |= {name: (*path, name) for name in table if name not in places}
        axis = _axis(path, {n: form for n, form in table.items() if n not in doubled}, findings)
        axes += [axis] if axis else []
        findings.unknown |= set(table if axis is None else doubled)
    return Part(path=(), places=places, product=product_of(asked.run, axes))


def _coarse(name: str, form: AxisForm, asked: GridDocument) -> AxisForm:
    """The axis as the coarse pass of a search has it; as it is written where there is none."""
    table = asked.finer
    if table is None or name not in table.axes:
        return form
    try:
        return coarse_form(form, table, name)
    except ValueError:
        return form  # what is wrong is found when it is expanded


def _complain_of_double(path: Path, name: str, first: Path, findings: Findings) -> None:
    table = f"[{first[0]}]" if len(first) == 2 else f"{first[0]}.{first[1]}"
    line = findings.line_of(first)
    findings.complain((*path, name), f"is in {table} too{line}; keep one of them")


def include_parts(asked: GridDocument, findings: Findings) -> list[Part]:
    """The includes that can be understood: products of their own over [run] and the defaults."""
    parts: list[Part] = []
    for i, table in enumerate(asked.includes):
        path = ("include", i)
        if findings.is_lost(path):
            continue
        if not table:
            findings.complain(path, "adds nothing; name a parameter")
            continue
        axes = [_axis(path, {n: form}, findings) for n, form in table.items() if is_form(form)]
        known = [axis for axis in axes if axis is not None]
        if len(known) == len(axes):
            named = {name: value for name, value in table.items() if is_value(value)}
            places = {name: ("run", name) for name in asked.run}
            places |= {name: (*path, name) for name in table}
            product = product_of({**asked.run, **named}, known)
            parts.append(Part(path=path, places=places, product=product))
    return parts


def _axis(path: Path, forms: Mapping[str, AxisForm], findings: Findings) -> Axis | None:
    """The axis of one parameter, or of several that move together; None if it cannot be."""
    values: dict[str, Sequence[ParameterValue]] = {}
    for name, form in forms.items():
        try:
            values[name] = expanded(PARAMETERS[name], form)
        except ValueError as error:
            findings.complain((*path, name), str(error))
    if not values or len(values) < len(forms):
        return None
    if len({len(each) for each in values.values()}) > 1:
        sizes = ", ".join(f"{name} {len(each)}" for name, each in values.items())
        findings.complain(path, f"axes that move together must be equally long, not {sizes}")
        return None
    if len(values) == 1:
        [(name, column)] = values.items()
        if (value := repeated(column)) is not None:
            findings.complain((*path, name), f"holds {shown(value)} more than once")
    elif (row := repeated(list(zip(*values.values(), strict=True)))) is not None:
        pairs = shown(dict(zip(values, row, strict=True)))
        findings.complain(path, f"holds {pairs} more than once")
    return Axis(values=values)
