"""Results -> Analysis: everything that a report shows, computed once from the tables."""

from __future__ import annotations

from dataclasses import dataclass, replace

import polars as pl

from nanlab.grid.outcome import Outcome
from nanlab.reporting.causes import ROLES, Cause, SiteRole, causes_of
from nanlab.reporting.cells import Maps, maps_of, tiles_of
from nanlab.reporting.critical import Critical, criticals_of
from nanlab.reporting.curves import Panels, gradients_of, losses_of
from nanlab.reporting.depth import Growth, Layer, growths_of, layers_of
from nanlab.reporting.instructive import Instructive, instructive_of
from nanlab.reporting.layout import Layout, layout_of
from nanlab.reporting.lines import Boundary, Steps, boundaries_of, steps_of
from nanlab.reporting.searches import areas_of, found_of
from nanlab.reporting.survival import Survival, survivals_of
from nanlab.reporting.words import visible
from nanlab.results.read import Results

WRITTEN = ("folder", "resolved", "manifest", "runs", "blames", "search", "notes")
"""What holds text of the user's: control characters in it are replaced by visible ones."""


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """The analysis of a study; a part is empty where the study has no data for it."""

    results: Results
    layout: Layout
    maps: Maps
    boundaries: list[Boundary]
    survival: list[Survival]
    steps: list[Steps]
    criticals: list[Critical]
    causes: dict[SiteRole, list[Cause]]
    layers: list[Layer]
    growth: list[Growth]
    areas: list[tuple[str, dict[str, float]]]
    losses: Panels
    gradients: Panels
    instructive: list[Instructive]

    @property
    def runs(self) -> pl.DataFrame:
        """The table of runs."""
        return self.results.runs

    def outcomes(self) -> dict[str, int]:
        """Return the number of runs by outcome, best first, of the outcomes that occur."""
        column = self.runs["outcome"]
        counted = {outcome: int((column == outcome).sum()) for outcome in Outcome}
        return {outcome: n for outcome, n in counted.items() if n}

    @property
    def faults(self) -> int:
        """The number of runs with a fault."""
        return int(self.runs["fault_step"].is_not_null().sum())


def analyze(results: Results) -> Analysis:
    """Compute everything that the report of a study shows."""
    results = replace(results, **{name: visible(getattr(results, name)) for name in WRITTEN})
    runs = results.runs
    layout, tiles = layout_of(runs, results.finer), results.search.get("cells")
    criticals = criticals_of(runs, layout)
    if all(c.value is None for c in criticals):
        # Every path is stable or unstable throughout, which is an answer of a search.
        criticals = found_of(results, layout)
    return Analysis(
        results=results,
        layout=layout,
        maps=maps_of(runs, layout) if tiles is None else tiles_of(runs, tiles, layout),
        boundaries=boundaries_of(runs, layout),
        survival=survivals_of(runs, layout) if not results.finer else [],
        steps=steps_of(runs, layout),
        criticals=criticals,
        causes={role: causes_of(runs, role) for role in ROLES},
        layers=layers_of(runs, layout),
        growth=growths_of(runs, results.curves, layout),
        areas=areas_of(results, layout),
        losses=losses_of(runs, results.curves, layout),
        gradients=gradients_of(runs, results.curves, layout),
        instructive=instructive_of(runs, results.blames, layout),
    )
