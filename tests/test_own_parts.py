"""User-defined networks and data in a training: they run, or a sentence says what is wrong."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from nanlab.study import replay
from nanlab.sweep import DONE, WRONG, main

MINE = '''\
from typing import Any, Callable
import jax.numpy as jnp
import numpy as np
from flax import linen as nn


class Plain(nn.Module):
    """nanlab's mlp written again: two dense layers and a head."""
    width: int
    outputs: Any
    activation: Callable
    kernel_init: Callable

    @nn.compact
    def __call__(self, x):
        x = x.reshape(x.shape[0], -1)
        for _ in range(2):
            x = self.activation(nn.Dense(self.width, kernel_init=self.kernel_init)(x))
        return nn.Dense(self.outputs, kernel_init=self.kernel_init)(x)


class Picture(nn.Module):
    """Convolution, batch statistics, dropout: what a training has to hand in."""
    outputs: int
    inputs: Any

    @nn.compact
    def __call__(self, x, train):
        assert x.shape[1:] == (8, 8, 1), x.shape
        x = nn.BatchNorm(use_running_average=not train)(nn.Conv(4, (3, 3))(x))
        x = nn.Dropout(0.5, deterministic=not train)(nn.relu(x))
        return nn.Dense(self.outputs)(x.reshape(x.shape[0], -1))


class Narrow(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(x.reshape(x.shape[0], -1))


class Needy(nn.Module):
    layers: int
    @nn.compact
    def __call__(self, x):
        return x


def no_module(width):
    return width


RNG = np.random.default_rng(0)
CENTERS = RNG.standard_normal((3, 4))


def blobs():
    classes = np.arange(90) % 3
    return CENTERS[classes] + 0.1 * RNG.standard_normal((90, 4)), classes


def numbers():
    inputs = RNG.standard_normal((64, 4))
    return inputs, inputs.sum(axis=1)


def negative():
    return np.ones((4, 2)), np.array([0, 1, -1, 0])


def uneven():
    return np.ones((4, 2)), np.zeros(5)


def nothing():
    return None
'''


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(MINE, encoding="utf-8")
    inputs = np.repeat(np.eye(3), 20, axis=0)
    np.savez("data.npz", x=inputs, y=np.repeat(np.arange(3), 20))
    columns = {f"feature_{i}": inputs[:, i] for i in range(3)}
    names = np.repeat(["red", "green", "blue"], 20)
    pl.DataFrame({**columns, "label": names}).write_parquet("data.parquet")
    pl.DataFrame({"a": [1.0], "b": [2.0]}).write_parquet("no_target.parquet")
    Path("broken.npz").write_bytes(b"not an archive")


def sweep(run, axes="seed = [0]", *flags):
    steps = "" if "steps" in run else "steps = 60\n"
    text = f"[run]\n{steps}lr = 0.1\n{run}\n[axes]\n{axes}\n"
    Path("grid.toml").write_text(text, encoding="utf-8")
    return main(["grid.toml", "--no-report", *flags])


def runs():
    return pl.read_parquet("results/grid/runs.parquet")


@pytest.mark.slow
def test_an_own_network_equal_to_the_mlp_trains_to_the_same_losses():
    axes = 'model = ["mlp", "mine.py:Plain"]\ninit_scale = [1.0, 50.0]\nseed = { range = 2 }'
    assert sweep('width = 16\nactivation = "tanh"', axes) == DONE
    ours, theirs = (
        runs().filter(pl.col("model") == model).sort("init_scale", "seed")
        for model in ("mlp", "mine.py:Plain")
    )  # fmt: skip
    np.testing.assert_allclose(theirs["final_loss"], ours["final_loss"], rtol=1e-5)


@pytest.mark.slow
def test_batch_statistics_dropout_and_the_natural_shape_are_handed_to_an_own_network():
    assert sweep('model = "mine.py:Picture"', 'precision = ["float32", "float16"]') == DONE
    assert runs().filter(pl.col("precision") == "float32")["outcome"].to_list() == ["trained"]


@pytest.mark.slow
@pytest.mark.parametrize("task", ["data.parquet", "mine.py:blobs", "mine.py:numbers", "data.npz"])
def test_own_data_are_learned(task):
    assert sweep(f'task = "{task}"\nloss = "mse"\ndepth = 1\nwidth = 16') == DONE
    assert runs()["outcome"].to_list() == ["trained"]


@pytest.mark.parametrize(
    ("network", "layer"),
    [
        ("Plain", "nn.Dense(self.outputs, kernel_init=self.kernel_init)(x)"),
        pytest.param("Picture", "(nn.Conv(4, (3, 3))(x))", marks=pytest.mark.slow),
    ],
)
def test_a_fault_in_an_own_network_is_blamed_on_its_own_line(network, layer):
    source = MINE.replace(layer, f"(jnp.log({layer} - 1e9))  # <-- culprit")
    Path("mine.py").write_text(source, encoding="utf-8")
    flags = ["--set", "exec.witnesses=0"]
    # The convolution needs pictures; the other network has data of the user's too.
    task = "digits" if network == "Picture" else "data.parquet"
    run = f'model = "mine.py:{network}"\ntask = "{task}"\nbatch_size = 8\nsteps = 2'
    assert sweep(run, "seed = [0]", *flags) == DONE
    (row,) = runs().iter_rows(named=True)
    line = next(i for i, text in enumerate(source.splitlines(), 1) if "# <-- culprit" in text)
    assert row["culprit_primitive"] == "log"
    assert row["culprit_source"] == f"mine.py:{line}"
    assert row["culprit_module"].startswith(network)


@pytest.mark.slow
def test_data_that_have_changed_are_run_again():
    assert sweep('task = "data.npz"') == DONE
    before = runs()["final_loss"].to_list()
    np.savez("data.npz", x=np.repeat(np.eye(3), 20, axis=0), y=np.zeros(60, int) + 2)
    assert sweep('task = "data.npz"') == DONE
    assert runs()["final_loss"].to_list() != before


WRONG_PARTS = {
    "no such class": (
        'model = "mine.py:Plian"', "run.model (line 4): mine.py has no function Plian",
    ),
    "not a module": (
        'model = "mine.py:no_module"', "no_module must be a flax.linen.Module class or",
    ),
    "a field of its own": (
        'model = "mine.py:Needy"',
        "mine.py:Needy fails: TypeError: Needy.__init__() missing 1 required",
    ),
    "outputs of another shape": (
        'model = "mine.py:Narrow"',
        "Narrow returns (32, 3) for 32 examples; the task needs (32, 10)",
    ),
    "a parameter that it does not read": (
        'model = "mine.py:Narrow"\nwidth = 7',
        "run.width (line 5): mine.py:Narrow does not read it, so it would change nothing; "
        "give it a field width, or leave it out",
    ),
    "a norm": (
        'model = "mine.py:Plain"\nnorm = "layer"',
        "does not read it, so it would change nothing; build it",
    ),
    "data of nothing": ('task = "mine.py:nothing"', "must return (inputs, targets) or"),
    "data of two lengths": ('task = "mine.py:uneven"', "shapes (4, 2) and (5,)"),
    "a class below 0": ('task = "mine.py:negative"', "class -1 is negative"),
    "classes that are numbers": (
        'loss = "softmax_cross_entropy"\ntask = "mine.py:numbers"', "(line 4): needs classes",
    ),
    "more examples than there are": (
        'task = "mine.py:blobs"\ntrain_examples = 91',
        "run.train_examples (line 5): mine.py:blobs has 90",
    ),
    "no such file": ('task = "there.npz"', "there.npz: not found"),
    "a file without targets": ('task = "no_target.parquet"', "it has a, b"),
    "a file that is none": ('task = "broken.npz"', "broken.npz: is not a NumPy archive"),
    "a name of neither": ('task = "digit"', 'did you mean "digits"?'),
    "too many outputs for a neuron": (
        'task = "mine.py:blobs"\nmodel = "neuron"', "model 'neuron' has one output",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG_PARTS)
def test_what_is_wrong_with_an_own_part_is_told_before_anything_runs(name, capsys):
    run, sentence = WRONG_PARTS[name]
    text = f"\n[run]\nsteps = 60\n{run}\n[axes]\nseed = [0]\n"
    Path("grid.toml").write_text(text, encoding="utf-8")
    assert main(["grid.toml"]) == WRONG
    told = capsys.readouterr().err
    assert sentence in told
    assert "Traceback" not in told


@pytest.mark.slow
def test_replay_says_that_an_own_network_is_gone(capsys):
    assert sweep('model = "mine.py:Plain"', "init_scale = [1e30]") == DONE
    (run_id,) = runs()["run_id"]
    Path("mine.py").unlink()
    assert replay.main(["results/grid", run_id]) == 2
    assert "file mine.py not found" in capsys.readouterr().err


def test_every_field_that_is_filled_in_is_named_in_the_how_to_page():
    from nanlab.problems.user_parts import FIELDS, GIVEN

    page = Path(__file__).resolve().parents[1] / "docs/how-to/own-network-or-data.md"
    text = page.read_text(encoding="utf-8")
    assert all(f"`{name}`" in text for name in (*FIELDS, *GIVEN))
