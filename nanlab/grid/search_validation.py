"""GridDocument, main grid -> complaints about its [search] or [refine] table."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from nanlab.grid.document import GridDocument
from nanlab.grid.errors import shown, suggestion
from nanlab.grid.expansion import Diagnostics, Subgrid
from nanlab.grid.parameter_types import ParameterValue
from nanlab.grid.parameters import PARAMETERS, kind_of
from nanlab.grid.search import Refine, Search, kind_of_axis, searched_axes
from nanlab.grid.toml import Path

MAX_TICKS = 1_000_000
"""Maximum number of ticks of an axis at the tolerance."""

_NOT_SEARCHABLE = {
    "address": "is a seed, so nothing lies between two of its values",
    "length": "is the number of steps; see fault_step and the curves for progress over steps",
    "rule": "only decides the name of the outcome and changes no run",
}


def check_search(document: GridDocument, main: Subgrid, diagnostics: Diagnostics) -> None:
    """Complain about settings of [search] or [refine] that do not fit the grid."""
    table, key = document.refinement, "search" if document.search else "refine"
    if table is None:
        return
    if document.search and document.refine:
        line = diagnostics.line_of(("search",))
        diagnostics.complain(("refine",), f"[search] is here too{line}; remove one of them")
        return
    if document.exec.engine == "files":
        sentence = f'must be "local" or "ray" with [{key}]: later rounds are not known in advance'
        diagnostics.complain(("exec", "engine"), sentence, "files")
        return
    if document.includes:
        sentence = f"adds points that [{key}] does not search; move them to a grid of their own"
        diagnostics.complain(("include", 0), sentence)
    if isinstance(table, Refine) and table.axes[0] == table.axes[1]:
        diagnostics.complain((key, "axes"), "must be two different axes", table.axes)
        return
    valid = [
        _check_axis(name, _path(key, i), table, document, main, diagnostics)
        for i, name in enumerate(table.axes)
    ]
    if all(valid):
        _check_tolerance(key, table, document, diagnostics)


def _path(key: str, i: int) -> Path:
    return (key, "axis") if key == "search" else (key, "axes", i)


def _check_axis(
    name: str,
    path: Path,
    table: Search | Refine,
    document: GridDocument,
    main: Subgrid,
    diagnostics: Diagnostics,
) -> bool:
    """Return whether the axis can be searched; complain if not."""
    if name in diagnostics.unknown or diagnostics.is_invalid(("axes", name)):
        return False
    sentence = _not_searchable(name) or _not_an_axis(name, document) or _not_shared(name, main)
    if sentence is not None:
        diagnostics.complain(path, sentence, name)
        return False
    kind = kind_of_axis(document.axes[name], table, name)
    sentence = _unsuitable_values(name, main.product.values(name), kind)
    if sentence is not None:
        diagnostics.complain(("axes", name), sentence)
        return False
    return True


def _not_an_axis(name: str, document: GridDocument) -> str | None:
    if name in document.axes:
        return None
    example = f"{name} = {{ logspace = [1e-4, 1.0], num = 9 }}"
    if any(name in table for table in document.zips):
        return "moves with others in a [[zip]]; a searched axis must be alone, under [axes]"
    if name in document.run:
        return f"is the same for every run; write the values of its coarse pass, [axes] {example}"
    near = suggestion(name, document.axes)
    if near is not None:
        return f'is not an axis of this grid; did you mean "{near}"?'
    axes = ", ".join(document.axes) or "none"
    known = f"write the values of its coarse pass, [axes] {example}"
    return f"is not an axis of this grid; {known if name in PARAMETERS else f'its axes: {axes}'}"


def _not_searchable(name: str) -> str | None:
    if name not in PARAMETERS:
        return None
    parameter = PARAMETERS[name]
    if parameter.role in _NOT_SEARCHABLE:
        return f"{_NOT_SEARCHABLE[parameter.role]}; choose a number such as lr"
    if parameter.kinds != (float,) or parameter.role not in ("knob", "option"):
        return "is not continuous, so it cannot be searched; choose a number such as lr"
    return None


def _not_shared(name: str, main: Subgrid) -> str | None:
    having = PARAMETERS[name].problems
    without = [p for p in main.product.values("problem") if kind_of(p) not in having]
    if not without:
        return None
    return f'problem "{without[0]}" has no {name}; move it to a grid of its own'


def _unsuitable_values(name: str, values: Sequence[ParameterValue], kind: str) -> str | None:
    numbers = [float(value) for value in values]
    if len(numbers) < 2:
        return "must have at least 2 values to be searched"
    fallen = next((b for a, b in pairwise(numbers) if b <= a), None)
    if fallen is not None:
        return f"must ascend to be searched, but {shown(fallen)} comes after a larger value"
    if kind == "log" and numbers[0] <= 0:
        sentence = f"contains {shown(numbers[0])}, which has no logarithm"
        return f'{sentence}; set scale = "linear" and a tolerance in the unit of {name}'
    return None


def _check_tolerance(
    key: str, table: Search | Refine, document: GridDocument, diagnostics: Diagnostics
) -> None:
    path: Path = (key, "tolerance")
    linear = [n for n in table.axes if kind_of_axis(document.axes[n], table, n) == "linear"]
    if linear and table.setting("tolerance", linear[0]) is None:
        sentence = f"is missing: {linear[0]} is on a linear scale, so set it in the axis's unit"
        diagnostics.complain(path, sentence)
        return
    for axis in searched_axes(table, document.axes):
        n_ticks = axis.coarse[-1] + 1
        if n_ticks > MAX_TICKS:
            least = max(axis.scale.widths) * len(axis.subdivisions) / MAX_TICKS
            sentence = (
                f"divides {axis.name} into {n_ticks} values; at most {MAX_TICKS} are possible, so "
                f"use {2 * least:.1g} or more"
            )
            diagnostics.complain(path, sentence, table.setting("tolerance", axis.name))
