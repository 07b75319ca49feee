"""Analysis -> Matplotlib charts, drawn to fit the width of their figure.

Positions are those of `ReportAxis`: powers of ten on a logarithmic axis, indices on an ordinal one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from nanlab.blame.vocabulary import Phase
from nanlab.reporting.analysis import Analysis
from nanlab.reporting.captions import critical_name, theories_of
from nanlab.reporting.causes import ROLES, SITE_NAMES, SiteRole
from nanlab.reporting.layout import AxisScale, ReportAxis
from nanlab.reporting.words import LINES, PHASE_COLORS, name_of, number, shortened

WIDE = 5.0
"""Width in inches from which a figure spans both columns of a page."""
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (8, 2)), (0, (3, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
THEORY_DASHES = (0, (3, 1.5))
MAX_CAUSES = 8
MAX_WITH_BARS = 8
"""A chart of more series has no error bars; its table has them."""
LETTERS_PER_INCH = 15


def ticks(axis: ReportAxis, most: int) -> list[tuple[float, str]]:
    """Return about `most` ticks or fewer of an axis: position and label."""
    if axis.scale == "ordinal":
        step = -(-len(axis.values) // most)
        return [(float(i), axis.labels[i]) for i in range(0, len(axis.values), step)]
    low, high = axis.position(axis.values[0]), axis.position(axis.values[-1])
    return ticks_between(low, high, axis.scale, most)


def ticks_between(low: float, high: float, scale: AxisScale, most: int) -> list[tuple[float, str]]:
    """Return round values between two positions, those on a log scale being powers of ten."""
    if scale == "log":
        factors = (1.0,) if np.floor(high + 1e-9) > np.ceil(low - 1e-9) else (1.0, 2.0, 5.0)
        values = LogLocator(subs=factors, numticks=most).tick_values(10.0**low, 10.0**high)
        found = [(float(np.log10(value)), power_of_ten(value)) for value in values]
    else:
        places = MaxNLocator(most - 1, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
        found = [(float(place), number(round(float(place), 12))) for place in places]
    return [(place, label) for place, label in found if low - 1e-9 <= place <= high + 1e-9]


def power_of_ten(value: float) -> str:
    """Return `0.01`, `100` or `1e-5`, in plain letters, which keep the fonts of a PDF small."""
    if 1e-3 <= value < 1e4:
        return f"{value:g}"
    mantissa, _, exponent = f"{value:.0e}".partition("e")
    return f"{mantissa}e{int(exponent)}"


def is_wide(figure: Figure) -> bool:
    """Return whether a figure spans both columns of a page."""
    return bool(figure.get_figwidth() >= WIDE)


def set_ticks(axes: Axes, direction: Literal["x", "y"], found: Sequence[tuple[float, str]]) -> None:
    """Set ticks along "x" or "y"; labels of x that would not fit side by side are slanted."""
    positions, labels = [place for place, _ in found], [shortened(label) for _, label in found]
    if direction == "y":
        axes.set_yticks(positions, labels)
        return
    axes.set_xticks(positions, labels)
    if sum(map(len, labels)) + 2 * len(labels) > LETTERS_PER_INCH * axes.bbox.width / 72:
        axes.tick_params(axis="x", rotation=45)
        for text in axes.get_xticklabels():
            text.set(ha="right", rotation_mode="anchor")


def _axes(figure: Figure, x: str, y: str, *, height: float = 0.0) -> Axes:
    figure.set_figheight(height or (2.9 if is_wide(figure) else 2.3))
    axes = figure.subplots()
    axes.set(xlabel=x, ylabel=y)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
        axis.set_major_formatter(FuncFormatter(lambda value, _: number(round(value, 12))))
    return axes


def make_log(axes: Axes, direction: Literal["x", "y"], most: int = 6) -> None:
    """Make an axis logarithmic, with labels in plain letters."""
    axes.set(**{f"{direction}scale": "log"})
    axis = axes.xaxis if direction == "x" else axes.yaxis
    axis.set_major_locator(LogLocator(numticks=most))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: power_of_ten(value)))


def _most_x(figure: Figure) -> int:
    return 9 if is_wide(figure) else 6


def line_style(i: int, *, line: bool = True, label: str = "") -> dict[str, Any]:
    """Return color, marker and dashes of the i-th line of a chart."""
    color = LINES[i % len(LINES)]
    return {
        "color": color, "mfc": color, "mew": 0.7, "ms": 3, "marker": MARKERS[i % len(MARKERS)],
        "ls": DASHES[i % len(DASHES)] if line else "none", "lw": 0.8,
        # Matplotlib leaves labels that begin with "_" out of a legend.
        "label": f" {label}" if label.startswith("_") else label or None,
    }  # fmt: skip


def add_legend(figure: Figure, charts: Axes | Sequence[Axes], title: str = "") -> None:
    """Put the legend above the charts, theory last, and make the figure as much higher."""
    entries: dict[str, Any] = {}
    for axes in [charts] if isinstance(charts, Axes) else charts:
        handles, labels = axes.get_legend_handles_labels()
        entries |= zip(labels, handles, strict=True)
    entries = {shortened(label): handle for label, handle in entries.items()}
    labels = sorted(entries, key=lambda label: label == "theory")
    if not labels or labels == ["all runs"]:
        return
    letters = LETTERS_PER_INCH * figure.get_figwidth()
    columns = max(1, min(len(labels), int(letters / (max(map(len, labels)) + 6))))
    figure.legend([entries[label] for label in labels], labels, loc="outside upper center",
                  ncols=columns, handlelength=2.4, title=title or None)  # fmt: skip
    rows = -(-len(labels) // columns) + bool(title)
    figure.set_figheight(figure.get_figheight() + 0.13 * rows)


def draw_critical(figure: Figure, analysis: Analysis) -> None:
    """Draw the critical values of each map along its vertical axis."""
    layout, criticals = analysis.layout, analysis.criticals
    x, y = layout.x, layout.y
    axes = _axes(figure, name_of(y.name), critical_name(analysis))
    span = max(y.position(y.values[-1]) - y.position(y.values[0]), 1e-9)
    panels, (marked, _) = sorted({c.panel for c in criticals}), theories_of(analysis, "critical")
    for i, panel in enumerate(panels):
        # Maps are drawn side by side, so that their error bars do not overlap.
        shift = min(0.012, 0.05 / len(panels)) * span * (i - (len(panels) - 1) / 2)
        rows = [(y.position(c.row) + shift, c) for c in criticals if c.panel == panel]
        label = layout.panel_label(layout.panels[panel]) or "all runs"
        ends = x.values[0], x.values[-1]
        points = np.array(
            [(at, *(x.position(end if v is None else v)
                    for v, end in zip((c.value, c.low, c.high), (None, *ends), strict=True)))
             for at, c in rows if c.value is not None]
        ).reshape(-1, 4)  # fmt: skip
        bars = np.stack([points[:, 1] - points[:, 2], points[:, 3] - points[:, 1]])
        style = line_style(i, line=y.is_number, label=label)
        axes.errorbar(points[:, 0], points[:, 1], bars if len(panels) <= MAX_WITH_BARS else None,
                      elinewidth=0.7, capsize=1.5, **style)  # fmt: skip
        for side, marker in (("above", "^"), ("below", "v")):
            beyond = [(at, x.position(c.bound)) for at, c in rows if c.side == side]
            axes.plot(*_columns(beyond), marker, color=style["color"], mfc="none", mew=0.7, ms=3)
        theory = [(at, x.position(c.theory.value)) for at, c in rows if c.theory in marked]
        if theory:
            axes.plot(*_columns(theory), "_", color="black", ms=11, mew=0.7, label="theory")
    low, high = axes.get_ylim()
    most_y = ticks(x, 6) if x.scale == "ordinal" else ticks_between(low, high, x.scale, 6)
    set_ticks(axes, "y", most_y)
    axes.margins(x=0.06)
    add_legend(figure, axes)
    set_ticks(axes, "x", ticks(y, _most_x(figure)))


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def draw_growth(figure: Figure, analysis: Analysis) -> None:
    """Draw the growth of gradients per layer, and where theory has none."""
    layout, (marked, _) = analysis.layout, theories_of(analysis, "growth")
    x, y = layout.x, layout.y
    axes = _axes(figure, name_of(x.name), "growth of gradients per layer, ln")
    axes.axhline(0.0, color="black", lw=0.5)
    for i, growth in enumerate(analysis.growth):
        own = "" if growth.row is None else y.labels[y.values.index(growth.row)]
        labels = layout.panel_label(layout.panels[growth.panel]), own
        bars = np.stack([growth.rates - growth.low, growth.high - growth.rates])
        style = line_style(i, label=", ".join(filter(None, labels)) or "all runs")
        positions = [x.position(value) for value in growth.values]
        axes.errorbar(positions, growth.rates, bars, elinewidth=0.7, capsize=1.5, **style)
        if growth.theory in marked and growth.theory:
            at = x.position(growth.theory.value)
            axes.axvline(at, color=style["color"], ls=THEORY_DASHES, lw=0.8)
    add_legend(figure, axes, name_of(y.name) if y.name else "")
    set_ticks(axes, "x", ticks(x, _most_x(figure)))


def draw_layers(figure: Figure, analysis: Analysis) -> None:
    """Draw the layer of the first inf or NaN: median, range and theory, a row a group."""
    layers = analysis.layers
    axes = _axes(figure, "layer, counted from 0", "", height=0.7 + 0.24 * len(layers))
    rows = np.arange(len(layers))
    axes.hlines(rows, [la.lowest for la in layers], [la.highest for la in layers],
                color=LINES[0], lw=2.2)  # fmt: skip
    style = line_style(0, line=False, label="median and range")
    axes.plot([layer.median for layer in layers], rows, **style)
    marked, _ = theories_of(analysis, "layers")
    theory = [(la.theory.value, float(i)) for i, la in enumerate(layers)
              if la.theory and la.theory in marked]  # fmt: skip
    if theory:
        axes.plot(*_columns(theory), "s", color="black", mfc="none", mew=0.7, ms=6, label="theory")
    axes.grid(axis="y", lw=0.3, color="#cccccc")
    axes.set(xlim=(0.0, None), ylim=(len(layers) - 0.5, -0.5))
    set_ticks(axes, "y", [(float(i), layer.label) for i, layer in enumerate(layers)])
    add_legend(figure, axes)


def draw_steps(figure: Figure, analysis: Analysis) -> None:
    """Draw the steps of the first fault (filled) and the first NaN (open) along an axis."""
    x = analysis.layout.x
    axes = _axes(figure, name_of(x.name), "step + 1")
    for i, steps in enumerate(analysis.steps):
        positions = [x.position(value) for value in steps.values]
        group = f"{steps.label}: " if len(analysis.steps) > 1 else ""
        style = line_style(i, line=False)
        for values, word in ((steps.fault, "fault"), (steps.nan, "NaN")):
            if not np.isnan(values).all():
                style |= {"label": f"{group}first {word}"}
                axes.plot(positions, values + 1, **style)
            style["mfc"] = "none"
        highest = np.nanmax([steps.fault, steps.nan])
        theory = [(x.position(value), at + 1) for value, at in steps.theory if at <= highest]
        if theory:
            axes.plot(*_columns(theory), color="black", lw=0.8, label="theory")
    make_log(axes, "y")
    add_legend(figure, axes)
    set_ticks(axes, "x", ticks(x, _most_x(figure)))


def draw_survival(figure: Figure, analysis: Analysis) -> None:
    """Draw the share of runs without a fault after a number of steps, with its interval."""
    axes = _axes(figure, "steps taken", "share of runs without a fault")
    for i, curve in enumerate(analysis.survival):
        # The curve goes on to the last step of a run.
        steps = np.array([1, *curve.steps, curve.followed], float)
        share, low, high = (
            (np.pad(values, (1, 1), "edge") for values in (curve.share, curve.low, curve.high))
            if len(curve.steps)
            else np.ones((3, 2))
        )
        share[0], low[0], high[0] = 1.0, np.nan, np.nan
        label = f"{curve.label or 'all runs'} ({curve.faults:,} of {curve.runs:,})"
        style: Any = line_style(i, label=label) | {"marker": "", "lw": 1.1}
        axes.step(steps, share, where="post", **style)
        axes.fill_between(steps, low, high, step="post", color=style["color"], alpha=0.18, lw=0)
    make_log(axes, "x", _most_x(figure))
    last = max(2, *(curve.followed for curve in analysis.survival))
    axes.set(xlim=(last**-0.03, last), ylim=(0.0, 1.02))
    add_legend(figure, axes)


def draw_causes(figure: Figure, analysis: Analysis) -> None:
    """Draw the runs by mechanism and primitive, for the first inf or NaN and for the first NaN."""
    shown: list[SiteRole] = [role for role in ROLES if analysis.causes[role]]
    bars = [len(analysis.causes[role][:MAX_CAUSES]) for role in shown]
    wide = is_wide(figure)
    figure.set_figheight(0.85 + 0.2 * max(bars) if wide else 0.85 * len(shown) + 0.17 * sum(bars))
    grid: Any = figure.subplots(
        1 if wide else len(shown), len(shown) if wide else 1, squeeze=False,
        gridspec_kw={} if wide else {"height_ratios": [n + 1.0 for n in bars]},
    )  # fmt: skip
    phases: set[str] = set()
    for role, axes in zip(shown, grid.flat, strict=True):
        causes = analysis.causes[role][:MAX_CAUSES]
        for row, cause in enumerate(causes):
            left = 0
            for phase, n in cause.phases.items():
                axes.barh(row, n, left=left, color=PHASE_COLORS[phase])
                left += n
            phases |= set(cause.phases)
            axes.annotate(f"{cause.runs:,}", (left, row), (2, 0), va="center", fontsize=6,
                          textcoords="offset points")  # fmt: skip
        axes.set_yticks(range(len(causes)), [shortened(cause.what) for cause in causes])
        axes.set(title=SITE_NAMES[role], xlabel="runs")
        axes.invert_yaxis()
        axes.margins(x=0.14)
    handles = [Patch(color=PHASE_COLORS[phase], label=phase or "no phase")
               for phase in (*Phase, "") if phase in phases]  # fmt: skip
    figure.legend(handles=handles, loc="outside lower center", ncols=5, handlelength=1.0)


CHARTS: Mapping[str, Callable[[Figure, Analysis], None]] = {
    "critical": draw_critical,
    "growth": draw_growth,
    "layers": draw_layers,
    "steps": draw_steps,
    "survival": draw_survival,
    "causes": draw_causes,
}
