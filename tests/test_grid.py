"""Grid file -> Grid, or a sentence about everything that is wrong with it."""

import itertools
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanlab.grid import (
    SCHEMA_FILE,
    GridError,
    errors,
    load_grid,
    schema,
    schema_text,
    source,
    split_arguments,
)
from nanlab.grid import __main__ as grid_command
from nanlab.grid.errors import dotted
from nanlab.grid.parameter_models import PROBLEMS
from nanlab.grid.parameters import PARAMETERS
from nanlab.grid.toml import file_text, key_lines
from nanlab.parts.activations import ACTIVATIONS
from nanlab.parts.listing import PARTS
from nanlab.plan.plan import make_plan
from nanlab.sweep import WRONG as WRONG_GRID
from nanlab.sweep import main

pytestmark = pytest.mark.smoke

EXAMPLE = """\
#:schema ../nanlab/grid.schema.json
title = "Does ReLU give NaN where tanh does not?"

[run]                       # the same for every run; any of these may be an axis instead
task = "digits"             # scikit-learn's bundled data: real, offline
model = "mlp"
depth = 3
width = 64
loss = "softmax_cross_entropy"
optimizer = "sgd"
batch_size = 64
steps = 200

[axes]                      # the product of these
activation = ["relu", "tanh"]
init_scale = { logspace = [0.01, 100.0], num = 17 }   # end points, not exponents
lr = { logspace = [1e-4, 100.0], num = 17 }
seed = { range = 8 }

[[zip]]                     # axes that move together
input_scale = [1.0, 255.0]
standardize = [false, true]

[[exclude]]                 # drop points that match all of these
activation = "tanh"
lr = { gt = 10.0 }

[exec]                      # how to run it; never part of a run's identity
engine = "local"
"""


def grid_of(text, *, overrides=(), sets=()):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "grid.toml")
        path.write_text(text, encoding="utf-8")
        return load_grid(path, overrides=overrides, sets=sets)


def complaints_of(text, *, overrides=(), sets=()):
    with pytest.raises(GridError) as raised:
        grid_of(text, overrides=overrides, sets=sets)
    headline, *lines = str(raised.value).splitlines()
    count = len(raised.value.complaints)
    assert headline.endswith(f"grid.toml: {count} problem{'' if count == 1 else 's'}")
    return [line.removeprefix("  ") for line in lines]


# What is wrong, the file, and every sentence that is expected; the line is that of the file.
WRONG = {
    "an unknown parameter": (
        '[axes]\nactivaton = ["relu"]',
        ['axes.activaton (line 2): unknown key; did you mean "activation"?'],
    ),
    "an unknown table": (
        "[axis]\nlr = [1.0]",
        ['axis (line 1): unknown key; did you mean "axes"?'],
    ),
    "a key like no other": (
        "[exec]\nzzz = 1",
        ["exec.zzz (line 2): unknown key; known here: engine, devices, mixed_devices, "
            "curves, chunk_runs, witnesses, csv_runs"],
    ),
    "a parameter outside every table": (
        "lr = 0.1",
        ['lr (line 1): a parameter belongs in a table; did you mean "run.lr" or "axes.lr"?'],
    ),
    "text for a whole number": (
        '[run]\nsteps = "many"',
        ['run.steps = "many" (line 2): must be a whole number'],
    ),
    "a float for a whole number": (
        "[run]\ndepth = 3.0",
        ["run.depth = 3.0 (line 2): must be a whole number"],
    ),
    "a boolean for a whole number": (
        "[run]\nseed = true",
        ["run.seed = true (line 2): must be a whole number"],
    ),
    "a boolean for a number": (
        "[run]\nlr = false",
        ["run.lr = false (line 2): must be a number"],
    ),
    "text for a number": (
        '[run]\nlr = "0.1"',
        ['run.lr = "0.1" (line 2): must be a number'],
    ),
    "a date for a number": (
        "[run]\nlr = 2024-01-31",
        ["run.lr = 2024-01-31 (line 2): must be a number"],
    ),
    "a number for a boolean": (
        "[run]\nstandardize = 1",
        ["run.standardize = 1 (line 2): must be true or false"],
    ),
    "a number for a name": (
        "[run]\nmodel = 1",
        ['run.model = 1 (line 2): must be one of "mlp", "neuron", "cnn", "rnn", "lstm", "gru", '
            '"transformer", or your own, as "my_module:Model"'],
    ),
    "a misspelled name": (
        '[run]\nmodel = "mlpp"',
        [
            'run.model = "mlpp" (line 2): must be one of "mlp", "neuron", "cnn", "rnn", "lstm", '
            '"gru", "transformer", or your own, as "my_module:Model"; did you mean "mlp"?',
        ],
    ),
    "numbers out of range": (
        "[run]\nsteps = 0\nlr = -1\ndepth = 1001\ntrained_margin = 1.0\ndiverged_factor = 1",
        [
            "run.steps = 0 (line 2): must be 1 or more",
            "run.lr = -1 (line 3): must be 0 or more",
            "run.depth = 1001 (line 4): must be 1000 or less",
            "run.trained_margin = 1.0 (line 5): must be less than 1",
            "run.diverged_factor = 1 (line 6): must be more than 1",
        ],
    ),
    "numbers that are not finite": (
        "[run]\nlr = inf\nx0 = nan\n[axes]\ninit_scale = [\n  1.0,\n  -inf,\n]",
        [
            "run.lr = inf (line 2): must be finite",
            "run.x0 = nan (line 3): must be finite",
            "axes.init_scale.1 = -inf (line 7): must be finite",
        ],
    ),
    "a batch that is neither a size nor full": (
        '[run]\nbatch_size = "all"\n[axes]\nsteps = [1]\n[[include]]\nbatch_size = 0',
        [
            'run.batch_size = "all" (line 2): must be a whole number, 1 or more, or "full"',
            'include.0.batch_size = 0 (line 6): must be a whole number, 1 or more, or "full"',
        ],
    ),
    "several values in [run]": (
        "[run]\nlr = [0.1, 0.2]",
        [
            "run.lr = [0.1, 0.2] (line 2): must be one value, the same for every run; "
            "several belong under [axes]"
        ],
    ),
    "one value in [axes]": (
        '[axes]\nlr = 0.1\nmodel = "mlp"',
        [
            "axes.lr = 0.1 (line 2): must be a list, or a table such as "
            "{ linspace = [1.0, 2.0], num = 3 }; one value belongs under [run]",
            'axes.model = "mlp" (line 3): must be a list; one value belongs under [run]',
        ],
    ),
    "numbers for names": (
        "[axes]\nactivation = { range = 3 }",
        [
            "axes.activation = { range = 3 } (line 2): must be a list of values: linspace, "
            "logspace and range produce numbers"
        ],
    ),
    "empty axes": (
        "[axes]\nlr = []\nseed = { range = 0 }\nsteps = { range = [3, 3] }",
        [
            "axes.lr = [] (line 2): must have 1 or more values",
            "axes.seed.range = 0 (line 3): must be a count, 1 or more, or whole numbers "
            "[start, stop] or [start, stop, step]",
            "axes.steps.range = [3, 3] (line 4): is empty: stop is exclusive",
        ],
    ),
    "duplicate values": (
        "[axes]\nlr = [0.1, 1, 1.0]\nx0 = { linspace = [2.0, 2.0], num = 2 }\n"
        'problem = ["quadratic"]\ncurvature = [0.0, -0.0]',
        [
            "axes.lr (line 2): contains 1.0 more than once",
            "axes.x0 (line 3): contains 2.0 more than once",
            "axes.curvature (line 5): contains 0.0 more than once",
        ],
    ),
    "wrong forms": (
        "[axes]\nlr = { linspace = [0.0, 1.0], num = 0 }\nb1 = { logspace = [0.0, 1.0], num = 3 }\n"
        "b2 = { linspace = [0.5] }\nseed = { range = [0, 8, 0] }\nmomentum = { from = 1 }\n"
        "x0 = { linspace = [0, 1, 2], num = 3 }",
        [
            "axes.lr.num = 0 (line 2): must be 1 or more",
            "axes.b1.logspace.0 = 0.0 (line 3): must be more than 0",
            "axes.b2.linspace = [0.5] (line 4): must have 2 or more values",
            "axes.b2.num (line 4): is missing",
            "axes.seed.range = [0, 8, 0] (line 5): has step 0; the step must lead from start to "
            "stop",
            "axes.momentum = { from = 1 } (line 6): must be a list, or a table such as "
            "{ linspace = [1.0, 2.0], num = 3 }; one value belongs under [run]",
            "axes.x0.linspace = [0, 1, 2] (line 7): must have 2 or fewer values",
        ],
    ),
    "a misspelled form, reported once": (
        "[axes]\nlr = { linspce = [0.0, 1.0], num = 3 }",
        ['axes.lr.linspce (line 2): unknown key; did you mean "linspace"?'],
    ),
    "forms whose values do not suit": (
        "[axes]\ndepth = { linspace = [1, 4], num = 3 }\nlr = { linspace = [-1, 1], num = 3 }\n"
        "steps = { range = 3 }\nwidth = { logspace = [2, 1e5], num = 2 }",
        [
            "axes.depth (line 2): gives 2.5; it must be a whole number",
            "axes.lr (line 3): gives -1; it must be 0 or more",
            "axes.steps (line 4): gives 0; it must be 1 or more",
            "axes.width (line 5): gives 100000; it must be 65536 or less",
        ],
    ),
    "a parameter in two places": (
        "[run]\nlr = 1.0\n[axes]\nlr = [0.1]\nseed = [1]\n[[zip]]\nseed = [2]\nsteps = [2]\n"
        "[[zip]]\nsteps = [3]",
        [
            "axes.lr (line 4): is in [run] too (line 2); remove one of them",
            "zip.0.seed (line 7): is in [axes] too (line 5); remove one of them",
            "zip.1.steps (line 10): is in zip.0 too (line 8); remove one of them",
        ],
    ),
    "wrong zips": (
        "[[zip]]\nlr = [1.0, 2.0]\nsteps = [1]\n[[zip]]\nseed = [1, 1]\nwidth = [2, 2]\n[[zip]]",
        [
            "zip.0 (line 1): axes that move together must have equal lengths, not lr 2, steps 1",
            "zip.1 (line 4): contains { seed = 1, width = 2 } more than once",
            "zip.2 (line 7): is empty; name the axes that move together",
        ],
    ),
    "single brackets": (
        "[zip]\nlr = [1.0]",
        ["zip = { lr = [1.0] } (line 1): must be in double brackets: [[zip]]"],
    ),
    "values for tables": (
        "run = 1\nzip = [2]\ntitle = 3\nexec = 4\nexclude = 5",
        [
            "run = 1 (line 1): must be a table",
            "zip.0 = 2 (line 2): must be a table",
            "title = 3 (line 3): must be text in quotes",
            "exec = 4 (line 4): must be a table",
            "exclude = 5 (line 5): must be a list",
        ],
    ),
    "wrong conditions": (
        '[[exclude]]\nmodel = "mlpp"\nlr = { gt = "x" }\n[[exclude]]\nlr = {}\n'
        '[[exclude]]\nmodel = { gt = 3 }\n[[exclude]]\nstandardize = []\n[[exclude]]\n'
        'task = { not_in = ["moons"] }',
        [
            'exclude.0.model = "mlpp" (line 2): must be one of "mlp", "neuron", "cnn", "rnn", '
            '"lstm", "gru", "transformer", or your own, as "my_module:Model"; did you mean "mlp"?',
            'exclude.0.lr.gt = "x" (line 3): must be a number',
            "exclude.1.lr = {} (line 5): must contain a comparison: "
            "one of gt, ge, lt, le, ne, in, not_in",
            "exclude.2.model.gt (line 7): unknown key; known here: ne, in, not_in",
            "exclude.3.standardize = [] (line 9): must have 1 or more values",
            'exclude.4.task.not_in.0 = "moons" (line 11): must be one of "digits", '
            '"breast_cancer", "wine", "iris", "diabetes", "linnerud", "images", "adding" or 3 more '
            '(python -m nanlab.parts lists them), or your own, as "my_module:load"',
        ],
    ),
    "excludes that say nothing, or too much": (
        '[run]\nactivation = "relu"\n[[exclude]]\n[[exclude]]\nactivation = ["relu", "tanh"]',
        [
            "exclude.0 (line 3): names no parameter, so it would drop every point",
            "exclude.1 (line 4): leaves no point of the grid",
        ],
    ),
    "excludes that together leave nothing": (
        "[axes]\nlr = [1.0, 2.0]\n[[exclude]]\nlr = { le = 1.0 }\n[[exclude]]\nlr = { gt = 1.0 }",
        ["exclude.1 (line 5): leaves no point of the grid"],
    ),
    "an exclude of an unknown parameter": (
        '[[exclude]]\nactivaton = "tanh"\n[[exclude]]\ncurvature = 1.0',
        [
            'exclude.0.activaton (line 2): unknown key; did you mean "activation"?',
            'exclude.1.curvature (line 4): only problem "quadratic" has it, and the problem here '
            'is "training"',
        ],
    ),
    "parameters of another problem": (
        '[run]\nproblem = "quadratic"\nwidth = 3\n[axes]\ntask = ["wine"]\n[[include]]\ndepth = 2\n'
        '[[include]]\nproblem = "training"\nx0 = [1.0]',
        [
            'axes.task (line 5): only problem "training" has it, and the problem here '
            'is "quadratic"',
            'include.0.depth (line 7): only problem "training" has it, and the problem here '
            'is "quadratic"',
            'include.1.x0 (line 10): only problem "quadratic" has it, and the problem here '
            'is "training"',
        ],
    ),
    "an include that adds nothing": (
        "[[include]]",
        ["include.0 (line 1): is empty; name a parameter"],
    ),
    "wrong includes": (
        '[[include]]\nlr = { a = 1 }\n[[include]]\nmodel = ["mlp", "mlp"]\nseed = [-1]',
        [
            "include.0.lr = { a = 1 } (line 2): must be one value, a list, "
            "or a table such as { range = 8 }",
            "include.1.seed.0 = -1 (line 5): must be 0 or more",
        ],
    ),
    "a neuron for ten classes": (
        '[run]\nmodel = "neuron"',
        [
            'run.task = "digits" (line 1): has 10 classes, but model "neuron" has one output, '
            'which fits two; its task must be "breast_cancer"'
        ],
    ),
    "a neuron for ten classes at some points": (
        '[axes]\nmodel = ["mlp", "neuron"]\ntask = ["digits", "breast_cancer", "wine"]\n'
        '[[exclude]]\nmodel = "neuron"\ntask = "wine"',
        [
            'axes.task = "digits" (line 3): has 10 classes, but model "neuron" has one output, '
            'which fits two; drop the pair: [[exclude]] with model = "neuron" and task = "digits"'
        ],
    ),
    "an include of a neuron": (
        '[[include]]\nmodel = "neuron"\ntask = "wine"',
        [
            'include.0.task = "wine" (line 3): has 3 classes, but model "neuron" has one output, '
            'which fits two; its task must be "breast_cancer"'
        ],
    ),
    "too many points": (
        "[axes]\nseed = { range = 30000 }\nlr = { linspace = [0.0, 1.0], num = 1000 }\n",
        [
            "axes (line 1): 30000000 points (seed 30000 x lr 1000); "
            "a study has at most 20000000"
        ],
    ),
    "too many values": (
        "[axes]\nseed = { range = 9000000000000000000 }",
        [
            "axes.seed (line 2): 9000000000000000000 values; a study has at most 20000000 points"
        ],
    ),
    "a long axis": (
        "[axes]\nlr = { linspace = [0.0, 1.0], num = 19999999 }",
        ["axes.lr.num = 19999999 (line 2): must be 1000000 or less"],
    ),
    "too many devices": (
        "[exec]\ndevices = 100000",
        ["exec.devices = 100000 (line 2): must be 1024 or less"],
    ),
    "names from other libraries": (
        '[run]\nlearning_rate = 0.1\ninitializer = "xavier_uniform"\nprecision = "fp16"',
        [
            'run.learning_rate (line 2): unknown key; did you mean "lr"?',
            'run.initializer = "xavier_uniform" (line 3): must be one of "lecun_normal", '
            '"lecun_uniform", "glorot_normal", "glorot_uniform", "he_normal", "he_uniform", '
            '"he_fan_out", "he_fan_avg" or 9 more (python -m nanlab.parts lists them); '
            'did you mean "glorot_uniform"?',
            'run.precision = "fp16" (line 4): must be one of "float64", "float32", "bfloat16", '
            '"float16"; did you mean "float16"?',
        ],
    ),
    "a file that sets nothing": (
        'title = "x"\n[run]\n[axes]',
        [
            "nothing is swept: the file sets no parameter; write an axis, as in [axes] "
            "lr = { logspace = [1e-4, 1.0], num = 9 }"
        ],
    ),
    "wrong settings": (
        '[exec]\nengine = "spark"\ndevices = 0\nchunk_runs = 1.5\nwitnesses = -1',
        [
            'exec.engine = "spark" (line 2): must be one of "local", "files", "ray"',
            "exec.devices = 0 (line 3): must be 1 or more",
            "exec.chunk_runs = 1.5 (line 4): must be a whole number",
            "exec.witnesses = -1 (line 5): must be 0 or more",
        ],
    ),
    "one mistake in an axis, which excludes are not held to": (
        '[axes]\nactivaton = ["relu", "tanh"]\n[[exclude]]\nactivation = "relu"',
        ['axes.activaton (line 2): unknown key; did you mean "activation"?'],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_grid_is_answered_with_these_sentences(name):
    text, expected = WRONG[name]
    assert complaints_of(text) == expected


def test_every_alias_stands_for_a_part_or_a_parameter():
    names = {*PARAMETERS, *itertools.chain(*PARTS.values())}
    assert set(errors.ALIASES.values()) <= names
    assert not set(errors.ALIASES) & names
    assert errors.suggestion("Kaiming-Uniform", PARTS["initializer"]) == "he_uniform"
    assert errors.suggestion("SGD", PARTS["optimizer"]) == "sgd"


def test_a_sweep_of_nothing_exits_with_status_2(tmp_path, capsys):
    (tmp_path / "empty.toml").write_text("")
    assert main([str(tmp_path / "empty.toml"), "--dry-run"]) == WRONG_GRID
    assert "empty.toml: 1 problem\n  nothing is swept" in capsys.readouterr().err


class Recording(dict):
    """A table that records which of its keys were looked up."""

    def __init__(self, table):
        super().__init__(table)
        self.used = set()

    def get(self, key, default=None):
        self.used.add(key)
        return super().get(key, default)


def test_every_complaint_of_pydantic_is_in_our_words(monkeypatch):
    sentences = Recording(errors._SENTENCES)
    monkeypatch.setattr(errors, "_SENTENCES", sentences)
    complaints = " ".join(" ".join(complaints_of(text)) for text, _ in WRONG.values())
    for jargon in ("Input should", "valid", "Extra inputs", "Field required", "not accepted here"):
        assert jargon not in complaints
    assert sentences.used == {*sentences}


def test_everything_that_is_wrong_is_said_at_once_in_the_order_of_the_file():
    tables = ("run", "axes", "zip", "exclude")
    text = (
        "[run]\nstepz = 1\n[axes]\nlr = { logspace = [1.0, 2.0], num = 0 }\ndepth = [1, 1]\n"
        '[[zip]]\nseed = [1]\nwidth = [1, 2]\n[[exclude]]\nb1 = "x"\n[[exclude]]\nmodel = "mlp"'
    )
    complaints = complaints_of(text)
    assert [line.split(" ")[0].split(".")[0] for line in complaints] == [
        "run", "axes", "axes", "zip", "exclude", "exclude",
    ]  # fmt: skip
    assert set(tables) == {line.split(".")[0] for line in complaints}


SYNTAX = {
    "[run]\nlr = = 3": "line 2, column 6: not TOML: not a value; text goes in quotes, in: lr = = 3",
    "[run\nlr = 3": "line 1, column 5: not TOML: expected ']' at the end of a table declaration, "
    "in: [run",
    "a = 1\na = 2\n": "line 2, column 6: not TOML: this key is defined twice, in: a = 2",
    "a = [1,": "line 1, column 8: not TOML: the file ends where a value should be, in: a = [1,",
    "[a.b]\n[a.b]\n": "line 2, column 5: not TOML: cannot declare [a.b] twice, in: [a.b]",
    "a = " + "[" * 5000: "cannot be read: nested too deeply",
    "[run." + "a." * 1000 + "b]": "cannot be read: nested too deeply",
    "claim = " + "[" * 40 + "]" * 40: "cannot be read: nested too deeply",
    "claim = " + "{ a = " * 40 + "1" + "}" * 40: "cannot be read: nested too deeply",
    "a = " + "1" * 5000: "cannot be read: a number is too long",
}  # fmt: skip


@pytest.mark.parametrize("text", SYNTAX, ids=lambda text: text[:12])
def test_text_that_is_not_toml_is_answered_with_its_line_and_column(text):
    assert complaints_of(text) == [SYNTAX[text]]


def test_a_file_that_cannot_be_read_is_answered_with_what_is_there(tmp_path):
    (tmp_path / "relu.toml").write_text("")
    (tmp_path / "latin.toml").write_bytes(b'title = "x"\n# \xe9t\xe9')
    relu = tmp_path / "relu.toml"
    complaints = {}
    for path in ("rleu.toml", "", "zzzzz", "no/relu.toml", "latin.toml"):
        with pytest.raises(GridError) as raised:
            load_grid(tmp_path / path)
        complaints[path] = str(raised.value).splitlines()[1].strip()
    listed = f"{tmp_path / 'latin.toml'}, {relu}"
    assert complaints == {
        "rleu.toml": f'no such file; did you mean "{relu}"?',
        "": f"a folder, not a grid file; it contains {listed}",
        "zzzzz": f"no such file; the folder contains {listed}",
        "no/relu.toml": f'no such file: there is no folder "{tmp_path / "no"}"',
        "latin.toml": "line 2: not UTF-8 (byte 0xe9); save the file as UTF-8",
    }


def test_a_file_with_a_byte_order_mark_and_windows_line_ends_is_read(tmp_path):
    path = tmp_path / "windows.toml"
    path.write_bytes(b"\xef\xbb\xbf[run]\r\nsteps = 7\r\n")
    assert make_plan(load_grid(path)).point(0)["steps"] == 7


# Flags: overrides, sets, what is expected.
WRONG_FLAGS = {
    "a key that is not there": (
        [("run.stepz", "50")], [],
        "run.stepz (--run.stepz): not in the file; to add it, use --set run.stepz=50; "
        'did you mean "run.steps"?',
    ),
    "a parameter that stands elsewhere": (
        [("run.lr", "50")], [],
        "run.lr (--run.lr): not in the file; to add it, use --set run.lr=50; "
        'did you mean "axes.lr"?',
    ),
    "a wrong value": (
        [("axes.lr.num", "0")], [], "axes.lr.num = 0 (--axes.lr.num): must be 1 or more",
    ),
    "no value": (
        [("run.steps", "")], [], "run.steps (--run.steps): needs a value: --run.steps VALUE",
    ),
    "a word for a number": (
        [("run.steps", "many")], [], 'run.steps = "many" (--run.steps): must be a whole number',
    ),
    "a broken list": ([], ["axes.width=[8, 16"], "axes.width (--set): not a TOML value: [8, 16"),
    "an unknown key": (
        [], ["axes.widht=[8]"], 'axes.widht (--set): unknown key; did you mean "width"?',
    ),
    "no key": ([], ["width"], "--set width: must be KEY=VALUE, as in run.steps=50"),
    "no such place": ([], ["zip.3.lr=[1.0]"], "zip.3.lr (--set): no such key in the file"),
    "a parameter that a zip has": (
        [], ["run.input_scale=1"],
        "zip.0.input_scale (line 21): is in [run] too; remove one of them",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG_FLAGS)
def test_a_wrong_flag_is_answered_with_this_sentence(name):
    overrides, sets, expected = WRONG_FLAGS[name]
    assert complaints_of(EXAMPLE, overrides=overrides, sets=sets) == [expected]


def test_a_flag_cannot_nest_too_deeply():
    with pytest.raises(GridError, match="nested too deeply"):
        grid_of(EXAMPLE, sets=[f"claim.{'a.' * 40}b=1"])


def test_the_lines_of_a_valid_file_are_not_looked_for(monkeypatch):
    monkeypatch.setattr(source, "key_lines", None)
    assert grid_of(EXAMPLE, overrides=[("run.steps", "50")]).title
    with pytest.raises(TypeError):
        grid_of("[run]\nstepz = 1")


@pytest.mark.parametrize(
    "text",
    [
        "[run]\n" + "".join(f"zz{i} = 1\n" for i in range(5000)),
        "[axes]\nlr = [" + "-1.0, " * 5000 + "]",
        '[run]\nmodel = "transformer"\n[axes]\nheads = { range = [1, 100] }\n'
        "width = { range = [1, 100] }",
    ],
    ids=["keys", "values", "pairs"],
)
def test_checking_stops_after_a_thousand_problems(text, monkeypatch):
    calls = []
    monkeypatch.setattr(errors.difflib, "get_close_matches", lambda *a, **k: calls.append(a) or [])
    with pytest.raises(GridError) as raised:
        grid_of(text)
    headline, *lines = str(raised.value).splitlines()
    assert headline.endswith(f"{errors.MAX_COMPLAINTS} problems or more")
    assert len(lines) == errors.SHOWN_COMPLAINTS + 1
    assert len(raised.value.complaints) == errors.MAX_COMPLAINTS
    assert len(calls) <= 2 * errors.MAX_COMPLAINTS


def test_a_complaint_about_a_parameter_of_any_zip_has_its_line():
    knobs = "".join(f"[[zip]]\nknobs.a{i} = [1.0]\n" for i in range(60))
    grid = grid_of(f'[run]\nproblem = "my_module:make_problem"\n{knobs}')
    assert str(grid.complaint("knobs.a59", "wrong")) == "zip.59.knobs.a59 (line 122): wrong"


def test_more_axes_than_an_array_has_dimensions_are_refused():
    axes = "".join(f"knobs.a{i} = [1.0]\n" for i in range(65))
    for table, line in (("axes", 3), ("[include]", 3)):
        text = f'[run]\nproblem = "my_module:make_problem"\n[{table}]\n{axes}'
        key = "axes" if table == "axes" else "include.0"
        assert complaints_of(text) == [
            f"{key} (line {line}): has 65 axes that vary independently; at most 64 are possible"
        ]


def test_flags_change_what_the_file_says():
    grid = grid_of(
        EXAMPLE,
        overrides=[("run.steps", "50"), ("axes.lr.num", "3"), ("axes.activation.0", "elu"),
                   ("zip.0.input_scale.1", "2"), ("exclude.0.lr.gt", "1")],
        sets=["axes.width=[8, 16]", "run.seed=3", "exec.chunk_runs=64", "title=Why not?"],
    )  # fmt: skip
    plan = make_plan(grid)
    points = [plan.point(i) for i in range(len(plan))]
    assert grid.title == "Why not?"
    assert grid.exec.chunk_runs == 64
    assert {(point["steps"], point["seed"]) for point in points} == {(50, 3)}
    assert {point["width"] for point in points} == {8, 16}, "--set moves width out of [run]"
    assert {point["lr"] for point in points} == {1e-4, 0.1, 100.0}
    assert {point["activation"] for point in points} == {"elu", "tanh"}
    assert {point["input_scale"] for point in points} == {1.0, 2.0}
    assert max(point["lr"] for point in points if point["activation"] == "tanh") == 0.1


@pytest.mark.parametrize(
    ("argv", "rest", "overrides"),
    [
        ("grid.toml --run.steps 50 --out x", "grid.toml --out x", [("run.steps", "50")]),
        ("--axes.lr.num=9 grid.toml", "grid.toml", [("axes.lr.num", "9")]),
        ("--run.x0 -1 --run.name=a=b", "", [("run.x0", "-1"), ("run.name", "a=b")]),
        ("--exec.chunk-runs 9", "", [("exec.chunk_runs", "9")]),
        ("--run.steps --dry-run", "--dry-run", [("run.steps", "")]),
        ("--set axes.width=[8] --out=a.b", "--set axes.width=[8] --out=a.b", []),
        ("a -- --run.steps 5", "a -- --run.steps 5", []),
    ],
)
def test_dotted_options_are_taken_out_of_the_arguments(argv, rest, overrides):
    assert split_arguments(argv.split()) == (rest.split(), overrides)


def test_resolved_toml_keeps_what_was_asked_and_no_more():
    grid = grid_of(EXAMPLE, overrides=[("run.steps", "50")], sets=["exec.devices=1"])
    assert grid.resolved_toml().splitlines()[:4] == [
        'title = "Does ReLU give NaN where tanh does not?"', "", "[run]", "steps = 50",
    ]  # fmt: skip
    assert "lr = { logspace = [0.0001, 100.0], num = 17 }" in grid.resolved_toml()
    assert grid_of(grid.resolved_toml()).exec == grid.exec


NAMES = [parameter.name for parameter in PARAMETERS.values()]
MEANINGLESS = st.sampled_from(["[[3]]", "{ a = 1 }", "1979-05-27", '"\\u0000"', "[nan]"])
TABLES = {"[run]": "run", "[axes]": "axes", "[[zip]]": "zip.0", "[[exclude]]": "exclude.0"}


@settings(max_examples=50)
@given(
    wrong=st.dictionaries(st.sampled_from(NAMES), MEANINGLESS, min_size=1),
    table=st.sampled_from([*TABLES]),
)
def test_every_wrong_value_is_told_by_its_key_and_its_line(wrong, table):
    lines = [f"{name} = {value}" for name, value in wrong.items()]
    complaints = complaints_of("\n".join([table, *lines]))
    for line, name in enumerate(wrong, start=2):
        key = f"{TABLES[table]}.{name}"
        assert [each for each in complaints if each.startswith(key) and f" (line {line}): " in each]


# Each line that begins a key or an element says so behind `#@`.
LINES = """\
title = "# no [comment] \\" = x"  #@ title
long = \'\'\'                       #@ long
a = [1]
\'\'\'
"quoted key" = 1                 #@ quoted key
[run]                            #@ run
a . b = 1.5                      #@ run.a run.a.b

[axes]                           #@ axes
activation = [                   #@ axes.activation
    # a comment, "with" [brackets]
    "relu",                      #@ axes.activation.0
    "ta]nh" , 1979-05-27T07:32:00.5Z, #@ axes.activation.1 axes.activation.2
]
lr = { ends = [1.5], a.b = 3 }   #@ axes.lr axes.lr.ends axes.lr.ends.0 axes.lr.a axes.lr.a.b
[axes.seed]                      #@ axes.seed
range = 8                        #@ axes.seed.range
[[zip]]                          #@ zip zip.0
lr = [                           #@ zip.0.lr
  [ ], 2 ]                       #@ zip.0.lr.0 zip.0.lr.1
[[zip]]                          #@ zip.1
[zip.steps]                      #@ zip.1.steps
num = -1.5e-3                    #@ zip.1.steps.num
[[zip.more]]                     #@ zip.1.more zip.1.more.0
[[zip.more]]                     #@ zip.1.more.1
x = 1                            #@ zip.1.more.1.x
"""


def test_each_key_and_element_is_found_on_its_line():
    tomllib.loads(LINES)
    marked = {
        key: number
        for number, line in enumerate(LINES.splitlines(), start=1)
        for key in line.partition("#@ ")[2].replace("quoted key", "quoted_key").split()
    }
    found = {dotted(path).replace(" ", "_"): line for path, line in key_lines(LINES).items()}
    assert found == marked


SCALARS = st.integers() | st.booleans() | st.floats(allow_nan=False) | st.text()
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


def paths_in(node, path=()):
    for key, value in node.items() if isinstance(node, dict) else enumerate(node):
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from paths_in(value, (*path, key))


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.text(), VALUES, max_size=4))
def test_toml_that_is_written_is_read_back_and_each_of_its_keys_has_a_line(tree):
    text = file_text(tree)
    assert tomllib.loads(text) == tree
    assert set(paths_in(tree)) == set(key_lines(text))


def test_the_schema_in_the_repository_is_current():
    assert SCHEMA_FILE.read_text(encoding="utf-8") == schema_text(), (
        "run: python -m nanlab.grid --write"
    )


def test_the_command_prints_the_schema_and_writes_it_only_on_request(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(grid_command, "SCHEMA_FILE", tmp_path / "schema.json")
    with pytest.raises(SystemExit) as stopped:
        grid_command.main(["--help"])
    assert stopped.value.code == 0
    assert "--write" in capsys.readouterr().out
    assert grid_command.main([]) == 0
    assert capsys.readouterr().out == schema_text()
    assert not list(tmp_path.iterdir())
    assert grid_command.main(["--write"]) == 0
    assert (tmp_path / "schema.json").read_text(encoding="utf-8") == schema_text()


def test_the_schema_accepts_the_example():
    validator = jsonschema.Draft202012Validator(schema())
    validator.check_schema(schema())
    validator.validate(tomllib.loads(EXAMPLE))


@pytest.mark.parametrize(
    "name",
    [
        "an unknown parameter", "an unknown table", "a parameter outside every table",
        "text for a whole number", "a boolean for a number", "a misspelled name",
        "numbers out of range", "a batch that is neither a size nor full",
        "several values in [run]", "one value in [axes]", "numbers for names", "empty axes",
        "wrong forms", "single brackets", "wrong conditions", "wrong includes", "wrong settings",
    ],
)  # fmt: skip
def test_the_schema_refuses_what_the_grid_refuses(name):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(schema()).validate(tomllib.loads(WRONG[name][0]))


def test_a_name_that_is_added_to_a_table_of_parts_is_accepted_and_in_the_schema(monkeypatch):
    text = '[axes]\nactivation = ["snake"]'
    assert 'must be one of "relu"' in complaints_of(text)[0]
    monkeypatch.setitem(ACTIVATIONS, "snake", ACTIVATIONS["tanh"])
    assert make_plan(grid_of(text)).point(0)["activation"] == "snake"
    assert "snake" in schema()["$defs"]["activation"]["enum"]


def test_every_parameter_has_a_sentence_and_a_default_that_suits_it():
    for problem, model in PROBLEMS.items():
        asked = model(problem=problem)
        for name, value in asked.model_dump().items():
            parameter = PARAMETERS[name]
            assert value == parameter.default or name == "problem"
            assert parameter.doc.endswith(".")
            assert type(value) in parameter.kinds
            assert problem in parameter.problems


REFUSAL = """
import sys, time
begun = time.perf_counter()
import nanlab.plan
from nanlab.grid import GridError, load_grid
try:
    load_grid(sys.argv[1])
except GridError as error:
    print(error)
heavy = {"jax", "jaxlib", "flax", "optax", "polars", "sklearn", "scipy"} & set(sys.modules)
print(sorted(heavy), time.perf_counter() - begun)
"""


def test_a_wrong_grid_is_answered_without_importing_jax(tmp_path):
    path = tmp_path / "wrong.toml"
    path.write_text("\n".join([EXAMPLE, "steps = 3"]))
    done = subprocess.run(
        [sys.executable, "-c", REFUSAL, str(path)],
        capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1],
    )  # fmt: skip
    *complaints, last = done.stdout.splitlines()
    heavy, _, seconds = last.rpartition(" ")
    assert complaints[1].strip().startswith("exec.steps (line 31): unknown key")
    assert heavy == "[]"
    assert float(seconds) < 10, "far more than it takes, for a busy machine"
