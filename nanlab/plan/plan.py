"""Grid -> Plan.  Static choices become groups, traced knobs become lanes; host arrays only.

A run's identity is a hash of its parameters that are not at their defaults (`grid.defaults`), so
it depends neither on parameters that are added later nor on [exec], the title, the file's name or
the order of the axes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, Shaped, UInt8

from nanlab.grid import Grid
from nanlab.grid.defaults import static_value
from nanlab.grid.errors import Complaint, GridError
from nanlab.grid.parameter_types import ParameterValue
from nanlab.grid.parameters import PARAMETERS, Parameter, is_user_defined, kind_of
from nanlab.grid.points import Product
from nanlab.plan.identity import PointTable, group_id

Runs = Int[np.ndarray, " runs"]

ID_BYTES = 6
"""Number of bytes of a run's hash that are its identity, written as hex digits."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Group:
    """The runs that share one compiled program.

    Attributes:
        group_id: 12 hex digits, a hash of the statics.
        statics: every static parameter of its problem, and for each option whether it is used.
        runs: indices of its runs in the plan, ascending.
    """

    group_id: str
    statics: Mapping[str, ParameterValue]
    runs: Runs


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """Every run of a study once, in the grid's order, as columns.

    Attributes:
        columns: a read-only column for each parameter of the study's problems: float64, int64,
            bool, or object for text and batch sizes (an int or "full").  Where some runs' problem
            does not have the parameter, the column is of dtype object with None for them.  A
            constant column takes no memory.
        run_ids: 12 hex digits for each run, of NumPy's StringDType.
        groups: the groups, in the order of their first runs.
    """

    columns: Mapping[str, Shaped[np.ndarray, " runs"]]
    run_ids: Shaped[np.ndarray, " runs"]
    groups: tuple[Group, ...]

    def __len__(self) -> int:
        return len(self.run_ids)

    def is_among(self, run_ids: Collection[str]) -> Bool[np.ndarray, " runs"]:
        """Return whether each run is one of these."""
        # np.isin took 18 times as long on text, and a list of a million names 60 MB.
        wanted = frozenset(run_ids)
        return np.fromiter((run_id in wanted for run_id in self.run_ids), np.bool_, len(self))

    def point(self, run: int) -> dict[str, ParameterValue]:
        """Return the parameters of one run that its problem has, as plain Python values."""
        values = {name: _plain(column[run]) for name, column in self.columns.items()}
        return {name: value for name, value in values.items() if value is not None}


def _plain(value: Any) -> ParameterValue | None:
    return value.item() if isinstance(value, np.generic) else value


def make_plan(grid: Grid, *, progress: Callable[[int, int], None] | None = None) -> Plan:
    """List the grid's runs and sort them into groups.

    Equal points are one run, at the first of them.

    Args:
        grid: the grid.
        progress: called with the number of points listed so far and the number of all points.

    Returns:
        The plan.

    Raises:
        GridError: two different runs would have the same identity.
    """
    tables = [PointTable(product) for product in grid.products]
    n_points, n_listed = sum(table.n_points for table in tables), 0

    def on_hashed(count: int) -> None:
        nonlocal n_listed
        n_listed += count
        if progress is not None:
            progress(n_listed, n_points)

    digests = np.concatenate([table.digests(on_hashed) for table in tables])
    rows = _first_occurrences(digests)
    run_ids = _run_ids(digests[rows], grid.path)
    kinds = {kind_of(problem) for problem in grid.problems}
    names = dict.fromkeys(n for table in tables for n in table.names if is_user_defined(n))
    known = [*PARAMETERS.values(), *(PARAMETERS[name] for name in names)]
    used = [parameter for parameter in known if set(parameter.problems) & kinds]
    columns = {parameter.name: _column(parameter, tables, rows) for parameter in used}
    statics = [parameter.name for parameter in used if parameter.role in ("static", "option")]
    plan = Plan(columns=columns, run_ids=run_ids, groups=())
    return replace(plan, groups=_groups(plan, statics, _group_keys(statics, tables, rows)))


def identities(product: Product) -> list[str]:
    """Return the run_id of each point of a product, in order; equal points share one."""
    return [digest[:ID_BYTES].tobytes().hex() for digest in PointTable(product).digests()]


def plan_subset(plan: Plan, rows: Runs) -> Plan:
    """Return the plan of some runs, in its order, without groups that have none of them."""
    new_index = np.full(len(plan), -1)
    new_index[rows] = np.arange(len(rows))
    indices = [new_index[group.runs] for group in plan.groups]
    groups = [
        replace(group, runs=_read_only(index[index >= 0]))
        for group, index in zip(plan.groups, indices, strict=True)
    ]
    return Plan(
        columns={name: _read_only(column[rows]) for name, column in plan.columns.items()},
        run_ids=_read_only(plan.run_ids[rows]),
        groups=tuple(group for group in groups if len(group.runs)),
    )


def _first_occurrences(digests: UInt8[np.ndarray, "points bytes"]) -> Runs:
    """Return the index of the first occurrence of each distinct digest, ascending."""
    high, low = digests.view(np.uint64).T
    order = np.lexsort((low, high))
    is_new = np.ones(len(order), np.bool_)
    is_new[1:] = (np.diff(high[order]) != 0) | (np.diff(low[order]) != 0)
    return np.sort(order[is_new])


def _run_ids(digests: UInt8[np.ndarray, "runs bytes"], path: str) -> Shaped[np.ndarray, " runs"]:
    digits = 2 * ID_BYTES
    text = digests[:, :ID_BYTES].tobytes().hex().encode()
    names = np.frombuffer(text, f"S{digits}")
    in_order = np.sort(names)
    repeated = in_order[1:][in_order[1:] == in_order[:-1]]
    if len(repeated):
        first, second, *_ = np.flatnonzero(names == repeated[0])
        shared = repeated[0].decode()
        sentence = f"points {first} and {second} (from 0) would share the run_id {shared}"
        raise GridError(path, [Complaint(sentence=f"{sentence}; exclude one of them")])
    # 16 MB for a million runs; fixed-width text or a million Python strings would take 48.
    return _read_only(names.astype(np.dtypes.StringDType()))


def _read_only(column: np.ndarray) -> np.ndarray:
    column.flags.writeable = False
    return column


def _column(
    parameter: Parameter, tables: Sequence[PointTable], rows: Runs
) -> Shaped[np.ndarray, " runs"]:
    name = parameter.name
    using = np.concatenate([table.using(name) for table in tables])[rows]
    constants = {table.levels(name)[0] for table in tables if table.level_index(name) is None}
    is_constant = all(table.level_index(name) is None for table in tables) and len(constants) == 1
    if using.all() and is_constant:
        return np.broadcast_to(np.array(constants.pop(), _dtype(parameter)), len(rows))
    column = np.concatenate([_values(parameter, table) for table in tables])[rows]
    if using.all():
        return _read_only(column)
    return _read_only(np.where(using, column.astype(object), np.array(None)))


def _dtype(parameter: Parameter) -> type[Any]:
    if parameter.default is None:
        return object  # user-defined: some runs may leave it to the default of the user's code
    return parameter.kinds[0] if parameter.kinds in ((float,), (int,), (bool,)) else object


def _values(parameter: Parameter, table: PointTable) -> Shaped[np.ndarray, " points"]:
    levels = np.array(table.levels(parameter.name), _dtype(parameter))
    index = table.level_index(parameter.name)
    # A slice keeps dtype object; a scalar 32 concatenated with "full" would become "32".
    return np.broadcast_to(levels[:1], table.n_points) if index is None else levels[index]


def _group_keys(statics: Sequence[str], tables: Sequence[PointTable], rows: Runs) -> Runs:
    """Return a number for each run, equal for two runs if and only if all their statics are."""
    keys = np.zeros(len(rows), np.int64)
    for name in statics:
        index, n_levels = _shared_level_index(name, tables)
        if n_levels > 1:
            # Renumbered each time, so that the product of all levels cannot overflow.
            keys = np.unique(keys * n_levels + index[rows], return_inverse=True)[1]
    return keys


def _shared_level_index(
    name: str, tables: Sequence[PointTable]
) -> tuple[Int[np.ndarray, " points"], int]:
    """Return level indices of a static that agree across tables, and the number of levels."""
    numbers: dict[ParameterValue | None, int] = {None: 0}  # None: the problem does not have it
    columns: list[Int[np.ndarray, " points"]] = []
    for table in tables:
        values = [static_value(name, value) for value in table.levels(name)]
        levels = np.array([numbers.setdefault(v, len(numbers)) for v in values], np.int64)
        index = table.level_index(name)
        used = levels[0] if index is None else levels[index]
        columns.append(np.where(table.using(name), used, 0))
    return np.concatenate(columns), len(numbers)


def _groups(plan: Plan, statics: Sequence[str], keys: Runs) -> tuple[Group, ...]:
    _, sizes = np.unique(keys, return_counts=True)
    runs_by_key = np.split(np.argsort(keys, kind="stable"), np.cumsum(sizes)[:-1])
    groups: list[Group] = []
    for runs in sorted(runs_by_key, key=lambda runs: int(runs[0])):
        point = plan.point(int(runs[0]))
        shared = {n: static_value(n, point[n]) for n in statics if n in point}
        groups.append(Group(group_id=group_id(shared), statics=shared, runs=_read_only(runs)))
    return tuple(groups)


def chunks(n_runs: int, *, chunk_runs: int, unit: int = 1) -> list[slice]:
    """Divide a group of `n_runs` into chunks of about `chunk_runs`, as even as possible.

    Args:
        n_runs: number of runs.
        chunk_runs: approximate number of runs per chunk.
        unit: number that `chunk_runs` is rounded up to a multiple of.

    Returns:
        The chunks as slices of the group's runs, in order.

    Raises:
        ValueError: a number is less than 1, or `n_runs` less than 0.
    """
    if n_runs < 0 or min(unit, chunk_runs) < 1:
        raise ValueError(
            f"must be 1 or more: unit {unit}, chunk_runs {chunk_runs}; and 0 or more: "
            f"n_runs {n_runs}"
        )
    if n_runs == 0:
        return []
    n_chunks = -(-n_runs // (-(-chunk_runs // unit) * unit))
    small, larger = divmod(n_runs, n_chunks)
    sizes = [small + 1] * larger + [small] * (n_chunks - larger)
    stops = list(accumulate(sizes, initial=0))
    return [slice(start, stop) for start, stop in pairwise(stops)]
