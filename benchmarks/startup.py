"""Time what comes before a study's first step: imports, validation and compiling.

Four commands are timed, each in a process of its own: `--help`, an invalid grid, and the first and
the second start of a study. JAX reports how long it traces, lowers and compiles; at the second
start XLA's programs come from the cache.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import tyro
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
COMPILING = ("jaxpr_trace", "jaxpr_to_mlir_module", "backend_compile")
MEASURED_SWEEP = """
import json, sys
from collections import Counter
from jax import monitoring
spent = Counter()
monitoring.register_event_duration_secs_listener(lambda name, s, **_: spent.update({name: s}))
from nanlab import sweep
status = sweep.main(sys.argv[1:])
print(json.dumps({"status": status, "spent": spent}))
"""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Time what comes before a study's first step.

    Attributes:
        rounds: how often each command is timed; medians are shown.
        grid: the study that is started twice.
    """

    rounds: int = 3
    grid: Path = ROOT / "sweeps/quickstart.toml"


def wall_s(*arguments: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "nanlab.sweep", *arguments], capture_output=True)
    return time.perf_counter() - began


def started(grid: Path, folder: str, cache: str) -> dict[str, float]:
    """Run a study; return the seconds of its process and of each kind of compiling."""
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", MEASURED_SWEEP, str(grid), "--out", folder, "--force"],
        capture_output=True, text=True, env={**os.environ, "XDG_CACHE_HOME": cache}, cwd=ROOT,
    )  # fmt: skip
    report = json.loads(done.stdout.strip().splitlines()[-1]) if done.returncode == 0 else {}
    if report.get("status") != 0:
        sys.exit(f"the sweep of {grid} failed:\n{done.stderr}")
    kinds = {
        kind: sum(s for name, s in report["spent"].items() if f"/{kind}" in name)
        for kind in COMPILING
    }
    return {"all": time.perf_counter() - began, **kinds, "compiling": sum(kinds.values())}


def main(options: Options) -> None:
    grid = options.grid.resolve()
    with tempfile.TemporaryDirectory() as scratch:
        wrong = Path(scratch) / "wrong.toml"
        wrong.write_text('[run]\noptimiser = "sgd"\n[axes]\nlr = []\n', encoding="utf-8")
        help_s = median(wall_s("--help") for _ in range(options.rounds))
        wrong_s = median(wall_s(str(wrong)) for _ in range(options.rounds))
        first: list[dict[str, float]] = []
        second: list[dict[str, float]] = []
        for i in range(options.rounds):
            cache = f"{scratch}/cache{i}"
            first.append(started(grid, f"{scratch}/out", cache))
            second.append(started(grid, f"{scratch}/out", cache))
    shown = Table(title=f"seconds until the start, medians of {options.rounds}")
    for heading in ("", "first", "second", "second / first", "target"):
        shown.add_column(heading, justify="right", no_wrap=True)
    shown.add_row("--help", f"{help_s:.2f} s", "", "", "0.50 s")
    shown.add_row("an invalid grid", f"{wrong_s:.2f} s", "", "", "2.00 s")
    for kind in (*COMPILING, "compiling", "all"):
        a, b = (median(seconds[kind] for seconds in start) for start in (first, second))
        target = "0.25" if kind == "compiling" else ""
        shown.add_row(kind, f"{a:.2f} s", f"{b:.2f} s", f"{b / a:.2f}" if a else "", target)
    Console().print(shown)


if __name__ == "__main__":
    main(tyro.cli(Options))
