"""Charts and maps -> SVG: the pen of the HTML report, which needs nothing but this."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from nanlab.reporting.analysis import Analysis
from nanlab.reporting.cells import MapCell
from nanlab.reporting.charts import Chart, Series
from nanlab.reporting.ticks import ticks
from nanlab.reporting.words import COLORS, LINES, name_of

WIDTH = 360.0
"""Units across every picture: as many pixels as a small phone has, where they are that large."""
LETTER = 5.6
"""Units that a letter of a tick takes."""
CHART_HEIGHT = 250.0
MAP_HEIGHT = 250.0
MOST_LEFT = 200.0
DASHES = ("", "6 3", "7 2 2 2", "2 3", "9 2 2 2 2 2", "1 2", "10 4", "4 2")


class Plane:
    """Positions of two axes -> units of a picture.

    Args:
        x, y: (low, high), as they run to the right and upwards.
        left, top, right, bottom: of the frame, in units.
    """

    def __init__(
        self, x: tuple[float, float], y: tuple[float, float], *, left: float, top: float,
        right: float, bottom: float,
    ) -> None:  # fmt: skip
        self._x, self._y = x, y
        self.left, self.top, self.right, self.bottom = left, top, right, bottom

    def x(self, position: float) -> float:
        """Units from the left."""
        low, high = self._x
        return self.left + (position - low) / (high - low) * (self.right - self.left)

    def y(self, position: float) -> float:
        """Units from the top."""
        low, high = self._y
        return self.bottom - (position - low) / (high - low) * (self.bottom - self.top)


def units(value: float) -> str:
    """A length in units, to a tenth of one."""
    return f"{value:.1f}".removesuffix(".0")


def _room(labels: Sequence[str]) -> float:
    return min(MOST_LEFT, 12.0 + LETTER * max(map(len, labels), default=0))


def _axes(plane: Plane, x: Sequence[tuple[float, str]], y: Sequence[tuple[float, str]]) -> str:
    parts: list[str] = []
    turned = LETTER * sum(len(label) + 2 for _, label in x) > plane.right - plane.left
    for at, label in x:
        left = units(plane.x(at))
        below = units(plane.bottom + 4)
        parts.append(f'<path class="k" d="M{left} {units(plane.bottom)}V{below}"/>')
        if turned:
            down = units(plane.bottom + 12)
            parts.append(f'<text class="e" transform="translate({left} {down}) rotate(-35)">'
                         f"{escape(label)}</text>")  # fmt: skip
        else:
            down = units(plane.bottom + 15)
            parts.append(f'<text class="m" x="{left}" y="{down}">{escape(label)}</text>')
    for at, label in y:
        down = plane.y(at)
        parts.append(f'<path class="k" d="M{units(plane.left)} {units(down)}h-4"/>')
        parts.append(f'<text class="e" x="{units(plane.left - 6)}" y="{units(down + 3.5)}">'
                     f"{escape(_short(label))}</text>")  # fmt: skip
    return "".join(parts)


def _short(label: str) -> str:
    most = int((MOST_LEFT - 12) / LETTER)
    return label if len(label) <= most else label[: most - 1] + "…"


def _below(plane: Plane, x: Sequence[tuple[float, str]]) -> float:
    """Units that the ticks below a frame take."""
    turned = LETTER * sum(len(label) + 2 for _, label in x) > plane.right - plane.left
    longest = max((len(label) for _, label in x), default=0)
    return 16 + 0.574 * LETTER * longest if turned else 18.0


def map_plane(analysis: Analysis) -> Plane:
    """Where every map of a study stands in its picture."""
    layout = analysis.layout
    left, right, bottom, top = analysis.maps.extent()
    labels = [label for _, label in ticks(layout.y, 12)] if layout.y.name else []
    height = MAP_HEIGHT
    if layout.y.scale == "ordinal":
        height = min(MAP_HEIGHT, max(64.0, 34.0 * len(layout.y.values)))
    above = 20.0 if layout.y.name else 6.0
    return Plane((left, right), (bottom, top), left=_room(labels) if labels else 10.0, top=above,
                 right=WIDTH - 10, bottom=above + height)  # fmt: skip


def map_svg(analysis: Analysis, panel: int) -> str:
    """One map; a frame that follows the pointer and the keys is drawn by the page's script."""
    layout, plane = analysis.layout, map_plane(analysis)
    x_ticks = ticks(layout.x, 7) if layout.x.name else []
    y_ticks = ticks(layout.y, 12 if layout.y.scale == "ordinal" else 6) if layout.y.name else []
    parts: list[str] = []
    for outcome, boxes in analysis.maps.boxes(panel).items():
        path = "".join(_rectangle(plane, *box) for box in boxes)
        parts.append(f'<path fill="{COLORS[outcome]}" d="{path}"/>')
    cells = analysis.maps.of_panel(panel)
    if len(cells) <= 400:
        grid = "".join(_rectangle(plane, c.left, c.right, c.bottom, c.top) for c in cells)
        parts.append(f'<path class="g" d="{grid}"/>')
    parts += [_boundary(plane, b.points, b.rows) for b in analysis.boundaries if b.panel == panel]
    parts.append(_axes(plane, x_ticks, y_ticks))
    height = plane.bottom + _below(plane, x_ticks)
    if layout.x.name:
        height += 14
        middle = units((plane.left + plane.right) / 2)
        parts.append(f'<text class="m" x="{middle}" y="{units(height - 3)}">'
                     f"{escape(name_of(layout.x.name))}</text>")  # fmt: skip
    if layout.y.name:
        parts.append(f'<text x="2" y="11">{escape(name_of(layout.y.name))}</text>')
    parts.append('<rect class="cursor" width="0" height="0"/>')
    label = layout.panel_label(layout.panels[panel])
    what = f"Map{' of ' + label if label else ''}. Arrow keys go from cell to cell, Enter shows "
    return (
        f'<svg class="map" data-panel="{panel}" viewBox="0 0 {WIDTH:g} {units(height)}" '
        f'tabindex="0" role="application" aria-label="{escape(what)}what made its runs fail. '
        f'The table below says the same.">{"".join(parts)}</svg>'
    )


def _rectangle(plane: Plane, left: float, right: float, bottom: float, top: float) -> str:
    x, y = units(plane.x(left)), units(min(plane.y(top), plane.y(bottom)))
    wide = units(float(units(plane.x(right))) - float(x))
    high = units(abs(plane.y(bottom) - plane.y(top)))
    return f"M{x} {y}h{wide}v{high}h-{wide}z"


def cell_box(plane: Plane, cell: MapCell) -> list[float]:
    """Left, top, width and height of a cell, in units."""
    x, y = plane.x(cell.left), min(plane.y(cell.top), plane.y(cell.bottom))
    wide, high = plane.x(cell.right) - x, abs(plane.y(cell.bottom) - plane.y(cell.top))
    return [round(value, 1) for value in (x, y, wide, high)]


def _boundary(plane: Plane, points: Sequence[tuple[float, float]], rows: Sequence[int]) -> str:
    lines = [[(x, row - 0.5), (x, row + 0.5)] for x, row in points] if rows else [list(points)]
    path = "".join(_line(plane, line) for line in lines)
    return f'<path class="halo" d="{path}"/><path class="theory" d="{path}"/>'


def _line(plane: Plane, points: Sequence[tuple[float, float]]) -> str:
    if not points:
        return ""
    return "M" + "L".join(f"{units(plane.x(x))} {units(plane.y(y))}" for x, y in points)


def chart_svg(chart: Chart, label: str) -> str:
    """A chart without its legend."""
    left = _room([text for _, text in chart.y.ticks])
    above = 20.0 if chart.y.title else 6.0
    high = 26.0 * chart.rows if chart.rows else CHART_HEIGHT
    plane = Plane((chart.x.low, chart.x.high), (chart.y.low, chart.y.high), left=left, top=above,
                  right=WIDTH - 10, bottom=above + high)  # fmt: skip
    frame = f"M{units(left)} {units(above)}V{units(plane.bottom)}H{units(plane.right)}"
    parts = [f'<path class="k" d="{frame}"/>', _axes(plane, chart.x.ticks, chart.y.ticks)]
    if chart.zero:
        down = units(plane.y(0.0))
        parts.append(f'<path class="k" d="M{units(left)} {down}H{units(plane.right)}"/>')
    for at, color in chart.verticals:
        path = f"M{units(plane.x(at))} {units(above)}V{units(plane.bottom)}"
        parts.append(
            f'<path fill="none" stroke="{_color(color)}" stroke-dasharray="4 2" d="{path}"/>'
        )
    parts += [_series(plane, series) for series in chart.series]
    height = plane.bottom + _below(plane, chart.x.ticks) + 14
    middle = units((plane.left + plane.right) / 2)
    parts.append(f'<text class="m" x="{middle}" y="{units(height - 3)}">'
                 f"{escape(chart.x.title)}</text>")  # fmt: skip
    if chart.y.title:
        parts.append(f'<text x="2" y="11">{escape(chart.y.title)}</text>')
    return (f'<svg viewBox="0 0 {WIDTH:g} {units(height)}" role="img" aria-label="{escape(label)}">'
            f"{''.join(parts)}</svg>")  # fmt: skip


def _color(number: int) -> str:
    return "#000" if number < 0 else LINES[number % len(LINES)]


def _series(plane: Plane, series: Series) -> str:
    color = _color(series.color)
    dashes = DASHES[series.color % len(DASHES)] if series.color >= 0 else ""
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    points = list(zip(series.x, series.y, strict=True))
    parts: list[str] = []
    if series.shape == "step":
        parts.append(_band(plane, series, color))
        points = _stairs(points)
    if series.shape in ("line", "step"):
        parts.append(f'<path fill="none" stroke="{color}" stroke-width="1.6"{dashed} '
                     f'd="{_line(plane, points)}"/>')  # fmt: skip
    if series.shape == "ranges":
        path = "".join(
            f"M{units(plane.x(a))} {units(plane.y(y))}H{units(plane.x(b))}"
            for a, b, y in zip(series.low, series.high, series.y, strict=True)
        )
        parts.append(f'<path stroke="{color}" stroke-width="4" d="{path}"/>')
    elif series.shape != "step" and len(series.low):
        path = "".join(
            f"M{units(plane.x(x))} {units(plane.y(a))}V{units(plane.y(b))}"
            for x, a, b in zip(series.x, series.low, series.high, strict=True)
        )
        parts.append(f'<path stroke="{color}" d="{path}"/>')
    parts.append("".join(mark(series.mark, plane.x(x), plane.y(y), color) for x, y in points))
    return "".join(parts)


def _stairs(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    stairs: list[tuple[float, float]] = []
    for i, (x, y) in enumerate(points):
        if i:
            stairs.append((x, points[i - 1][1]))
        stairs.append((x, y))
    return stairs


def _band(plane: Plane, series: Series, color: str) -> str:
    told = [
        (x, low, high)
        for x, low, high in zip(series.x, series.low, series.high, strict=True)
        if not math.isnan(low) and not math.isnan(high)
    ]
    if len(told) < 2:
        return ""
    upper = _stairs([(x, high) for x, _, high in told])
    lower = _stairs([(x, low) for x, low, _ in told])
    path = _line(plane, [*upper, *reversed(lower)])
    return f'<path fill="{color}" fill-opacity=".18" d="{path}z"/>'


def mark(kind: str, x: float, y: float, color: str) -> str:
    """A mark at a place, in units."""
    left, down = units(x), units(y)
    if kind in ("full", "open"):
        fill = color if kind == "full" else "none"
        return f'<circle cx="{left}" cy="{down}" r="2.6" fill="{fill}" stroke="{color}"/>'
    shapes = {
        "square": "m-5 -5h10v10h-10z",
        "up": "m-4 3h8l-4 -7z",
        "down": "m-4 -3h8l-4 7z",
        "dash": "m-9 0h18",
    }
    if kind not in shapes:
        return ""
    return f'<path fill="none" stroke="{color}" d="M{left} {down}{shapes[kind]}"/>'


def key(series: Series) -> str:
    """A small picture of a series, for a legend."""
    color = _color(series.color)
    dashes = DASHES[series.color % len(DASHES)] if series.color >= 0 else ""
    line = ""
    if series.shape in ("line", "step", "ranges"):
        wide = 4 if series.shape == "ranges" else 1.6
        dashed = f' stroke-dasharray="{dashes}"' if dashes and series.shape != "ranges" else ""
        line = f'<path stroke="{color}" stroke-width="{wide}"{dashed} d="M0 6h26"/>'
    return (f'<svg class="key" viewBox="0 0 26 12" aria-hidden="true">{line}'
            f"{mark(series.mark, 13.0, 6.0, color)}</svg>")  # fmt: skip
