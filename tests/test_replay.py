"""results/X, run -> the state before its failing step: what a person gets is what failed."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest
from resealed import reseal
from sklearn.datasets import load_breast_cancer
from sklearn.preprocessing import StandardScaler

import nanlab
from nanlab import replay, sweep
from nanlab.engine import group_runner as engines
from nanlab.engine.group_runner import GroupRunner
from nanlab.results import frames as tables
from nanlab.study import chunk_runner as chunks_bench
from nanlab.study.replay import ReplayError, replay_run

# Fails in its initial state (1e39 is no float32), in its first steps, later, and not at all.
GRID = """\
[run]
task = "breast_cancer"
depth = 1
width = 4
batch_size = 8
steps = 20
input_scale = 2.0

[axes]
init_scale = [1.0, 1e38, 3e38, 1e39]
lr = [0.1, 1e3, 1e38]

[[include]]
problem = "quadratic"
steps = 300
lr = [0.5, 2.5]

[exec]
devices = 2
witnesses = 0
"""


class Remembered(GroupRunner):
    """A worker that is made once for each group, so that tests share what it compiles."""

    made: ClassVar = {}

    def __new__(cls, statics, *, runs=None, devices=None):
        at = (tuple(sorted(statics.items())), tuple(devices or jax.devices()))
        return cls.made.setdefault(at, super().__new__(cls))

    def __init__(self, statics, *, runs=None, devices=None):
        if not hasattr(self, "lanes"):
            super().__init__(statics, runs=runs, devices=devices)


@pytest.fixture(autouse=True)
def compiled_once(monkeypatch):
    monkeypatch.setattr(engines, "GroupRunner", Remembered)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    (folder / "grid.toml").write_text(GRID, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks_bench, "GroupRunner", Remembered)
        assert (
            sweep.main([str(folder / "grid.toml"), "--out", str(folder / "x"), "--no-report"]) == 0
        )
    return folder / "x"


@pytest.fixture(scope="module")
def runs(results):
    return pl.read_parquet(results / "runs.parquet")


def rows_of(runs, *conditions):
    rows = runs.filter(*conditions).rows(named=True)
    assert rows, "the study holds such runs"
    return rows


FAILED, WITH_NAN = pl.col("fault_step").is_not_null(), pl.col("nan_step").is_not_null()


def values_of(tree):
    return np.concatenate(
        [np.ravel(np.asarray(leaf, np.float64)) for leaf in jax.tree.leaves(tree)]
    )


def test_the_study_holds_every_kind_of_failure(runs):
    assert {-1, 0} < set(runs["fault_step"])
    assert {"trained", "nan", "inf"} <= set(runs["outcome"]) | {"inf"}
    later = runs.filter(pl.col("nan_step") > pl.col("fault_step"))
    assert later.height > 1


def test_the_state_is_finite_and_the_step_makes_of_it_what_the_table_says(results, runs):
    for row in rows_of(runs, FAILED, pl.col("fault_step") >= 0)[::3]:
        found = replay_run(results, row["run_id"])
        assert (found.run_id, found.at, found.step) == (row["run_id"], "fault", row["fault_step"])
        assert np.isfinite(values_of(found.state)).all(), row["run_id"]
        after, metrics = found.step_function(found.state)
        made = np.append(values_of(after), float(metrics.loss))
        assert not np.isfinite(made).all(), row["run_id"]
        assert bool(np.isnan(made).any()) == (row["nan_step"] == row["fault_step"]), row["run_id"]
        assert jax.tree.structure(after) == jax.tree.structure(found.state)


def test_at_nan_the_step_makes_the_first_nan(results, runs):
    for row in rows_of(runs, WITH_NAN, pl.col("nan_step") >= 0):
        found = replay_run(results, row["run_id"], at="nan")
        assert (found.at, found.step) == ("nan", row["nan_step"])
        assert not np.isnan(values_of(found.state)).any(), row["run_id"]
        after, metrics = found.step_function(found.state)
        assert np.isnan(np.append(values_of(after), float(metrics.loss))).any(), row["run_id"]


def test_plain_iteration_comes_to_the_same_state(results, runs):
    (row,) = rows_of(runs, pl.col("problem") == "quadratic", pl.col("lr") == 2.5)
    for at, step in (("fault", 111), ("nan", 218)):
        x = np.float32(1)
        with np.errstate(over="ignore"):
            for _ in range(step):
                x = x - np.float32(2.5) * x
        found = replay_run(results, row["run_id"], at=at)
        assert (found.step, found.batch) == (step, None)
        assert np.asarray(found.state.x) == x


def test_a_state_that_is_at_fault_from_the_start_is_given_as_it_is(results, runs):
    for row in rows_of(runs, pl.col("fault_step") == -1):
        found = replay_run(results, row["run_id"])
        assert found.step == -1
        assert not np.isfinite(values_of(found.state)).all()
        assert found.blame.origin.phase == "init"


def test_the_blame_is_the_tables_row(results, runs):
    for row in rows_of(runs, FAILED):
        blame = replay_run(results, row["run_id"]).blame
        assert blame.status == row["blame_status"]
        for role in ("origin", "culprit"):
            told = tables.site_columns(role, getattr(blame, role))
            told.pop(f"{role}_iterations")
            assert told == {name: row[name] for name in told}, row["run_id"]


def test_the_parameters_are_what_was_asked_of_the_run(results, runs):
    (row,) = rows_of(runs, pl.col("init_scale") == 3e38, pl.col("lr") == 1e3)
    asked = replay_run(results, row["run_id"]).parameters
    told = {name: value for name, value in asked.items() if name in row}
    assert told == {name: row[name] for name in told}
    assert {"lr", "init_scale", "activation", "seed", "steps"} <= set(told)
    assert asked["task"] == "breast_cancer"
    assert "curvature" not in asked


def test_the_batch_is_real_data_and_is_what_the_step_trains_on(results, runs):
    (row, *_) = rows_of(runs, pl.col("fault_step") >= 0, pl.col("task") == "breast_cancer")
    found = replay_run(results, row["run_id"])
    inputs, targets = (np.asarray(part) for part in found.batch)
    assert (inputs.shape, targets.shape) == ((8, 30), (8, 2))
    # Each example is one of scikit-learn's, standardized by its own scaler, with its own label.
    features, labels = load_breast_cancer(return_X_y=True)
    features = 2.0 * StandardScaler().fit_transform(features)
    for example, target in zip(inputs, targets, strict=True):
        near = np.abs(features - example).max(axis=1)
        assert near.min() < 1e-4
        assert labels[near.argmin()] == target.argmax()
    # From another state, the loss of one hidden layer by NumPy on this batch.
    draws = np.random.default_rng(0)
    leaves, form = jax.tree.flatten(found.state)
    small = [jnp.asarray(0.1 * draws.standard_normal(x.shape), x.dtype) for x in leaves]
    state = jax.tree.unflatten(form, small)
    first, second = (state.params["params"][name] for name in ("Dense_0", "Dense_1"))
    hidden = np.maximum(inputs @ np.asarray(first["kernel"]) + np.asarray(first["bias"]), 0)
    outputs = (hidden @ np.asarray(second["kernel"]) + np.asarray(second["bias"])).astype(float)
    log_shares = outputs - np.log(np.exp(outputs).sum(axis=1, keepdims=True))
    expected = -(targets * log_shares).sum(axis=1).mean()
    _, metrics = found.step_function(state)
    assert float(metrics.loss) == pytest.approx(expected, rel=1e-5)


def test_the_beginning_of_an_id_is_enough_where_it_is_one_runs_alone(results, runs):
    (row, *_) = rows_of(runs, FAILED)
    prefix = row["run_id"]
    while len([i for i in runs["run_id"] if i.startswith(prefix[:-1])]) == 1:
        prefix = prefix[:-1]
    assert len(prefix) < 12
    assert replay_run(str(results), prefix).run_id == row["run_id"]


def test_it_is_a_public_verb():
    assert nanlab.replay_run is replay_run


def wrong_requests(results, runs):
    (calm, *_) = rows_of(runs, ~FAILED)
    only_inf = [row["run_id"] for row in runs.filter(FAILED, ~WITH_NAN).rows(named=True)]
    first = runs["run_id"][0][0]
    many = sum(run_id.startswith(first) for run_id in runs["run_id"])
    yield [str(results), "zzz"], "has no run 'zzz'; see run_id in its runs.parquet"
    if many > 1:
        yield [str(results), first], f"{many} runs of {results} begin with '{first}'; give more"
    yield [str(results), ""], f"{len(runs)} runs of {results} begin with ''"
    yield [str(results), calm["run_id"]], f"run {calm['run_id']} did not fail: there is no step"
    for run_id in only_inf:
        yield [str(results), run_id, "--at", "nan"], f"run {run_id} had no NaN; --at fault"
    yield (
        ["nowhere", "abc"],
        "nowhere: there is no such folder; a sweep creates one",
    )


def test_what_cannot_be_replayed_is_a_sentence_and_2(results, runs, capsys):
    for arguments, sentence in wrong_requests(results, runs):
        assert replay.main(arguments) == 2, arguments
        said = capsys.readouterr()
        assert said.out == ""
        assert sentence in said.err
        assert len(said.err.splitlines()) == 1
        with pytest.raises(ReplayError) as raised:
            replay_run(*arguments[:2], at="nan" if "--at" in arguments else "fault")
        assert f"{raised.value}\n" == said.err


def test_a_grid_of_another_version_is_a_sentence(results):
    Path("x").mkdir()
    Path("x/grid.resolved.toml").write_text("[run]\nflux = 1\n")
    shutil.copy(results / "runs.parquet", "x")
    reseal("x")
    with pytest.raises(ReplayError, match="an incompatible version of nanlab") as raised:
        replay_run("x", "abc")
    assert "run.flux" in str(raised.value)


def test_the_command_says_what_happens_at_the_step(results, runs, capsys):
    (row, *_) = rows_of(runs, WITH_NAN, pl.col("fault_step") >= 0, pl.col("init_scale") == 3e38)
    assert replay.main([str(results), row["run_id"], "--at", "nan"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"run {row['run_id']}: ")
    assert "init_scale = 3e+38" in lines[0]
    assert "batch_size = 8" in lines[0]
    assert "seed" not in lines[0], "a default is not said"
    text = "\n".join(lines)
    for role in ("origin", "culprit"):
        assert f"{row[f'{role}_mechanism']} in {row[f'{role}_primitive']}" in text
        assert f"{row[f'{role}_source']} in {row[f'{role}_function']}" in text
    assert f"the state before step {row['nan_step']}, and after it:" in lines
    (kernel,) = (line for line in lines if "['Dense_0']['kernel']" in line)
    assert "120 NaN" in kernel
    assert lines[-1].split()[0] == "loss"
    assert max(map(len, lines[1:])) <= 120


def test_the_command_says_of_an_initial_state_that_it_is_at_fault(results, runs, capsys):
    (row, *_) = rows_of(runs, pl.col("fault_step") == -1)
    assert replay.main([str(results), row["run_id"]]) == 0
    out = capsys.readouterr().out
    assert "the initial state itself has the fault:" in out
    assert "inf" in out


def test_the_command_looks_for_a_setting_that_mends_the_run(results, runs, capsys):
    # Gradient descent on x^2 / 2 diverges from a rate of 2 on, and converges at a tenth of 2.5.
    (row,) = rows_of(runs, pl.col("problem") == "quadratic", pl.col("lr") == 2.5)
    assert replay.main([str(results), row["run_id"], "--cure"]) == 0
    out = capsys.readouterr().out
    assert f"Settings, in {row['fault_step'] + 20} steps from the start:" in out
    assert "lr = 0.25\n  in place of 2.5\n" in out
    assert "Placebos end at: random direction" in out
    assert "Rewrites of the step" not in out, "the lines are nanlab's own"


@pytest.mark.parametrize("name", ["state.npz", "state"])
def test_a_saved_state_is_read_back_as_it_was(name, results, runs, capsys):
    (row, *_) = rows_of(runs, FAILED, pl.col("task") == "breast_cancer")
    assert replay.main([str(results), row["run_id"], "--save", name]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"saved to {name}"
    state = replay_run(results, row["run_id"]).state
    leaves = {jax.tree_util.keystr(p): x for p, x in jax.tree_util.tree_leaves_with_path(state)}
    with np.load(name) as saved:
        assert set(saved) == set(leaves)
        for key, leaf in leaves.items():
            assert saved[key].dtype == leaf.dtype
            np.testing.assert_array_equal(saved[key], np.asarray(leaf))


def test_a_state_that_cannot_be_saved_is_a_sentence_and_2(results, runs, capsys):
    (row, *_) = rows_of(runs, FAILED, pl.col("problem") == "quadratic")
    assert replay.main([str(results), row["run_id"], "--save", "/proc/state.npz"]) == 2
    assert "cannot write /proc/state.npz: " in capsys.readouterr().err


# As in a notebook: JAX has begun, with one device and without 64-bit types.
NOTEBOOK = """
import sys
import jax
import jax.numpy as jnp
assert jnp.ones(3).dtype == "float32" and len(jax.devices()) == 1
import nanlab
found = nanlab.replay_run(*sys.argv[1:])
print(found.step, float(found.state.x).hex(), found.blame.origin.primitive)
"""


@pytest.mark.slow
def test_a_process_whose_jax_has_begun_gets_the_same_state(results, runs):
    (row,) = rows_of(runs, pl.col("problem") == "quadratic", FAILED)
    done = subprocess.run(
        [sys.executable, "-c", NOTEBOOK, str(results), row["run_id"]],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    here = replay_run(results, row["run_id"])
    assert done.stdout.split() == ["111", float(here.state.x).hex(), "mul"]


@pytest.mark.slow
def test_the_command_runs_as_a_module(results, runs):
    (row,) = rows_of(runs, pl.col("problem") == "quadratic", FAILED)
    done = subprocess.run(
        [sys.executable, "-m", "nanlab.replay", str(results), row["run_id"][:8]],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0].startswith(f"run {row['run_id']}: problem = quadratic")
    assert "overflow in mul, forward" in done.stdout
    assert done.stdout.splitlines()[-1].split() == ["loss", "1", "inf"]
