"""Parts -> products: points are dropped, and what does not fit together is found."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from nanlab.grid.axes import POINT_LIMIT
from nanlab.grid.compatibility import check_compatibility
from nanlab.grid.document import GridDocument
from nanlab.grid.errors import one_of
from nanlab.grid.expansion import Findings, Part, include_parts, main_part
from nanlab.grid.parameter_models import USER_DEFINED
from nanlab.grid.parameter_types import ParameterValue
from nanlab.grid.parameters import PARAMETERS, is_user_defined, kind_of
from nanlab.grid.points import Product, condition, matched, without
from nanlab.grid.search_validation import check_search
from nanlab.grid.toml import Path

_OWN_SENTENCE = (
    'only a problem of your own has it: [run] problem = "my_module:make_problem" or '
    '"path/to/file.py:make_problem"'
)


def checked_products(asked: GridDocument, findings: Findings) -> list[Product]:
    """The main grid's points and each include's; right if `findings` has no complaints."""
    main = main_part(asked, findings)
    includes = include_parts(asked, findings)
    _check_problems([main, *includes], findings)
    check_search(asked, main, findings)
    if not _check_size([main, *includes], findings):
        return []
    kept, all_understood = _excluded(main, asked, findings)
    if all_understood:
        check_compatibility(main, kept, findings)
    for include in includes:
        check_compatibility(include, include.product, findings)
    return [kept, *(include.product for include in includes)]


def _problems(parts: Iterable[Part]) -> set[ParameterValue]:
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


def _check_problem(
    name: str, path: Path, problems: set[ParameterValue], findings: Findings
) -> bool:
    having = PARAMETERS[name].problems
    if {kind_of(problem) for problem in problems} & set(having):
        return True
    if is_user_defined(name):
        findings.complain(path, _OWN_SENTENCE)
        return False
    here = " and ".join(f'"{problem}"' for problem in sorted(map(str, problems)))
    having = [problem for problem in having if problem != USER_DEFINED]
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


def _excluded(main: Part, asked: GridDocument, findings: Findings) -> tuple[Product, bool]:
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
