"""A user-defined problem in a grid: it runs, or an error sentence says beforehand what is wrong."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from nanlab import replay
from nanlab.sweep import DONE, WRONG, main

MINE = """\
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.training.train_state import TrainState
import nanlab


def descent(order: int = 2):
    def init(knobs, key):
        return {"x": jnp.float32(1.0)}

    def step(state, knobs, key):
        x = state["x"]
        return {"x": x - knobs["alpha"] * order * x ** (order - 1)}, nanlab.Metrics(x**order)

    return nanlab.Problem(init=init, step=step, knobs={"alpha": 0.25})


def with_step(step, knobs=("alpha",)):
    def init(knobs, key):
        return {"x": jnp.float32(1.0)}

    return nanlab.Problem(init=init, step=step, knobs=dict.fromkeys(knobs, 0.5))


def loss_alone():
    return with_step(lambda state, knobs, key: (state, state["x"] * knobs["alpha"]))


def counting_from_a_python_number():
    # As Flax's TrainState does; and a weak type that the step makes strong.
    def init(knobs, key):
        return {"x": jnp.asarray(1.0), "step": 0, "rate": 2.0}

    def step(state, knobs, key):
        x = state["x"] * knobs["alpha"]
        rate = jnp.asarray(2.0, state["rate"].dtype)
        return {"x": x, "step": state["step"] + 1, "rate": rate}, state["step"] * 1.0

    return nanlab.Problem(init=init, step=step, knobs={"alpha": 0.5})


def keyed():
    def init(knobs, key):
        return {"x": jnp.float32(1.0), "key": key}

    return nanlab.Problem(init=init, step=lambda s, k, key: (s, s["x"]), knobs={"alpha": 0.5})


def random():
    return with_step(lambda s, k, key: ({"x": s["x"] * np.random.rand()}, s["x"]))


def counting(count=[0]):
    def step(state, knobs, key):
        count[0] += 1
        return {"x": state["x"] * count[0]}, state["x"]

    return with_step(step)


def growing():
    return with_step(lambda s, k, key: ({"x": jnp.zeros(3, jnp.float32)}, jnp.sum(s["x"])))


def widening():
    return with_step(lambda s, k, key: ({"x": s["x"].astype(jnp.float64)}, s["x"]))


def losing():
    return with_step(lambda s, k, key: ({}, s["x"]))


def printing():
    def step(state, knobs, key):
        jax.debug.print("x {}", state["x"])
        return state, state["x"]

    return with_step(step)


def raising():
    return with_step(lambda s, k, key: (s["y"], 1.0))


def stateless():
    return with_step(lambda s, k, key: s)


def many_losses():
    return with_step(lambda s, k, key: (s, jnp.ones(3)))


def bare():
    problem = with_step(lambda s, k, key: (s, s["x"]))
    return nanlab.Problem(init=problem.init, step=problem.step, knobs=("alpha",))


def train_state(replaced):
    def optimizer(knobs):
        return optax.sgd(knobs["alpha"])

    def init(knobs, key):
        params = {"x": jnp.float32(1.0)}
        return TrainState.create(apply_fn=None, params=params, tx=optimizer(knobs))

    def step(state, knobs, key):
        if replaced:
            state = state.replace(tx=optimizer(knobs))
        return state.apply_gradients(grads=state.params), state.params["x"]

    return nanlab.Problem(init=init, step=step, knobs={"alpha": 0.5})


def optimizer_of_a_knob():
    return train_state(replaced=False)


def optimizer_replaced():
    return train_state(replaced=True)


def no_elements():
    def init(knobs, key):
        return {"none": jnp.zeros((0, 3), jnp.float32)}

    return nanlab.Problem(
        init=init,
        step=lambda s, k, key: (s, jnp.exp(jnp.float32(k["alpha"]))),
        knobs={"alpha": 1.0},
    )


def no_leaves():
    problem = no_elements()
    return nanlab.Problem(init=lambda k, key: {}, step=problem.step, knobs=problem.knobs)


def knob_of_text():
    problem = loss_alone()
    object.__setattr__(problem, "knobs", {"alpha": "x"})  # past beartype, where it checks Problem
    return problem


def exiting():
    raise SystemExit(0)


def exiting_in_step():
    def step(state, knobs, key):
        raise SystemExit

    return with_step(step)


def generator_exit():
    raise GeneratorExit


class NoMessage(Exception):
    def __str__(self):
        raise RuntimeError("no")


def no_message():
    raise NoMessage


def watching(**functions):
    problem = with_step(lambda s, k, key: (s, s["x"] * k["alpha"]))
    return nanlab.Problem(
        init=problem.init, step=problem.step, knobs={"alpha": 0.5}, **functions
    )


def all_that_is_optional():
    def baseline(knobs):
        return knobs["alpha"] * 0 + 0.75

    def batch(state, knobs, key):
        return state["x"] * knobs["alpha"]

    def observe(state, knobs, key):
        return {("loss", ""): state["x"] * knobs["alpha"], ("accuracy", "x"): 1}

    return watching(baseline_losses=baseline, batch=batch, observe=observe)


def baseline_of_one():
    return watching(baseline_losses=lambda knobs: 1.0)


def baseline_with_an_if():
    return watching(baseline_losses=lambda knobs: knobs["alpha"] if knobs["alpha"] > 1 else 1.0)


def baseline_of_another_knob():
    return watching(baseline_losses=lambda knobs: knobs["beta"])


def baseline_of_text():
    return watching(baseline_losses=lambda knobs: ["a"] * len(knobs["alpha"]))


def batch_with_an_if():
    return watching(batch=lambda s, k, key: s["x"] if k["alpha"] > 1 else 0)


def batch_of_another_state():
    return watching(batch=lambda s, k, key: s["y"])


def batch_of_text():
    return watching(batch=lambda s, k, key: "text")


def random_batch():
    return watching(batch=lambda s, k, key: s["x"] * np.random.rand())


def observe_a_number():
    return watching(observe=lambda s, k, key: s["x"])


def observe_without_a_layer():
    return watching(observe=lambda s, k, key: {"loss": s["x"]})


def observe_the_unknown():
    return watching(observe=lambda s, k, key: {("los", ""): s["x"]})


def observe_an_array():
    return watching(observe=lambda s, k, key: {("loss", ""): jnp.ones(3)})


def observe_of_two_arguments():
    return watching(observe=lambda s, k: {})


def number():
    return 3


def needing(order):
    return number()
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(MINE, encoding="utf-8")


def sweep(text, *flags):
    with open("grid.toml", "w", encoding="utf-8") as file:
        file.write(text)
    return main(["grid.toml", "--no-report", *flags])


def grid(name, rest="[axes]\nseed = [0, 1]\n"):
    return f'[run]\nproblem = "mine.py:{name}"\nsteps = 40\n{rest}'


def plain_descent(alpha, order, steps):
    """The first steps with an inf loss and with a NaN, by a float32 loop; None for none."""
    x, inf_step, one = np.float32(1), None, np.float32
    for step in range(steps):
        with np.errstate(all="ignore"):
            loss, moved = x**order, x - one(one(alpha) * one(order)) * x ** (order - 1)
        if inf_step is None and not (np.isfinite(loss) and np.isfinite(moved)):
            inf_step = step
        if np.isnan(loss) or np.isnan(moved):
            return inf_step, step
        x = one(moved)
    return inf_step, None


def test_knobs_and_statics_of_ones_own_are_axes_and_the_run_is_a_plain_loops():
    text = grid("descent", "[axes]\nknobs.alpha = [0.01, 0.3, 3.0, 50.0]\nstatic.order = [2, 4]\n")
    assert sweep(text) == DONE
    runs = pl.read_csv("results/grid/runs.csv")
    assert runs.height == 8
    assert runs["group_id"].n_unique() == 2
    for row in runs.iter_rows(named=True):
        wanted = plain_descent(row["knobs.alpha"], row["static.order"], 40)
        assert (row["fault_step"], row["nan_step"]) == wanted, row
    failed = runs.filter(pl.col("fault_step").is_not_null())
    assert failed.height >= 3
    assert set(failed["origin_source"].str.split(":").list.first()) == {"mine.py"}
    assert set(failed["blame_status"]) == {"reproduced"}


def test_a_knob_that_the_grid_does_not_name_has_the_codes_default():
    assert sweep(grid("descent")) == DONE
    runs = pl.read_csv("results/grid/runs.csv")
    assert sweep(grid("descent", "knobs.alpha = 0.25\n[axes]\nseed = [0, 1]\n")) == DONE
    named = pl.read_csv("results/grid/runs.csv")
    assert named["final_loss"].to_list() == runs["final_loss"].to_list() == [0.5**78] * 2
    assert named["knobs.alpha"].to_list() == [0.25] * 2


def test_a_step_may_return_its_loss_alone():
    assert sweep(grid("loss_alone")) == DONE
    assert pl.read_csv("results/grid/runs.csv")["final_loss"].to_list() == [0.5, 0.5]


def test_a_state_may_hold_numbers_of_python_and_weak_types():
    assert sweep(grid("counting_from_a_python_number")) == DONE
    runs = pl.read_csv("results/grid/runs.csv")
    assert runs["final_loss"].to_list() == [39.0, 39.0]


def test_ones_own_beside_a_training_leaves_each_its_own_columns():
    text = grid("descent", "[axes]\nknobs.alpha = [0.1, 0.2]\n")
    text += '[[include]]\nproblem = "quadratic"\nlr = [0.5, 1.0]\n'
    assert sweep(text) == DONE
    runs = pl.read_csv("results/grid/runs.csv")
    assert runs["knobs.alpha"].to_list() == [0.1, 0.2, None, None]
    assert runs["lr"].to_list() == [None, None, 0.5, 1.0]


def test_code_that_has_changed_is_run_again_and_is_in_the_manifest():
    assert sweep(grid("loss_alone")) == DONE
    before = json.loads(Path("results/grid/manifest.json").read_text())
    assert list(before["environment"]["own_code_sha256"]) == ["mine.py:loss_alone"]
    with open("mine.py", "a", encoding="utf-8") as file:
        file.write("\n# another line\n")
    assert sweep(grid("loss_alone")) == DONE
    after = json.loads(Path("results/grid/manifest.json").read_text())
    assert after["fingerprint"] != before["fingerprint"]


WRONG_CODE = {
    "keyed": "state['key'] of mine.py:keyed is a typed key; store jax.random.key_data",
    "random": "step is not pure: two traces give two different programs",
    "counting": "step is not pure: two traces give two different programs",
    "growing": "state['x'] of mine.py:growing is float32[] before a step and float32[3] after it",
    "widening": "is float32[] before a step and float64[] after it; step must preserve",
    "losing": "mine.py:losing's step must return a state with the same pytree structure",
    "printing": "step has side effects (DebugEffect); remove callbacks",
    "raising": "step fails: KeyError: 'y' (mine.py:",
    "stateless": "stateless's step fails: TypeError: it must return (state, nanlab.Metrics)",
    "many_losses": "many_losses's step must return a scalar float loss, got float64[3]",
    "bare": "knobs.alpha: is missing: mine.py:bare has no default for it",
    "optimizer_of_a_knob": "an optimizer or a function (TrainState.tx) that closes over a knob",
    "optimizer_replaced": "step replaces an optimizer or a function (TrainState.tx) in its state",
    "number": "mine.py:number must return a nanlab.Problem, got int",
    "needing": "static.order: is missing: argument order of mine.py:needing has no default",
    "no_such": "run.problem (line 2): mine.py has no function no_such; it has descent, with_step",
    "knob_of_text": "knobs.alpha: its default in mine.py:knob_of_text must be a number, got 'x'",
    "no_elements": "state['none'] of mine.py:no_elements has no elements (float32[0,3])",
    "exiting": "run.problem (line 2): mine.py:exiting fails: SystemExit: 0 (mine.py:",
    "exiting_in_step": "mine.py:exiting_in_step's step fails: SystemExit (mine.py:",
    "generator_exit": "mine.py:generator_exit fails: GeneratorExit (mine.py:",
    "no_message": "fails: NoMessage: (its message cannot be shown: __str__ raises) (mine.py:",
}


@pytest.mark.parametrize("name", WRONG_CODE)
def test_what_is_wrong_with_the_code_is_told_before_anything_runs(name, capsys):
    assert sweep(grid(name)) == WRONG
    told = capsys.readouterr().err
    assert WRONG_CODE[name] in told
    assert "Traceback" not in told


WRONG_GRIDS = {
    "a misspelled knob": (
        grid("descent", "[axes]\nknobs.alhpa = [1.0]\n"),
        'axes.knobs.alhpa (line 5): mine.py:descent has no such knob; did you mean "knobs.alpha"?',
    ),
    "a misspelled static": (
        grid("descent", "static.ordr = 3\n[axes]\nseed = [0]\n"),
        "run.static.ordr (line 4): mine.py:descent has no such argument; it takes order",
    ),
    "a knob of no number": (
        grid("descent", '[axes]\nknobs.alpha = ["x"]\n'),
        'axes.knobs.alpha.0 = "x" (line 5): must be a number',
    ),
    "a parameter of trainings": (
        grid("descent", "lr = 0.1\n[axes]\nseed = [0]\n"),
        'run.lr (line 4): only problem one of "training", "quadratic" has it',
    ),
    "knobs without a problem": (
        "[axes]\nknobs.alpha = [1.0]\n",
        "axes.knobs.alpha (line 2): only a user-defined problem has it",
    ),
    "no such file": (
        '[run]\nproblem = "other.py:x"\n',
        "run.problem (line 2): file other.py not found",
    ),
    "no such module": (
        '[run]\nproblem = "no_such_module:x"\n',
        "run.problem (line 2): module no_such_module not found",
    ),
}


@pytest.mark.parametrize("name", WRONG_GRIDS)
def test_what_a_grid_asks_wrongly_of_ones_own_is_told_with_its_place(name, capsys):
    text, sentence = WRONG_GRIDS[name]
    assert sweep(text) == WRONG
    assert sentence in capsys.readouterr().err


def test_a_file_that_cannot_be_imported_is_told_with_its_line(capsys):
    with open("broken.py", "w", encoding="utf-8") as file:
        file.write("x = 1\ny = x / 0\n")
    assert sweep('[run]\nproblem = "broken.py:make"\n') == WRONG
    told = capsys.readouterr().err
    assert "importing broken.py fails: ZeroDivisionError: division by zero (broken.py:2)" in told


def test_a_file_that_exits_when_imported_is_told_with_its_line(capsys):
    Path("exits.py").write_text("import sys\nsys.exit(0)\n", encoding="utf-8")
    assert sweep('[run]\nproblem = "exits.py:make"\n') == WRONG
    assert "importing exits.py fails: SystemExit: 0 (exits.py:2)" in capsys.readouterr().err


def test_code_that_changes_the_working_directory_changes_nothing(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    moving = f"import os\nfrom mine import loss_alone\nos.chdir({str(elsewhere)!r})\n"
    Path("moving.py").write_text(moving, encoding="utf-8")
    assert sweep(grid("loss_alone").replace("mine.py", "moving.py")) == DONE
    assert pl.read_csv("results/grid/runs.csv")["final_loss"].to_list() == [0.5, 0.5]
    assert not list(elsewhere.iterdir())


def test_a_state_may_have_no_leaves():
    assert sweep(grid("no_leaves", "[axes]\nknobs.alpha = [1.0, 100.0]\nseed = [0, 1]\n")) == DONE
    runs = pl.read_csv("results/grid/runs.csv")
    failed = runs.filter(pl.col("knobs.alpha") > 1.0)
    assert runs["fault_step"].is_not_null().to_list() == [False, False, True, True]
    assert set(failed["origin_mechanism"]) == {"overflow"}
    assert set(failed["blame_status"]) == {"reproduced"}


def test_a_run_of_code_that_is_gone_is_told_by_replay(capsys):
    assert sweep(grid("descent", "[axes]\nknobs.alpha = [3.0]\n")) == DONE
    (run_id,) = pl.read_csv("results/grid/runs.csv")["run_id"]
    Path("mine.py").rename("theirs.py")
    assert replay.main(["results/grid", run_id]) == 2
    assert "file mine.py not found" in capsys.readouterr().err


# ---- code that is not a function of its key ----

UNSEEDED = """\
import jax
import jax.numpy as jnp
import numpy as np
import nanlab

DRAWN = np.random.default_rng().normal(size=3).astype("float32")
LATER = []


def problem(loss, data=None):
    def init(knobs, key):
        return {"x": jnp.float32(1.0)}

    def step(state, knobs, key):
        return {"x": state["x"] * 1.01}, loss(state["x"])

    return nanlab.Problem(init=init, step=step, knobs={})


def at_import():
    return problem(lambda x: x * jnp.sum(jnp.asarray(DRAWN)))


def in_the_factory():
    drawn = np.random.default_rng().normal(size=3).astype("float32")
    return problem(lambda x: x * jnp.sum(jnp.asarray(drawn)))


def at_first_use():
    def loss(x):
        if not LATER:
            LATER.append(np.random.default_rng().normal(size=3).astype("float32"))
        return x * jnp.sum(jnp.asarray(LATER[0]))

    return problem(loss)


def in_a_trace():
    return problem(lambda x: x * np.float32(np.random.default_rng().normal()))


def in_a_callback():
    def draw(x):
        return np.full(np.shape(x), np.random.default_rng().normal(), "float32")

    shape = jax.ShapeDtypeStruct((), "float32")
    return problem(
        lambda x: jax.pure_callback(draw, shape, x, vmap_method="expand_dims")
    )


def seeded():
    drawn = np.random.default_rng(0).normal(size=3).astype("float32")
    return problem(lambda x: x * jnp.sum(jnp.asarray(drawn)))
"""


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("at_import", "is not deterministic: built twice, its step holds different numbers"),
        ("in_the_factory", "is not deterministic: built twice, its step holds different numbers"),
        ("at_first_use", "is not deterministic: built twice, its step holds different numbers"),
        ("in_a_trace", "is not pure: two traces give two different programs"),
        ("in_a_callback", "is not deterministic: the same runs, run twice, have another"),
    ],
)
def test_code_that_draws_outside_its_key_is_refused(name, sentence, capsys):
    Path("drawn.py").write_text(UNSEEDED)
    text = f'[run]\nproblem = "drawn.py:{name}"\nsteps = 5\n[axes]\nseed = {{ range = 3 }}\n'
    Path("drawn.toml").write_text(text)
    assert main(["drawn.toml", "--no-report"]) == WRONG
    said = capsys.readouterr().err
    assert f"drawn.py:{name}" in said and sentence in said
    assert "Traceback" not in said


def test_code_that_seeds_what_it_draws_is_run():
    Path("drawn.py").write_text(UNSEEDED)
    text = '[run]\nproblem = "drawn.py:seeded"\nsteps = 5\n[axes]\nseed = { range = 3 }\n'
    Path("drawn.toml").write_text(text)
    assert main(["drawn.toml", "--no-report"]) == DONE


FORKING = """\
import os, sys, warnings
import jax.numpy as jnp
import nanlab

warnings.simplefilter("ignore")


def fork_and_go_on():
    os.fork()


def fork_and_exit():
    if os.fork() == 0:
        sys.exit(0)


def make(where: str = "factory", how: str = "go_on"):
    fork = {"go_on": fork_and_go_on, "exit": fork_and_exit}[how]
    if where == "factory":
        fork()

    def init(knobs, key):
        return {"x": jnp.float32(1.0)}

    def step(state, knobs, key):
        if where == "step":
            fork()
        return {"x": state["x"] * 0.5}, nanlab.Metrics(state["x"])

    return nanlab.Problem(init=init, step=step, knobs={})
"""


@pytest.mark.parametrize(
    ("where", "how"),
    [
        ("step", "go_on"),
        pytest.param("factory", "go_on", marks=pytest.mark.slow),
        pytest.param("step", "exit", marks=pytest.mark.slow),
        pytest.param("factory", "exit", marks=pytest.mark.slow),
    ],
)
def test_a_fork_in_user_code_ends_and_the_sweep_goes_on(where, how):
    Path("forking.py").write_text(FORKING)
    Path("forking.toml").write_text(
        '[run]\nproblem = "forking.py:make"\nsteps = 5\n'
        f'static.where = "{where}"\nstatic.how = "{how}"\n[axes]\nseed = {{ range = 3 }}\n'
        "[exec]\nwitnesses = 0\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "nanlab.sweep", "forking.toml", "--out", "x", "--no-report"],
        capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout.count("3 runs in x") == 1
    assert pl.read_parquet("x/runs.parquet").height == 3
    assert not list(Path("x").glob(".*"))


OPTIONAL = {
    "baseline_of_one": "baseline_losses must return one loss for each run, for 2 runs float64[2]",
    "baseline_with_an_if": "baseline_losses fails: ValueError: The truth value of an array",
    "baseline_of_another_knob": "baseline_losses fails: KeyError: 'beta' (mine.py:",
    "baseline_of_text": "baseline_losses must return one loss for each run",
    "batch_with_an_if": "batch fails: TracerBoolConversionError",
    "batch_of_another_state": "batch fails: KeyError: 'y' (mine.py:",
    "batch_of_text": "batch fails: TypeError",
    "random_batch": "batch is not pure: two traces give two different programs",
    "observe_a_number": "observe must return {(observable, layer): scalar}, got",
    "observe_without_a_layer": "observe must return {(observable, layer): scalar}, got 'loss'; the",
    "observe_the_unknown": 'observe has no observable "los"; did you mean "loss"?',
    "observe_an_array": "observe must return {(observable, layer): scalar}, got float64[3]",
    "observe_of_two_arguments": "observe fails: TypeError",
}


@pytest.mark.parametrize("name", OPTIONAL)
def test_a_mistake_in_an_optional_function_is_told_before_anything_runs(name, capsys):
    assert sweep(grid(name), "--dry-run") == WRONG
    said = capsys.readouterr().err
    assert f"run.problem (line 2): mine.py:{name}'s {OPTIONAL[name]}" in said
    assert "Traceback" not in said


def test_optional_functions_have_the_knobs_by_their_own_names():
    text = grid("all_that_is_optional").replace("steps = 40", "steps = 4\nknobs.alpha = 0.5")
    assert sweep(text + "\n[exec]\ncurves = true\n") == DONE
    curves = pl.read_parquet("results/grid/curves.parquet")
    assert set(curves.select("observable", "layer").rows()) == {("loss", ""), ("accuracy", "x")}
    assert set(curves.filter(pl.col("observable") == "loss")["value"]) == {0.5}
    assert set(pl.read_csv("results/grid/runs.csv")["outcome"]) == {"trained"}
