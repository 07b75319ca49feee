"""Maps -> geometry of the page's interactive maps, which its template draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nanlab.reporting.analysis import Analysis
from nanlab.reporting.cells import MapCell
from nanlab.reporting.charts import ticks
from nanlab.reporting.map_figure import MAX_OUTLINED
from nanlab.reporting.words import COLORS, name_of, shortened

WIDTH = 360.0
"""Width of a map in units, which are pixels on a small phone."""
LETTER = 5.6
"""Width of a letter of a tick label, in units."""
HEIGHT = 250.0
ROW_HEIGHT = 34.0
MAX_LEFT = 200.0


@dataclass(frozen=True, kw_only=True)
class Plane:
    """Linear mapping from positions of two axes to units of an SVG.

    `x` and `y` are (low, high) positions, left to right and bottom to top; the others are the
    frame's edges.
    """

    x: tuple[float, float]
    y: tuple[float, float]
    left: float
    top: float
    right: float
    bottom: float

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Return the point at two positions, in units from the left and from the top."""
        (x_low, x_high), (y_low, y_high) = self.x, self.y
        return (
            self.left + (x - x_low) / (x_high - x_low) * (self.right - self.left),
            self.bottom - (y - y_low) / (y_high - y_low) * (self.bottom - self.top),
        )

    def box(
        self, left: float, right: float, bottom: float, top: float
    ) -> tuple[float, float, float, float]:
        """Return left, top, width and height in units of a box in positions."""
        (x, a), (end, b) = self.at(left, bottom), self.at(right, top)
        return x, min(a, b), end - x, abs(a - b)


def map_plane(analysis: Analysis) -> Plane:
    """Return the mapping that all maps of a study share."""
    layout = analysis.layout
    left, right, bottom, top = analysis.maps.extent()
    letters = max([len(label) for _, label in ticks(layout.y, 12)]) if layout.y.name else 0
    height = HEIGHT
    if layout.y.scale == "ordinal":
        height = min(HEIGHT, max(64.0, ROW_HEIGHT * len(layout.y.values)))
    above = 20.0 if layout.y.name else 6.0
    return Plane(
        x=(left, right), y=(bottom, top), left=min(MAX_LEFT, 12 + LETTER * letters),
        top=above, right=WIDTH - 10, bottom=above + height,
    )  # fmt: skip


def cell_box(plane: Plane, cell: MapCell) -> list[float]:
    """Return left, top, width and height of a cell, in units."""
    return [round(v, 1) for v in plane.box(cell.left, cell.right, cell.bottom, cell.top)]


def map_elements(analysis: Analysis, panel: int) -> dict[str, Any]:
    """Return what the template draws of one map, in units."""
    layout, plane = analysis.layout, map_plane(analysis)
    x_ticks = ticks(layout.x, 7) if layout.x.name else []
    y_ticks = ticks(layout.y, 12 if layout.y.scale == "ordinal" else 6) if layout.y.name else []
    letters = [len(label) for _, label in x_ticks]
    slanted = LETTER * (sum(letters) + 2 * len(letters)) > plane.right - plane.left
    below = 16 + 0.574 * LETTER * max(letters) if slanted else 18.0
    cells = analysis.maps.of_panel(panel)
    outlined = cells if len(cells) <= MAX_OUTLINED and not layout.finer else []
    fills = analysis.maps.boxes(panel).items()
    most = int((MAX_LEFT - 12) / LETTER)
    return {
        "panel": panel,
        "width": WIDTH,
        "height": plane.bottom + below + (14 if layout.x.name else 0),
        "plane": plane,
        "label": layout.panel_label(layout.panels[panel]),
        "fills": [(COLORS[o], "".join(_rectangle(plane, *b) for b in boxes)) for o, boxes in fills],
        "grid": "".join(_rectangle(plane, c.left, c.right, c.bottom, c.top) for c in outlined),
        "theory": "".join(_line(plane, line) for boundary in analysis.boundaries
                          if boundary.panel == panel for line in boundary.lines()),
        "x_title": name_of(layout.x.name),
        "y_title": name_of(layout.y.name),
        "x_ticks": [(plane.at(position, plane.y[0])[0], label) for position, label in x_ticks],
        "slanted": slanted,
        "y_ticks": [(plane.at(plane.x[0], position)[1],
                     shortened(label, most))
                    for position, label in y_ticks],
    }  # fmt: skip


def units(value: float) -> str:
    """Return a length in units, to a tenth."""
    return f"{value:.1f}".removesuffix(".0")


def _rectangle(plane: Plane, left: float, right: float, bottom: float, top: float) -> str:
    x, y, width, height = plane.box(left, right, bottom, top)
    width = float(units(x + width)) - float(units(x))  # without gaps after rounding
    return f"M{units(x)} {units(y)}h{units(width)}v{units(height)}h-{units(width)}z"


def _line(plane: Plane, points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(" ".join(map(units, plane.at(x, y))) for x, y in points)
