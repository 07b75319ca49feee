"""Runs -> maps of faults and training over weights and learning rate, and over width and depth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from jaxtyping import Float

from nanlab.grid.outcome import FAILED
from nanlab.ledger.measures import trains
from nanlab.ledger.words import VALUES, enumerated
from nanlab.results.compare import completed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LIKE = {
    "task": "digits", "model": "mlp", "depth": 3, "width": 32, "optimizer": "sgd", "steps": 100,
    "precision": "float32",
}  # fmt: skip
"""The network that the maps show."""

ACTIVATIONS = ("relu", "tanh")
LOSSES = ("mse", "softmax_cross_entropy")
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9")
"""Okabe and Ito's colors, one for each width in all figures."""

HE = 2.0**0.5
"""He's weights, in units of LeCun's."""

MIN_VALUES = 4
"""A map needs this number of weights and of learning rates."""

_OF = (
    "of a fully connected network of 3 layers of 32 units on the digits (SGD, 100 steps, float32), "
    "over the initial weights and the learning rate. The box is the usual range, whose cells are "
    "finer and have more seeds than those of the stress range around it; dotted: He's weights."
)
MAPS = (
    ("map_faults", "fault", "runs with a fault (%)", f"Share of runs with a fault, {_OF}"),
    ("map_trains", "trains", "runs that train (%)", f"Share of runs that train, {_OF}"),
)
"""Name, column, unit and caption of each map."""


def map_of(runs: pl.DataFrame) -> pl.DataFrame:
    """Return a row for each activation, loss, weight and learning rate; none if there is no map."""
    needed = {"activation", "loss", "init_scale", "lr", "final_accuracy"}
    if not needed <= set(runs.columns):
        return pl.DataFrame()
    runs = completed(runs, LIKE)
    for name, value in LIKE.items():
        runs = runs.filter(pl.col(name) == value)
    runs = runs.filter(pl.col("activation").is_in(ACTIVATIONS), pl.col("loss").is_in(LOSSES))
    if min(runs["init_scale"].n_unique(), runs["lr"].n_unique()) < MIN_VALUES:
        return pl.DataFrame()
    return _shares(runs, "activation", "loss", "init_scale", "lr")


def _shares(runs: pl.DataFrame, *names: str) -> pl.DataFrame:
    has_fault = pl.col("outcome").is_in(FAILED).mean().alias("fault")
    return runs.group_by(names).agg(has_fault, trains().mean().alias("trains")).sort(names)


def draw_map(figure: Figure, cells: Mapping[str, pl.DataFrame], column: str, label: str) -> None:
    """Draw a panel for each activation and loss; the usual range lies over the stress range."""
    figure.set_size_inches(6.4, 5.2)
    panels = figure.subplots(2, 2, sharex=True, sharey=True, squeeze=False)
    mesh = None
    for row, loss in enumerate(LOSSES):
        for at, activation in enumerate(ACTIVATIONS):
            axes: Axes = panels[row][at]
            axes.set_title(f"{VALUES.get(activation, activation)}, {VALUES[loss]}", fontsize=9)
            for name in ("stress", "usual"):
                here = cells.get(name, pl.DataFrame())
                if here.is_empty():
                    continue
                here = here.filter(pl.col("activation") == activation, pl.col("loss") == loss)
                if not here.is_empty():
                    mesh = _mesh(axes, here, column, is_usual=name == "usual")
            axes.axvline(HE, color="white", linewidth=0.8, linestyle=":")
            axes.set_xscale("log")
            axes.set_yscale("log")
            if row == 1:
                axes.set_xlabel("initial weights (times LeCun's)")
            if at == 0:
                axes.set_ylabel("learning rate")
    if mesh is not None:
        bar = figure.colorbar(mesh, ax=panels.ravel().tolist())
        bar.set_label(label)
    if "usual" in cells:
        figure.legend(
            *panels[0][0].get_legend_handles_labels(), loc="upper center",
            bbox_to_anchor=(0.45, 0.0), frameon=False,
        )  # fmt: skip


def _mesh(axes: Axes, here: pl.DataFrame, column: str, *, is_usual: bool):
    wide = here.pivot(on="init_scale", index="lr", values=column).sort("lr")
    scales = sorted(here["init_scale"].unique().to_list())
    shares = wide.select(f"{scale!s}" for scale in scales).to_numpy().astype(float)
    x, y = _edges(np.array(scales)), _edges(wide["lr"].to_numpy())
    if is_usual:
        axes.add_patch(_box(scales, wide["lr"].to_list()))
    return axes.pcolormesh(
        x, y, 100.0 * shares, cmap="cividis", vmin=0.0, vmax=100.0, edgecolors="face"
    )


def _box(x: Sequence[float], y: Sequence[float]):
    from matplotlib.patches import Rectangle

    return Rectangle(
        (x[0], y[0]), x[-1] - x[0], y[-1] - y[0], fill=False, edgecolor="#D55E00", linewidth=1.6,
        label="usual range", zorder=3,
    )  # fmt: skip


def _edges(values: Float[np.ndarray, " values"]) -> Float[np.ndarray, " edges"]:
    """Return the edges of cells on a logarithmic axis around these values."""
    logs = np.log(values)
    middles = (logs[1:] + logs[:-1]) / 2.0
    ends = [2.0 * logs[0] - middles[0]], [2.0 * logs[-1] - middles[-1]]
    return np.exp(np.concatenate([ends[0], middles, ends[1]]))


@dataclass(frozen=True, kw_only=True)
class Shapes:
    """Shares of faults by width, depth, activation and weight.

    Attributes:
        name: name of the figure's file, without its suffix.
        cells: a row for each.
        caption: what the figure shows.
    """

    name: str
    cells: pl.DataFrame
    caption: str


def shapes_of(tables: Sequence[pl.DataFrame]) -> list[Shapes]:
    """Return the shares of the study with the most widths, and of that with several depths."""
    places = [_comparable(runs) for runs in tables]
    places = [runs for runs in places if runs.height and runs["init_scale"].n_unique() > 2]
    found: list[Shapes] = []
    for name, more, others in (("widths", "width", "depth"), ("depths", "depth", "width")):
        best = max(
            places, key=lambda runs: (runs[more].n_unique(), runs[others].n_unique()), default=None
        )
        if best is not None and best[more].n_unique() > 1:
            found.append(_shapes(name, more, best))
    return found


def _comparable(runs: pl.DataFrame) -> pl.DataFrame:
    """Return runs of the maps' training on one task and loss, at the rates that all shapes have."""
    shape = ["width", "depth"]
    if not {*shape, "activation", "init_scale", "lr", "loss"} <= set(runs.columns):
        return pl.DataFrame()
    runs = completed(runs, LIKE).filter(
        *(pl.col(name) == LIKE[name] for name in LIKE if name not in (*shape, "task")),
        pl.col("activation").is_in(ACTIVATIONS),
    )
    if runs.is_empty():
        return runs
    shapes = runs.select("task", "loss", *shape).unique().group_by("task", "loss").len("shapes")
    task, loss, _ = shapes.sort("shapes", "task", "loss", descending=True).row(0)
    runs = runs.filter(task=task, loss=loss)
    every = runs.select(shape).n_unique()
    rates = runs.select("lr", *shape).unique().group_by("lr").len().filter(pl.col("len") == every)
    return runs.filter(pl.col("lr").is_in(rates["lr"].to_list()))


def _shapes(name: str, more: str, runs: pl.DataFrame) -> Shapes:
    rates = sorted(runs["lr"].unique().to_list())
    seeds = runs["seed"].n_unique()
    at = f"a learning rate of {rates[0]:g}"
    if len(rates) > 1:
        at = f"the mean over learning rates of {enumerated([f'{rate:g}' for rate in rates])}"
    task, loss = runs.select("task", "loss").row(0)
    return Shapes(
        name=name,
        cells=_shares(runs, "width", "depth", "activation", "init_scale"),
        caption=f"How {more} moves the share of runs with a fault, over the initial weights: "
        f"{VALUES.get(task, task)} with {VALUES.get(loss, loss)}, {at} "
        f"(SGD, 100 steps, float32, {seeds} seeds).",
    )


def draw_shapes(figure: Figure, shapes: Shapes) -> None:
    """Draw a panel for each depth: a line for each width and activation."""
    cells = shapes.cells
    depths, widths = (sorted(cells[name].unique().to_list()) for name in ("depth", "width"))
    figure.set_size_inches(3.2 * len(depths), 2.8)
    panels = figure.subplots(1, len(depths), sharey=True, squeeze=False)[0]
    colors = dict(zip((32, 128, 8, 64, 256), COLORS, strict=True))
    for axes, depth in zip(panels, depths, strict=True):
        for activation, style in zip(ACTIVATIONS, ("-", "--"), strict=True):
            for width in widths:
                line = cells.filter(
                    pl.col("depth") == depth, pl.col("width") == width,
                    pl.col("activation") == activation,
                )  # fmt: skip
                if line.is_empty():
                    continue
                label = f"{VALUES.get(activation, activation)}, {width} units"
                axes.plot(
                    line["init_scale"], 100.0 * line["fault"], style, marker="o", markersize=3,
                    color=colors.get(width, "#6E6E6E"), label=label,
                )  # fmt: skip
        axes.set_xscale("log")
        scales = sorted(cells["init_scale"].unique().to_list())
        axes.set_xticks(scales, [f"{scale:g}" for scale in scales])
        axes.set_xticks([], minor=True)
        axes.set_title(f"{depth} layers", fontsize=9)
        axes.set_xlabel("initial weights (times LeCun's)")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("runs with a fault (%)")
    handles = {
        label: handle
        for axes in panels
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    panels[-1].legend(
        handles.values(), handles.keys(), loc="upper left", bbox_to_anchor=(1.01, 1.0),
        frameon=False,
    )  # fmt: skip
