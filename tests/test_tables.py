"""Results of runs -> tables that any reader of Parquet and CSV understands in the same way."""

import csv
import json
import math
from collections import Counter

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from nanlab.blame.site import Site
from nanlab.blame.vocabulary import Mechanism, Phase
from nanlab.grid import load_grid
from nanlab.grid.parameters import PARAMETERS
from nanlab.plan.plan import make_plan
from nanlab.results import frames as tables
from nanlab.results.files import parquet_bytes, write_atomically
from nanlab.results.runs_table import RunsTable, categorical_columns
from nanlab.results.streaming import write_tables

pytestmark = pytest.mark.smoke

# Two problems, so that parameters of one are nothing in the other; a column of two types; a bool.
GRID = """\
[run]
task = "breast_cancer"
steps = 20

[axes]
standardize = [true, false]
batch_size = [8, "full"]
lr = [0.1, 1.0, 1e30]

[[include]]
problem = "quadratic"
steps = 300
lr = [0.5, 2.5, 3.0]
curvature = 2.0
"""

# As issue 2 lists them; between group_id and outcome stand the parameters.
ENDS = [
    "outcome",
    "fault_step",
    "nan_step",
    "steps",
    "initial_loss",
    "best_loss",
    "final_loss",
    "final_accuracy",
    "grad_norm_max",
    "nonfinite_gradient_steps",
    "origin_primitive",
    "origin_phase",
    "origin_module",
    "origin_source",
    "origin_library",
    "origin_function",
    "origin_mechanism",
    "culprit_primitive",
    "culprit_phase",
    "culprit_module",
    "culprit_source",
    "culprit_library",
    "culprit_function",
    "culprit_mechanism",
    "blame_id",
    "blame_status",
    "witness",
]
SHARED = [
    "problem", "precision", "seed", "optimizer", "lr", "schedule", "clip", "apply_if_finite",
    "trained_margin", "diverged_factor",
]  # fmt: skip
OF_TRAINING = [
    "task", "standardize", "input_scale", "train_examples", "model", "depth", "width",
    "activation", "residual", "norm", "initializer", "init_scale", "bias_initializer", "loss",
    "batch_size", "loss_scaling", "parameter_precision", "matmul_precision",
]  # fmt: skip
OF_QUADRATIC = ["curvature", "x0"]


def finding(primitive, mechanism, *, iterations=(), **others):
    # A file, a function and a module with all that CSV has to quote, and a module that is empty.
    told = {
        "phase": "forward",
        "module": "",
        "source": 'my "net", v2.py:3',
        "library": "",
        "function": "<lambda>",
    }
    told |= others
    told["phase"] = Phase(told["phase"])
    return Site(primitive=primitive, mechanism=Mechanism(mechanism), iterations=iterations, **told)


OVERFLOW = finding("exp", "overflow", module="MLP/Dense_0", library="flax/linen/linear.py:287")
MINUS = finding("sub", "inf-inf", phase="backward", iterations=(2, 0))
LATER = finding("sub", "inf-inf", phase="backward", iterations=(3, 0))

# What becomes of the runs, in the grid's order, over and over: outcome, steps, blame, status.
FATES = [
    ("trained", None, None, None, None, None),
    ("nan", 3, 5, OVERFLOW, MINUS, "reproduced"),
    ("inf", 7, None, OVERFLOW, None, "reproduced"),
    ("nan", 0, 0, MINUS, MINUS, "compiled-only"),
    ("nan", -1, -1, LATER, LATER, "reproduced"),
    ("recovered", 2, None, OVERFLOW, None, "compiled-only"),
    ("nan", 4, 5, OVERFLOW, MINUS, "reproduced"),
    ("nan", 4, 4, None, None, "compiled-only"),
    ("diverged", None, None, None, None, None),
]


def plan_of(text, folder):
    path = folder / "grid.toml"
    path.write_text(text, encoding="utf-8")
    return make_plan(load_grid(path))


def results_of(plan):
    """Rows of RESULT that are made up, and say everything that a row can say."""
    fates = [FATES[i % len(FATES)] for i in range(len(plan))]
    rows = {name: [] for name in tables.RESULT}
    for number, (outcome, fault, nan, origin, culprit, status) in enumerate(fates):
        row = {
            "run_id": str(plan.run_ids[number]),
            "outcome": outcome,
            "fault_step": fault,
            "nan_step": nan,
            "initial_loss": 0.1 + number,
            "best_loss": 1 / 3 if fault != 0 else math.nan,
            "final_loss": 1.7976931348623157e308 if fault != 0 else math.nan,
            "final_accuracy": math.nan,
            "grad_norm_max": math.inf if fault == 0 else 5e-324,
            "nonfinite_gradient_steps": number % 3,
            **tables.site_columns("origin", origin),
            **tables.site_columns("culprit", culprit),
            "blame_status": status,
        }
        for name, value in row.items():
            rows[name].append(value)
    return tables.result_frame(rows)


def made(plan, results, words=()):
    results = tables.with_blame_ids(results)
    blames = tables.blames_frame(results)
    said = {
        blame_id: {"origin_witness": word, "culprit_witness": None}
        for blame_id, word in zip(blames["blame_id"], words, strict=False)
    }
    blames = tables.with_witnesses(blames, said)
    return RunsTable(plan).frame(results, blames), blames


@pytest.fixture
def study(tmp_path):
    """Plan, runs and blames of the made-up study, and the folder that they are written to."""
    plan = plan_of(GRID, tmp_path)
    runs, blames = made(plan, results_of(plan), ["agrees", "sees-less"])
    folder = tmp_path / "results"
    folder.mkdir()
    write_tables(folder, runs.__getitem__, runs.height, blames, csv_runs=100)
    return plan, runs, blames, folder


@pytest.mark.parametrize(
    "text, parameters",
    [
        ('[run]\nproblem = "quadratic"\n[axes]\nlr = [1.0, 2.0]', [*SHARED, *OF_QUADRATIC]),
        ("[axes]\nlr = [1.0, 2.0]", [*SHARED, *OF_TRAINING]),
        (GRID, [*SHARED, *OF_TRAINING, *OF_QUADRATIC]),
    ],
    ids=["quadratic", "training", "both"],
)
def test_the_table_of_runs_has_a_column_for_each_parameter_that_some_run_uses(
    text, parameters, tmp_path
):
    plan = plan_of(text, tmp_path)
    runs, _ = made(plan, results_of(plan))
    assert runs.columns == ["run_id", "group_id", *parameters, *ENDS]


def test_every_column_has_its_type_in_parquet_whatever_it_holds(study, tmp_path):
    _, _, _, folder = study
    types = dict(pl.read_parquet_schema(folder / "runs.parquet"))
    text = {"run_id", "group_id", "outcome", "blame_id", "blame_status", "witness"}
    text |= {name for name, each in PARAMETERS.items() if each.kinds == (str,)}
    # "full" stands in it.
    text |= {"batch_size"} | {name for name in ENDS if name.startswith(("origin_", "culprit_"))}
    whole = {"fault_step", "nan_step", "nonfinite_gradient_steps"}
    whole |= {name for name, each in PARAMETERS.items() if each.kinds == (int,)}
    for name, kind in types.items():
        expected = pl.String if name in text else pl.Int64 if name in whole else pl.Float64
        is_switch = name in PARAMETERS and PARAMETERS[name].kinds == (bool,)
        assert kind == (pl.Boolean if is_switch else expected), name
    # The same where nothing failed at all, and a column holds nothing but nulls.
    calm = plan_of('[run]\nproblem = "quadratic"\n[axes]\nlr = [1.0]', tmp_path)
    runs, _ = made(calm, results_of(calm))
    assert {n: k for n, k in runs.schema.items() if n in ENDS} == {n: types[n] for n in ENDS}


def test_rows_stand_in_the_grids_order_and_say_what_was_asked(study):
    plan, runs, _, _ = study
    assert runs["run_id"].to_list() == plan.run_ids.tolist()
    in_order = [(True, "8", 0.1), (True, "8", 1.0), (True, "8", 1e30), (True, "full", 0.1)]
    assert runs.select("standardize", "batch_size", "lr").rows()[:4] == in_order
    groups = {str(plan.run_ids[run]): g.group_id for g in plan.groups for run in g.runs}
    assert dict(runs.select("run_id", "group_id").rows()) == groups
    quadratic = runs.filter(pl.col("problem") == "quadratic")
    assert quadratic["curvature"].to_list() == [2.0, 2.0, 2.0]
    assert quadratic.select(OF_TRAINING).null_count().sum_horizontal().item() == 3 * len(
        OF_TRAINING
    )
    assert runs.filter(pl.col("problem") == "training")["curvature"].null_count() == 12


def test_rows_come_out_the_same_in_whatever_order_the_results_come(study, tmp_path):
    plan, runs, blames, _ = study
    results = tables.with_blame_ids(results_of(plan))
    shuffled = results.sample(fraction=1.0, shuffle=True, seed=1)
    assert_frame_equal(RunsTable(plan).frame(shuffled, blames), runs)


def test_no_table_holds_a_float_nan_or_inf(study):
    _, runs, _, folder = study
    floats = runs.select(pl.col(pl.Float64))
    assert floats.select(pl.all().is_finite().all()).row(0) == (True,) * floats.width
    # Where a number is not finite, nothing is said: fate 3 has no loss, and a gradient of inf.
    assert runs.row(3, named=True)["final_loss"] is None
    assert runs.row(3, named=True)["grad_norm_max"] is None
    assert runs["final_accuracy"].null_count() == runs.height
    with (folder / "runs.csv").open(newline="", encoding="utf-8") as lines:
        cells = [
            (name, cell.lower()) for row in csv.DictReader(lines) for name, cell in row.items()
        ]
    # Both words are outcomes, and stand in no other column.
    words = {"nan", "inf", "+inf", "-inf", "infinity"}
    assert {(name, cell) for name, cell in cells if cell in words} == {
        ("outcome", "nan"), ("outcome", "inf")
    }  # fmt: skip


READ = {
    pl.String: str,
    pl.Int64: int,
    pl.Float64: float,
    pl.Boolean: {"true": True, "false": False}.__getitem__,
}


def test_the_csv_says_what_the_parquet_says_to_pythons_own_reader(study):
    _, _, _, folder = study
    parquet = pl.read_parquet(folder / "runs.parquet")
    with (folder / "runs.csv").open(newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    assert list(rows[0]) == parquet.columns
    for row, expected in zip(rows, parquet.iter_rows(named=True), strict=True):
        for name, cell in row.items():
            # To Python's reader an empty text and nothing at all are the same.
            value = READ[parquet.schema[name]](cell) if cell else None
            assert value == (expected[name] or value), (name, cell)
            assert cell or expected[name] in (None, ""), name


def test_the_csvs_tell_an_empty_text_from_nothing_and_lose_no_digit(study):
    _, runs, blames, folder = study
    read = pl.read_csv(folder / "runs.csv", schema=runs.schema)
    assert_frame_equal(read, runs, check_exact=True)
    assert_frame_equal(tables.read_blames(folder / "blames.csv"), blames, check_exact=True)
    assert {"", None} <= set(read["origin_module"])
    assert {"", "2;0", "3;0", None} <= set(blames["culprit_iterations"]) | {""}


def test_blames_are_counted_as_the_table_of_runs_has_them(study):
    _, runs, blames, _ = study
    failed = [row for row in runs.iter_rows(named=True) if row["blame_id"] is not None]
    assert Counter(row["blame_id"] for row in failed) == Counter(
        dict(blames.select("blame_id", "runs").rows())
    )
    reproduced = Counter(r["blame_id"] for r in failed if r["blame_status"] == "reproduced")
    assert dict(blames.select("blame_id", "reproduced").rows()) == {
        blame_id: reproduced[blame_id] for blame_id in blames["blame_id"]
    }
    sizes = blames["runs"].to_list()
    assert sizes == sorted(sizes, reverse=True), "most frequent first"
    for row in blames.iter_rows(named=True):
        first = next(run for run in failed if run["blame_id"] == row["blame_id"])
        assert row["example_run"] == first["run_id"], "the first in the grid's order"
        told = [name for name in ENDS if name.startswith(("origin_", "culprit_"))]
        assert {n: row[n] for n in told} == {n: first[n] for n in told}
        assert row["witness"] == first["witness"]


def test_a_blame_is_told_from_another_by_its_loop_iteration_alone(study):
    _, _, blames, _ = study
    in_loops = blames.filter(pl.col("origin_mechanism") == "inf-inf")
    assert sorted(in_loops["origin_iterations"]) == ["2;0", "3;0"]
    assert blames["blame_id"].n_unique() == blames.height == 4
    assert all(len(i) == 8 and int(i, 16) >= 0 for i in blames["blame_id"])


def test_a_blames_id_does_not_depend_on_the_study_it_is_in(study, tmp_path):
    _, _, blames, _ = study
    other = plan_of('[run]\nproblem = "quadratic"\n[axes]\nlr = {range = 40}', tmp_path)
    _, same = made(other, results_of(other))
    assert set(same["blame_id"]) == set(blames["blame_id"])


def test_a_failed_run_that_nothing_is_found_of_has_a_status_and_no_blame(study):
    _, runs, _, _ = study
    row = runs.row(7, named=True)
    assert (row["outcome"], row["blame_status"]) == ("nan", "compiled-only")
    assert (row["blame_id"], row["origin_primitive"], row["witness"]) == (None, None, None)


@pytest.mark.parametrize(
    "origin, culprit, worst",
    [
        ("agrees", None, "agrees"),
        ("agrees", "agrees", "agrees"),
        ("agrees", "sees-less", "sees-less"),
        ("earlier-benign", "agrees", "earlier-benign"),
        ("disagrees", "not-reproduced", "disagrees"),
        (None, None, "not-asked"),
    ],
)
def test_the_witness_of_a_run_is_the_worse_of_its_two(origin, culprit, worst, tmp_path):
    plan = plan_of(GRID, tmp_path)
    blames = tables.blames_frame(tables.with_blame_ids(results_of(plan)))
    first, *others = blames["blame_id"]
    words = {first: {"origin_witness": origin, "culprit_witness": culprit}}
    told = tables.with_witnesses(blames, words)
    assert told.filter(pl.col("blame_id") == first)["witness"].to_list() == [worst]
    assert set(told.filter(pl.col("blame_id").is_in(others))["witness"]) == {"not-asked"}


def test_finished_tables_give_back_the_rows_that_they_were_made_of(study):
    plan, _, _, folder = study
    runs = pl.read_parquet(folder / "runs.parquet")
    back = tables.results_of_runs(runs, tables.read_blames(folder / "blames.csv"))
    # The iterations of a run without a blame are nothing, as they were.
    assert_frame_equal(back, results_of(plan), check_exact=True, check_row_order=False)


def test_runs_that_crashed_have_an_outcome_and_nothing_else(tmp_path):
    plan = plan_of('[run]\nproblem = "quadratic"\n[axes]\nlr = [1.0, 2.0]', tmp_path)
    runs, blames = made(plan, tables.crashed_frame(plan.run_ids.tolist()))
    assert runs["outcome"].to_list() == ["crashed", "crashed"]
    said = [name for name in ENDS if name not in ("outcome", "steps")]
    assert runs.select(said).null_count().row(0) == (2,) * len(said)
    assert blames.height == 0


def test_a_study_without_failures_has_a_table_of_blames_that_is_empty(tmp_path):
    plan = plan_of('[run]\nproblem = "quadratic"\n[axes]\nlr = [1.0]', tmp_path)
    runs, blames = made(plan, results_of(plan))
    write_tables(tmp_path, runs.__getitem__, runs.height, blames, csv_runs=100)
    read = tables.read_blames(tmp_path / "blames.csv")
    assert read.height == 0
    assert read.columns == blames.columns
    back = tables.results_of_runs(runs, read)
    assert_frame_equal(back, results_of(plan), check_exact=True)


@pytest.mark.parametrize("limit, has_csv", [(15, True), (14, False)])
def test_a_large_study_has_no_csv_and_the_old_one_goes(limit, has_csv, study):
    _, runs, blames, folder = study
    assert runs.height == 15
    written = write_tables(folder, runs.__getitem__, runs.height, blames, csv_runs=limit)
    assert ("runs.csv" in written) is (folder / "runs.csv").exists() is has_csv
    assert {"runs.parquet", "blames.csv"} <= set(written)


def test_the_same_tables_are_the_same_bytes(study, tmp_path):
    plan, _, _, folder = study
    runs, blames = made(plan, results_of(plan), ["agrees", "sees-less"])
    write_tables(tmp_path, runs.__getitem__, runs.height, blames, csv_runs=100)
    for name in ("runs.parquet", "runs.csv", "blames.csv"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes(), name


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "table.csv"
    write_atomically(path, lambda p: p.write_text("old"))

    def half(partial):
        partial.write_text("ne")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, half)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["table.csv"]


def test_the_columns_that_a_study_is_looked_at_by_are_its_few_words(tmp_path):
    plan = plan_of(GRID, tmp_path)
    # lr is a number, batch_size is in part, and depth does not vary.
    assert list(categorical_columns(plan)) == ["problem", "standardize"]


def test_a_finding_is_written_as_text_that_json_and_csv_can_hold():
    columns = tables.site_columns("culprit", MINUS)
    assert columns["culprit_iterations"] == "2;0"
    assert json.loads(json.dumps(columns)) == columns
    assert set(tables.site_columns("culprit", None).values()) == {None}
    assert np.all([isinstance(value, str) for value in columns.values()])


def test_what_is_written_may_be_held_by_an_exception():
    # A view of a BytesIO that is part of a reference cycle crashed the collector of Python 3.12.
    assert type(parquet_bytes(pl.DataFrame({"x": [1.0]}))) is bytes
