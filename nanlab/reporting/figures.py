"""Analysis -> figures/*.svg, *.pdf: Matplotlib, one and two columns wide, the same bytes always."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanlab.reporting.analysis import Analysis
from nanlab.reporting.captions import HEADINGS, caption, figures_of
from nanlab.reporting.charts import CHARTS, chart_of
from nanlab.reporting.pictures import draw_causes, draw_chart, draw_outcomes
from nanlab.results.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTHS = {"1col": 3.35, "2col": 6.9}
"""Inches: a column and both of a page, as most journals and conferences have them."""

STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # it comes with Matplotlib, so every machine has the same
    "font.size": 7,
    "axes.titlesize": 7,
    "axes.labelsize": 7,
    "axes.linewidth": 0.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "xtick.major.width": 0.5,
    "ytick.major.width": 0.5,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "legend.fontsize": 6.5,
    "legend.frameon": False,
    "lines.linewidth": 1.1,
    "patch.linewidth": 0.0,
    "svg.hashsalt": "nanlab",
    "svg.fonttype": "path",
    "pdf.fonttype": 42,
    "path.simplify": False,
}


class NoMatplotlib(Exception):
    """The extra is not installed; the message is a sentence for a person."""


def write_figures(folder: Path, analysis: Analysis) -> list[str]:
    """Write every figure of a study, in both widths and formats; the names of the figures.

    Raises:
        NoMatplotlib: it is not installed.
    """
    rc_context, Figure = matplotlib_or_say("figures/", "python -m nanlab.report draws them")
    folder.mkdir(exist_ok=True)
    names = figures_of(analysis)
    for name in names:
        for columns, width in WIDTHS.items():
            with rc_context(STYLE):
                figure = Figure(figsize=(width, 0.62 * width), dpi=72, layout="constrained")
                _draw(figure, analysis, name)
                # Laid out once: as it stands it is written in both formats.
                figure.draw_without_rendering()
                figure.set_layout_engine("none")
                title = f"{analysis.results.title} {HEADINGS[name]}."
                save_figure(figure, folder / f"{name}-{columns}", title, caption(analysis, name))
    for path in sorted(folder.glob("*-?col.*")):
        if path.stem.rpartition("-")[0] not in names:
            path.unlink()  # of an earlier report, which had more to show
    return names


def matplotlib_or_say(what: str, then: str = "the same command draws it") -> tuple[Any, Any]:
    """Matplotlib's `rc_context` and `Figure`.

    Raises:
        NoMatplotlib: it is not installed, so `what` was not written.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise NoMatplotlib(
            f"{what} was not written, since Matplotlib is not installed: "
            f"pip install 'nanlab[report]' brings it, then {then}"
        ) from error
    return rc_context, Figure


def _draw(figure: Figure, analysis: Analysis, name: str) -> None:
    if name in CHARTS:
        draw_chart(figure, chart_of(analysis, name, most=6 if figure.get_figwidth() < 5 else 9))
    elif name == "causes":
        draw_causes(figure, analysis)
    else:
        draw_outcomes(figure, analysis)


def save_figure(figure: Figure, stem: Path, title: str, said: str) -> None:
    """Write a figure as SVG and PDF, with its title and what it shows; no dates in them."""
    for kind, metadata in {
        "svg": {"Title": title, "Description": said, "Date": None},
        "pdf": {"Title": title, "Subject": said, "CreationDate": None},
    }.items():

        def write(path: Path, kind: str = kind, metadata: Any = metadata) -> None:
            figure.savefig(path, format=kind, metadata=metadata)

        write_atomically(stem.with_suffix(f".{kind}"), write)
