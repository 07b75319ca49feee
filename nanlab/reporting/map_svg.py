"""Maps -> SVG of the page's interactive maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from nanlab.reporting.analysis import Analysis
from nanlab.reporting.cells import MapCell
from nanlab.reporting.charts import ticks
from nanlab.reporting.map_figure import MAX_OUTLINED
from nanlab.reporting.words import COLORS, name_of

WIDTH = 360.0
"""Width of a map in units, which are pixels on a small phone."""
LETTER = 5.6
"""Width of a letter of a tick label, in units."""
HEIGHT = 250.0
ROW_HEIGHT = 34.0
MAX_LEFT = 200.0

Ticks = Sequence[tuple[float, str]]


@dataclass(frozen=True, kw_only=True)
class Plane:
    """Linear mapping from positions of two axes to units of an SVG.

    Attributes:
        x: (low, high) positions, left to right.
        y: (low, high) positions, bottom to top.
        left: left edge of the frame, in units like the other edges.
        top: upper edge of the frame.
        right: right edge of the frame.
        bottom: lower edge of the frame.
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


def map_svg(analysis: Analysis, panel: int) -> str:
    """Return one map; the page's script moves its cursor."""
    layout, plane = analysis.layout, map_plane(analysis)
    x_ticks = ticks(layout.x, 7) if layout.x.name else []
    y_ticks = ticks(layout.y, 12 if layout.y.scale == "ordinal" else 6) if layout.y.name else []
    parts: list[str] = []
    for outcome, boxes in analysis.maps.boxes(panel).items():
        path = "".join(_rectangle(plane, *box) for box in boxes)
        parts.append(f'<path fill="{COLORS[outcome]}" d="{path}"/>')
    cells = analysis.maps.of_panel(panel)
    if len(cells) <= MAX_OUTLINED:
        grid = "".join(_rectangle(plane, c.left, c.right, c.bottom, c.top) for c in cells)
        parts.append(f'<path class="grid" d="{grid}"/>')
    for boundary in analysis.boundaries:
        if boundary.panel == panel:
            path = "".join(_line(plane, line) for line in boundary.lines())
            parts.append(f'<path class="halo" d="{path}"/><path class="theory" d="{path}"/>')
    x_labels, below = _x_ticks(plane, x_ticks)
    height = plane.bottom + below
    parts += [x_labels, _y_ticks(plane, y_ticks)]
    if layout.x.name:
        height += 14
        middle = (plane.left + plane.right) / 2
        parts.append(_text("m", middle, height - 3, name_of(layout.x.name)))
    if layout.y.name:
        parts.append(_text("", 2, 11, name_of(layout.y.name)))
    label = layout.panel_label(layout.panels[panel])
    description = (
        f"Map{' of ' + label if label else ''}. Arrow keys move between cells, Enter shows the "
        "causes of their failures. The table below has the same content."
    )
    return (
        f'<svg class="map" data-panel="{panel}" viewBox="0 0 {WIDTH:g} {units(height)}" '
        f'tabindex="0" role="application" aria-label="{escape(description)}">{"".join(parts)}'
        '<rect class="selected" width="0" height="0"/><rect class="cursor" width="0" height="0"/>'
        "</svg>"
    )


def units(value: float) -> str:
    """Return a length in units, to a tenth."""
    return f"{value:.1f}".removesuffix(".0")


def _text(kind: str, x: float, y: float, text: str) -> str:
    return f'<text class="{kind}" x="{units(x)}" y="{units(y)}">{escape(text)}</text>'


def _x_ticks(plane: Plane, found: Ticks) -> tuple[str, float]:
    """Return the ticks below the frame, and their height in units."""
    letters = max((len(label) for _, label in found), default=0)
    slanted = LETTER * sum(len(label) + 2 for _, label in found) > plane.right - plane.left
    parts: list[str] = []
    for position, label in found:
        x, y = plane.at(position, plane.y[0])
        parts.append(f'<path class="tick" d="M{units(x)} {units(y)}v4"/>')
        if slanted:
            parts.append(f'<text class="e" transform="translate({units(x)} {units(y + 12)}) '
                         f'rotate(-35)">{escape(label)}</text>')  # fmt: skip
        else:
            parts.append(_text("m", x, y + 15, label))
    return "".join(parts), 16 + 0.574 * LETTER * letters if slanted else 18.0


def _y_ticks(plane: Plane, found: Ticks) -> str:
    most = int((MAX_LEFT - 12) / LETTER)
    parts: list[str] = []
    for position, label in found:
        _, y = plane.at(plane.x[0], position)
        short = label if len(label) <= most else label[: most - 1] + "…"
        parts.append(f'<path class="tick" d="M{units(plane.left)} {units(y)}h-4"/>')
        parts.append(_text("e", plane.left - 6, y + 3.5, short))
    return "".join(parts)


def _rectangle(plane: Plane, left: float, right: float, bottom: float, top: float) -> str:
    x, y, width, height = plane.box(left, right, bottom, top)
    width = float(units(x + width)) - float(units(x))  # without gaps after rounding
    return f"M{units(x)} {units(y)}h{units(width)}v{units(height)}h-{units(width)}z"


def _line(plane: Plane, points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(" ".join(map(units, plane.at(x, y))) for x, y in points)
