"""What nanlab.debug leaves beside its text: annotations, a folder, HTML, cells, trackers."""

import json
import re
import sys
from textwrap import dedent
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

import nanlab
from nanlab import debug

SCRIPT = """
    import jax, jax.numpy as jnp
    from functools import partial
    @partial(jax.jit, donate_argnums=0)
    def step(state, batch, rate):
        return {"w": state["w"] - rate * jnp.log(batch["x"]), "h": state["h"] * 2}
    state = {"w": jnp.ones(3, jnp.float32), "h": jnp.ones(4, jnp.bfloat16)}
    for i in range(5):
        state = step(state, {"x": jnp.ones(3, jnp.float32) - i / 2}, 0.5)
"""


@pytest.fixture
def run(own_folder, monkeypatch, capsys):
    """Run a script's text under nanlab.debug: (exit status, output, errors)."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "argv", list(sys.argv))

    def go(text, *before):
        (own_folder / "my,script.py").write_text(dedent(text))
        return (debug.main([*before, "my,script.py"]), *capsys.readouterr())

    return go


def test_github_gets_an_annotation_for_the_line_and_one_for_the_inf_behind_it(run):
    status, output, _ = run(
        """
        import jax, jax.numpy as jnp
        def f(x):
            large = jnp.exp(x)
            return large / large.sum()
        jax.jit(f)(jnp.array([100, 0], jnp.float32))
        """,
        "--format",
        "github",
    )
    assert status == debug.FAULT
    lines = [line for line in output.splitlines() if line.startswith("::")]
    assert lines == [
        "::error file=my%2Cscript.py,line=5,title=nanlab::The fault is in call 1 of the jitted "
        "function f. div: inf/inf",
        "::notice file=my%2Cscript.py,line=4,title=nanlab::The fault is in call 1 of the jitted "
        "function f. exp: overflow",
    ]
    status, output, _ = run("import jax\njax.jit(lambda x: x)(1.0)", "--format=github")
    assert (status, output) == (0, "")


def test_a_saved_fault_has_the_exact_arguments_of_its_call(run, own_folder):
    status, _, errors = run(SCRIPT, "--save", "fault")
    assert status == debug.FAULT
    assert "saved in" in errors
    folder = own_folder / "fault"
    about = json.loads((folder / "verdict.json").read_text())
    assert (about["function"], about["call"]) == ("step", 3)
    with np.load(folder / "arguments.npz", allow_pickle=False) as stored:
        arguments = {k: (v["type"], stored[v["array"]]) for k, v in about["arguments"].items()}
    assert sorted(arguments) == ["batch['x']", "rate", "state['h']", "state['w']"]
    assert arguments["batch['x']"][1].tolist() == [0, 0, 0]
    # The state after two steps, which the third was given and donated.
    expected = np.float32(1) - np.float32(0.5) * np.log(np.float32([1.0, 0.5]), dtype=np.float32)
    assert np.allclose(arguments["state['w']"][1], 1 + 0.5 * np.log(2), rtol=1e-6), expected
    kind, raw = arguments["state['h']"]
    assert (kind, raw.view(jnp.bfloat16).tolist()) == ("bfloat16", [4.0] * 4)
    assert (folder / "script-my,script.py").read_text() == (own_folder / "my,script.py").read_text()
    assert "log, pole" in (folder / "verdict.txt").read_text()
    assert (folder / "reproduce.py").exists()


def test_a_folder_that_cannot_be_written_leaves_nothing_and_the_verdict_comes(run, own_folder):
    (own_folder / "file").write_text("")
    status, output, errors = run(SCRIPT, "--save", "file/below")
    assert status == debug.FAULT
    assert "log, pole" in output
    assert "nothing was saved" in errors
    assert sorted(path.name for path in own_folder.iterdir()) == ["file", "my,script.py"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--save", "."), "--save .: exists already; name a new one"),
        (("--format", "gitlab"), "--format gitlab: must be github"),
    ],
)
def test_what_cannot_be_followed_is_said_before_the_script_runs(run, options, said):
    status, output, errors = run("print('ran')", *options)
    assert status == 2
    assert said in errors
    assert not output


# Notebooks.


def test_html_is_legible_on_light_and_dark_pages():
    verdict = nanlab.pinpoint(lambda x: jnp.log(x) / jnp.log(x), jnp.array([1.0, -1.0]))
    page = verdict._repr_html_()
    assert "background:#fff" in page
    colors = set(re.findall(r"[\"; ]color: ?(#[0-9a-f]{6})", page))
    assert len(colors) > 3

    def luminance(color):
        parts = (int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))
        r, g, b = (x / 12.92 if x <= 0.03928 else ((x + 0.055) / 1.055) ** 2.4 for x in parts)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    assert min(1.05 / (luminance(color) + 0.05) for color in colors) >= 4.5


class Shell:
    """As much of IPython's shell as the magic uses."""

    def __init__(self, folder):
        self.magics, self.file, self.raised = {}, str(folder / "3141.py"), []
        self.compile = SimpleNamespace(format_code_name=self.name_of)

    def name_of(self, file):
        return ("Cell", "In[3]") if file == self.file else None

    def register_magic_function(self, function, kind, name):
        self.magics[name] = function

    def run_cell(self, text):
        try:
            exec(compile(text, self.file, "exec"), {})
        except BaseException as error:
            self.raised.append(error)


@pytest.fixture
def notebook(own_folder, monkeypatch):
    shell, shown = Shell(own_folder), []
    module = SimpleNamespace(get_ipython=lambda: shell)
    monkeypatch.setitem(sys.modules, "IPython", module)
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=shown.append))
    nanlab.load_ipython_extension(shell)
    return shell, shown


def test_the_magic_shows_the_verdict_of_a_cell_with_the_cells_number(notebook):
    shell, shown = notebook
    cell = "import jax, jax.numpy as jnp\ndef f(x):\n    return jnp.log(x)\njax.jit(f)(-1.0)\n"
    shell.magics["nanlab"]("", cell)
    (fault,) = shown
    assert "cell 3, line 4" in str(fault)
    assert fault.verdict.culprit.source == "cell 3:4"
    assert "log" in fault._repr_html_()
    assert shell.raised[0]._render_traceback_() == [fault.headline]


def test_the_magic_says_what_it_saw_in_a_healthy_cell(notebook, capsys):
    shell, shown = notebook
    shell.magics["nanlab"]("", "import jax\njax.jit(lambda x: x + 1)(1.0)")
    assert capsys.readouterr().err == "nanlab: all was finite in 1 call of jitted functions.\n"
    shell.magics["nanlab"]("--after 2", "import jax\njax.jit(lambda x: x + 1)(1.0)")
    assert "--after 2 left out all of 1 call" in capsys.readouterr().err
    shell.magics["nanlab"]("--befor", "print('ran')")
    assert capsys.readouterr().out.startswith("%%nanlab [--after N]")
    assert not shown + shell.raised


# Experiment trackers.


class WandbRun:
    def __init__(self):
        self.summary, self.logged, self.alerts = {}, [], []

    def log(self, row, step=None):
        self.logged.append((row, step))

    def alert(self, title, text):
        self.alerts.append(title)


def test_a_verdict_is_logged_to_a_run_or_a_writer():
    verdict = nanlab.pinpoint(lambda x: jnp.log(x), jnp.float32(-1))
    run, texts = WandbRun(), []
    nanlab.log_verdict(verdict, run, step=7)
    assert "log, domain" in run.summary["nanlab/verdict"]
    assert run.logged == [({"nanlab/fault": 1}, 7)]
    assert run.alerts
    for name in ("add_text", "text"):
        writer = SimpleNamespace(**{name: lambda *row: texts.append(row)})
        nanlab.log_verdict(verdict, writer, step=7)
    assert [(tag, step) for tag, _, step in texts] == [("nanlab/verdict", 7)] * 2
    assert all("    The NaN: log, domain" in text for _, text, _ in texts)
    with pytest.raises(TypeError, match="list is no tracker that nanlab knows"):
        nanlab.log_verdict(verdict, [])
