"""[search] or [refine], parts -> what is wrong with how a grid asks to be made finer."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from nanlab.grid.document import GridDocument
from nanlab.grid.errors import shown, suggestion
from nanlab.grid.expansion import Findings, Part
from nanlab.grid.parameter_types import ParameterValue
from nanlab.grid.parameters import PARAMETERS, kind_of
from nanlab.grid.search import Refine, Search, directions_of, kind_of_axis
from nanlab.grid.toml import Path

PLACES = 1_000_000
"""The most places that an axis may have at the tolerance."""

_NO_QUANTITY = {
    "address": "numbers the draws, and there is nothing between two of its values",
    "length": "counts steps; how a run fares by step is told by fault_step, and by curves",
    "rule": "only names the outcome, and changes no run",
}


def check_search(asked: GridDocument, main: Part, findings: Findings) -> None:
    """Complains of what does not suit the grid in its [search] or [refine]."""
    table, key = asked.finer, "search" if asked.search else "refine"
    if table is None:
        return
    if asked.search and asked.refine:
        line = findings.line_of(("search",))
        findings.complain(("refine",), f"[search] is here too{line}; keep one of them")
        return
    if asked.exec.engine == "files":
        findings.complain(
            ("exec", "engine"),
            f'must be "local" or "ray" with [{key}]: its rounds are not known beforehand',
            "files",
        )
        return
    if asked.includes:
        findings.complain(
            ("include", 0),
            f"adds points that [{key}] does not look between; give them a grid of their own",
        )
    if isinstance(table, Refine) and table.axes[0] == table.axes[1]:
        findings.complain((key, "axes"), "must be two different axes", table.axes)
        return
    right = [
        _check_axis(name, _place(key, i), table, asked, main, findings)
        for i, name in enumerate(table.axes)
    ]
    if all(right):
        _check_tolerance(key, table, asked, findings)


def _place(key: str, i: int) -> Path:
    return (key, "axis") if key == "search" else (key, "axes", i)


def _check_axis(
    name: str,
    path: Path,
    table: Search | Refine,
    asked: GridDocument,
    main: Part,
    findings: Findings,
) -> bool:
    """Whether the axis can be made finer; complains if not."""
    if name in findings.unknown or findings.is_lost(("axes", name)):
        return False
    sentence = _no_quantity(name) or _no_axis(name, asked) or _no_owner(name, main)
    if sentence is not None:
        findings.complain(path, sentence, name)
        return False
    values = main.product.values(name)
    kind = kind_of_axis(asked.axes[name], table, name)
    sentence = _unsuited(name, values, kind)
    if sentence is not None:
        findings.complain(("axes", name), sentence)
        return False
    return True


def _no_axis(name: str, asked: GridDocument) -> str | None:
    if name in asked.axes:
        return None
    example = f"{name} = {{ logspace = [1e-4, 1.0], num = 9 }}"
    if any(name in table for table in asked.zips):
        return "moves with others in a [[zip]]; what is made finer must move alone, under [axes]"
    if name in asked.run:
        return f"is the same for every run; give the values of its coarse pass, [axes] {example}"
    near = suggestion(name, asked.axes)
    if near is not None:
        return f'is no axis of this grid; did you mean "{near}"?'
    here = ", ".join(asked.axes) or "none"
    known = f"give the values of its coarse pass, [axes] {example}"
    return f"is no axis of this grid; {known if name in PARAMETERS else f'its axes are: {here}'}"


def _no_quantity(name: str) -> str | None:
    if name not in PARAMETERS:
        return None
    parameter = PARAMETERS[name]
    if parameter.role in _NO_QUANTITY:
        return f"{_NO_QUANTITY[parameter.role]}; name a number such as lr"
    if parameter.kinds != (float,) or parameter.role not in ("knob", "option"):
        return "is not continuous: a value between two of its values is none; name one such as lr"
    return None


def _no_owner(name: str, main: Part) -> str | None:
    having = PARAMETERS[name].problems
    without = [each for each in main.product.values("problem") if kind_of(each) not in having]
    return f'problem "{without[0]}" has no {name}; give it a grid of its own' if without else None


def _unsuited(name: str, values: Sequence[ParameterValue], kind: str) -> str | None:
    numbers = [float(value) for value in values]
    if len(numbers) < 2:
        return "needs 2 values or more, to be made finer between them"
    fallen = next((b for a, b in pairwise(numbers) if b <= a), None)
    if fallen is not None:
        return f"must ascend to be made finer, and {shown(fallen)} comes after a larger value"
    if kind == "log" and numbers[0] <= 0:
        sentence = f"holds {shown(numbers[0])}, which has no place on a log scale"
        return f'{sentence}; say scale = "linear" and a tolerance in the unit of {name}'
    return None


def _check_tolerance(
    key: str, table: Search | Refine, asked: GridDocument, findings: Findings
) -> None:
    path: Path = (key, "tolerance")
    linear = [n for n in table.axes if kind_of_axis(asked.axes[n], table, n) == "linear"]
    if linear and table.said("tolerance", linear[0]) is None:
        findings.complain(
            path, f"is missing: on a linear scale, as {linear[0]} is, say it in the axis's unit"
        )
        return
    for direction in directions_of(table, asked.axes):
        places = direction.coarse[-1] + 1
        if places > PLACES:
            least = max(direction.scale.widths) * len(direction.parts) / PLACES
            findings.complain(
                path, f"makes {places} places of {direction.name}; at most {PLACES} are possible, "
                f"so ask for {2 * least:.1g} or more", table.said("tolerance", direction.name),
            )  # fmt: skip
