"""The examples run with small sizes; their results are compared with plain loops."""

import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from nanlab.sweep import DONE, main

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    # The grids name their files relative to the root.
    monkeypatch.chdir(ROOT)


def sweep(name, folder, *flags):
    assert main([f"examples/{name}.toml", "--out", str(folder), "--no-report", *flags]) == DONE
    return pl.read_parquet(folder / "runs.parquet")


def test_every_grid_among_the_examples_is_run_here():
    grids = {path.stem for path in Path("examples").glob("*.toml")}
    assert grids == {
        "fine_tuning", "fractal", "integrator", "modules", "network", "squashed_gaussian",
    }  # fmt: skip


def converges(weights, inputs, targets, rates, steps):
    """Train in NumPy; return whether the mean of the last losses is below the first loss."""
    hidden, output, losses = *weights, []
    with np.errstate(all="ignore"):
        for _ in range(steps):
            units = np.tanh(inputs @ hidden / math.sqrt(16))
            error = units @ output / 16 - targets
            losses.append(np.mean(error**2))
            back = 2 * error / len(error)
            inside = (back @ output.T / 16) * (1 - units**2)
            hidden, output = (
                hidden - rates[0] * inputs.T @ inside / math.sqrt(16),
                output - rates[1] * units.T @ back / 16,
            )
    return bool(np.mean(losses[-20:]) < losses[0])


@pytest.mark.slow
def test_the_fractal_is_that_of_a_plain_loop_in_numpy(tmp_path):
    import jax

    from nanlab.backend.keys import init_key

    runs = sweep(
        "fractal", tmp_path, "--run.steps", "60", "--axes.knobs.lr_hidden.num", "7",
        "--axes.knobs.lr_output.num", "7",
    )  # fmt: skip
    rng = np.random.default_rng(0)
    inputs, targets = rng.standard_normal((272, 16)), rng.standard_normal((272, 1))
    drawn = jax.random.split(init_key(jax.numpy.int64(0)))
    weights = [
        np.asarray(jax.random.normal(key, shape, "float64"))
        for key, shape in zip(drawn, [(16, 16), (16, 1)], strict=True)
    ]
    same = 0
    for row in runs.iter_rows(named=True):
        rates = row["knobs.lr_hidden"], row["knobs.lr_output"]
        same += converges(weights, inputs, targets, rates, 60) == (row["outcome"] == "trained")
    # Chaotic runs may end on either side of their first loss.
    assert same >= 47
    assert {"trained", "nan"} <= set(runs["outcome"])


def van_der_pol(step_size, stiffness, steps):
    """Return whether Euler's method stays finite, in a float32 loop."""
    x, v, h, mu = (np.float32(number) for number in (2.0, 0.0, step_size, stiffness))
    with np.errstate(all="ignore"):
        for _ in range(steps):
            x, v = x + h * v, v + h * (mu * (1 - x**2) * v - x)
    return bool(np.isfinite(x) and np.isfinite(v))


@pytest.mark.slow
def test_the_integrator_blows_up_where_a_plain_loop_does(tmp_path):
    runs = sweep("integrator", tmp_path, "--run.steps", "400")
    euler = runs.filter(pl.col("static.method") == "euler")
    for row in euler.iter_rows(named=True):
        finite = van_der_pol(row["knobs.step_size"], row["knobs.stiffness"], 400)
        assert finite == (row["fault_step"] is None), row
    # A step that blows up by Euler's method is often small enough for that of Runge and Kutta.
    failed = runs.filter(pl.col("outcome") == "nan").group_by("static.method").len()
    counts = dict(failed.rows())
    assert counts["rk4"] < counts["euler"]


@pytest.mark.slow
def test_a_squashed_gaussian_fails_in_the_naive_form_alone(tmp_path):
    runs = sweep("squashed_gaussian", tmp_path, "--axes.knobs.spread.num", "4")
    failed = runs.filter(pl.col("fault_step").is_not_null())
    assert set(failed["static.correction"]) == {"naive"}
    assert set(failed["origin_mechanism"]) == {"pole"}
    assert set(failed["origin_primitive"]) == {"log"}
    # tanh rounds to 1 in float32 beyond 9.01: with a spread of 0.1 no action comes there.
    assert failed["knobs.spread"].min() > 1
    assert failed.filter(pl.col("knobs.spread") > 20).height == 8


@pytest.mark.slow
def test_three_frameworks_train_and_fail_alike(tmp_path):
    runs = sweep("modules", tmp_path)
    assert runs["problem"].n_unique() == 3
    for (problem,), of_one in runs.group_by(["problem"]):
        usual = of_one.filter((pl.col("knobs.init_scale") == 1) & (pl.col("knobs.lr") == 0.01))
        assert usual["outcome"].item() in ("trained", "stalled"), problem
        assert usual["best_loss"].item() < usual["initial_loss"].item()
        hopeless = of_one.filter(pl.col("knobs.lr") > 1e20)
        assert set(hopeless["outcome"]) == {"nan"}, problem
    linen = runs.filter(
        pl.col("problem").str.ends_with("with_linen") & (pl.col("outcome") == "nan")
    )
    assert linen["origin_module"].str.starts_with("Net/Dense_").any()
    assert set(linen["origin_source"].str.split(":").list.first()) == {"modules.py"}


@pytest.mark.slow
def test_a_norm_without_epsilon_divides_zero_by_zero_in_a_network_of_ones_own(tmp_path):
    runs = sweep("network", tmp_path, "--axes.lr.num", "2", "--run.steps", "20")
    failed = runs.filter(pl.col("outcome") == "nan")
    assert 0 < failed.height < runs.height
    # The point at the center of the spirals: all its units are 0 as long as the biases are.
    assert set(failed["culprit_mechanism"]) == {"0/0"}
    lines = (ROOT / "examples/network.py").read_text(encoding="utf-8").splitlines()
    (place,) = set(failed["culprit_source"])
    assert "jnp.sqrt" in lines[int(place.rpartition(":")[2]) - 1]


def attention_to_padding(mask_value, precision):
    """Return the softmax in NumPy of a row whose scores are all masked."""
    with np.errstate(all="ignore"):
        scores = np.zeros(6, precision) + np.float64(mask_value).astype(precision)
        powers = np.exp(scores - scores.max())
        return powers / powers.sum()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "unsafe"),
    [("float16", [-1e39, -1e9]), ("float32", [-1e39])],
)
def test_a_row_of_padding_fails_where_numpys_softmax_of_it_does(precision, unsafe, tmp_path):
    runs = sweep(
        "fine_tuning", tmp_path, "--set", f"axes.static.precision=['{precision}']",
        "--set", "axes.seed=[0]",
    )  # fmt: skip
    usual = runs.filter(pl.col("knobs.lr") < 1)
    for row in usual.iter_rows(named=True):
        safe = bool(np.isfinite(attention_to_padding(row["knobs.mask_value"], precision)).all())
        assert (row["outcome"] == "trained") == safe, row
        # The only empty row is number 50, and a batch has 8.
        assert row["fault_step"] == (None if safe else 50 // 8)
    masked = usual.filter(pl.col("outcome") == "nan")
    assert sorted(masked["knobs.mask_value"]) == unsafe
    assert set(masked["origin_primitive"]) == {"convert_element_type"}
    assert set(masked["origin_mechanism"]) == {"overflow"}
    assert set(masked["culprit_primitive"]) == {"sub"}
    assert set(masked["culprit_mechanism"]) == {"inf-inf"}
    assert set(masked["culprit_module"]) == {"TokenClassifierModule/attention"}
    # Steps of a thousand fail with any mask: in float16 before the empty row comes.
    hasty = runs.filter(pl.col("knobs.lr") > 1)
    assert set(hasty["outcome"]) == {"nan"}
    if precision == "float16":
        assert set(hasty["origin_module"]) == {"TokenClassifierModule/attention/joint"}
        assert hasty["fault_step"].max() < 50 // 8
