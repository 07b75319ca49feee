"""Grids -> a table: runs and answers of [search] and [refine] beside the full grids they stand for.

    python benchmarks/search.py [--steps 50] [--tolerance 0.01] [--skip-full]

A real training: digits, an MLP of two layers of 16, SGD. The search asks for the largest learning
rate that trains, for each activation, initial scale and seed; the refinement for the plane of
learning rate and initial scale, at five times the tolerance.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from nanlab.backend.config import configure_lab
from nanlab.grid import load_grid
from nanlab.plan.plan import make_plan

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


@dataclass(frozen=True, kw_only=True)
class Done:
    """A study that was run: its folder, its runs, and the seconds it took."""

    folder: Path
    runs: pl.DataFrame
    wall_s: float

    def table(self, name: str) -> pl.DataFrame:
        return pl.read_parquet(self.folder / f"{name}.parquet")


def run(folder: Path, name: str, text: str) -> Done:
    import jax

    from nanlab.cli.progress import ProgressBar
    from nanlab.study.study import Study

    path = folder / f"{name}.toml"
    path.write_text(text, encoding="utf-8")
    grid = load_grid(path)
    began = time.perf_counter()
    with ProgressBar() as watcher:
        result = Study(
            grid=grid, plan=make_plan(grid), folder=folder / name, devices=jax.devices(),
            listener=watcher,
        ).run()  # fmt: skip
    return Done(folder=folder / name, runs=result.runs, wall_s=time.perf_counter() - began)


def tell(what: str, few: Done, full: Done | None, full_runs: int) -> None:
    print(f"{what:12} {few.runs.height:8,} runs {few.wall_s:7.1f} s", end="")
    print(f"   full grid {full_runs:9,} runs", end="")
    print("" if full is None else f" {full.wall_s:7.1f} s", end="")
    print(f"   {full_runs / few.runs.height:.1f} times fewer runs")


def compare_brackets(few: Done, full: Done | None) -> None:
    """Each point's answer, and whether the full grid's neighbors change just there."""
    table = few.table("boundaries").filter("answer")
    same = 0
    print("activation  scale  seed  crossings  largest that trains      runs  full grid")
    for row in table.iter_rows(named=True):
        said = ""
        if full is not None:
            point = {name: row[name] for name in ("activation", "init_scale", "seed")}
            along = full.runs.filter(**point).sort("lr")
            trains = (along["outcome"] == "trained").to_numpy()
            last = int(np.flatnonzero(trains)[-1]) if trains.any() else None
            largest = None if last is None else along["lr"][last]
            # Where the axis ends in training, the largest is not known to either.
            agrees = largest == (row["value"] if row["lower_outcome"] else None)
            same += agrees
            changes = int(np.sum(trains[1:] != trains[:-1]))
            said = f"{'the same' if agrees else f'{largest:.4g}'}, {changes} crossings"
        bracket = f"{row['lower']:.5g} to {row['upper']:.5g}" if row["value"] else "none found"
        print(
            f"{row['activation']:11} {row['init_scale']:5g} {row['seed']:5} {row['crossings']:10}  "
            f"{bracket:22} {row['point_runs']:6}  {said}"
        )
    if full is not None:
        print(f"{same} of {table.height} answers are the full grid's")


def compare_maps(few: Done, full: Done | None) -> None:
    """How much of the full grid's map the cells tell, and how much of that is right."""
    cells = few.table("cells")
    mixed = cells.filter(pl.col("kind").is_null()).height
    print(f"{cells.height:,} cells, the boundary in {mixed:,}")
    if full is None:
        return
    lr, scale = (full.runs[name].to_numpy() for name in ("lr", "init_scale"))
    trains = (full.runs["outcome"] == "trained").to_numpy()
    told = np.full(len(lr), -1)
    for cell in cells.drop_nulls("kind").iter_rows(named=True):
        inside = (lr >= cell["lr_lower"]) & (lr <= cell["lr_upper"])
        inside &= (scale >= cell["init_scale_lower"]) & (scale <= cell["init_scale_upper"])
        told[inside] = cell["kind"] == "trains"
    made = set(few.runs["run_id"].to_list())
    ran = np.array([run_id in made for run_id in full.runs["run_id"].to_list()])
    known = ran | (told >= 0)
    right = ran | (told == trains)
    print(
        f"of the full grid's {len(lr):,} places {ran.sum():,} were run, {known.mean():.2%} are "
        f"known, and {right[known].mean():.3%} of these are right"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=50, help="steps of a training")
    parser.add_argument("--tolerance", type=float, default=0.01, help="in log10")
    parser.add_argument("--skip-full", action="store_true", help="do not run the full grids")
    asked = parser.parse_args()
    configure_lab(None)
    base = RUN.format(steps=asked.steps)
    fine = round(5 / asked.tolerance) + 1
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        searched = f'[search]\naxis = "lr"\ntolerance = {asked.tolerance}\n'
        few = run(folder, "search", base + OTHERS + LR.format(num=11) + searched)
        full = None
        if not asked.skip_full:
            full = run(folder, "search_full", base + OTHERS + LR.format(num=fine))
        tell("[search]", few, full, 12 * fine)
        compare_brackets(few, full)
        wide = 5 * asked.tolerance
        axes = SCALE.format(num=5) + LR.format(num=11)
        refined = f'[refine]\naxes = ["lr", "init_scale"]\ntolerance = {wide}\n'
        few = run(folder, "refine", base + axes + refined)
        across, along = round(2 / wide) + 1, round(5 / wide) + 1
        if not asked.skip_full:
            axes = SCALE.format(num=across) + LR.format(num=along)
            full = run(folder, "refine_full", base + axes)
        print()
        tell("[refine]", few, full, across * along)
        compare_maps(few, full)


if __name__ == "__main__":
    main()
