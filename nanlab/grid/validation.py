"""GridDocument -> products: excludes are applied, and settings are checked against each other."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from nanlab.grid.axes import POINT_LIMIT
from nanlab.grid.compatibility import check_compatibility
from nanlab.grid.document import GridDocument
from nanlab.grid.errors import one_of
from nanlab.grid.expansion import Diagnostics, Subgrid, include_subgrids, main_subgrid
from nanlab.grid.parameter_models import USER_DEFINED
from nanlab.grid.parameter_types import ParameterValue
from nanlab.grid.parameters import PARAMETERS, is_user_defined, kind_of
from nanlab.grid.points import Product, condition, matched
from nanlab.grid.search_validation import check_search
from nanlab.grid.toml import Path

_USER_PROBLEM = (
    'only a user-defined problem has it: [run] problem = "my_module:make_problem" or '
    '"path/to/file.py:make_problem"'
)
_NOTHING_SWEPT = (
    "nothing is swept: the file sets no parameter; write an axis, as in [axes] "
    "lr = { logspace = [1e-4, 1.0], num = 9 }"
)


def checked_products(document: GridDocument, diagnostics: Diagnostics) -> list[Product]:
    """Return the points of the main grid and of each include; report problems."""
    tables = (document.run, document.axes, document.zips, document.includes)
    if not any(tables) and not diagnostics.unknown and not document.invalid:
        diagnostics.complain((), _NOTHING_SWEPT)
    main = main_subgrid(document, diagnostics)
    includes = include_subgrids(document, diagnostics)
    _check_problems([main, *includes], diagnostics)
    check_search(document, main, diagnostics)
    if not _check_size([main, *includes], diagnostics):
        return []
    product, all_valid = _excluded(main, document, diagnostics)
    if all_valid:
        check_compatibility(main, product, diagnostics)
    for include in includes:
        check_compatibility(include, include.product, diagnostics)
    return [product, *(include.product for include in includes)]


def _problems(subgrids: Iterable[Subgrid]) -> set[ParameterValue]:
    return {problem for subgrid in subgrids for problem in subgrid.product.values("problem")}


def _check_problems(subgrids: Sequence[Subgrid], diagnostics: Diagnostics) -> None:
    """Check that the problem of some point has each parameter that is set."""
    if "problem" in diagnostics.unknown:
        return
    for subgrid in subgrids:
        for name, path in subgrid.paths.items():
            if path[0] != "run":
                _check_problem(name, path, _problems([subgrid]), diagnostics)
            elif subgrid is subgrids[0]:
                _check_problem(name, path, _problems(subgrids), diagnostics)


def _check_problem(
    name: str, path: Path, problems: set[ParameterValue], diagnostics: Diagnostics
) -> bool:
    having = PARAMETERS[name].problems
    if {kind_of(problem) for problem in problems} & set(having):
        return True
    if is_user_defined(name):
        diagnostics.complain(path, _USER_PROBLEM)
        return False
    here = " and ".join(f'"{problem}"' for problem in sorted(map(str, problems)))
    having = [problem for problem in having if problem != USER_DEFINED]
    sentence = f"only problem {one_of(having)} has it, and the problem here is {here}"
    diagnostics.complain(path, sentence)
    return False


def _check_size(subgrids: Sequence[Subgrid], diagnostics: Diagnostics) -> bool:
    n_points = sum(math.prod(subgrid.product.shape) for subgrid in subgrids)
    if n_points <= POINT_LIMIT:
        return True
    axes = [axis for subgrid in subgrids for axis in subgrid.product.axes]
    factors = " x ".join(f"{' and '.join(axis.values)} {axis.size}" for axis in axes)
    sentence = f"{n_points} points ({factors}); a study has at most {POINT_LIMIT}"
    diagnostics.complain(("axes",), sentence)
    return False


def _excluded(
    main: Subgrid, document: GridDocument, diagnostics: Diagnostics
) -> tuple[Product, bool]:
    """Return the main grid less the excluded points, and whether every exclude is valid."""
    product, all_valid = main.product, not diagnostics.is_invalid(("exclude",))
    for i, table in enumerate(document.excludes):
        path = ("exclude", i)
        if diagnostics.is_invalid(path) or diagnostics.unknown & set(table):
            all_valid = False
            continue
        if not table:
            diagnostics.complain(path, "names no parameter, so it would drop every point")
            continue
        problems = _problems([main])
        if not all([_check_problem(name, (*path, name), problems, diagnostics) for name in table]):
            all_valid = False
            continue
        tests = [(name, condition(written)) for name, written in table.items()]
        dropped = matched(product, tests)
        if not dropped.any():
            diagnostics.warn(path, "matches no point")
        rest = replace(product, mask=np.asarray(product.mask & ~dropped))
        if product.mask.any() and not rest.mask.any() and not document.includes:
            diagnostics.complain(path, "leaves no point of the grid")
        product = rest
    return product, all_valid
