"""Parts -> products: points are dropped, and what does not fit together is found."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from nanlab.grid.asked import Asked
from nanlab.grid.errors import one_of
from nanlab.grid.forms import POINT_LIMIT
from nanlab.grid.parts import Findings, Part, include_parts, main_part
from nanlab.grid.points import Product, condition, matched, without
from nanlab.grid.toml import Path
from nanlab.parameters import PARAMETERS, Value
from nanlab.parts.tasks import TASKS

# The models with one output, which is the logit of the second of two classes.
_ONE_OUTPUT = ("neuron",)


def checked_products(asked: Asked, findings: Findings) -> list[Product]:
    """The main grid's points and each include's; right if `findings` has no complaints."""
    main = main_part(asked, findings)
    includes = include_parts(asked, findings)
    _check_problems([main, *includes], findings)
    if not _check_size([main, *includes], findings):
        return []
    kept, all_understood = _excluded(main, asked, findings)
    if all_understood:
        _check_outputs(main, kept, findings)
    for include in includes:
        _check_outputs(include, include.product, findings)
    return [kept, *(include.product for include in includes)]


def _problems(parts: Iterable[Part]) -> set[Value]:
    return {problem for part in parts for problem in part.product.values("problem")}


def _check_problems(parts: Sequence[Part], findings: Findings) -> None:
    """Each parameter that is set must be one that some point there has."""
    if "problem" in findings.unknown:
        return
    for part in parts:
        for name, path in part.places.items():
            if path[0] != "run":
                _check_problem(name, path, _problems([part]), findings)
            elif part is parts[0]:
                _check_problem(name, path, _problems(parts), findings)


def _check_problem(name: str, path: Path, problems: set[Value], findings: Findings) -> bool:
    having = PARAMETERS[name].problems
    if problems & set(having):
        return True
    here = " and ".join(f'"{problem}"' for problem in sorted(map(str, problems)))
    findings.complain(path, f"only problem {one_of(having)} has it, and the problem here is {here}")
    return False


def _check_size(parts: Sequence[Part], findings: Findings) -> bool:
    total = sum(math.prod(part.product.shape) for part in parts)
    if total <= POINT_LIMIT:
        return True
    factors = [
        f"{' and '.join(axis.values)} {axis.many}" for part in parts for axis in part.product.axes
    ]
    many = f"{total} points ({' x '.join(factors)})"
    findings.complain(("axes",), f"{many}; a study holds at most {POINT_LIMIT}")
    return False


def _excluded(main: Part, asked: Asked, findings: Findings) -> tuple[Product, bool]:
    """The main grid without what the excludes drop, and whether each exclude was understood."""
    product, all_understood = main.product, not findings.is_lost(("exclude",))
    for i, table in enumerate(asked.excludes):
        path = ("exclude", i)
        if findings.is_lost(path) or findings.unknown & set(table):
            all_understood = False
            continue
        if not table:
            findings.complain(path, "names no parameter, so it would drop every point")
            continue
        problems = _problems([main])
        if not all([_check_problem(name, (*path, name), problems, findings) for name in table]):
            all_understood = False
            continue
        dropped = matched(product, [(name, condition(each)) for name, each in table.items()])
        if not dropped.any():
            findings.warn(path, "matches no point")
        rest = without(product, dropped)
        if product.kept.any() and not rest.kept.any() and not asked.includes:
            findings.complain(path, "leaves no point of the grid")
        product = rest
    return product, all_understood


def _check_outputs(part: Part, product: Product, findings: Findings) -> None:
    """A model with one output needs a task with two classes."""
    if findings.unknown & {"problem", "model", "task"}:
        return
    for model in _ONE_OUTPUT:
        for task in dict.fromkeys(product.values("task")):
            pair = matched(product, [("model", condition(model)), ("task", condition(task))])
            if TASKS[str(task)].classes != 2 and (pair & product.kept).any():
                others = bool((product.kept & ~pair).any())
                exclude = others and part.path == ()
                path = part.places.get("task", ("run", "task"))
                findings.complain(path, _misfit(model, str(task), exclude=exclude), task)


def _misfit(model: str, task: str, *, exclude: bool) -> str:
    fitting = one_of([name for name, each in TASKS.items() if each.classes == 2])
    way_out = (
        f'drop the pair: [[exclude]] with model = "{model}" and task = "{task}"'
        if exclude
        else f"its task must be {fitting}"
    )
    classes = TASKS[task].classes
    return f'has {classes} classes, and model "{model}" has one output, for two; {way_out}'
