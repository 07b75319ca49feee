"""Analysis -> figures/*.svg and *.pdf, reproducible to the byte, and SVG elements for the page."""

from __future__ import annotations

import io
import re
from functools import partial
from pathlib import Path
from typing import Any
from warnings import catch_warnings, filterwarnings

from matplotlib import rc_context
from matplotlib.figure import Figure

from nanlab.reporting.analysis import Analysis
from nanlab.reporting.captions import caption, figures_of, headings_of
from nanlab.reporting.charts import CHARTS
from nanlab.reporting.map_figure import draw_outcomes
from nanlab.reporting.panel_charts import draw_gradients, draw_losses
from nanlab.reporting.words import LINES, PHASE_COLORS
from nanlab.results.files import write_atomically

WIDTHS = {"1col": 3.35, "2col": 6.9}
"""Inches: one column and both columns of a page in most journals and proceedings."""

PAGE_COLORS = sorted({c[1:] for c in (*LINES, *PHASE_COLORS.values())} - {"000000"})
"""Colors of lines and bars that page.css has as variables."""

DRAWN = {**CHARTS, "outcomes": draw_outcomes, "losses": draw_losses, "gradients": draw_gradients}

STYLE: dict[Any, Any] = {
    # DejaVu Sans comes with Matplotlib, so every machine has it.
    "font.family": "DejaVu Sans", "font.size": 7, "axes.titlesize": 7, "axes.labelsize": 7,
    "xtick.labelsize": 6.5, "ytick.labelsize": 6.5, "legend.fontsize": 6.5,
    "axes.linewidth": 0.5, "xtick.major.width": 0.5, "ytick.major.width": 0.5,
    "xtick.major.size": 2.5, "ytick.major.size": 2.5, "lines.linewidth": 1.1,
    "patch.linewidth": 0.0, "axes.spines.top": False, "axes.spines.right": False,
    "legend.frameon": False, "svg.hashsalt": "nanlab", "svg.fonttype": "path", "pdf.fonttype": 42,
    "path.simplify": False, "text.parse_math": False,
}  # fmt: skip


def write_figures(folder: Path, analysis: Analysis) -> dict[str, str]:
    """Write every figure of a study in both widths and formats, and delete outdated ones.

    Returns:
        The name of each figure, and its one-column version as an SVG element for a page; the
        outcomes have none, since the page has an interactive map.
    """
    folder.mkdir(exist_ok=True)
    elements, headings = dict[str, str](), headings_of(analysis)
    for name in figures_of(analysis):
        title = f"{analysis.results.title} {headings[name]}."
        for columns, width in WIDTHS.items():
            with rc_context(STYLE), catch_warnings():
                filterwarnings("ignore", "Glyph .* missing")  # of a name: it is shown as a box
                figure = Figure(figsize=(width, 0.62 * width), dpi=72, layout="constrained")
                DRAWN[name](figure, analysis)
                fix_layout(figure)
                save_figure(figure, folder / f"{name}-{columns}", title, caption(analysis, name))
                if columns == "1col":
                    elements[name] = svg_element(figure, name) if name != "outcomes" else ""
    for path in folder.glob("*-?col.*"):
        if path.stem.rpartition("-")[0] not in elements:
            path.unlink()
    return elements


def fix_layout(figure: Figure) -> None:
    """Lay a figure out once, so that all its formats are the same."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")


def save_figure(figure: Figure, stem: Path, title: str, description: str) -> None:
    """Write a figure as SVG and PDF, with its title and description and without a date."""
    for kind, metadata in {
        "svg": {"Title": title, "Description": description, "Date": None},
        "pdf": {"Title": title, "Subject": description, "CreationDate": None},
    }.items():
        save = partial(figure.savefig, format=kind, metadata=metadata)
        write_atomically(stem.with_suffix(f".{kind}"), save)


def svg_element(figure: Figure, name: str) -> str:
    """Return a figure as SVG to be put into a page, in the page's colors and with text as text.

    Its ids start with `name`, so that a page may have several.
    """
    file = io.StringIO()
    with rc_context({"svg.fonttype": "none"}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    head, body = file.getvalue().partition("<svg ")[2].split(">", 1)
    view_box = re.search(r'viewBox="[^"]*"', head)
    assert view_box
    body = re.sub(r"<metadata>.*?</metadata>|<style .*?</style>|<!--.*?-->", "", body, flags=re.S)
    body = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", body)
    body = body.replace("#000000", "currentColor").replace("fill: #ffffff", "fill: none")
    # The page has two palettes, for light and for dark.
    body = re.sub("#(" + "|".join(PAGE_COLORS) + ")", r"var(--c\1)", body)
    return f'<svg {view_box[0]} aria-hidden="true">{body}'.strip()
