"""A Grid -> the runs it asks for, in order, each with its identity, in groups and in chunks."""

import hashlib
import itertools
import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanlab.grid import GridError, load_grid
from nanlab.grid.axes import Linspace, Logspace, Range
from nanlab.grid.defaults import knob_values, static_value
from nanlab.grid.parameters import PARAMETERS
from nanlab.grid.toml import file_text
from nanlab.plan import plan as plan_module
from nanlab.plan.plan import chunks, make_plan

pytestmark = pytest.mark.smoke


def grid_of(text):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "grid.toml")
        path.write_text(text, encoding="utf-8")
        return load_grid(path)


def plan_of(text):
    return make_plan(grid_of(text))


def points_of(text):
    plan = plan_of(text)
    return [plan.point(i) for i in range(len(plan))]


def columns_of(text, *names):
    return [tuple(point.get(name) for name in names) for point in points_of(text)]


# Never to be changed: a run's identity leaves out what is at its default.
DEFAULTS = {
    "problem": "training", "precision": "float32", "seed": 0, "steps": 100, "optimizer":
    "sgd", "lr": 0.01, "momentum": 0.9, "decay": 0.9, "b1": 0.9, "b2": 0.999,
    "optimizer_epsilon": 1e-08, "weight_decay": 0.0, "schedule": "constant", "warmup_steps":
    10.0, "decay_steps": 100.0, "decay_floor": 0.0, "drop_every": 30.0, "drop_factor": 0.1,
    "clip": "none", "clip_at": 1.0, "clip_epsilon": 1e-06, "apply_if_finite": 0,
    "trained_margin": 0.05, "diverged_factor": 10.0, "task": "digits", "standardize": True,
    "input_scale": 1.0, "sequence_length": 32, "image_size": 28, "n_features": 16,
    "train_examples": 0, "outlier_fraction": 0.0, "outlier_scale": 100.0, "label_noise": 0.0,
    "nan_fraction": 0.0, "constant_fraction": 0.0, "imbalance": 0.0, "model": "mlp", "depth":
    2, "width": 32, "activation": "relu", "negative_slope": 0.01, "residual": False, "norm":
    "none", "norm_epsilon": 1e-05, "norm_first": True, "dropout": 0.0, "pooling": "max",
    "heads": 4, "query_key_norm": False, "attention_scale": 1.0, "initializer":
    "lecun_normal", "init_scale": 1.0, "bias_initializer": "zeros", "bias_scale": 1.0, "loss":
    "softmax_cross_entropy", "loss_epsilon": 1e-07, "huber_delta": 1.0, "temperature": 0.1,
    "label_smoothing": 0.0, "z_loss": 0.0, "batch_size": 32, "loss_scaling": "none",
    "loss_scale": 32768.0, "loss_scale_period": 2000.0, "ema_decay": 0.0,
    "parameter_precision": "same", "matmul_precision": "default", "curvature": 1.0, "x0": 1.0,
}  # fmt: skip

# Never to be changed: results that people have published name their runs so.
IDENTITIES = {
    "seed = 0": "fffe75e98883",
    "lr = 0.1": "a0665e71905f",
    'lr = 1\nactivation = "tanh"\nbatch_size = "full"\nstandardize = false': "24800858a17b",
    'problem = "quadratic"\nlr = 2.5\nsteps = 300\noptimizer_epsilon = 1e-5': "a1b34ce4eb1e",
    "init_scale = 1e22\nseed = 9223372036854775807": "edf39a6f76f7",
}


def test_defaults_stay_as_they_are():
    now = {name: PARAMETERS[name].default for name in DEFAULTS}
    assert now == DEFAULTS
    assert [type(value) for value in now.values()] == [type(v) for v in DEFAULTS.values()]


@pytest.mark.parametrize("text", IDENTITIES)
def test_identities_stay_as_they_are(text):
    assert plan_of(f"[run]\n{text}").run_ids.tolist() == [IDENTITIES[text]]


def test_an_identity_is_the_hash_of_what_is_not_at_its_default():
    text = '[run]\nlr = 1\nactivation = "tanh"\nseed = 0\nsteps = 100'
    asked = json.dumps({"activation": "tanh", "lr": 1.0}, separators=(",", ":"))
    hashed = hashlib.sha256(f"nanlab run 1\n{asked}".encode()).hexdigest()
    assert plan_of(text).run_ids[0] == hashed[:12]


SAME_RUNS = {
    "as lists": '[run]\nlr = 1.0\n[axes]\nseed = [0, 1, 2]\nactivation = ["relu", "tanh"]',
    "in another order": (
        '[run]\nlr = 1.0\n[axes]\nactivation = ["tanh", "relu"]\nseed = [2, 1, 0]'
    ),
    "with other settings": (
        'title = "x"\n[run]\nlr = 1.0\n[axes]\nseed = { range = 3 }\n'
        'activation = ["relu", "tanh"]\n[exec]\nchunk_runs = 7\ndevices = 1'
    ),
    "with defaults written out": (
        '[run]\nlr = 1\nwidth = 32\n[axes]\noptimizer = ["sgd"]\nseed = [0, 1, 2]\n'
        'activation = ["relu", "tanh"]'
    ),
    "as a zip and an include": (
        '[run]\nlr = 1.0\n[[zip]]\nseed = [0, 1, 2]\nactivation = ["relu", "relu", "relu"]\n'
        '[[include]]\nactivation = ["relu", "tanh"]\nseed = { range = 3 }'
    ),
}


@pytest.mark.parametrize("name", SAME_RUNS)
def test_a_run_is_the_same_however_it_is_asked_for(name):
    expected, found = plan_of(SAME_RUNS["as lists"]), plan_of(SAME_RUNS[name])
    assert len(found) == 6
    assert set(found.run_ids.tolist()) == set(expected.run_ids.tolist())
    assert {g.group_id for g in found.groups} == {g.group_id for g in expected.groups}


@pytest.mark.parametrize("texts", [("1", "1.0", "10e-1"), ("0", "-0.0", "0e5")])
def test_equal_numbers_are_one_run_however_they_are_written(texts):
    assert len({plan_of(f"[run]\nlr = {text}").run_ids[0] for text in texts}) == 1


def test_two_runs_that_would_share_an_identity_are_refused(monkeypatch):
    monkeypatch.setattr(plan_module, "ID_BYTES", 1)
    with pytest.raises(GridError, match=r"points \d+ and \d+ \(from 0\) would share the run_id"):
        plan_of("[axes]\nseed = { range = 300 }")


def test_a_run_that_sets_nothing_else_has_the_defaults():
    training = {n: v for n, v in DEFAULTS.items() if "training" in PARAMETERS[n].problems}
    assert points_of("[run]\nseed = 0") == [training]


def test_progress_counts_the_points_of_every_product():
    grid = grid_of("[axes]\nseed = { range = 70000 }\n[[include]]\nsteps = [1, 2]")
    seen = []
    make_plan(grid, progress=lambda *counts: seen.append(counts))
    assert seen == [(65536, 70002), (70000, 70002), (70002, 70002)]


def test_a_knob_has_its_default_where_a_run_sets_none():
    rows, column = np.array([0, 2]), np.array([1.0, 2.0, None], object)
    assert knob_values(None, rows, 5.0).tolist() == [5.0, 5.0]
    assert knob_values(column, rows, 5.0).tolist() == [1.0, 5.0]
    assert knob_values(np.array([1, 2, 3]), rows, None).dtype == np.float64


def test_the_first_axis_is_slowest_then_zips_then_includes():
    text = (
        "[[zip]]\nlr = [0.1, 0.2]\nx0 = [1.0, 2.0]\n[[include]]\nlr = [9.0, 8.0]\nseed = 5\n"
        '[run]\nproblem = "quadratic"\n[axes]\nseed = { range = 2 }\nsteps = [3, 2]\n'
    )
    pairs = [(0.1, 1.0), (0.2, 2.0)]
    assert columns_of(text, "seed", "steps", "lr", "x0") == [
        *[(seed, steps, *pair) for seed in (0, 1) for steps in (3, 2) for pair in pairs],
        (5, 100, 9.0, 1.0),
        (5, 100, 8.0, 1.0),
    ]


def test_an_include_comes_after_excludes_and_doubles_no_point():
    text = "[axes]\nseed = { range = 4 }\n[[exclude]]\nseed = 2\n[[include]]\nseed = { range = 5 }"
    assert columns_of(text, "seed") == [(0,), (1,), (3,), (2,), (4,)]


def test_excludes_may_leave_nothing_but_includes():
    text = "[run]\nlr = 1.0\n[[exclude]]\nlr = 1\n[[include]]\nlr = [2.0, 3.0]"
    assert columns_of(text, "lr") == [(2.0,), (3.0,)]


def test_a_number_and_a_word_of_one_parameter_stay_what_they_are():
    # Once they were put together as text: 32 became "32".
    text = '[[include]]\nbatch_size = "full"\n[[include]]\nbatch_size = 8'
    assert columns_of(text, "batch_size") == [(32,), ("full",), (8,)]


def test_an_exclude_that_matches_nothing_is_a_warning():
    warnings = grid_of("[axes]\nseed = [1]\n[[exclude]]\nseed = [2, 3]").warnings
    assert warnings == ("exclude.0 (line 3): matches no point",)


CONDITIONS = {
    "lr = 1": {1.0},
    "lr = [0.1, 10.0]": {0.1, 10.0},
    "lr = { gt = 1 }": {10.0},
    "lr = { ge = 1 }": {1.0, 10.0},
    "lr = { lt = 1 }": {0.1},
    "lr = { le = 1, ne = 0.1 }": {1.0},
    "lr = { in = [1.0, 2.0] }": {1.0},
    "lr = { not_in = [1.0, 2.0] }": {0.1, 10.0},
    "lr = { gt = 0.5 }\nseed = 7": set(),
}


@pytest.mark.parametrize("text", CONDITIONS)
def test_an_exclude_drops_what_matches_all_of_it(text):
    grid = "[axes]\nlr = { logspace = [0.1, 10.0], num = 3 }\n[[include]]\nlr = 5.0\n[[exclude]]\n"
    left = {lr for (lr,) in columns_of(grid + text, "lr")}
    assert left == {0.1, 1.0, 10.0, 5.0} - CONDITIONS[text]


def test_a_full_batch_is_neither_more_nor_less_than_a_number():
    text = '[axes]\nbatch_size = ["full", 8, 64]\n[[exclude]]\nbatch_size = { ge = 64 }'
    assert columns_of(text, "batch_size") == [("full",), (8,)]


BOTH = '[axes]\nproblem = ["training", "quadratic"]\nx0 = [1.0, 2.0]\nwidth = [8, 16]\n'


def test_a_run_has_only_the_parameters_of_its_problem_and_is_there_once():
    plan = plan_of(BOTH)
    points = [plan.point(i) for i in range(len(plan))]
    assert [(p["problem"], p.get("x0"), p.get("width")) for p in points] == [
        ("training", None, 8),
        ("training", None, 16),
        ("quadratic", 1.0, None),
        ("quadratic", 2.0, None),
    ]
    assert all("task" in p and "curvature" not in p for p in points[:2])
    assert plan.columns["x0"].tolist() == [None, None, 1.0, 2.0]
    assert list(plan.columns) == list(PARAMETERS)
    alone = plan_of('[run]\nproblem = "quadratic"\nx0 = 2.0')
    assert alone.run_ids[0] == plan.run_ids[3]
    assert "task" not in alone.columns


def test_a_condition_does_not_match_a_run_whose_problem_lacks_the_parameter():
    text = f"{BOTH}[[exclude]]\nx0 = {{ gt = 0.0 }}"
    assert set(columns_of(text, "problem")) == {("training",)}


def test_groups_share_their_statics_and_hold_each_run_once_in_order():
    plan = plan_of(
        '[axes]\nseed = [3, 4]\ndepth = [2, 1]\nlr = [0.1, 0.2]\n[run]\nactivation = "elu"\n'
        '[[include]]\ndepth = 1\nlr = 5.0\n[[include]]\nproblem = "quadratic"'
    )
    assert [group.statics.get("depth") for group in plan.groups] == [2, 1, None]
    assert [group.runs.tolist() for group in plan.groups] == [
        [0, 1, 4, 5], [2, 3, 6, 7, 8], [9],
    ]  # fmt: skip
    for group in plan.groups:
        for run in group.runs:
            point = plan.point(int(run))
            statics = {n: static_value(n, v) for n, v in point.items()
                       if PARAMETERS[n].role in ("static", "option")}  # fmt: skip
            assert statics == group.statics
    # Pinned like the identities of runs: chunks on disk are named after them.
    names = [group.group_id for group in plan.groups]
    assert names == ["bf101a813736", "655c72a76565", "8a13dcbb5259"]


def test_columns_have_the_type_of_their_parameter():
    columns = plan_of(
        "[axes]\nlr = [1, 2]\nseed = { range = 2 }\nstandardize = [true, false]"
    ).columns
    kinds = {name: column.dtype.kind for name, column in columns.items()}
    assert {kinds[n] for n in ("lr", "momentum")} == {"f"}
    assert {kinds[n] for n in ("seed", "steps", "width")} == {"i"}
    assert kinds["standardize"] == "b"
    assert {kinds[n] for n in ("activation", "batch_size")} == {"O"}
    assert not any(column.flags.writeable for column in columns.values())


def test_forms_give_the_floats_nearest_to_the_exact_values():
    assert Linspace(linspace=[0, 1], num=11).values() == [i / 10 for i in range(11)]
    assert Linspace(linspace=[-0.3, 0.3], num=3).values() == [-0.3, 0, 0.3]
    assert Linspace(linspace=[-1.7e308, 1.7e308], num=3).values() == [-1.7e308, 0, 1.7e308]
    assert Linspace(linspace=[5, 1], num=1).values() == [5]
    assert Logspace(logspace=[1e-5, 100], num=8).values() == [float(f"1e{i}") for i in range(-5, 3)]
    assert Logspace(logspace=[512, 8], num=7).values() == [2**i for i in range(9, 2, -1)]
    assert list(Range(range=[5, 0, -2]).values()) == [5, 3, 1]


@given(ends=st.tuples(*[st.floats(1e-30, 1e30)] * 2), num=st.integers(2, 50))
def test_forms_agree_with_numpy(ends, num):
    linear = Linspace(linspace=[*ends], num=num).values()
    logarithmic = Logspace(logspace=[*ends], num=num).values()
    np.testing.assert_allclose(linear, np.linspace(*ends, num), rtol=1e-12, atol=1e-15 * max(ends))
    np.testing.assert_allclose(logarithmic, np.geomspace(*ends, num), rtol=1e-12)
    assert (linear[0], linear[-1]) == (logarithmic[0], logarithmic[-1]) == ends


def test_forms_of_whole_numbers_suit_parameters_that_are_whole():
    text = (
        "[axes]\nwidth = { logspace = [8, 32], num = 3 }\ndepth = { linspace = [1, 3], num = 3 }\n"
        "lr = { range = 2 }"
    )
    points = columns_of(text, "width", "depth", "lr")
    assert points == list(itertools.product((8, 16, 32), (1, 2, 3), (0.0, 1.0)))
    assert {tuple(map(type, point)) for point in points} == {(int, int, float)}


VALUES = {
    "activation": st.sampled_from(["relu", "tanh", "elu", "gelu"]),
    "loss": st.sampled_from(["mse", "softmax_cross_entropy"]),
    "standardize": st.booleans(),
    "batch_size": st.integers(1, 99) | st.just("full"),
    "width": st.integers(1, 65_536),
    "seed": st.integers(0, 2**63 - 1),
    "lr": st.floats(0, 1e300) | st.integers(0, 99),
    "input_scale": st.floats(allow_nan=False, allow_infinity=False),
    "trained_margin": st.floats(0, 0.99),
}


@st.composite
def trees(draw):
    """A legal grid of one problem, as a tree."""
    names = draw(st.permutations(list(VALUES)))
    first, second, third = sorted(draw(st.tuples(*[st.integers(0, len(names) - 2)] * 3)))
    axes = {
        name: draw(st.lists(VALUES[name], min_size=1, max_size=3, unique=True))
        for name in names[first:second]
    }
    zipped = names[second:third]
    rows = st.lists(
        st.tuples(*(VALUES[name] for name in zipped)), min_size=1, max_size=3, unique=True
    )
    table = (
        dict(zip(zipped, map(list, zip(*draw(rows), strict=True)), strict=True)) if zipped else {}
    )
    exclude = {
        name: draw(st.sampled_from(values)) for name, values in axes.items() if draw(st.booleans())
    }
    tree = {
        "run": {name: draw(VALUES[name]) for name in names[:first]},
        "axes": axes,
        "zip": [table] if table else [],
        "exclude": [exclude] if exclude else [],
        "include": [{names[-1]: draw(VALUES[names[-1]]), names[-2]: draw(VALUES[names[-2]])}],
    }
    return {key: value for key, value in tree.items() if value}


def listed(tree):
    """The points of `tree` by plain loops over plain dictionaries, each once."""
    axes = [[{name: value} for value in values] for name, values in tree.get("axes", {}).items()]
    for table in tree.get("zip", []):
        rows = zip(*table.values(), strict=True)
        axes.append([dict(zip(table, row, strict=True)) for row in rows])
    points = []
    for choice in itertools.product(*axes):
        point = {name: value for each in choice for name, value in each.items()}
        if not any(exclude.items() <= point.items() for exclude in tree.get("exclude", [])):
            points.append(point)
    defaults = {n: v for n, v in DEFAULTS.items() if "training" in PARAMETERS[n].problems}
    whole = [defaults | tree.get("run", {}) | point for point in points + tree["include"]]
    return [point for i, point in enumerate(whole) if point not in whole[:i]]


@settings(max_examples=30)
@given(trees())
def test_the_points_are_those_of_plain_loops_in_their_order_each_once(tree):
    plan = plan_of(file_text(tree))
    assert [plan.point(i) for i in range(len(plan))] == listed(tree)
    assert len(set(plan.run_ids.tolist())) == len(plan)
    in_groups = np.concatenate([group.runs for group in plan.groups])
    assert sorted(in_groups.tolist()) == list(range(len(plan)))
    assert len({group.group_id for group in plan.groups}) == len(plan.groups)


@settings(max_examples=30)
@given(trees())
def test_resolved_toml_asks_for_the_same_plan_and_resolves_to_itself(tree):
    grid = grid_of(file_text(tree))
    again = grid_of(grid.resolved_toml())
    first, second = make_plan(grid), make_plan(again)
    assert first.run_ids.tolist() == second.run_ids.tolist()
    for name, column in first.columns.items():
        assert column.tolist() == second.columns[name].tolist()
    assert again.resolved_toml() == grid.resolved_toml()


CHUNKS = {
    "fewer than a chunk": (100, 1024, 16, [100]),
    "one run": (1, 1024, 16, [1]),
    "just a chunk": (1024, 1024, 16, [1024]),
    "one more than a chunk": (1025, 1024, 16, [513, 512]),
    "three even chunks": (3000, 1024, 8, [1000, 1000, 1000]),
    "a chunk less than a unit": (20, 1, 8, [7, 7, 6]),
    "no multiple of the unit": (2000, 1000, 16, [1000, 1000]),
    "a run each": (3, 1, 1, [1, 1, 1]),
    "nothing": (0, 1024, 16, []),
}


@pytest.mark.parametrize("name", CHUNKS)
def test_a_group_is_cut_into(name):
    n_runs, chunk_runs, unit, sizes = CHUNKS[name]
    slices = chunks(n_runs, chunk_runs=chunk_runs, unit=unit)
    assert [each.stop - each.start for each in slices] == sizes


SMALL = st.integers(1, 70)


@given(n_runs=st.integers(1, 5000), unit=SMALL, chunk_runs=SMALL)
def test_chunks_hold_every_run_once_evenly_and_are_as_few_as_can_be(n_runs, unit, chunk_runs):
    chunk_runs *= 20
    slices = chunks(n_runs, chunk_runs=chunk_runs, unit=unit)
    sizes = [each.stop - each.start for each in slices]
    assert [i for each in slices for i in range(n_runs)[each]] == list(range(n_runs))
    assert max(sizes) - min(sizes) <= 1
    # Never more than what was asked for, but for the rounding.
    most = -(-chunk_runs // unit) * unit
    assert max(sizes) <= most < chunk_runs + unit
    assert len(sizes) == -(-n_runs // most)


@pytest.mark.parametrize("wrong", [(-1, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_chunks_of_no_size_are_refused(wrong):
    n_runs, unit, chunk_runs = wrong
    with pytest.raises(ValueError, match="must be 1 or more"):
        chunks(n_runs, chunk_runs=chunk_runs, unit=unit)
