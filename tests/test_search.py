"""[search] and [refine] against the full grid that they sample: the same answer, far fewer runs.

The outcomes of most tests here are those of a formula, so that full grids of a million runs are
cheap; `test_search_runs.py` trains.
"""

import tempfile
from bisect import bisect_left
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanlab.grid import GridError, load_grid
from nanlab.grid.axes import POINT_LIMIT, Linspace, Logspace
from nanlab.grid.scale import Scale, subdivisions
from nanlab.grid.search import FINDS, searched_axes
from nanlab.plan.bisection import LANES, halvings_a_round
from nanlab.plan.plan import make_plan
from nanlab.plan.rounds import Rounds, bounds, finished_plan
from nanlab.results.schema import BOUNDARIES, CELLS
from nanlab.results.search_tables import write_search_tables

pytestmark = pytest.mark.smoke


def grid_of(text):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "grid.toml")
        path.write_text(text, encoding="utf-8")
        return load_grid(path)


VARIED = ("optimizer", "curvature", "lr", "momentum")


def study_of(text, word_of, folder=None):
    """The rounds of a grid whose runs end as `word_of` their point says.

    Returns:
        The last plan, the runs as a table, the rounds, and their table.
    """
    grid = grid_of(text)
    plan = make_plan(grid)
    rounds, words = Rounds(grid, plan), {}
    while plan is not None:
        names = [name for name in VARIED if name in plan.columns]
        columns = [plan.columns[name].tolist() for name in names]
        new = set(plan.run_ids) - set(words)
        assert len(new) == rounds.n_new[-1] > 0
        for run_id, *values in zip(plan.run_ids.tolist(), *columns, strict=True):
            if run_id in new:
                words[run_id] = word_of(dict(zip(names, values, strict=True)))
        endings = {"run_id": list(words), "outcome": list(words.values())}
        plan = rounds.after(pl.DataFrame(endings))
    results = pl.DataFrame(endings)
    assert rounds.plan().run_ids.tolist() == list(words)
    with tempfile.TemporaryDirectory() as scratch:
        name, _ = write_search_tables(rounds, folder or Path(scratch), results)
        table = pl.read_parquet(Path(folder or scratch, name))
    return rounds.plan(), results, rounds, table


# ---- the numbers between ----


@settings(max_examples=60)
@given(
    st.floats(1e-6, 1e3), st.floats(1.01, 1e6), st.integers(2, 9), st.integers(1, 40), st.booleans()
)
def test_a_number_between_is_that_of_the_finer_axis_to_the_bit(first, ratio, num, cut, is_log):
    ends = [first, first * ratio]
    form, name = (Logspace, "logspace") if is_log else (Linspace, "linspace")
    coarse = form(**{name: ends, "num": num})
    finer = form(**{name: ends, "num": (num - 1) * cut + 1})
    text = f'[axes]\nlr = {{ {name} = {ends}, num = {num} }}\n[search]\naxis = "lr"\n'
    kind = "log" if is_log else "linear"
    scale = Scale(coarse, kind)
    width = min(scale.widths) / (cut - 0.5)
    grid = grid_of(text + f"tolerance = {width!r}\n")
    (direction,) = searched_axes(grid.document.refinement, grid.document.axes)
    assert direction.scale.kind == kind
    assert [direction.number(i) for i in range(direction.coarse[-1] + 1)] == [
        float(value) for value in finer.values()
    ]


def test_a_step_of_half_a_decade_holds_fifty_hundredths():
    scale = Scale(Logspace(logspace=[1e-4, 1.0], num=9), "log")
    assert scale.widths == (0.5,) * 8
    assert {subdivisions(width, 0.01) for width in scale.widths} == {50}
    assert [subdivisions(1.0, tolerance) for tolerance in (2.0, 1.0, 0.99, 0.3)] == [1, 1, 2, 4]


def test_a_list_is_cut_as_its_values_stand():
    grid = grid_of('[axes]\nlr = [0.1, 0.2, 1.0]\n[search]\naxis = "lr"\ntolerance = 0.1')
    (log,) = searched_axes(grid.document.refinement, grid.document.axes)
    assert log.subdivisions == (4, 7)
    assert log.number(2) == pytest.approx(0.1 * 2**0.5, rel=1e-15)
    grid = grid_of(
        '[axes]\nlr = [0.1, 0.2, 1.0]\n[search]\naxis = "lr"\ntolerance = 0.1\nscale = "linear"'
    )
    (linear,) = searched_axes(grid.document.refinement, grid.document.axes)
    assert [linear.number(i) for i in range(10)] == [
        0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0,
    ]  # fmt: skip


# ---- along one axis ----

COARSE = 9
AXIS = """\
[run]
problem = "quadratic"
[axes]
lr = { logspace = [1e-4, 1.0], num = 9 }
curvature = { range = [1, 11] }
[search]
axis = "lr"
"""
FULL = Logspace(logspace=[1e-4, 1.0], num=401).values()


def islands(point, edges):
    """Trained below the first edge, failing up to the second, and so on."""
    return "trained" if bisect_left(edges, point["lr"]) % 2 == 0 else "nan"


edges_of_points = st.lists(
    st.lists(st.floats(5e-5, 2.0), max_size=5).map(sorted), min_size=10, max_size=10
)


@settings(max_examples=25)
@given(edges_of_points, st.sampled_from(FINDS))
def test_every_crossing_of_the_coarse_pass_ends_at_a_crossing_of_the_full_grid(edges, finds):
    def word_of(point):
        return islands(point, edges[int(point["curvature"]) - 1])

    _, results, rounds, table = study_of(f'{AXIS}finds = "{finds}"', word_of)
    wanted = finds.endswith("trains")
    for number, point in enumerate(edges):
        full = [islands({"lr": lr}, point) == "trained" for lr in FULL]
        changes = [
            (low, high) for (low, a), (high, b) in pairwise(zip(FULL, full, strict=True)) if a != b
        ]
        coarse = full[::50]
        rows = table.filter(pl.col("curvature") == number + 1)
        crossings = rows.filter(pl.col("crossing") > 0)
        assert crossings["crossing"].to_list() == list(range(1, crossings.height + 1))
        assert crossings.height == sum(a != b for a, b in pairwise(coarse))
        assert rows["crossings"].to_list() == [crossings.height] * rows.height
        for row in crossings.iter_rows(named=True):
            assert (row["lower"], row["upper"]) in changes
            assert row["coarse_lower"] <= row["lower"] < row["upper"] <= row["coarse_upper"]
            assert row["width"] == pytest.approx(0.01, rel=1e-9) and row["within_tolerance"]
            assert (row["trains"] == "below") == (row["lower_outcome"] == "trained")
            assert {row["lower_outcome"], row["upper_outcome"]} == {"trained", "nan"}
            assert row["runs"] <= 9 or row["answer"]
            inside = [c for c in changes if row["coarse_lower"] <= c[0] < row["coarse_upper"]]
            assert row["seen"] in range(1, len(inside) + 1, 2)
        assert rows["answer"].sum() == 1
        assert rows["only"].all() == (rows.height == 1)
        simple = [sum(a <= c[0] < b for c in changes) < 2 for a, b in pairwise(FULL[::50])]
        if all(simple):
            row = rows.filter("answer").row(0, named=True)
            found = [lr for lr, trains in zip(FULL, full, strict=True) if trains == wanted]
            expected = (max if finds.startswith("largest") else min)(found, default=None)
            if row["value"] is None:
                end = FULL[-1] if finds.startswith("largest") else FULL[0]
                assert expected in (None, end)
                assert (row["lower"] is None) != (row["upper"] is None)
            else:
                assert row["value"] == expected
    assert sum(rounds.n_new) == results.height
    assert rounds.summary()["search"]["runs"] == results.height
    assert rounds.summary()["search"]["full_grid_runs"] == 10 * 401


def test_one_crossing_a_point_takes_a_tenth_of_the_runs_at_a_hundredth():
    def word_of(point):
        return "trained" if point["lr"] < 2.0 / point["curvature"] / 30 else "diverged"

    _, results, rounds, table = study_of(AXIS, word_of)
    assert table.height == 10 and table["only"].all()
    assert ((table["lower"] < 2 / table["curvature"] / 30) & table["within_tolerance"]).all()
    assert results.height * 16 < rounds.summary()["search"]["full_grid_runs"]
    # Half a decade in 50 steps is six halvings, and five runs at most are made beyond.
    assert table["runs"].max() <= 9 + 5 and len(rounds.n_new) == 5
    assert (table["seen"] == 1).all()


@pytest.mark.parametrize("finds", FINDS)
def test_a_ragged_boundary_is_seen_and_the_answer_sought_further_out(finds):
    wanted = finds.endswith("trains")
    inward, outward = ("trained", "nan") if wanted else ("nan", "trained")

    def word_of(point):
        # A dozen islands of 0.015 decades beyond 1e-2, elsewhere for each point.
        x = np.log10(point["lr"]) + 2.0
        beyond = x if finds.startswith("largest") else -x
        is_island = (
            0.05 < beyond < 0.42 and int(beyond / 0.015 + 0.37 * point["curvature"]) % 2 == 0
        )
        return inward if beyond < 0.05 or is_island else outward

    _, results, rounds, table = study_of(f'{AXIS}finds = "{finds}"', word_of)
    assert table.height == 10 and (table["seen"] > 1).sum() >= 7
    distance = (table["value"].log10() + 2.0).abs()
    assert (distance > 0.2).sum() >= 7, "far beyond where the boundary begins"
    assert table["within_tolerance"].all()
    assert results.height * 10 < rounds.summary()["search"]["full_grid_runs"]


def test_many_crossings_are_halved_one_run_at_a_time_and_few_fill_a_block():
    assert halvings_a_round(1, 6) == halvings_a_round(LANES // 3, 6) == 2
    assert halvings_a_round(LANES // 3 + 1, 6) == 1 or LANES // 3 + 1 <= LANES // 2
    assert halvings_a_round(LANES, 6) == halvings_a_round(10 * LANES, 6) == 1
    assert halvings_a_round(5, 1) == 1
    many = AXIS.replace("{ range = [1, 11] }", "{ linspace = [1, 3], num = 64 }")
    _, _, rounds, table = study_of(
        many, lambda p: ("trained", "nan")[p["lr"] * p["curvature"] > 0.1]
    )
    assert 6 <= table["runs"].max() <= 6 + 5 and table.height == 64
    assert rounds.n_new[1:6] == [64] * 5


def test_what_counts_as_training_is_the_grids_to_say():
    def word_of(point):
        return "trained" if point["lr"] < 1e-3 else "stalled" if point["lr"] < 0.1 else "inf"

    strict = study_of(AXIS, word_of)[3]
    lenient = study_of(f'{AXIS}trains = ["trained", "stalled"]', word_of)[3]
    assert strict["upper_outcome"].unique().to_list() == ["stalled"]
    assert lenient["upper_outcome"].unique().to_list() == ["inf"]
    assert strict["value"].unique().to_list() == [FULL[99]]
    assert lenient["value"].unique().to_list() == [FULL[299]]


def test_a_linear_axis_and_a_coarse_pass_of_its_own():
    text = """
[run]
problem = "quadratic"
[axes]
momentum = { linspace = [-0.5, 1.5], num = 2 }
[search]
axis = "momentum"
tolerance = 0.001
coarse = 5
"""
    _, results, rounds, table = study_of(
        text, lambda p: "trained" if p["momentum"] < 0.7321 else "nan"
    )
    row = table.row(0, named=True)
    assert (row["coarse_lower"], row["coarse_upper"]) == (0.5, 1.0)
    assert (row["lower"], row["upper"], row["value"]) == (0.732, 0.733, 0.732)
    assert (
        row["width"] == pytest.approx(0.001)
        and rounds.summary()["search"]["full_grid_runs"] == 2001
    )
    assert results.height <= 5 + 14 + 8


def test_a_crashed_run_leaves_its_crossing_wide_and_says_so():
    plan, _, _, _ = study_of(AXIS, lambda p: ("trained", "nan")[p["lr"] > 0.02])
    coarse = make_plan(grid_of(AXIS))
    lost = {plan.point(i)["lr"] for i in range(len(coarse), len(coarse) + 3)}

    def word_of(point):
        return "crashed" if point["lr"] in lost else ("trained", "nan")[point["lr"] > 0.02]

    table = study_of(AXIS, word_of)[3]
    assert not table["within_tolerance"].any()
    assert set(table["lower_outcome"]) == {"trained"} and set(table["upper_outcome"]) == {"nan"}
    assert (table["width"] > 0.1).all()


def test_what_is_excluded_is_not_run_and_leaves_a_gap():
    excluded = AXIS.replace(
        "[search]", "[[exclude]]\nlr = { gt = 1e-3, lt = 0.05 }\ncurvature = 1\n"
        "[[exclude]]\ncurvature = 2\n[search]",
    )  # fmt: skip
    plan, _, rounds, table = study_of(excluded, lambda p: ("trained", "nan")[p["lr"] > 0.01])
    assert table["curvature"].to_list() == [1, 3, 4, 5, 6, 7, 8, 9, 10]
    gap = table.row(0, named=True)
    assert (gap["lower"], gap["upper"], gap["runs"]) == (1e-3, 0.1, 0)
    assert not gap["within_tolerance"]
    assert table["within_tolerance"][1:].all()
    assert rounds.summary()["search"]["full_grid_runs"] == 9 * 401
    points = [plan.point(i) for i in range(len(plan))]
    assert not [p for p in points if p["curvature"] == 2]
    assert not [p for p in points if p["curvature"] == 1 and 1e-3 < p["lr"] < 0.05]


# ---- on a plane ----

PLANE = """\
[run]
problem = "quadratic"
[axes]
optimizer = ["sgd", "momentum"]
curvature = { logspace = [1e-2, 1e2], num = 9 }
lr = { logspace = [1e-3, 10.0], num = 9 }
[refine]
axes = ["lr", "curvature"]
"""


ONE_PLANE = PLANE.replace('optimizer = ["sgd", "momentum"]\n', "")


def full_map(kind_of, lattice=401):
    lr = np.array(Logspace(logspace=[1e-3, 10.0], num=lattice).values(), float)
    curvature = np.array(Logspace(logspace=[1e-2, 1e2], num=lattice).values(), float)
    return lr, curvature, kind_of(lr[:, None], curvature[None, :])


def painted(cells, lr, curvature):
    """The map that the cells tell: -1 where the boundary goes through."""
    drawn = np.full((len(lr), len(curvature)), -2)
    edges = [
        np.searchsorted(axis, cells[f"{name}_{end}"].to_numpy())
        for name, axis in (("lr", lr), ("curvature", curvature))
        for end in ("lower", "upper")
    ]
    kinds = [{"trains": 1, "fails": 0, None: -1}[kind] for kind in cells["kind"]]
    for kind, a, b, c, d in zip(kinds, *(edge.tolist() for edge in edges), strict=True):
        drawn[a : b + 1, c : d + 1] = kind
    return drawn


def line(lr, curvature):
    return lr * curvature < 2.0


def bent(lr, curvature):
    return np.log10(lr) < -1.0 + 0.7 * np.sin(3 * np.log10(curvature))


def mandelbrot(lr, curvature):
    """Who of the Mandelbrot set stays small: a fractal boundary, nowhere monotone."""
    c = (np.log10(lr) * 0.6 + 0.1) + 1j * np.log10(curvature) * 0.65
    z, stays = c, abs(c) < 2
    for _ in range(40):
        z = z * z + c
        stays = stays & (abs(z) < 2)
        z = z * stays
    return stays


@pytest.mark.parametrize(
    "kind_of, fewer, same",
    [(line, 70, 1.0), (bent, 40, 1.0), pytest.param(mandelbrot, 10, 0.999, marks=pytest.mark.slow)],
)
def test_the_cells_tell_the_full_grids_map_at_a_tenth_of_its_runs(kind_of, fewer, same):
    def word_of(point):
        return "trained" if kind_of(point["lr"], point["curvature"]) else "nan"

    plan, results, rounds, cells = study_of(ONE_PLANE, word_of)
    assert results.height * fewer <= rounds.summary()["search"]["full_grid_runs"] == 401 * 401
    lr, curvature, full = full_map(kind_of)
    drawn = painted(cells, lr, curvature)
    assert (drawn != -2).all(), "the cells are the whole plane"
    sure = drawn >= 0
    assert np.mean(drawn[sure] == full[sure]) >= same
    assert np.mean(sure) > 0.9
    mixed = cells.filter(pl.col("kind").is_null())
    assert (mixed["lr_upper"] / mixed["lr_lower"]).log10().max() < 0.01 + 1e-9
    # Where the boundary goes, each place was run: nothing is left to guess there.
    places = set(zip(*(plan.columns[name].tolist() for name in ("lr", "curvature")), strict=True))
    for ends in [("lower", "lower"), ("lower", "upper"), ("upper", "lower"), ("upper", "upper")]:
        corner = [f"{name}_{end}" for name, end in zip(("lr", "curvature"), ends, strict=True)]
        assert set(mixed.select(corner).rows()) <= places


def test_cells_do_not_overlap_and_a_boundary_is_followed_where_the_coarse_pass_is_blind():
    def bay(lr, curvature):
        # A bay of 0.3 decades' width that lies between two values of the coarse pass.
        x, y = np.log10(lr), np.log10(curvature)
        return ~((x > 0.6) | ((x > -2.2) & (y > 0.1) & (y < 0.4)))

    def word_of(point):
        return "trained" if bay(point["lr"], point["curvature"]) else "nan"

    _, _, _, cells = study_of(ONE_PLANE + "tolerance = 0.02\n", word_of)
    width, height = (
        (cells[f"{name}_upper"] / cells[f"{name}_lower"]).log10() for name in ("lr", "curvature")
    )
    assert (width * height).sum() == pytest.approx(16.0)
    lr, curvature, full = full_map(bay, 201)
    drawn = painted(cells, lr, curvature)
    assert (drawn[drawn >= 0] == full[drawn >= 0]).all()
    assert full[::25, ::25][:8].all(), "the coarse pass sees nothing of it"
    assert (drawn[95:110, 108:117] == 0).all()


def test_between_outcomes_more_is_told_apart():
    def word_of(point):
        grown = np.log10(point["lr"] * point["curvature"])
        return "trained" if grown < 0 else "diverged" if grown < 1 else "nan"

    plain = PLANE + "tolerance = 0.05\n"
    two = study_of(plain, word_of)[3]
    three = study_of(f'{plain}between = "outcomes"', word_of)[3]
    assert set(two["kind"]) == {"trains", "fails", None}
    assert set(three["kind"]) == {"trained", "diverged", "nan", None}
    assert three.height > two.height * 1.3


def test_two_axes_may_have_tolerances_and_scales_of_their_own():
    text = """
[run]
problem = "quadratic"
[axes]
momentum = [0.0, 0.5, 1.0]
lr = { logspace = [0.1, 10.0], num = 3 }
[refine]
axes = ["lr", "momentum"]
scale = ["log", "linear"]
tolerance = [0.5, 0.1]
"""
    grid = grid_of(text)
    first, second = searched_axes(grid.document.refinement, grid.document.axes)
    assert (first.subdivisions, second.subdivisions) == ((2, 2), (5, 5))
    cells = study_of(text, lambda p: ("nan", "trained")[p["lr"] < 2 * (1 + p["momentum"])])[3]
    mixed = cells.filter(pl.col("kind").is_null())
    assert (mixed["momentum_upper"] - mixed["momentum_lower"]).max() == pytest.approx(0.1)


# ---- the same again ----


@pytest.mark.parametrize("text", [AXIS, PLANE + "tolerance = 0.1\n"])
def test_a_finished_study_is_gone_through_again_to_the_same_plan_and_table(text, tmp_path):
    def word_of(point):
        return "trained" if mandelbrot(point["lr"], point["curvature"]) else "nan"

    plan, results, _, table = study_of(text, word_of)
    shuffled = results.sample(fraction=1.0, shuffle=True, seed=1)
    again = finished_plan(grid_of(text), shuffled)
    assert again.run_ids.tolist() == plan.run_ids.tolist()
    assert len(plan.groups) == len(make_plan(grid_of(text)).groups), "no round makes a group"
    assert study_of(text, word_of, tmp_path)[3].equals(table)


def test_only_the_grids_own_table_is_left_in_the_folder(tmp_path):
    def word_of(point):
        return "trained" if point["lr"] * point["curvature"] < 0.1 else "nan"

    study_of(AXIS, word_of, tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"boundaries.parquet", "boundaries.csv"}
    study_of(PLANE + "tolerance = 0.2", word_of, tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"cells.parquet", "cells.csv"}
    plain = grid_of(AXIS[: AXIS.index("[search]")])
    rounds = Rounds(plain, make_plan(plain))
    assert write_search_tables(rounds, tmp_path, pl.DataFrame()) == [] and not list(
        tmp_path.iterdir()
    )
    assert rounds.after(pl.DataFrame()) is None
    assert rounds.summary() == {} and not list(bounds(plain))


def test_the_tables_have_the_columns_that_are_told_of_and_each_has_a_meaning():
    def word_of(point):
        return "trained" if point["lr"] * point["curvature"] < 0.1 else "nan"

    boundaries = study_of(AXIS, word_of)[3]
    assert boundaries.columns == ["curvature", *BOUNDARIES]
    assert list(boundaries.schema.values())[1:] == [column.type for column in BOUNDARIES.values()]
    cells = study_of(PLANE + "tolerance = 0.2", word_of)[3]
    ends = [f"{name}_{end}" for name in ("lr", "curvature") for end in ("lower", "upper")]
    assert cells.columns == ["optimizer", *ends, *CELLS]
    assert all(c.meaning.endswith(".") for c in (*BOUNDARIES.values(), *CELLS.values()))


@pytest.mark.parametrize("text", [AXIS, PLANE + "tolerance = 0.1\n"])
def test_a_dry_runs_bounds_hold(text):
    lines = list(bounds(grid_of(text)))
    words = [word.replace(",", "") for word in " ".join(lines).split()]
    numbers = [int(word) for word in words if word.isdigit()]
    rounds_said, *more, full = numbers
    _, results, rounds, _ = study_of(text, lambda p: ("trained", "nan")[p["lr"] > 0.0123])
    added = results.height - rounds.n_new[0]
    assert 0 < added <= more[0]
    assert rounds.summary()["search"]["full_grid_runs"] == full
    assert rounds.number <= rounds_said
    rng = np.random.default_rng(0)
    noisy = study_of(text, lambda p: ("trained", "nan")[rng.integers(2)])
    assert noisy[1].height - rounds.n_new[0] <= more[-1]


# ---- what does not suit ----

LR = "lr = { logspace = [1e-4, 1.0], num = 9 }"
WRONG = {
    "no such axis": (
        f'[axes]\n{LR}\n[search]\naxis = "lrr"',
        'search.axis = "lrr" (line 4): is not an axis of this grid; did you mean "lr"?',
    ),
    "nothing like it": (
        f'[axes]\n{LR}\n[search]\naxis = "zzz"',
        'search.axis = "zzz" (line 4): is not an axis of this grid; its axes: lr',
    ),
    "a parameter that is no axis": (
        f'[axes]\n{LR}\n[search]\naxis = "init_scale"',
        'search.axis = "init_scale" (line 4): is not an axis of this grid; write the values of '
        "its coarse pass, [axes] init_scale = { logspace = [1e-4, 1.0], num = 9 }",
    ),
    "the same for every run": (
        f'[run]\ninit_scale = 2.0\n[axes]\n{LR}\n[search]\naxis = "init_scale"',
        'search.axis = "init_scale" (line 6): is the same for every run; write the values of '
        "its coarse pass, [axes] init_scale = { logspace = [1e-4, 1.0], num = 9 }",
    ),
    "in a zip": (
        '[[zip]]\nlr = [0.1, 1.0]\nmomentum = [0.1, 0.2]\n[search]\naxis = "lr"',
        'search.axis = "lr" (line 5): moves with others in a [[zip]]; a searched axis must be '
        "alone, under [axes]",
    ),
    "a name": (
        '[axes]\nactivation = ["relu", "tanh"]\n[search]\naxis = "activation"',
        'search.axis = "activation" (line 4): is not continuous, so it cannot be searched; '
        "choose a number such as lr",
    ),
    "whole numbers": (
        '[axes]\ndepth = [1, 9]\n[search]\naxis = "depth"',
        'search.axis = "depth" (line 4): is not continuous, so it cannot be searched; choose a '
        "number such as lr",
    ),
    "the seed": (
        '[axes]\nseed = { range = 9 }\n[search]\naxis = "seed"',
        'search.axis = "seed" (line 4): is a seed, so nothing lies between two of its values; '
        "choose a number such as lr",
    ),
    "the steps": (
        '[axes]\nsteps = [10, 100]\n[search]\naxis = "steps"',
        'search.axis = "steps" (line 4): is the number of steps; see fault_step and the curves '
        "for progress over steps; choose a number such as lr",
    ),
    "a rule": (
        '[axes]\ntrained_margin = [0.1, 0.2]\n[search]\naxis = "trained_margin"',
        'search.axis = "trained_margin" (line 4): only decides the name of the outcome and '
        "changes no run; choose a number such as lr",
    ),
    "one value": (
        '[axes]\nlr = [0.1]\n[search]\naxis = "lr"',
        "axes.lr (line 2): must have at least 2 values to be searched",
    ),
    "values that fall": (
        '[axes]\nlr = [1.0, 0.1]\n[search]\naxis = "lr"',
        "axes.lr (line 2): must ascend to be searched, but 0.1 comes after a larger value",
    ),
    "zero on a log scale": (
        '[axes]\nlr = [0.0, 0.1]\n[search]\naxis = "lr"\nscale = "log"',
        'axes.lr (line 2): contains 0.0, which has no logarithm; set scale = "linear" and a '
        "tolerance in the unit of lr",
    ),
    "no tolerance on a linear scale": (
        '[axes]\nlr = { linspace = [1.0, 3.0], num = 5 }\n[search]\naxis = "lr"',
        "search.tolerance (line 3): is missing: lr is on a linear scale, so set it in the "
        "axis's unit",
    ),
    "a tolerance of nothing": (
        f'[axes]\n{LR}\n[search]\naxis = "lr"\ntolerance = 0',
        "search.tolerance = 0 (line 5): must be more than 0",
    ),
    "a tolerance below nothing": (
        f'[axes]\n{LR}\ncurvature = [1, 2]\n[run]\nproblem = "quadratic"\n[refine]\n'
        'axes = ["lr", "curvature"]\ntolerance = [0.1, -1.0]',
        "refine.tolerance.1 = -1.0 (line 8): must be more than 0",
    ),
    "a tolerance beyond reason": (
        f'[axes]\n{LR}\n[search]\naxis = "lr"\ntolerance = 1e-7',
        "search.tolerance = 1e-07 (line 5): divides lr into 40000001 values; at most 1000000 "
        "are possible, so use 8e-06 or more",
    ),
    "both tables": (
        f'[axes]\n{LR}\ninit_scale = [1.0, 2.0]\n[search]\naxis = "lr"\n[refine]\n'
        'axes = ["lr", "init_scale"]',
        "refine (line 6): [search] is here too (line 4); remove one of them",
    ),
    "one axis twice": (
        f'[axes]\n{LR}\n[refine]\naxes = ["lr", "lr"]',
        'refine.axes = ["lr", "lr"] (line 4): must be two different axes',
    ),
    "three axes": (
        f'[axes]\n{LR}\n[refine]\naxes = ["lr", "depth", "seed"]',
        'refine.axes = ["lr", "depth", "seed"] (line 4): must have 2 or fewer values',
    ),
    "an include": (
        f'[axes]\n{LR}\n[search]\naxis = "lr"\n[[include]]\nmodel = "rnn"',
        "include.0 (line 5): adds points that [search] does not search; move them to a grid of "
        "their own",
    ),
    "a problem that does not have it": (
        f'[axes]\nproblem = ["quadratic", "training"]\ncurvature = [1.0, 2.0]\n{LR}\n[search]\n'
        'axis = "curvature"',
        'search.axis = "curvature" (line 6): problem "training" has no curvature; move it to a '
        "grid of its own",
    ),
    "no axis named": ("[axes]\nlr = [0.1, 1.0]\n[search]\ntolerance = 0.1",
        "search.axis (line 3): is missing"),
    "an unknown key": (
        f'[axes]\n{LR}\n[search]\naxis = "lr"\ntolerence = 0.1',
        'search.tolerence (line 5): unknown key; did you mean "tolerance"?',
    ),
    "an unknown wish": (
        f'[axes]\n{LR}\n[search]\naxis = "lr"\nfinds = "largest"',
        'search.finds = "largest" (line 5): must be one of "largest that trains", "smallest that '
        'trains", "largest that fails", "smallest that fails"',
    ),
    "an unknown outcome": (
        f'[axes]\n{LR}\n[search]\naxis = "lr"\ntrains = ["trained", "stoled"]',
        'search.trains.1 = "stoled" (line 5): must be one of "trained", "stalled", "diverged", '
        '"recovered", "inf", "nan"; did you mean "stalled"?',
    ),
    "a coarse pass of one": (
        f'[axes]\n{LR}\n[search]\naxis = "lr"\ncoarse = 1',
        "search.coarse = 1 (line 5): must be 2 or more",
    ),
    "a wrong value on the axis is reported once": (
        '[axes]\nlr = [-1.0, 1.0]\n[search]\naxis = "lr"\ncoarse = 5',
        "axes.lr.0 = -1.0 (line 2): must be 0 or more",
    ),
    "a wrong end on the axis is reported once": (
        '[axes]\nlr = { linspace = [-1.0, 1.0], num = 3 }\n[search]\naxis = "lr"\n'
        'coarse = 5\ntolerance = 0.1',
        "axes.lr (line 2): gives -1; it must be 0 or more",
    ),
}  # fmt: skip


@pytest.mark.parametrize("text, sentence", WRONG.values(), ids=WRONG)
def test_what_does_not_suit_is_one_sentence_that_names_the_place_and_the_way_out(text, sentence):
    with pytest.raises(GridError) as raised:
        grid_of(text)
    assert [str(each) for each in raised.value.complaints] == [sentence]


def test_more_runs_than_a_study_may_hold_are_refused_while_it_searches(monkeypatch):
    assert POINT_LIMIT >= 1_000_000
    monkeypatch.setattr("nanlab.plan.rounds.POINT_LIMIT", 250)
    with pytest.raises(GridError, match=r"refine\.tolerance .*: needs more than 250 runs; use a"):
        study_of(PLANE, lambda p: ("trained", "nan")[p["lr"] > 0.0123])


@pytest.mark.parametrize("text", [AXIS, PLANE + 'scale = "log"\ntolerance = 0.1\ncoarse = 5\n'])
def test_the_resolved_grid_says_it_again(text, tmp_path):
    grid = grid_of(text)
    (tmp_path / "again.toml").write_text(grid.resolved_toml(), encoding="utf-8")
    again = load_grid(tmp_path / "again.toml")
    assert again.document.refinement == grid.document.refinement
    assert again.resolved_toml() == grid.resolved_toml()
    assert make_plan(again).run_ids.tolist() == make_plan(grid).run_ids.tolist()
