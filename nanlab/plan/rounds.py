"""Plan, outcomes -> the next plan: the rounds of a [search] or a [refine].

A plain grid has none. Otherwise the grid is the first plan, the coarse pass; each round adds the
runs that the outcomes so far ask for, until none are asked for. All of it follows from the grid
and the outcomes, so a study that is stopped goes through the same rounds again.
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
from nanlab.plan.lattice import Spot, lattice_of
from nanlab.plan.plan import Plan, identities, make_plan
from nanlab.plan.quadtree import PlaneRefinement


class Rounds:
    """The rounds of one study.

    Args:
        grid: what is asked; of a plain grid there are no rounds.
        plan: the grid's own, the coarse pass.

    Attributes:
        made: the number of runs that each round has added, the coarse pass first.
        lattice: the points that the search may visit; None for a plain grid.
        search: the search along an axis or over a plane; None for a plain grid.
        run_ids: the run at each point visited so far.
    """

    def __init__(self, grid: Grid, plan: Plan) -> None:
        self._grid = grid
        self._products: list[Product] = []
        self.run_ids: dict[Spot, str] = {}
        self._known = set(plan.run_ids.tolist())
        self.made = [len(plan)]
        table = grid.asked.finer
        self.lattice = None if table is None else lattice_of(grid)
        self.search: AxisSearch | PlaneRefinement | None = None
        if self.lattice is None:
            return
        spots = list(self.lattice.coarse())
        self.run_ids |= zip(spots, identities(self.lattice.product(spots)), strict=True)
        if isinstance(table, Refine):
            self.search = PlaneRefinement(self.lattice, table)
        if isinstance(table, Search):
            self.search = AxisSearch(self.lattice, table, self._groups(plan))

    @property
    def number(self) -> int:
        """The number of the last round, from 1; 0 is the coarse pass."""
        return len(self._products)

    @property
    def open(self) -> int:
        """How many crossings, or cells, the last round is about."""
        return 0 if self.search is None else self.search.open

    def after(self, results: pl.DataFrame) -> Plan | None:
        """The runs of the next round; None when all is found.

        Args:
            results: a row for each run of the rounds so far at least, with run_id and outcome.

        Raises:
            GridError: more runs are asked for than a study may hold.
        """
        if self.search is None or self.lattice is None:
            return None
        spots = self.search.next(self.outcomes(results))
        if not spots:
            return None
        product = self.lattice.product(spots)
        ids = identities(product)
        self.run_ids |= zip(spots, ids, strict=True)
        self._products.append(product)
        before, self._known = len(self._known), self._known.union(ids)
        self.made.append(len(self._known) - before)
        if len(self._known) > POINT_LIMIT:
            raise self._too_many()
        return make_plan(replace(self._grid, products=(product,)))

    def plan(self) -> Plan:
        """The runs of all rounds so far, in their order: first the grid's own."""
        return make_plan(replace(self._grid, products=(*self._grid.products, *self._products)))

    def _groups(self, plan: Plan) -> dict[int, int]:
        """The group of each point of the other axes."""
        group_of = {run: i for i, group in enumerate(plan.groups) for run in group.runs.tolist()}
        places = {run_id: i for i, run_id in enumerate(plan.run_ids.tolist())}
        # That of its last value: the first may be 0, at which an option is left out.
        return {spot[0]: group_of[places[run_id]] for spot, run_id in self.run_ids.items()}

    def outcomes(self, results: pl.DataFrame) -> dict[Spot, str | None]:
        """The outcome of each visited point; None where the run crashed or is missing."""
        words = dict(results.select("run_id", "outcome").rows())
        words = {run_id: None if word == "crashed" else word for run_id, word in words.items()}
        return {spot: words.get(run_id) for spot, run_id in self.run_ids.items()}

    def _too_many(self) -> GridError:
        key = ("search" if isinstance(self._grid.asked.finer, Search) else "refine", "tolerance")
        sentence = f"asks for more than {POINT_LIMIT} runs; a larger one asks for fewer"
        return GridError(self._grid.path, [self._grid.source.complaint(key, sentence)])

    def told(self) -> dict[str, Any]:
        """What the manifest says of the rounds; nothing of a plain grid."""
        if self.lattice is None:
            return {}
        axes = [
            {"axis": each.name, "scale": each.scale.kind, "tolerance": each.tolerance}
            for each in self.lattice.directions
        ]
        return {
            "search": {
                "axes": axes,
                "rounds": [{"runs": many} for many in self.made],
                "runs": sum(self.made),
                "full_grid_runs": self.lattice.full,
            }
        }


def finished_plan(grid: Grid, runs: pl.DataFrame) -> Plan:
    """The plan of a finished study: its grid's, and its rounds' where it has them.

    Args:
        grid: what was asked.
        runs: the study's table.
    """
    plan = make_plan(grid)
    if grid.asked.finer is None:
        return plan
    rounds = Rounds(grid, plan)
    while rounds.after(runs) is not None:
        pass
    return rounds.plan()


def bounds(grid: Grid) -> Iterator[str]:
    """What a dry run says of the rounds, a line each; nothing of a plain grid."""
    table = grid.asked.finer
    if table is None:
        return
    lattice = lattice_of(grid)
    told = " and ".join(
        f"{d.name} to {d.tolerance:g}{' in log10' if d.scale.kind == 'log' else ''}"
        for d in lattice.directions
    )
    least = max(cut - 1 for d in lattice.directions for cut in d.parts).bit_length()
    yield f"search  {told}, in rounds after these runs, the coarse pass: {least} or so"
    noise = f"{lattice.full - int(lattice.kept.sum()):,} were the outcome noise"
    if isinstance(table, Refine):
        yield f"        at most {noise.replace(' were', ' runs more, were')}"
    else:
        each = [_dearest(cut) for cut in lattice.directions[0].parts]
        beyond = max(cut.bit_length() for cut in lattice.directions[0].parts)
        points = int(lattice.kept.any(axis=1).sum())
        simple = f"{points * (max(each) + beyond):,} runs more"
        yield f"        at most {simple} if each point has one simple boundary, {noise}"
    yield f"        the full grid at this tolerance has {lattice.full:,} runs"


def _dearest(cut: int) -> int:
    """The most runs that one crossing takes: three for two halvings, one for what is left."""
    left = (cut - 1).bit_length()
    return left // 2 * 3 + left % 2
