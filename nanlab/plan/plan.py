"""Grid -> Plan.  Static choices become groups, traced knobs become lanes; no device's arrays.

A run's identity is a hash of what is asked of it and is not the default.  So a parameter that is
added later changes no identity, and neither do [exec], the title, the file's name, or the order
of the axes.  The price: a default never changes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanlab.grid import Grid
from nanlab.grid.errors import Complaint, GridError
from nanlab.grid.parameter_types import ParameterValue
from nanlab.grid.parameters import PARAMETERS, Parameter, is_user_defined, kind_of
from nanlab.grid.points import Product
from nanlab.plan.identity import Ints, PointTable, group_id

ID_BYTES = 6
"""A run's identity is this many bytes of its hash, written as hex digits."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Group:
    """The runs that share one compiled program.

    Attributes:
        group_id: 12 hex digits, a hash of the statics.
        statics: the static parameters of its problem, all of them, and for each option
            whether it is used.
        runs: places of its runs in the plan, ascending.
    """

    group_id: str
    statics: Mapping[str, ParameterValue]
    runs: Ints


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """Every run of a study once, in the grid's order, as columns.

    Attributes:
        columns: a column for each parameter that belongs to a problem of the study: float64,
            int64, bool, or object for text and for a batch's size (an int or "full").  Where
            some runs' problem does not have the parameter, the column is of dtype object and
            holds None for them.  A column of one value takes no memory; all are read-only.
        run_ids: 12 hex digits each, of NumPy's StringDType.
        groups: in the order of their first runs.
    """

    columns: Mapping[str, NDArray[Any]]
    run_ids: NDArray[Any]
    groups: tuple[Group, ...]

    def __len__(self) -> int:
        return len(self.run_ids)

    def is_among(self, run_ids: Collection[str]) -> NDArray[np.bool_]:
        """Whether each run is one of these, shape (runs,)."""
        # np.isin took 18 times as long on text, and a list of a million names 60 MB.
        asked = frozenset(run_ids)
        return np.fromiter((each in asked for each in self.run_ids), np.bool_, len(self))

    def point(self, run: int) -> dict[str, ParameterValue]:
        """The parameters of one run as plain Python values: those that its problem has."""
        values = {name: _plain(column[run]) for name, column in self.columns.items()}
        return {name: value for name, value in values.items() if value is not None}


def _plain(value: Any) -> ParameterValue | None:
    return value.item() if isinstance(value, np.generic) else value


def make_plan(grid: Grid) -> Plan:
    """Lists the grid's runs and sorts them into groups.  Equal points are one run, the first.

    Raises:
        GridError: two different runs would have the same identity.
    """
    parts = [PointTable(product) for product in grid.products]
    digests = np.concatenate([part.digests() for part in parts])
    chosen = _firsts(digests)
    run_ids = _run_ids(digests[chosen], grid.path)
    kinds = {kind_of(problem) for problem in grid.problems}
    own = dict.fromkeys(name for part in parts for name in part.names if is_user_defined(name))
    known = [*PARAMETERS.values(), *(PARAMETERS[name] for name in own)]
    asked = [each for each in known if set(each.problems) & kinds]
    columns = {each.name: _column(each, parts, chosen) for each in asked}
    statics = [each.name for each in asked if each.role in ("static", "option")]
    plan = Plan(columns=columns, run_ids=run_ids, groups=())
    return replace(plan, groups=_groups(plan, statics, _group_keys(statics, parts, chosen)))


def identities(product: Product) -> list[str]:
    """The run_id of each point of a product, in order; equal points have the same."""
    return [digest[:ID_BYTES].tobytes().hex() for digest in PointTable(product).digests()]


def plan_subset(plan: Plan, rows: Ints) -> Plan:
    """The plan of some of its runs, in its order; groups without any are left out."""
    place = np.full(len(plan), -1)
    place[rows] = np.arange(len(rows))
    parts = [replace(g, runs=_fixed(place[g.runs][place[g.runs] >= 0])) for g in plan.groups]
    return Plan(
        columns={name: _fixed(column[rows]) for name, column in plan.columns.items()},
        run_ids=_fixed(plan.run_ids[rows]),
        groups=tuple(part for part in parts if len(part.runs)),
    )


def _firsts(digests: NDArray[np.uint8]) -> Ints:
    """The places of each different digest's first occurrence, ascending."""
    high, low = digests.view(np.uint64).T
    order = np.lexsort((low, high))
    is_new = np.ones(len(order), np.bool_)
    is_new[1:] = (np.diff(high[order]) != 0) | (np.diff(low[order]) != 0)
    return np.sort(order[is_new])


def _run_ids(digests: NDArray[np.uint8], path: str) -> NDArray[Any]:
    digits = 2 * ID_BYTES
    text = digests[:, :ID_BYTES].tobytes().hex().encode()
    names = np.frombuffer(text, f"S{digits}")
    in_order = np.sort(names)
    doubled = in_order[1:][in_order[1:] == in_order[:-1]]
    if len(doubled):
        first, second, *_ = np.flatnonzero(names == doubled[0])
        shared = doubled[0].decode()
        sentence = f"points {first} and {second} (from 0) would share the run_id {shared}"
        raise GridError(path, [Complaint(sentence=f"{sentence}; exclude one of them")])
    # At a million runs 16 MB; text of a fixed width would take 48, as do millions of objects.
    return _fixed(names.astype(np.dtypes.StringDType()))


def _fixed(column: NDArray[Any]) -> NDArray[Any]:
    column.flags.writeable = False
    return column


def _column(parameter: Parameter, parts: Sequence[PointTable], chosen: Ints) -> NDArray[Any]:
    name = parameter.name
    using = np.concatenate([part.using(name) for part in parts])[chosen]
    values = {part.levels(name)[0] for part in parts if part.codes(name) is None}
    if using.all() and len(values) == 1 and all(part.codes(name) is None for part in parts):
        return np.broadcast_to(np.array(values.pop(), _dtype(parameter)), len(chosen))
    column = np.concatenate([_values(parameter, part) for part in parts])[chosen]
    return _fixed(column if using.all() else np.where(using, column.astype(object), np.array(None)))


def _dtype(parameter: Parameter) -> type[Any]:
    if parameter.default is None:
        return object  # a person's own, that some runs may leave to its default
    return parameter.kinds[0] if parameter.kinds in ((float,), (int,), (bool,)) else object


def _values(parameter: Parameter, part: PointTable) -> NDArray[Any]:
    levels = np.array(part.levels(parameter.name), _dtype(parameter))
    codes = part.codes(parameter.name)
    # A slice, which keeps the kind "object": one part's 32 beside another's "full" became "32".
    return np.broadcast_to(levels[:1], part.many) if codes is None else levels[codes]


def _group_keys(statics: Sequence[str], parts: Sequence[PointTable], chosen: Ints) -> Ints:
    """A number for each run, equal for two runs just when all their statics are."""
    keys = np.zeros(len(chosen), np.int64)
    for name in statics:
        codes, many = _codes(name, parts)
        if many > 1:
            # Made small again each time, so that many statics do not overflow.
            keys = np.unique(keys * many + codes[chosen], return_inverse=True)[1]
    return keys


def _codes(name: str, parts: Sequence[PointTable]) -> tuple[Ints, int]:
    """Codes of a static that mean the same in every part, and how many there are."""
    known: dict[ParameterValue | None, int] = {None: 0}  # None: the run's problem does not have it
    columns: list[Ints] = []
    for part in parts:
        values = [static_value(name, value) for value in part.levels(name)]
        levels = np.array([known.setdefault(v, len(known)) for v in values], np.int64)
        codes = part.codes(name)
        columns.append(np.where(part.using(name), levels[0] if codes is None else levels[codes], 0))
    return np.concatenate(columns), len(known)


def static_value(name: str, value: Any) -> Any:
    """What a group's runs share of a parameter: of an option only whether it is used."""
    parameter = PARAMETERS[name]
    return value != parameter.default if parameter.role == "option" else value


def _groups(plan: Plan, statics: Sequence[str], keys: Ints) -> tuple[Group, ...]:
    _, sizes = np.unique(keys, return_counts=True)
    runs_by_key = np.split(np.argsort(keys, kind="stable"), np.cumsum(sizes)[:-1])
    groups: list[Group] = []
    for runs in sorted(runs_by_key, key=lambda runs: int(runs[0])):
        point = plan.point(int(runs[0]))
        shared = {n: static_value(n, point[n]) for n in statics if n in point}
        groups.append(Group(group_id=group_id(shared), statics=shared, runs=_fixed(runs)))
    return tuple(groups)


def chunks(n_runs: int, *, chunk_runs: int, unit: int = 1) -> list[slice]:
    """Cuts a group of `n_runs` into chunks of about `chunk_runs`, as even as can be.

    Args:
        n_runs: how many runs there are.
        chunk_runs: about how many runs a chunk should hold.
        unit: `chunk_runs` is rounded up to a multiple of it.

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
