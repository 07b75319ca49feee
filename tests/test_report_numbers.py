"""What a report tells of a study, beside closed forms, SciPy, plain loops and counts by hand."""

import csv
import math
from collections import Counter
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from matplotlib.figure import Figure
from sampled import sampled
from scipy import stats

from nanlab.grid.outcome import Outcome
from nanlab.reporting.analysis import analyze
from nanlab.reporting.answer import answer_of
from nanlab.reporting.captions import caption
from nanlab.reporting.cells import maps_of
from nanlab.reporting.charts import draw_critical, ticks_between
from nanlab.reporting.critical import MAX_ROWS, criticals_of
from nanlab.reporting.curves import losses_of
from nanlab.reporting.depth import growths_of
from nanlab.reporting.layout import layout_of
from nanlab.reporting.sheets import CONTENTS
from nanlab.reporting.survival import survivals_of
from nanlab.reporting.theory import (
    critical_variance,
    critical_weights,
    overflow_layer,
    predicted,
    predicted_fault_step,
)
from nanlab.reporting.words import COLORS, exact, listed, number, percent
from nanlab.results.read import ReportError, read_results
from nanlab.results.statistics import interval

RESULTS = Path(__file__).resolve().parents[1] / "results"
STUDIES = sorted(path.parent for path in RESULTS.glob("**/manifest.json"))
each_study = pytest.mark.parametrize(
    "folder", sampled(STUDIES, 6), ids=[str(path.relative_to(RESULTS)) for path in STUDIES]
)


@cache
def study(name):
    return analyze(read_results(RESULTS / name))


def rows_of(name):
    with (RESULTS / name / "runs.csv").open(newline="") as file:
        return list(csv.DictReader(file))


# ---- how a study is looked at ----


@pytest.mark.parametrize(
    "name, x, y, facets",
    [
        ("quickstart", ("lr", "log"), ("init_scale", "log"), ("activation",)),
        ("relu_vs_tanh", ("lr", "log"), ("init_scale", "log"), ("activation", "loss")),
        ("stable_learning_rate", ("lr", "linear"), ("optimizer", "ordinal"), ()),
        ("gradient_descent", ("lr", "ordinal"), ("", "ordinal"), ()),
        ("tanh_critical_line", ("init_scale", "linear"), ("bias_scale", "linear"), ()),
        ("deep_relu", ("init_scale", "ordinal"), ("precision", "ordinal"), ()),
    ],
)
def test_the_main_axes_are_those_that_a_person_would_choose(name, x, y, facets):
    layout = layout_of(pl.read_parquet(RESULTS / name / "runs.parquet"))
    assert (layout.x.name, layout.x.scale) == x
    assert (layout.y.name, layout.y.scale) == y
    assert layout.facets == facets


@each_study
def test_every_run_is_in_one_cell_and_cells_do_not_overlap(folder):
    runs, layout, maps = (study(folder).runs, study(folder).layout, study(folder).maps)
    assert sum((Counter(cell.counts) for cell in maps.cells), Counter()) == Counter(
        runs["outcome"].to_list()
    )
    assert 1 <= len(layout.panels) <= 12
    for panel in range(len(layout.panels)):
        cells = sorted(maps.of_panel(panel), key=lambda c: (c.bottom, c.left))
        for a, b in pairwise(cells):
            assert a.right <= b.left + 1e-9 or a.top <= b.bottom + 1e-9 or b.bottom > a.bottom
        covered = sum(
            (right - left) * (top - bottom)
            for boxes in maps.boxes(panel).values()
            for left, right, bottom, top in boxes
        )
        held = sum((c.right - c.left) * (c.top - c.bottom) for c in cells)
        assert covered == pytest.approx(held), "slices cover their cells and nothing else"


def test_a_map_with_very_many_cells_puts_neighbors_together_and_loses_no_run():
    side = 200
    runs = pl.DataFrame(
        {
            "run_id": [f"{i:012x}" for i in range(side * side)],
            "group_id": "g",
            "lr": np.repeat(np.logspace(-3, 3, side), side),
            "init_scale": np.tile(np.logspace(-1, 1, side), side),
            "outcome": ["nan", "trained"] * (side * side // 2),
            "fault_step": None,
            "steps": 1,
            "blame_id": None,
        },
        schema_overrides={"fault_step": pl.Int64, "blame_id": pl.String},
    )
    maps = maps_of(runs, layout_of(runs))
    assert maps.merged != (1, 1)
    assert len(maps.cells) <= 9000
    assert sum(cell.runs for cell in maps.cells) == side * side


def test_where_an_axis_was_made_finer_no_gap_is_left_between_its_values():
    rates = [0.1, 1.0, 1.5, 1.6, 1.7, 2.0, 10.0]
    runs = runs_with(lr=rates, outcome=["trained"] * 4 + ["nan"] * 3, steps=[5] * 7).with_columns(
        fault_step=pl.lit(None, pl.Int64), blame_id=pl.lit(None, pl.String)
    )
    plain, finer = layout_of(runs), layout_of(runs, ["lr"])
    assert (plain.x.scale, finer.x.scale) == ("ordinal", "log")
    cells = maps_of(runs, finer).cells
    assert all(a.right == pytest.approx(b.left) for a, b in pairwise(cells))


# ---- theory ----


# DESIGN section 7: Poole et al. 2016, Schoenholz et al. 2017.
@pytest.mark.parametrize(
    "bias, weight", [(0.0, 1.0), (0.05, 1.761), (0.1, 1.986), (0.5, 2.843), (1.0, 3.443)]
)
def test_the_critical_line_of_tanh_is_that_of_the_literature(bias, weight):
    assert critical_variance(bias) == pytest.approx(weight, abs=6e-4)


QUADRATIC = {"problem": "quadratic", "optimizer": "sgd", "precision": "float32", "curvature": 1.0,
             "x0": 1.0, "schedule": "constant", "clip": "none", "momentum": 0.9}  # fmt: skip


@pytest.mark.parametrize("lr", [2.01, 2.5, 3.0, 5.0, 11.0, 100.0])
def test_the_predicted_fault_step_is_that_of_a_plain_loop(lr):
    x, step = np.float32(1.0), 0
    with np.errstate(over="ignore"):
        while np.isfinite(np.float32(0.5) * x * x):
            x, step = x - np.float32(lr) * x, step + 1
    predicted_step = predicted_fault_step({**QUADRATIC, "lr": lr})
    assert predicted_step == pytest.approx(step, abs=1 + 1e-3 * step)
    assert predicted_fault_step({**QUADRATIC, "lr": 2.0}) is None, "it never overflows"


@pytest.mark.parametrize(
    "optimizer, critical", [("sgd", 2.0), ("momentum", 3.8), ("nesterov", 3.8 / 2.8)]
)
def test_the_largest_stable_rate_scales_with_the_curvature(optimizer, critical):
    for curvature in (0.5, 4.0):
        fixed = {**QUADRATIC, "optimizer": optimizer, "curvature": curvature}
        assert predicted("lr", fixed).value == pytest.approx(critical / curvature)
    assert predicted("lr", {**QUADRATIC, "optimizer": "adam"}) is None
    assert predicted("lr", {**QUADRATIC, "clip": "value"}) is None
    assert predicted("lr", {**QUADRATIC, "problem": "training"}) is None


def test_theory_of_deep_relu_is_told_of_plain_deep_relu_only():
    fixed = {"model": "mlp", "activation": "relu", "initializer": "he_normal", "norm": "none",
             "residual": False, "precision": "float16", "init_scale": 2.0, "depth": 20}  # fmt: skip
    assert overflow_layer(fixed).value == pytest.approx(math.log(65504) / math.log(2))
    assert predicted("init_scale", fixed).value == pytest.approx(65504 ** (1 / 20))
    for other in ({"activation": "tanh"}, {"norm": "layer"}, {"residual": True},
                  {"initializer": "orthogonal"}, {"init_scale": 1.0}):  # fmt: skip
        assert overflow_layer({**fixed, **other}) is None


# ---- survival and critical values ----


def runs_with(**columns):
    n = len(next(iter(columns.values())))
    frame = pl.DataFrame({"run_id": [f"{i:012x}" for i in range(n)], "group_id": ["g"] * n})
    return frame.with_columns(
        **{name: pl.Series(values, strict=False) for name, values in columns.items()}
    )


def test_survival_is_what_kaplan_and_meier_count_by_hand():
    # Of 6 runs one fails in its 1st step; of the 5 left one is censored after 2 steps; of 4 two
    # fail in their 4th; of 2 one is censored after 5; the last fails in its 8th.
    fault = [0, None, 3, 3, None, 7]
    runs = runs_with(
        outcome=["nan" if step is not None else "stalled" for step in fault],
        fault_step=pl.Series(fault, dtype=pl.Int64), steps=[10, 2, 10, 10, 5, 10],
    )  # fmt: skip
    # Runs of two steps are too short for a curve; here they are wanted.
    runs = runs.with_columns(pl.col("steps").replace(2, 3))
    (curve,) = survivals_of(runs, layout_of(runs))
    assert curve.steps.tolist() == [1, 4, 8]
    expected = [5 / 6, 5 / 6 * 2 / 4, 0.0]
    assert curve.share.tolist() == pytest.approx(expected)
    # Greenwood's variance under the log-log transform, at the first drop.
    share, variance = 5 / 6, 1 / (6 * 5)
    bound = stats.norm.ppf(0.975) * math.sqrt(variance) / math.log(share)
    low, high = sorted((share ** math.exp(-bound), share ** math.exp(bound)))
    assert (curve.low[0], curve.high[0]) == pytest.approx((low, high))
    assert (curve.runs, curve.faults) == (6, 4)


def test_critical_values_are_geometric_means_with_the_bootstrap_of_the_ledger():
    rates = [0.01, 0.1, 1.0, 10.0]
    first_bad = {0: 0.1, 1: 1.0, 2: 1.0, 3: 10.0}
    rows = [(seed, lr, lr < first_bad[seed]) for seed in first_bad for lr in rates]
    runs = runs_with(
        seed=[seed for seed, _, _ in rows], lr=[lr for _, lr, _ in rows],
        outcome=["trained" if good else "nan" for _, _, good in rows], steps=[5] * len(rows),
    )  # fmt: skip
    (found,) = criticals_of(runs, layout_of(runs))
    firsts = np.log(list(first_bad.values()))
    lasts = firsts - math.log(10)
    assert found.value == pytest.approx(math.exp((firsts + lasts).mean() / 2))
    assert found.low == pytest.approx(math.exp(interval(lasts)[0]))
    assert found.high == pytest.approx(math.exp(interval(firsts)[1]))
    assert (found.seeds, found.mixed) == (4, 0)


@pytest.mark.parametrize(
    "outcome, side, bound", [("trained", "above", 10.0), ("nan", "below", 0.1)]
)
def test_a_critical_value_that_was_not_tried_is_said_to_be_beyond(outcome, side, bound):
    runs = runs_with(lr=[0.1, 1.0, 10.0], outcome=[outcome] * 3, steps=[5] * 3)
    (found,) = criticals_of(runs, layout_of(runs))
    assert (found.value, found.side, found.bound) == (None, side, bound)


def test_a_run_that_is_stable_again_is_counted_and_diverging_is_not_stable():
    outcomes = ["stalled", "diverged", "trained", "nan"]
    runs = runs_with(lr=[0.1, 1.0, 10.0, 100.0], outcome=outcomes, steps=[5] * 4)
    (found,) = criticals_of(runs, layout_of(runs))
    assert (found.low, found.high, found.mixed) == (0.1, 1.0, 1)


def test_of_very_many_rows_some_are_looked_at_evenly_and_the_ends_among_them():
    scales, rates = [float(i) for i in range(1, 502)], [0.1, 1.0, 10.0]
    rows = [(scale, rate) for scale in scales for rate in rates]
    runs = runs_with(
        init_scale=[scale for scale, _ in rows], lr=[rate for _, rate in rows],
        outcome=["trained" if rate < 1 else "nan" for _, rate in rows], steps=[5] * len(rows),
    )  # fmt: skip
    layout = layout_of(runs)
    assert (layout.x.name, layout.y.name) == ("lr", "init_scale")
    looked_at = [each.row for each in criticals_of(runs, layout)]
    assert len(looked_at) == MAX_ROWS
    assert (looked_at[0], looked_at[-1]) == (1.0, 501.0)
    assert set(np.diff(looked_at)) == {2.0, 3.0}


def test_measured_critical_values_hold_the_theory_of_the_quadratic():
    found = study("stable_learning_rate").criticals
    assert {each.row for each in found} == {"sgd", "momentum", "nesterov"}
    for each in found:
        assert each.low <= each.theory.value * (1 + 1e-9), each
        assert each.theory.value <= each.high * (1 + 1e-9), each


# ---- the answer ----


def test_the_quickstarts_answer_is_made_of_numbers_that_can_be_counted_by_hand():
    rows = rows_of("quickstart")
    bad = {row["run_id"] for row in rows if row["fault_step"]}
    nan = sum(row["outcome"] == "nan" for row in rows)
    pairs = {}
    for row in rows:
        key = (row["seed"], row["lr"], row["init_scale"])
        pairs.setdefault(key, {})[row["activation"]] = row["run_id"] in bad
    both = sum(pair["relu"] and pair["tanh"] for pair in pairs.values())
    relu = sum(pair["relu"] and not pair["tanh"] for pair in pairs.values())
    tanh = sum(pair["tanh"] and not pair["relu"] for pair in pairs.values())
    answer = answer_of(study("quickstart"))
    numbers = dict(answer.numbers)
    assert numbers["runs with an inf or a NaN"] == f"{len(bad)} of 720 (26 %)"
    assert numbers["runs that end in NaN"] == f"{nan} of 720 (25 %)"
    assert numbers["360 pairs that differ only in activation"] == (
        f"both fail in {both}, only relu in {relu}, only tanh in {tanh}"
    )
    shares = [round(100 * (both + only) / 360) for only in (relu, tanh)]
    assert answer.sentence == f"{shares[0]} % of runs fail with relu, {shares[1]} % with tanh."
    origins = Counter(
        (row["origin_mechanism"], row["origin_primitive"])
        for row in rows
        if row["origin_mechanism"]
    )
    (mechanism, primitive), n = origins.most_common(1)[0]
    share = f"{mechanism} in {primitive} ({round(100 * n / origins.total())} %)"
    assert numbers["first inf or NaN"].startswith(share)


def test_studies_with_a_theory_are_compared_with_it():
    answer = answer_of(study("tanh_critical_line"))
    assert "at theory's init_scale, within 1.5 %" in answer.sentence
    theory = [text.partition("theory ")[2] for name, text in answer.numbers if "growth" in name]
    assert theory == ["1", "1.327", "1.409", "1.686", "1.856"]
    answer = answer_of(study("gradient_descent"))
    assert "within the measured interval in 1 of 1 case" in answer.sentence
    numbers = dict(answer.numbers)
    assert numbers["largest stable learning rate"] == "from 2 to 2.01; theory 2"
    assert numbers["first inf or NaN"] == "overflow in mul (100 %)"
    assert numbers["first NaN"] == "inf-inf in add (100 %)"
    answer = answer_of(study("deep_relu"))
    assert answer.sentence == "The first layer to overflow is that of theory, within 3 layers."
    assert dict(answer.numbers)["first layer to overflow, float16, depth 20, init_scale = 2"] == (
        "14 (median, 13 to 15 over 10 runs); theory 16"
    )
    numbers = dict(answer_of(study("stable_learning_rate")).numbers)
    assert numbers["largest stable learning rate, momentum"] == "from 3.79 to 3.8; theory 3.8"


# ---- gradients and losses along curves ----


def gradients(rates, seeds=3, **columns):
    """Runs, and curves of gradients that grow by exp(rates(scale, seed)) a layer."""
    scales = columns.pop("init_scale", [0.5, 1.0, 2.0, 4.0, 8.0])
    points = [(seed, scale) for seed in range(seeds) for scale in scales]
    runs = runs_with(
        seed=[seed for seed, _ in points], init_scale=[scale for _, scale in points],
        outcome=["stalled"] * len(points), steps=[5] * len(points),
        **{name: [value] * len(points) for name, value in columns.items()},
    )  # fmt: skip
    rows = [
        (run_id, 0, "gradient_norm", f"Dense_{at}/bias", math.exp(rates(scale, seed) * at))
        for run_id, (seed, scale) in zip(runs["run_id"], points, strict=True)
        for at in range(13)
    ]
    names = ("run_id", "step", "observable", "layer", "value")
    return runs, pl.DataFrame(rows, schema=names, orient="row")


RELU = {"model": "mlp", "activation": "relu", "initializer": "normal_fan_in", "depth": 12,
        "norm": "none", "residual": False, "precision": "float32"}  # fmt: skip


@pytest.mark.parametrize(
    "rates, crossings, ends",
    [
        # Straight over ln(scale), through 0 at the root of 2: exact, whatever lies further away.
        (lambda scale, seed: math.log(math.sqrt(2) / scale), 1.41421356, (1.41421356,) * 2),
        # It bends: a line through all points would be 0 elsewhere.
        (lambda scale, seed: math.log(math.sqrt(2) / scale) - 0.3 * max(0, scale - 2), 1.41421356,
         (1.41421356,) * 2),
        # The seeds differ by 5 %.
        (lambda scale, seed: math.log(1.5 * 1.05 ** (seed - 1) / scale), 1.5, (1.5 / 1.05, 1.575)),
    ],
)  # fmt: skip
def test_a_crossing_is_interpolated_between_its_neighbors(rates, crossings, ends):
    runs, curves = gradients(rates, **RELU)
    (growth,) = growths_of(runs, curves, layout_of(runs))
    assert growth.crossing == pytest.approx(crossings)
    assert (growth.crossings[0], growth.crossings[-1]) == pytest.approx(ends)
    assert growth.seeds == 3 and growth.theory.value == pytest.approx(math.sqrt(2))


@pytest.mark.parametrize(
    "rates",
    [
        lambda scale, seed: -1 - scale,  # it explodes everywhere
        lambda scale, seed: 0.1,  # it vanishes everywhere
        lambda scale, seed: math.cos(3 * math.log(scale)),  # several crossings
        lambda scale, seed: math.log(1.5 / scale) if seed == 0 else 9.0,  # one seed of three
    ],
)
def test_no_crossing_is_reported_where_there_is_none(rates):
    runs, curves = gradients(rates, **RELU)
    (growth,) = growths_of(runs, curves, layout_of(runs))
    assert growth.crossing is None


def test_a_network_with_a_gradient_of_0_or_inf_has_no_growth():
    runs, curves = gradients(lambda scale, seed: 0.1, seeds=1, **RELU)
    for value in (0.0, None):
        bad = (pl.col("run_id") == runs["run_id"][0]) & (pl.col("layer") == "Dense_6/bias")
        changed = curves.with_columns(pl.when(bad).then(value).otherwise("value").alias("value"))
        (growth,) = growths_of(runs, changed, layout_of(runs))
        assert len(growth.values) == 4


@pytest.mark.parametrize("activation, bias, critical", [
    ("relu", 0.0, 2.0), ("relu", 1.0, 2.0), ("tanh", 0.0, 1.0), ("tanh", 1.0, 3.443)])  # fmt: skip
def test_critical_weights_are_those_of_gradients_and_not_of_overflow(activation, bias, critical):
    fixed = {**RELU, "activation": activation, "bias_initializer": "normal", "bias_scale": bias}
    assert critical_weights("init_scale", fixed).value ** 2 == pytest.approx(critical, abs=6e-4)
    he = critical_weights("init_scale", {**fixed, "initializer": "he_normal"})
    assert he.value**2 == pytest.approx(critical / 2, abs=6e-4)
    for other in ({"depth": 4}, {"norm": "layer"}, {"residual": True}, {"model": "cnn"}):
        assert critical_weights("init_scale", {**fixed, **other}) is None


def test_theory_beyond_the_data_is_told_in_words_and_stretches_no_axis(tmp_path):
    # The overflow rule for two layers is 2.6e19.
    scales, depths = [1.0, 2.0, 4.0], [2, 3]
    points = [(depth, scale) for depth in depths for scale in scales]
    runs = runs_with(
        depth=[d for d, _ in points], init_scale=[s for _, s in points], steps=[5] * 6,
        outcome=["trained", "trained", "nan"] * 2,
        **{n: [v] * 6 for n, v in RELU.items() if n != "depth"},
    ).with_columns(fault_step=pl.when(pl.col("outcome") == "nan").then(0),
                   blame_id=pl.lit(None, pl.String))  # fmt: skip
    layout = layout_of(runs)
    criticals = criticals_of(runs, layout)
    assert criticals[0].theory.value == pytest.approx(2.6e19, rel=0.01)
    analysis = replace(
        study("quickstart"), layout=layout, criticals=criticals, maps=maps_of(runs, layout)
    )
    said = caption(analysis, "critical")
    assert (
        "Not shown, since beyond the values that were run: theory's" in said and "2.609e19" in said
    )
    assert "Black: theory" not in said
    figure = Figure(figsize=(3.35, 2))
    draw_critical(figure, analysis)
    high = figure.axes[0].get_ylim()[1]
    assert high < 10


def test_theory_of_the_initial_state_is_not_compared_with_training():
    runs = runs_with(
        init_scale=[1.0, 2.0, 4.0], outcome=["trained", "nan", "nan"], steps=[50] * 3,
        **{n: [v] * 3 for n, v in RELU.items()},
    )  # fmt: skip
    for step, has in ((0, True), (17, False)):
        failed = runs.with_columns(fault_step=pl.Series([None, step, step], dtype=pl.Int64))
        (found,) = criticals_of(failed, layout_of(failed))
        assert (found.theory is not None) == has


def test_losses_are_medians_and_ranges_over_seeds_at_each_step():
    runs = runs_with(seed=[0, 1, 2] * 2, lr=[0.1] * 3 + [1.0] * 3, outcome=["trained"] * 6,
                     activation=["relu"] * 6, steps=[3] * 6)  # fmt: skip
    rng = np.random.default_rng(0)
    values = rng.uniform(0.1, 2.0, (6, 4))
    rows = [(run_id, step, "loss", "", None if (i, step) == (5, 3) else values[i, step])
            for i, run_id in enumerate(runs["run_id"]) for step in range(4)]  # fmt: skip
    curves = pl.DataFrame(rows, orient="row",
                          schema=("run_id", "step", "observable", "layer", "value"))  # fmt: skip
    ((title, lines),) = losses_of(runs, curves, layout_of(runs))
    assert title == "" and [line.label for line in lines] == ["lr = 0.1", "lr = 1"]
    for line, group in zip(lines, (values[:3], values[3:]), strict=True):
        kept = [group[:, step] if (len(group), step) != (3, 3) or line is lines[0]
                else group[:2, step] for step in range(4)]  # fmt: skip
        assert line.median.tolist() == pytest.approx([np.median(column) for column in kept])
        assert line.low.tolist() == pytest.approx([column.min() for column in kept])
        assert line.high.tolist() == pytest.approx([column.max() for column in kept])
    assert losses_of(runs, curves.clear(), layout_of(runs)) == []


@pytest.mark.parametrize(
    "rates",
    [
        [0.01, 0.1, 0.2, 5.0, 100.0, 1000.0],
        [1.0, 2.0, 3.0, 10.0],
        [0.5, 0.7, 1.0, 1.4, 2.8, 8.0],
    ],
)
def test_unequal_values_leave_no_gap_and_a_missing_point_does(rates):
    points = [(rate, scale) for scale in (0.1, 1.0, 30.0) for rate in rates]
    runs = runs_with(lr=[r for r, _ in points], init_scale=[s for _, s in points],
                     outcome=["trained"] * len(points), steps=[5] * len(points))  # fmt: skip
    runs = runs.with_columns(fault_step=pl.lit(None, pl.Int64), blame_id=pl.lit(None, pl.String))
    maps = maps_of(runs, layout_of(runs))
    left, right, bottom, top = maps.extent()
    area = sum((c.right - c.left) * (c.top - c.bottom) for c in maps.cells)
    assert area == pytest.approx((right - left) * (top - bottom))
    without = runs.filter((pl.col("lr") != rates[2]) | (pl.col("init_scale") != 1.0))
    maps = maps_of(without, layout_of(without))
    covered = sum((c.right - c.left) * (c.top - c.bottom) for c in maps.cells)
    assert covered < area * 0.999, "a point that was not run is no part of its neighbors"


def test_the_first_of_zipped_choices_names_the_axis_and_each_has_a_column():
    runs = runs_with(
        activation=["relu", "tanh"] * 4, initializer=["he_normal", "lecun_normal"] * 4,
        lr=[0.1, 0.1, 1.0, 1.0, 2.0, 2.0, 9.0, 9.0], outcome=["trained"] * 8, steps=[5] * 8,
    )  # fmt: skip
    runs = runs.with_columns(fault_step=pl.lit(None, pl.Int64), blame_id=pl.lit(None, pl.String))
    layout = layout_of(runs)
    assert layout.y.name == "activation" and layout.tied == {"initializer": "activation"}
    results = replace(study("quickstart").results, runs=runs)
    analysis = replace(study("quickstart"), layout=layout, results=results)
    head, rows, _ = CONTENTS["outcomes"](analysis)
    assert head[:2] == ["activation", "initializer"]
    assert [row[:2] for row in rows[:2]] == [["relu", "he_normal"], ["tanh", "lecun_normal"]]


@each_study
def test_every_study_is_answered_in_one_short_sentence(folder):
    answer = answer_of(study(folder))
    sentence = answer.sentence
    assert sentence[0].isupper() or sentence[0].isdigit()
    assert sentence.endswith(".") and len(sentence.split()) <= 30
    assert "  " not in sentence and "None" not in sentence.replace("None of", "")
    assert all(name and text for name, text in answer.numbers)


@each_study
def test_instructive_runs_are_ten_different_ones_at_most_and_are_of_the_study(folder):
    analysis = study(folder)
    ids = [each.row["run_id"] for each in analysis.instructive]
    assert len(set(ids)) == len(ids) <= 10
    assert set(ids) <= set(analysis.runs["run_id"])
    assert all(each.why.endswith(".") for each in analysis.instructive)


def test_the_edge_is_two_runs_one_step_of_the_axis_apart():
    edge, other = study("quickstart").instructive[:2]
    assert (edge.row["outcome"], other.row["outcome"]) == ("trained", "nan")
    rates = sorted(study("quickstart").runs["lr"].unique())
    assert rates.index(other.row["lr"]) == rates.index(edge.row["lr"]) + 1
    assert all(edge.row[name] == other.row[name] for name in ("seed", "init_scale", "activation"))


# ---- words, ticks, colors ----


@pytest.mark.parametrize(
    "value, told",
    [(0.0031622776, "0.00316"), (1e38, "1e38"), (2.5e-7, "2.5e-7"), (1200, "1,200"), (True, "true"),
     (0.0, "0"), (-1000.0, "-1,000"), (12345.0, "12,300"), ("relu", "relu"), (None, "none")],
)  # fmt: skip
def test_numbers_are_written_in_one_way(value, told):
    assert number(value) == told


def test_shares_are_never_rounded_to_none_or_all():
    assert [percent(k, 1000) for k in (0, 1, 255, 999, 1000)] == [
        "0 %", "under 1 %", "26 %", "over 99 %", "100 %",
    ]  # fmt: skip
    assert listed(["a", "b", "c"]) == "a, b and c"
    assert exact(3.1622776601683795) == "3.162"


@pytest.mark.parametrize(
    "low, high", [(-3.0, 1.0), (-4.0, 2.0), (0.0, 0.85), (0.0, 38.0), (-0.2, 0.35)]
)
def test_ticks_of_a_logarithmic_axis_stand_where_their_labels_say(low, high):
    found = ticks_between(low, high, "log", 6)
    assert 2 <= len(found) <= 7
    for at, label in found:
        assert low - 1e-9 <= at <= high + 1e-9
        assert math.log10(float(label)) == pytest.approx(at)


def test_ticks_of_a_linear_axis_stand_where_their_labels_say():
    assert ticks_between(0.0, 1.0, "linear", 6) == [
        (0.0, "0"), (0.2, "0.2"), (0.4, "0.4"), (pytest.approx(0.6), "0.6"), (0.8, "0.8"),
        (1.0, "1"),
    ]  # fmt: skip


# Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB.
BLINDNESS = {
    "none": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                   [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                     [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
                   [0.004733, 0.691367, 0.303900]],
}  # fmt: skip


def lab(color, blindness):
    """CIE 1976 L*a*b* of a color as it is seen, D65."""
    parts = np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    seen = np.clip(np.asarray(BLINDNESS[blindness]) @ linear, 0, 1)
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x, y, z = xyz @ seen / np.array([0.9505, 1.0, 1.089])
    f = [np.cbrt(v) if v > 0.008856 else 7.787 * v + 16 / 116 for v in (x, y, z)]
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("blindness", BLINDNESS)
def test_outcomes_are_told_apart_by_people_with_any_color_blindness(blindness):
    seen = {name: lab(COLORS[name], blindness) for name in list(Outcome)}
    for i, a in enumerate(list(Outcome)):
        for b in list(Outcome)[i + 1 :]:
            # 2.3 is a difference that is just noticed; patches side by side want much more.
            assert np.linalg.norm(seen[a] - seen[b]) > 16, (a, b)


# ---- folders that hold nothing to report on ----


def test_a_folder_without_results_is_answered_with_a_sentence(tmp_path):
    with pytest.raises(ReportError, match=r"nowhere: there is no such folder"):
        read_results(tmp_path / "nowhere")
    with pytest.raises(ReportError, match=r"this is no results folder"):
        read_results(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(ReportError, match=r"manifest.json: it cannot be read"):
        read_results(tmp_path)
    (tmp_path / "manifest.json").write_text('{"files": {}}')
    with pytest.raises(ReportError, match=r"manifest.json: it is damaged: title is missing"):
        read_results(tmp_path)


def test_tables_that_somebody_changed_are_told_of(tmp_path):
    for path in (RESULTS / "gradient_descent").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert read_results(tmp_path).notes == ()
    # The report does not read runs.csv.
    (tmp_path / "runs.csv").write_text("changed")
    (note,) = read_results(tmp_path).notes
    assert note.startswith("runs.csv was changed after the study")
    runs = pl.read_parquet(tmp_path / "runs.parquet")
    runs.head(20).write_parquet(tmp_path / "runs.parquet")
    with pytest.raises(ReportError, match=r"runs.parquet was changed after the study"):
        read_results(tmp_path)
