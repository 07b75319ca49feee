"""Three committed studies beside what theory says: overflow layers, a critical line, step sizes."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

RESULTS = Path(__file__).resolve().parents[1] / "results"

STABLE = {"sgd": 2.0, "momentum": 2 * 1.9, "nesterov": (2 + 1.8) / (1 + 1.8)}


@pytest.mark.parametrize("optimizer", STABLE)
def test_the_largest_stable_learning_rate_is_within_2_percent_of_theory(optimizer):
    """Curvature 1; Polyak 1964, and O'Donoghue and Candes 2015 for Nesterov's."""
    runs = pl.read_parquet(RESULTS / "stable_learning_rate" / "runs.parquet")
    runs = runs.filter(pl.col("optimizer") == optimizer).sort("lr")
    trained = runs.filter(pl.col("outcome") == "trained")["lr"]
    others = runs.filter(pl.col("outcome") != "trained")["lr"]
    assert max(trained) < min(others)
    assert max(trained) == pytest.approx(STABLE[optimizer], rel=0.02)
    assert min(others) == pytest.approx(STABLE[optimizer], rel=0.02)


def layers_below(precision, gain):
    """How many layers that multiply by `gain` stay below the type's largest number."""
    return np.log(float(np.finfo(precision).max)) / np.log(gain)


@pytest.mark.parametrize("gain", [2.0, 4.0])
@pytest.mark.parametrize("precision", ["float16", "float32"])
def test_a_deep_relu_network_overflows_near_the_layer_of_theory(precision, gain):
    """Weight variance gain^2 * 2 / fan_in (He et al. 2015); some unit is 3 deviations large."""
    runs = pl.read_parquet(RESULTS / "deep_relu" / "runs.parquet")
    runs = runs.filter((pl.col("precision") == precision) & (pl.col("init_scale") == gain))
    assert runs.height == 10
    assert set(runs["fault_step"]) == {0}
    assert set(runs["origin_mechanism"]) == {"overflow"}
    layer = runs["origin_module"].str.extract(r"Dense_(\d+)$").cast(pl.Int64)
    assert layer.null_count() == 0
    assert abs(layer.median() - layers_below(precision, gain)) <= 2.5


# Bias variance -> critical weight variance of tanh; Poole et al. 2016, Schoenholz et al. 2017.
CRITICAL = {0.0: 1.0, 0.05: 1.761, 0.1: 1.986, 0.5: 2.843, 1.0: 3.443}


@pytest.mark.parametrize("variance", CRITICAL)
def test_the_critical_line_of_tanh_is_within_5_percent_of_theory(variance):
    folder = RESULTS / "tanh_critical_line"
    runs = pl.read_parquet(folder / "runs.parquet", columns=["run_id", "bias_scale", "init_scale"])
    runs = runs.filter((pl.col("bias_scale") ** 2 - variance).abs() < 1e-9)
    norms = pl.read_parquet(folder / "curves.parquet").filter(
        (pl.col("step") == 0) & (pl.col("observable") == "gradient_norm")
    )
    number = pl.col("layer").str.extract(r"^Dense_(\d+)/bias$").cast(pl.Int64)
    norms = norms.with_columns(number.alias("depth")).filter(pl.col("depth").is_between(4, 11))
    growth: dict[float, list[float]] = {}
    for (_, scale), rows in norms.join(runs, on="run_id").group_by(["run_id", "init_scale"]):
        rate = np.polyfit(rows["depth"], np.log(rows["value"]), 1)[0]
        growth.setdefault(scale**2, []).append(rate)
    assert all(len(rates) == 6 for rates in growth.values())
    means = [np.mean(rates) for rates in growth.values()]
    crossing = np.polyval(np.polyfit(means, list(growth), 1), 0.0)
    assert crossing == pytest.approx(CRITICAL[variance], rel=0.05)
