"""Plan, outcomes -> the next plan: the rounds of a [search] or a [refine].

The grid itself is the first plan, the coarse pass; each round adds the runs that the outcomes so
far call for, until there are none. All of it follows from the grid and the outcomes, so a stopped
study goes through the same rounds again. A plain grid has no further rounds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import polars as pl

from nanlab.grid import Grid, GridError
from nanlab.grid.axes import POINT_LIMIT
from nanlab.grid.points import Product
from nanlab.grid.search import Refine, Search
from nanlab.plan.bisection import AxisSearch
from nanlab.plan.lattice import Node, lattice_of
from nanlab.plan.plan import Plan, identities, make_plan
from nanlab.plan.quadtree import PlaneRefinement


class Rounds:
    """The rounds of one study, from the plan of its coarse pass.

    Attributes:
        n_new: number of runs that each round has added, the coarse pass first.
        lattice: full grid at the tolerance; None for a plain grid.
        search: search along an axis or over a plane; None for a plain grid.
        run_ids: run at each node visited so far.
    """

    def __init__(self, grid: Grid, plan: Plan) -> None:
        self._grid = grid
        self._products: list[Product] = []
        self.run_ids: dict[Node, str] = {}
        self._known = set(plan.run_ids.tolist())
        self.n_new = [len(plan)]
        table = grid.document.refinement
        self.lattice = None if table is None else lattice_of(grid)
        self.search: AxisSearch | PlaneRefinement | None = None
        if self.lattice is None:
            return
        nodes = list(self.lattice.coarse())
        self.run_ids |= zip(nodes, identities(self.lattice.product(nodes)), strict=True)
        if isinstance(table, Refine):
            self.search = PlaneRefinement(self.lattice, table)
        if isinstance(table, Search):
            self.search = AxisSearch(self.lattice, table, self._groups(plan))

    @property
    def number(self) -> int:
        """Number of the last round, from 1; 0 is the coarse pass."""
        return len(self._products)

    @property
    def open(self) -> int:
        """Number of crossings or cells that the last round narrows."""
        return 0 if self.search is None else self.search.open

    def after(self, results: pl.DataFrame) -> Plan | None:
        """Return the runs of the next round.

        Args:
            results: the run_id and outcome of at least each run of the rounds so far.

        Returns:
            The plan of the round alone; None when the search is finished.

        Raises:
            GridError: the search needs more runs than a study may have.
        """
        if self.search is None or self.lattice is None:
            return None
        nodes = self.search.next(self.outcomes(results))
        if not nodes:
            return None
        product = self.lattice.product(nodes)
        ids = identities(product)
        self.run_ids |= zip(nodes, ids, strict=True)
        self._products.append(product)
        n_before, self._known = len(self._known), self._known.union(ids)
        self.n_new.append(len(self._known) - n_before)
        if len(self._known) > POINT_LIMIT:
            key = ("search" if isinstance(self.search, AxisSearch) else "refine", "tolerance")
            sentence = f"needs more than {POINT_LIMIT} runs; use a larger tolerance"
            raise GridError(self._grid.path, [self._grid.source.complaint(key, sentence)])
        return make_plan(replace(self._grid, products=(product,)))

    def plan(self) -> Plan:
        """Return the runs of all rounds so far, in order, the coarse pass first."""
        return make_plan(replace(self._grid, products=(*self._grid.products, *self._products)))

    def _groups(self, plan: Plan) -> dict[int, int]:
        """Return the group of each point of the other axes."""
        group_of = {run: i for i, group in enumerate(plan.groups) for run in group.runs.tolist()}
        index = {run_id: i for i, run_id in enumerate(plan.run_ids.tolist())}
        # A point's last value decides: its first may be 0, at which an option is left out.
        return {node[0]: group_of[index[run_id]] for node, run_id in self.run_ids.items()}

    def outcomes(self, results: pl.DataFrame) -> dict[Node, str | None]:
        """Return the outcome at each visited node; None where the run crashed or is missing."""
        outcomes = dict(results.select("run_id", "outcome").rows())
        outcomes = {run_id: None if o == "crashed" else o for run_id, o in outcomes.items()}
        return {node: outcomes.get(run_id) for node, run_id in self.run_ids.items()}

    def summary(self) -> dict[str, Any]:
        """Return the manifest's entry about the rounds; empty for a plain grid."""
        if self.lattice is None:
            return {}
        axes = [
            {"axis": axis.name, "scale": axis.scale.kind, "tolerance": axis.tolerance}
            for axis in self.lattice.searched
        ]
        return {
            "search": {
                "axes": axes,
                "rounds": [{"runs": count} for count in self.n_new],
                "runs": sum(self.n_new),
                "full_grid_runs": self.lattice.n_nodes,
            }
        }


def finished_plan(grid: Grid, runs: pl.DataFrame) -> Plan:
    """Return the plan of a finished study with this table of runs, its search included."""
    plan = make_plan(grid)
    if grid.document.refinement is None:
        return plan
    rounds = Rounds(grid, plan)
    while rounds.after(runs) is not None:
        pass
    return rounds.plan()


def bounds(grid: Grid) -> Iterator[str]:
    """Yield a dry run's lines about the rounds: none for a plain grid."""
    table = grid.document.refinement
    if table is None:
        return
    lattice = lattice_of(grid)
    axes = " and ".join(
        f"{a.name} to {a.tolerance:g}{' in log10' if a.scale.kind == 'log' else ''}"
        for a in lattice.searched
    )
    n_rounds = max(n - 1 for axis in lattice.searched for n in axis.subdivisions).bit_length()
    yield f"search  {axes}, in about {n_rounds} rounds after these runs, the coarse pass"
    worst = f"{lattice.n_nodes - int(lattice.mask.sum()):,}"
    if isinstance(table, Refine):
        yield f"        at most {worst} more runs, if outcomes were random"
    else:
        counts = lattice.searched[0].subdivisions
        n_points = int(lattice.mask.any(axis=1).sum())
        simple = n_points * (
            max(_max_runs(n) for n in counts) + max(n.bit_length() for n in counts)
        )
        yield (
            f"        at most {simple:,} more runs if each point has one simple boundary, {worst} "
            "if outcomes were random"
        )
    yield f"        the full grid at this tolerance has {lattice.n_nodes:,} runs"


def _max_runs(n_parts: int) -> int:
    """Return the most runs of one crossing: three for two halvings, one for a single one."""
    left = (n_parts - 1).bit_length()
    return left // 2 * 3 + left % 2
