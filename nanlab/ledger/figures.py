"""Ledger -> figures/*.svg: all effects with their intervals, and maps of faults and training."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from nanlab.ledger.findings import strongest
from nanlab.ledger.judge import RUNS, Judged, RangeJudged, study_of
from nanlab.ledger.maps import MAPS, draw_map, draw_shapes, map_of, shapes_of
from nanlab.ledger.measures import least_of
from nanlab.ledger.rules import BORDERLINE, CONDITIONAL, OPEN, REFUTED, SUPPORTED
from nanlab.ledger.words import side

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FIGURES = "figures"

# Okabe and Ito's colors, safe for color-blind readers; the shapes differ too.
MARKS = {
    SUPPORTED: ("#0072B2", "o"), CONDITIONAL: ("#56B4E9", "^"), BORDERLINE: ("#E69F00", "v"),
    REFUTED: ("#D55E00", "s"), OPEN: ("#6E6E6E", "D"),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A figure of the page.

    Attributes:
        name: name of its file in the folder of figures.
        caption: what it shows, in full sentences.
    """

    name: str
    caption: str


def write_ledger_figures(
    folder: Path, judged: Sequence[Judged], studies: Mapping[str, Path]
) -> list[Drawing]:
    """Draw the figures, and delete all others.

    Args:
        folder: folder of the ledger.
        judged: judged claims.
        studies: name of a study -> its results folder.

    Returns:
        The figures, in the order of the page.
    """
    import matplotlib
    from matplotlib.figure import Figure

    drawers = [*_overviews(judged), *_maps(studies)]
    (folder / FIGURES).mkdir(parents=True, exist_ok=True)
    wanted = {drawing.name for drawing, _ in drawers}
    for path in (folder / FIGURES).glob("*.svg"):
        if path.name not in wanted:
            path.unlink()
    # Reproducible bytes: no date, and ids from a fixed salt.
    with matplotlib.rc_context({"svg.hashsalt": "nanlab", "font.size": 8.0}):
        for drawing, draw in drawers:
            figure = Figure()
            draw(figure)
            figure.savefig(
                folder / FIGURES / drawing.name, format="svg", metadata={"Date": None},
                bbox_inches="tight",
            )  # fmt: skip
    return [drawing for drawing, _ in drawers]


Drawer = tuple[Drawing, Callable[["Figure"], None]]


def _overviews(judged: Sequence[Judged]) -> list[Drawer]:
    """Return the figures of all harms, and of all cures, that ask for faults."""
    found: list[Drawer] = []
    for name, is_cure, label, of in (
        (
            "harms", False, "runs with a fault: first side, minus the second",
            "How much more often runs have a fault on one side of each claim than on the other.",
        ),
        (
            "cures", True, "failing runs that stay finite: with the cure, minus its best placebo",
            "Of the runs that fail without the cure: how many more stay finite with it than with "
            "its best placebo.",
        ),
    ):  # fmt: skip
        rows = [each for each in judged if _is_drawn(each, is_cure=is_cure)]
        if rows:
            caption = (
                f"{of} Means over all conditions (of several remedies, the best) with 95 % "
                "intervals over seeds; filled: usual range, hollow: stress range or as stated. The "
                "tick is the size that the rule requires. The mark is the verdict on faults; a "
                "claim about training is judged by that, on the page."
            )
            drawing = Drawing(name=f"{name}.svg", caption=caption)
            found.append((drawing, lambda f, r=rows, text=label: _draw_effects(f, r, text)))
    return found


def _is_drawn(judged: Judged, *, is_cure: bool) -> bool:
    contrast = judged.claim.contrast
    return (
        contrast is not None
        and contrast.of_failed == is_cure
        and any(_measured(each) for each in judged.ranges)
    )


def _measured(judged: RangeJudged) -> bool:
    answer = judged.answer("faults")
    return answer is not None and strongest(judged.claim, answer).effect is not None


def _draw_effects(figure: Figure, rows: Sequence[Judged], label: str) -> None:
    figure.set_size_inches(6.4, 0.8 + 0.24 * len(rows))
    axes = figure.add_subplot()
    shown: set[str] = set()
    for at, each in enumerate(rows):
        for one in filter(_measured, each.ranges):
            shown.add(_draw_effect(axes, one, at + (0.14 if one.name == "stress" else -0.14)))
    for word in (word for word in MARKS if word in shown):
        color, shape = MARKS[word]
        axes.plot([], [], marker=shape, color=color, linestyle="", label=word)
    for face, label_ in (("#6E6E6E", "usual range"), ("white", "stress range, as stated")):
        axes.plot([], [], marker="o", color="#6E6E6E", markerfacecolor=face, label=label_)
    axes.axvline(0.0, color="#999999", linewidth=0.8)
    axes.set_yticks(range(len(rows)), [_label(each) for each in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlabel(f"{label}\n(percentage points)")
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), title="verdict", frameon=False)
    axes.grid(axis="y", color="#EEEEEE", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_effect(axes: Axes, judged: RangeJudged, at: float) -> str:
    answer = judged.answer("faults")
    assert answer is not None
    result, word = strongest(judged.claim, answer), answer.verdict.word
    assert result.effect is not None and result.low is not None and result.high is not None
    color, shape = MARKS[word]
    face = color if judged.name == "usual" else "white"
    axes.plot([100 * result.low, 100 * result.high], [at, at], color=color, linewidth=1.2)
    axes.plot(
        100 * result.effect, at, marker=shape, color=color, markerfacecolor=face, markersize=4.5,
        linestyle="",
    )  # fmt: skip
    required = judged.claim.within or least_of(judged.claim, "faults")
    for end in {required, -required} if judged.claim.within else {required}:
        axes.plot(100 * end, at, marker="|", color="#444444", markersize=7, linestyle="")
    return word


def _label(judged: Judged) -> str:
    assert judged.headline is not None and judged.headline.claim.contrast is not None
    contrast = judged.headline.claim.contrast
    sides = side(contrast, is_with=True)
    if not contrast.of_failed:
        sides += f" / {side(contrast, is_with=False)}"
    return f"{textwrap.shorten(sides, 76, placeholder=' …')}  {judged.claim.id}"


def _maps(studies: Mapping[str, Path]) -> list[Drawer]:
    """Return the maps over weights and learning rate, and the figures of widths and depths."""
    tables = {stem: study_of(folder).table(RUNS) for stem, folder in studies.items()}
    cells: dict[str, pl.DataFrame] = {}
    for stem, table in tables.items():
        name, mapped = "usual" if stem.startswith("usual/") else "stress", map_of(table)
        # The finest map of each range.
        if mapped.height > cells.get(name, pl.DataFrame()).height:
            cells[name] = mapped
    found: list[Drawer] = []
    for name, column, label, caption in MAPS if cells else ():
        drawing = Drawing(name=f"{name}.svg", caption=caption)
        found.append((drawing, lambda f, c=column, text=label: draw_map(f, cells, c, text)))
    for shapes in shapes_of([t for stem, t in tables.items() if stem.startswith("usual/")]):
        drawing = Drawing(name=f"{shapes.name}.svg", caption=shapes.caption)
        found.append((drawing, lambda f, one=shapes: draw_shapes(f, one)))
    return found
