"""Every benchmark runs with small sizes; nothing is asserted about its timings."""

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
NO_SCRIPTS = {"sides", "torch_sides"}

SMALL = {
    "block_width": ("--grid", "grid.toml", "--rounds", "1", "--target-s", "0.01"),
    "cure": ("where_sqrt_grad",),
    "debug": ("--blocks", "2", "--seconds", "0.02", "--cases", "8 leaves"),
    "detective": ("--only", "logdet_by_product"),
    "fractal": ("--pixels", "4", "--steps", "20", "--rounds", "1"),
    "growth": ("--axes", "runs", "groups", "--most", "1000", "--figure", "growth.svg"),
    "limit": ("--runs", "128", "--steps", "4", "--rounds", "1", "--widths", "8"),
    "hunt": ("where_sqrt_grad", "--seconds", "1"),
    "lint": ("healthy", "--most", "3"),
    "peers": (
        "--runs", "128", "--steps", "4", "--rounds", "1", "--widths", "8", "--serial-runs", "2",
    ),
    "recorder": ("--rounds", "2", "--mlp-steps", "8", "--transformer-steps", "0", "--updates", "8"),
    "search": ("--steps", "3", "--tolerance", "0.5"),
    "startup": ("--rounds", "1", "--grid", "grid.toml"),
    "throughput": ("--runs", "128", "--steps", "8", "--rounds", "1", "--widths", "8"),
    "transformer": ("--width", "12", "--length", "4", "--batch", "2", "--rounds", "1"),
}  # fmt: skip
GRID = """\
[run]
problem = "quadratic"
steps = 5

[axes]
lr = { logspace = [0.1, 1e38], num = 9 }
"""


def test_every_benchmark_is_run():
    assert {path.stem for path in BENCHMARKS.glob("*.py")} == set(SMALL) | NO_SCRIPTS


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_a_benchmark_runs(name, tmp_path):
    (tmp_path / "grid.toml").write_text(GRID, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, BENCHMARKS / f"{name}.py", *SMALL[name]],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "\u2502" in done.stdout or "|" in done.stdout, "a table"
    if name == "growth":
        assert (tmp_path / "growth.svg").stat().st_size > 1000
