"""Runs -> memory: does a study's peak stay flat as it grows?

    python benchmarks/memory.py

Each study is swept by the command itself, in a process of its own: `problem = "quadratic"`, a
handful of steps, and learning rates of which some fail. Its peak is the largest resident size
that the system has seen of that process.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SIZES = (1_000, 10_000, 100_000, 1_000_000)
GRID = """\
title = "{runs} runs"

[run]
problem = "quadratic"
steps = {steps}

[axes]
lr = {{ logspace = [0.1, 1e38], num = {each} }}
x0 = {{ logspace = [0.001, 1000.0], num = 1000 }}

[exec]
chunk_runs = 8192
"""


def swept(runs: int, steps: int, folder: Path) -> tuple[float, int, int]:
    """Seconds, peak resident bytes, and bytes of runs.parquet of one study."""
    grid = folder / "grid.toml"
    grid.write_text(GRID.format(runs=runs, each=runs // 1000, steps=steps), encoding="utf-8")
    command = [sys.executable, "-m", "nanlab.sweep", str(grid), "--out", str(folder / "results")]
    began = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        sys.exit(f"the sweep of {runs:,} runs ended with {child.returncode}")
    # Kilobytes on Linux, bytes on a Mac.
    unit = 1 if sys.platform == "darwin" else 1024
    took_s, size = time.perf_counter() - began, (folder / "results/runs.parquet").stat().st_size
    return took_s, usage.ru_maxrss * unit, size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, nargs="+", default=SIZES, help="multiples of 1,000")
    parser.add_argument("--steps", type=int, default=8)
    options = parser.parse_args()
    print(f"{'runs':>9}  {'seconds':>7}  {'peak MiB':>8}  {'runs.parquet MiB':>16}")
    peaks: dict[int, int] = {}
    for runs in options.runs:
        with tempfile.TemporaryDirectory() as folder:
            took_s, peaks[runs], size = swept(runs, options.steps, Path(folder))
        print(f"{runs:9,}  {took_s:7.1f}  {peaks[runs] / 2**20:8.0f}  {size / 2**20:16.1f}")
    if {100_000, 1_000_000} <= set(peaks):
        ratio = peaks[1_000_000] / peaks[100_000]
        print(f"peak at 1,000,000 runs over that at 100,000: {ratio:.2f}")


if __name__ == "__main__":
    main()
