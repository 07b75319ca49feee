"""curves.parquet: what runs show at log-spaced steps and before their faults, beside NumPy."""

import numpy as np
import polars as pl
import pytest

from nanlab.engine.curves import is_log_step, log_steps
from nanlab.parts.tasks import load_examples
from nanlab.problems.problem import OBSERVABLES
from nanlab.results.schema import CURVES
from nanlab.sweep import DONE, main

GRID = """\
[run]
task = "wine"
depth = 1
width = 4
batch_size = "full"
loss = "mse"
precision = "float64"
initializer = "constant"

[axes]
activation = ["tanh"]
lr = [0.01, 1e200]
steps = [5, 12]
init_scale = [0.5]

[exec]
devices = 2
witnesses = 0
"""


def sweep(folder, text, *flags):
    (folder / "grid.toml").write_text(text, encoding="utf-8")
    assert (
        main([str(folder / "grid.toml"), "--out", str(folder / "out"), "--no-report", *flags])
        == DONE
    )
    return pl.read_parquet(folder / "out" / "runs.parquet")


@pytest.fixture(scope="module", params=["tanh", pytest.param("relu", marks=pytest.mark.slow)])
def activation(request):
    return request.param


@pytest.fixture(scope="module")
def folder(activation, tmp_path_factory):
    return tmp_path_factory.mktemp(f"curves-{activation}")


@pytest.fixture(scope="module")
def runs(activation, folder):
    return sweep(folder, GRID.replace("tanh", activation) + "curves = true\n")


@pytest.fixture(scope="module")
def curves(folder, runs):
    return pl.read_parquet(folder / "out" / "curves.parquet")


def test_steps_are_looked_at_in_powers_of_two_and_at_the_end():
    assert log_steps(np.array([12, 5])) == [0, 1, 2, 4, 5, 8, 12]
    assert log_steps(np.array([1])) == [0, 1]
    assert [step for step in range(70) if is_log_step(step)] == [0, 1, 2, 4, 8, 16, 32, 64]


def test_a_run_is_looked_at_on_the_way_at_its_end_and_before_its_fault(runs, curves):
    assert dict(curves.schema) == CURVES
    for row in runs.iter_rows(named=True):
        seen = curves.filter(pl.col("run_id") == row["run_id"])["step"].unique().sort().to_list()
        end = row["steps"] if row["fault_step"] is None else row["fault_step"]
        wanted = {step for step in (0, 1, 2, 4, 8) if step <= end} | {end}
        assert seen == sorted(wanted), row
    assert runs["fault_step"].is_not_null().any()
    assert runs["fault_step"].is_null().any()


def test_rows_are_in_the_grids_order_and_each_is_there_once(runs, curves):
    assert curves["run_id"].unique(maintain_order=True).to_list() == runs["run_id"].to_list()
    assert curves.select("run_id", "step", "observable", "layer").is_duplicated().sum() == 0
    assert set(curves["observable"]) == set(OBSERVABLES)
    assert not curves["value"].is_nan().any()


def numpy_observed(activation):
    """What a network of equal weights shows before its first step, by hand in NumPy."""
    data = load_examples({"task": "wine", "standardize": True})
    x, targets = data.inputs, np.eye(3)[data.targets]
    first, second = np.full((13, 4), 0.5), np.full((4, 3), 0.5)
    z = x @ first
    hidden, slope = (
        (np.tanh(z), 1 - np.tanh(z) ** 2)
        if activation == "tanh"
        else (np.maximum(z, 0), (z > 0).astype(float))
    )
    error = hidden @ second - targets
    back = 2 * error / error.size
    inside = (back @ second.T) * slope
    gradient = {
        "Dense_0/bias": inside.sum(0), "Dense_0/kernel": x.T @ inside,
        "Dense_1/bias": back.sum(0), "Dense_1/kernel": hidden.T @ back,
    }  # fmt: skip
    seen = {("gradient_norm", name): np.linalg.norm(g) for name, g in gradient.items()}
    whole = np.sqrt(sum(norm**2 for norm in seen.values()))
    weights = np.sqrt(np.sum(first**2) + np.sum(second**2))
    largest = max(np.abs(z).max(), np.abs(hidden @ second).max())
    entries = sum(g.size for g in gradient.values())
    return seen | {
        ("gradient_norm", ""): whole,
        ("parameter_norm", ""): weights,
        ("parameter_norm", "Dense_0/kernel"): np.linalg.norm(first),
        ("update_ratio", ""): 0.01 * whole / weights,
        ("zero_gradients", ""): sum((g == 0).sum() for g in gradient.values()) / entries,
        ("largest_activation", "hidden_0"): np.abs(hidden).max(),
        ("dead_units", "hidden_0"): (slope == 0).all(0).mean(),
        ("saturated_units", "hidden_0"): (slope < 0.01).mean(),
        ("loss", ""): np.mean(error**2),
        ("headroom", ""): np.log10(np.finfo(float).max / largest),
    }


def test_what_is_shown_before_the_first_step_is_numpys(activation, runs, curves):
    (run_id,) = runs.filter(lr=0.01, steps=5)["run_id"]
    rows = curves.filter((pl.col("run_id") == run_id) & (pl.col("step") == 0))
    got = {(o, layer): v for o, layer, v in rows.select("observable", "layer", "value").rows()}
    for key, value in numpy_observed(activation).items():
        assert got[key] == pytest.approx(value, rel=1e-9), key
    # Biases that are all 0 have no ratio of their update to them.
    assert got["update_ratio", "Dense_0/bias"] is None


@pytest.mark.slow
def test_looking_changes_no_run(activation, runs, tmp_path):
    plain = sweep(tmp_path, GRID.replace("tanh", activation))
    assert plain.equals(runs, null_equal=True)
    assert not (tmp_path / "out" / "curves.parquet").exists()


@pytest.mark.slow
def test_a_study_without_curves_is_run_again_for_them_and_then_only_read(tmp_path, capsys):
    text = GRID.replace("[5, 12]", "[2]")
    sweep(tmp_path, text + "curves = true\n")
    sweep(tmp_path, text + "curves = true\n")
    first = (tmp_path / "out" / "curves.parquet").read_bytes()
    capsys.readouterr()
    # One more point: the others are kept, with their curves.
    sweep(tmp_path, text.replace("1e200]", "1e200, 0.02]") + "curves = true\n")
    assert "2 of 3 runs are there already" in capsys.readouterr().err
    grown = pl.read_parquet(tmp_path / "out" / "curves.parquet")
    sweep(tmp_path, text + "curves = true\n")
    assert (tmp_path / "out" / "curves.parquet").read_bytes() == first
    assert grown["run_id"].n_unique() == 3


def test_an_oracle_without_observables_shows_its_metrics(tmp_path):
    text = '[run]\nproblem = "quadratic"\nsteps = 4\n[axes]\nlr = [0.5]\n[exec]\ndevices = 2\n'
    sweep(tmp_path, text + "curves = true\n")
    rows = pl.read_parquet(tmp_path / "out" / "curves.parquet").filter(pl.col("step") == 2)
    assert dict(rows.select("observable", "value").rows()) == {
        "loss": 0.5 * 0.25**2, "gradient_norm": 0.25,
    }  # fmt: skip
