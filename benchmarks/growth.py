"""Measure how a study's time and memory grow with its runs, steps, width and groups.

The command sweeps each study in a process of its own, with nothing compiled before. The peak is the
largest resident set size of that process. The slope at a size is that of log(seconds minus the
fastest study's) against log(size), from the size before it.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, NamedTuple

import tyro
from rich.console import Console
from rich.table import Table

QUADRATIC = """\
title = "{runs} runs of {steps} steps"

[run]
problem = "quadratic"
steps = {steps}

[axes]
lr = {{ logspace = [0.1, 1e38], num = {rates} }}
x0 = {{ logspace = [0.001, 1000.0], num = {starts} }}

[exec]
chunk_runs = 8192
witnesses = 0
"""
NETWORKS = """\
title = "{groups} groups of width {width}"

[run]
task = "digits"
depth = 3
width = {width}
loss = "softmax_cross_entropy"
steps = {steps}

[axes]
activation = {activations}
lr = {{ logspace = [1e-4, 0.1], num = {runs} }}

[exec]
witnesses = 0
"""
ACTIVATIONS = ("relu", "tanh", "sigmoid", "gelu", "elu", "leaky_relu", "softplus", "silu")
SIZES = {
    "runs": (1_000, 10_000, 100_000, 1_000_000),
    "steps": (1_000, 10_000, 100_000, 1_000_000),
    "width": (16, 32, 64, 128, 256),
    "groups": (1, 2, 4, 8),
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """Measure how a study's seconds and memory grow.

    Attributes:
        axes: the sizes that grow, of runs, steps, width and groups.
        most: the largest size; larger ones are left out.
        figure: the SVG file to write a figure to.
    """

    axes: Annotated[tuple[str, ...], tyro.conf.arg(metavar="AXIS ...")] = tuple(SIZES)
    most: int | None = None
    figure: Path | None = None


class Measured(NamedTuple):
    """One study: elapsed seconds, peak bytes of memory, bytes of runs.parquet."""

    wall_s: float
    peak: int
    table: int


def grid_of(axis: str, size: int) -> str:
    if axis in ("runs", "steps"):
        runs = size if axis == "runs" else 1_000
        starts = min(runs, 1_000)
        steps = size if axis == "steps" else 8
        return QUADRATIC.format(runs=runs, steps=steps, rates=runs // starts, starts=starts)
    groups = size if axis == "groups" else 1
    activations = list(ACTIVATIONS[:groups])
    width, runs, steps = (size, 128, 200) if axis == "width" else (16, 128, 50)
    text = str(activations).replace("'", '"')
    return NETWORKS.format(groups=groups, width=width, runs=runs, steps=steps, activations=text)


def swept(text: str) -> Measured:
    with tempfile.TemporaryDirectory() as scratch:
        grid, out = Path(scratch) / "grid.toml", Path(scratch) / "results"
        grid.write_text(text, encoding="utf-8")
        command = [sys.executable, "-m", "nanlab.sweep", str(grid), "--out", str(out),
                   "--no-report"]  # fmt: skip
        fresh = {**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "false"}
        began = time.perf_counter()
        child = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=fresh
        )
        _, status, usage = os.wait4(child.pid, 0)
        took_s = time.perf_counter() - began
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            sys.exit(f"a sweep failed with exit status {child.returncode}:\n{text}")
        # ru_maxrss is in kilobytes on Linux, in bytes on macOS.
        unit = 1 if sys.platform == "darwin" else 1024
        return Measured(took_s, usage.ru_maxrss * unit, (out / "runs.parquet").stat().st_size)


def slopes(found: dict[int, Measured]) -> list[str]:
    """Return the slope at each size; "" for the first two."""
    sizes, start = list(found), min(m.wall_s for m in found.values())
    cells = ["", ""]
    for before, now in pairwise(sizes[1:]):
        a, b = (found[size].wall_s - start for size in (before, now))
        cells.append(f"{math.log(b / a) / math.log(now / before):.2f}" if min(a, b) > 0 else "")
    return cells[: len(sizes)]


def draw(path: Path, measured: dict[str, dict[int, Measured]]) -> None:
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    figure = Figure(figsize=(2.8 * len(measured), 4), layout="constrained")
    axes = figure.subplots(2, len(measured), squeeze=False, sharex="col", sharey="row")
    for column, (axis, found) in enumerate(measured.items()):
        sizes, (seconds, peak) = list(found), axes[:, column]
        seconds.loglog(sizes, [m.wall_s for m in found.values()], "o-")
        peak.semilogx(sizes, [m.peak / 2**20 for m in found.values()], "o-")
        seconds.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        seconds.yaxis.set_major_formatter(EngFormatter(sep=""))
        for one_axis in (seconds.xaxis, seconds.yaxis):
            one_axis.set_minor_formatter(NullFormatter())
        peak.set_xticks(sizes, labels=[EngFormatter(sep="")(size) for size in sizes])
        peak.set_xlabel(axis)
    axes[1, 0].set_ylim(bottom=0)  # shared by the row
    axes[0, 0].set_ylabel("seconds")
    axes[1, 0].set_ylabel("peak, MiB")
    figure.savefig(path, format="svg")


def main(options: Options) -> None:
    if unknown := set(options.axes) - set(SIZES):
        sys.exit(f"--axes {' '.join(sorted(unknown))}: must be among {', '.join(SIZES)}")
    console, measured = Console(), dict[str, dict[int, Measured]]()
    for axis in options.axes:
        sizes = [s for s in SIZES[axis] if options.most is None or s <= options.most]
        measured[axis] = {size: swept(grid_of(axis, size)) for size in sizes}
        shown = Table(title=f"growing {axis}")
        for heading in (axis, "seconds", "slope", "peak", "runs.parquet"):
            shown.add_column(heading, justify="right", no_wrap=True)
        for (size, m), slope in zip(measured[axis].items(), slopes(measured[axis]), strict=True):
            shown.add_row(f"{size:,}", f"{m.wall_s:.1f}", slope, f"{m.peak / 2**20:,.0f} MiB",
                          f"{m.table / 2**20:.1f} MiB")  # fmt: skip
        console.print(shown)
    if options.figure is not None:
        draw(options.figure, measured)


if __name__ == "__main__":
    main(tyro.cli(Options))
