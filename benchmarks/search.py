"""Compare the runs and answers of [search] and [refine] with those of their full grids.

The training is real: digits, an MLP of two layers of 16, SGD. The search looks for the largest
learning rate that trains, for each activation, initial scale and seed. The refinement maps the
plane of learning rate and initial scale, at five times the search's tolerance.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
import polars as pl
import tyro
from rich.console import Console
from rich.table import Table

from nanlab.backend.config import configure_lab
from nanlab.cli.progress import ProgressBar
from nanlab.grid import load_grid
from nanlab.plan.plan import make_plan
from nanlab.study.study import Study

RUN = """
[run]
task = "digits"
depth = 2
width = 16
batch_size = 64
steps = {steps}

[axes]
"""
OTHERS = """activation = ["relu", "tanh"]
init_scale = [0.3, 1.0, 3.0]
seed = { range = 2 }
"""
LR = "lr = {{ logspace = [1e-3, 1e2], num = {num} }}\n"
SCALE = "init_scale = {{ logspace = [0.1, 10.0], num = {num} }}\n"


HEADINGS = ("activation", "scale", "seed", "crossings", "largest lr", "runs", "full grid")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Compare [search] and [refine] with their full grids.

    Attributes:
        steps: how many steps each network is trained.
        tolerance: of the search, in log10 of the learning rate.
        skip_full: do not run the full grids.
    """

    steps: int = 50
    tolerance: float = 0.01
    skip_full: bool = False


@dataclass(frozen=True, kw_only=True)
class FinishedStudy:
    """A study's results.

    Attributes:
        folder: the results folder.
        runs: the table of its runs.
        wall_s: elapsed time in seconds.
    """

    folder: Path
    runs: pl.DataFrame
    wall_s: float

    def table(self, name: str) -> pl.DataFrame:
        return pl.read_parquet(self.folder / f"{name}.parquet")


def run(folder: Path, name: str, text: str) -> FinishedStudy:
    path = folder / f"{name}.toml"
    path.write_text(text, encoding="utf-8")
    grid = load_grid(path)
    began = time.perf_counter()
    with ProgressBar() as progress:
        result = Study(
            grid=grid, plan=make_plan(grid), folder=folder / name, devices=jax.devices(),
            listener=progress,
        ).run()  # fmt: skip
    wall_s = time.perf_counter() - began
    return FinishedStudy(folder=folder / name, runs=result.runs.collect(), wall_s=wall_s)


def summary(name: str, few: FinishedStudy, full: FinishedStudy | None, full_runs: int) -> str:
    """The number of runs, with and without the search."""
    full_s = "" if full is None else f" in {full.wall_s:.1f} s"
    return (
        f"{name}: {few.runs.height:,} runs in {few.wall_s:.1f} s, full grid {full_runs:,} runs"
        f"{full_s}: {full_runs / few.runs.height:.1f} times fewer runs"
    )


def brackets(few: FinishedStudy, full: FinishedStudy | None) -> Table:
    """Each point's answer, and whether it is the largest crossing of the full grid."""
    answers = few.table("boundaries").filter("answer")
    n_same = 0
    shown = Table(padding=0)
    for heading in HEADINGS:
        shown.add_column(heading, justify="right", no_wrap=True)
    for row in answers.iter_rows(named=True):
        comparison = ""
        if full is not None:
            point = {name: row[name] for name in ("activation", "init_scale", "seed")}
            along = full.runs.filter(**point).sort("lr")
            trains = (along["outcome"] == "trained").to_numpy()
            last = int(np.flatnonzero(trains)[-1]) if trains.any() else None
            largest = None if last is None else along["lr"][last]
            # If the last point of the axis trains, neither knows the largest rate.
            agrees = largest == (row["value"] if row["lower_outcome"] else None)
            n_same += agrees
            changes = int(np.sum(trains[1:] != trains[:-1]))
            answer = "none" if largest is None else f"{largest:.4g}"
            comparison = f"{'the same' if agrees else answer}, {changes} crossings"
        bracket = f"{row['lower']:.5g} to {row['upper']:.5g}" if row["value"] else "none found"
        shown.add_row(
            row["activation"], f"{row['init_scale']:g}", f"{row['seed']}", f"{row['crossings']}",
            bracket, f"{row['point_runs']}", comparison,
        )  # fmt: skip
    if full is not None:
        shown.caption = f"{n_same} of {answers.height} answers are the full grid's"
    return shown


def map_agreement(few: FinishedStudy, full: FinishedStudy | None) -> str:
    """The share of the full grid's map that the cells cover, and the correct share of that."""
    cells = few.table("cells")
    mixed = cells.filter(pl.col("kind").is_null()).height
    counts = f"{cells.height:,} cells, the boundary in {mixed:,}"
    if full is None:
        return counts
    lr, scale = (full.runs[name].to_numpy() for name in ("lr", "init_scale"))
    trains = (full.runs["outcome"] == "trained").to_numpy()
    predicted = np.full(len(lr), -1)
    for cell in cells.drop_nulls("kind").iter_rows(named=True):
        inside = (lr >= cell["lr_lower"]) & (lr <= cell["lr_upper"])
        inside &= (scale >= cell["init_scale_lower"]) & (scale <= cell["init_scale_upper"])
        predicted[inside] = cell["kind"] == "trains"
    few_ids = set(few.runs["run_id"].to_list())
    was_run = np.array([run_id in few_ids for run_id in full.runs["run_id"].to_list()])
    known = was_run | (predicted >= 0)
    right = was_run | (predicted == trains)
    return (
        f"{counts}; of the full grid's {len(lr):,} points {was_run.sum():,} were run, "
        f"{known.mean():.2%} are known, and {right[known].mean():.3%} of these are right"
    )


def main(options: Options) -> None:
    configure_lab(None)
    console = Console()
    base = RUN.format(steps=options.steps)
    n_fine = round(5 / options.tolerance) + 1
    with tempfile.TemporaryDirectory() as scratch:
        folder, full = Path(scratch), None
        search = f'[search]\naxis = "lr"\ntolerance = {options.tolerance}\n'
        few = run(folder, "search", base + OTHERS + LR.format(num=11) + search)
        if not options.skip_full:
            full = run(folder, "search_full", base + OTHERS + LR.format(num=n_fine))
        console.print(summary("[search]", few, full, 12 * n_fine), markup=False)
        console.print(brackets(few, full))
        wide = 5 * options.tolerance
        refine = f'[refine]\naxes = ["lr", "init_scale"]\ntolerance = {wide}\n'
        axes = SCALE.format(num=5) + LR.format(num=11)
        few = run(folder, "refine", base + axes + refine)
        n_scales, n_rates = round(2 / wide) + 1, round(5 / wide) + 1
        if not options.skip_full:
            axes = SCALE.format(num=n_scales) + LR.format(num=n_rates)
            full = run(folder, "refine_full", base + axes)
        console.print(summary("[refine]", few, full, n_scales * n_rates), markup=False)
        console.print(map_agreement(few, full))


if __name__ == "__main__":
    main(tyro.cli(Options))
