"""Analysis -> report.html: one self-contained file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from markupsafe import Markup

from nanlab.grid.outcome import Outcome
from nanlab.reporting.analysis import Analysis
from nanlab.reporting.causes import ROLES
from nanlab.reporting.cells import MapCell
from nanlab.reporting.map_geometry import cell_box, map_elements, map_plane
from nanlab.reporting.rendering import rendered
from nanlab.reporting.source_lines import SourceLines
from nanlab.reporting.templates import portable_path
from nanlab.reporting.words import COLORS, listed, number

EMBEDDED = ("css", "js")
MAX_IN_TABLES = 5000
"""Of more cells the maps have no tables; runs.csv and runs.parquet have them."""
MAX_LISTED = 25_000
"""Of more runs only an example of each cell is named."""
WIDE_CELL = 30
"""Letters from which a column of a table has a minimum width."""


def report_page(
    analysis: Analysis, context: Mapping[str, Any], *, figures: Mapping[str, str],
    other_files: Sequence[str],
) -> str:  # fmt: skip
    """Return the report as HTML, from `context_of` it and the SVG elements of its figures."""
    package, layout = files("nanlab.reporting"), analysis.layout
    style, script = (package.joinpath(f"page.{e}").read_text(encoding="utf-8") for e in EMBEDDED)
    shown = {
        "style": Markup(style),
        "script": Markup(script),
        "data": Markup(_data(analysis)),
        "colors": COLORS,
        "has_theory": bool(analysis.boundaries),
        "maps": [_map(analysis, panel) for panel in range(len(layout.panels))],
        "corner": " \\ ".join(filter(None, (layout.y.name, layout.x.name))),
        "figures": {name: Markup(svg) for name, svg in figures.items() if svg},
        "wide_cell": WIDE_CELL,
        "other_files": listed(other_files),
    }
    return rendered("page.html", **{**context, **shown})


def _map(analysis: Analysis, panel: int) -> dict[str, Any]:
    """Return a map with its label, and its cells as a table: (index of the cell, outcomes)."""
    maps, layout = analysis.maps, analysis.layout
    x, y = cell_labels(analysis)
    cells: dict[tuple[int, int], tuple[int, str]] = {}
    for i, cell in enumerate(maps.cells if len(maps.cells) <= MAX_IN_TABLES else ()):
        if cell.panel == panel:
            outcomes = ", ".join(f"{n:,} {outcome}" for outcome, n in cell.counts.items())
            cells[cell.row, cell.column] = i, outcomes
    columns = sorted({column for _, column in cells})
    rows = sorted({row for row, _ in cells}, reverse=not maps.downwards)
    return {
        "label": layout.panel_label(layout.panels[panel]),
        "elements": map_elements(analysis, panel),
        "columns": [x[column] for column in columns],
        "rows": [(y[row], [cells.get((row, column)) for column in columns]) for row in rows],
    }


def cell_labels(analysis: Analysis) -> tuple[list[str], list[str]]:
    """Return the labels of the maps' columns and rows; a range where values are merged."""
    layout, (x, y) = analysis.layout, analysis.maps.merged

    def labels(values: Sequence[str], merged: int) -> list[str]:
        groups = [values[i : i + merged] for i in range(0, len(values), merged)]
        return [g[0] if len(g) == 1 else f"{g[0]} to {g[-1]}" for g in groups]

    return labels(layout.x.labels, x), labels(layout.y.labels, y)


def _data(analysis: Analysis) -> str:
    """Return the JSON that the script reads."""
    layout, plane = analysis.layout, map_plane(analysis)
    x, y = cell_labels(analysis)
    blames, sources = analysis.results.blames, SourceLines(analysis.results.manifest)
    blame_index = {blame_id: i for i, blame_id in enumerate(blames["blame_id"])}
    outcome_index = {outcome.value: i for i, outcome in enumerate(Outcome)}
    listed_runs = analysis.runs.height <= MAX_LISTED

    def run_ids(cell: MapCell) -> str:
        pairs = zip(cell.run_ids, cell.outcomes, strict=True) if listed_runs else ()
        return "".join(f"{run_id}{outcome_index[outcome]}" for run_id, outcome in pairs)

    data: dict[str, Any] = {
        "folder": portable_path(analysis.results.folder),
        "x": {"name": layout.x.name, "labels": x},
        "y": {"name": layout.y.name, "labels": y},
        "panels": [layout.panel_label(panel) for panel in layout.panels],
        "outcomes": list(outcome_index),
        "blames": [
            {
                "id": row["blame_id"],
                "runs": row["runs"],
                **{role: sources.blame_sentence(row, role) for role in ROLES},
                "witness": "" if row["witness"] == "not-asked" else row["witness"],
            }
            for row in blames.iter_rows(named=True)
        ],
        "cells": [
            [
                cell.panel, cell.column, cell.row, cell_box(plane, cell),
                [[outcome_index[outcome], n] for outcome, n in cell.counts.items()],
                [[blame_index[blame], n] for blame, n in cell.blames[:5]],
                None if cell.fault_step is None else number(cell.fault_step), cell.example,
                run_ids(cell),
            ]
            for cell in analysis.maps.cells
        ],
    }  # fmt: skip
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return text.replace("</", "<\\/").replace("<!--", "<\\u0021--")
