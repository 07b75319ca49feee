"""How long until it runs: `--help`, a wrong grid, a first and a second start of a study.

Each is a process of its own. Of a study the seconds spent compiling are those that JAX tells:
tracing, lowering and XLA; the second start finds XLA's programs in the cache.
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
WATCHED = """
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
    """Time what a person waits for before anything runs.

    Attributes:
        rounds: how often; medians are shown.
        grid: the study that is started twice.
    """

    rounds: int = 3
    grid: Path = ROOT / "sweeps/quickstart.toml"


def wall_s(*arguments: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "nanlab.sweep", *arguments], capture_output=True)
    return time.perf_counter() - began


def started(grid: Path, folder: str, cache: str) -> dict[str, float]:
    """Seconds of a study that is run whole: of its process, and of each kind of compiling."""
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, str(grid), "--out", folder, "--force"],
        capture_output=True, text=True, env={**os.environ, "XDG_CACHE_HOME": cache}, cwd=ROOT,
    )  # fmt: skip
    if done.returncode:
        sys.exit(done.stderr)
    told = json.loads(done.stdout.strip().splitlines()[-1])
    kinds = {
        kind: sum(s for name, s in told["spent"].items() if f"/{kind}" in name)
        for kind in COMPILING
    }
    return {"all": time.perf_counter() - began, **kinds, "compiling": sum(kinds.values())}


def main(options: Options) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        wrong = Path(scratch) / "wrong.toml"
        wrong.write_text('[run]\noptimiser = "sgd"\n[axes]\nlr = []\n', encoding="utf-8")
        help_s = median(wall_s("--help") for _ in range(options.rounds))
        wrong_s = median(wall_s(str(wrong)) for _ in range(options.rounds))
        first: list[dict[str, float]] = []
        second: list[dict[str, float]] = []
        for i in range(options.rounds):
            cache = f"{scratch}/cache{i}"
            first.append(started(options.grid, f"{scratch}/out", cache))
            second.append(started(options.grid, f"{scratch}/out", cache))
    shown = Table(title=f"starting, medians of {options.rounds}")
    for heading in ("", "first", "second", "second / first", "target"):
        shown.add_column(heading, justify="right", no_wrap=True)
    shown.add_row("--help", f"{help_s:.2f} s", "", "", "0.50 s")
    shown.add_row("a wrong grid", f"{wrong_s:.2f} s", "", "", "2.00 s")
    for kind in (*COMPILING, "compiling", "all"):
        a, b = (median(each[kind] for each in side) for side in (first, second))
        target = "0.25" if kind == "compiling" else ""
        shown.add_row(kind, f"{a:.2f} s", f"{b:.2f} s", f"{b / a:.2f}" if a else "", target)
    Console().print(shown)


if __name__ == "__main__":
    main(tyro.cli(Options))
