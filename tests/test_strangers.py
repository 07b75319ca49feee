"""Results from a stranger: their code is not run unasked, and their files lead nowhere else."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from resealed import reseal

import nanlab
from nanlab import diff, replay, report, sweep, verify, worker
from nanlab.results.files import csv_text, plain_texts
from nanlab.results.store import CHUNKS, PLAN, prepared_grid, sealed_grid
from nanlab.study import trust
from nanlab.study.replay import ReplayError

MINE = """\
from pathlib import Path
import jax.numpy as jnp
import nanlab

Path("was_run").touch()


def make():
    def init(knobs, key):
        return {"x": jnp.float32(1.0)}

    def step(state, knobs, key):
        return {"x": state["x"] * 1e30}, nanlab.Metrics(state["x"])

    return nanlab.Problem(init=init, step=step, knobs={})
"""
GRID = """\
[run]
problem = "PROBLEM"
steps = 5

[axes]
seed = { range = 2 }

[exec]
witnesses = 0
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with code, a grid that names it, and its study."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("stranger.py").write_text(MINE)
        Path("grid.toml").write_text(GRID.replace("PROBLEM", "stranger.py:make"))
        assert sweep.main(["grid.toml", "--out", "results/x", "--no-report"]) == 0
    return folder


@pytest.fixture
def study(made):
    """A study of this project's own code, in results/x; nothing has run since."""
    shutil.copytree(made, ".", dirs_exist_ok=True)
    forget()
    return Path("results/x")


def forget():
    """Forget that the code was imported, as a new process would."""
    Path("was_run").unlink(missing_ok=True)
    for name in [name for name in sys.modules if name.startswith("nanlab_own_")]:
        del sys.modules[name]


def run_id():
    return pl.read_parquet("results/x/runs.parquet")["run_id"][0]


def commands():
    yield verify, ["results/x"]
    yield replay, ["results/x", run_id()]


def test_code_that_a_grid_of_this_project_names_is_run_without_a_question(study):
    for command, arguments in commands():
        assert command.main(arguments) == 0


def theirs(study):
    """The grid that made the study is not here."""
    Path("grid.toml").unlink()


def in_their_folder(study):
    """The code came with the folder, and a grid here happens to name it."""
    shutil.move("stranger.py", "results/x/stranger.py")
    for path in (Path("grid.toml"), study / "grid.resolved.toml"):
        path.write_text(path.read_text().replace("stranger.py:make", "results/x/stranger.py:make"))
    reseal(study)


def elsewhere(study):
    """The code lies outside the working directory."""
    shutil.move("stranger.py", "../theirs.py")
    for path in (Path("grid.toml"), study / "grid.resolved.toml"):
        path.write_text(path.read_text().replace("stranger.py:make", "../theirs.py:make"))
    reseal(study)


def installed(study):
    """A function of an installed module, with arguments."""
    text = (study / "grid.resolved.toml").read_text().replace("stranger.py:make", "shutil:rmtree")
    (study / "grid.resolved.toml").write_text(text)
    Path("grid.toml").write_text(text)
    reseal(study)


@pytest.mark.parametrize("change", [theirs, in_their_folder, elsewhere, installed])
def test_code_from_elsewhere_is_not_run_unless_it_is_trusted(change, study, capsys):
    change(study)
    # The ids of runs hold the name of the code, which verify compares first of all.
    for command, arguments in commands():
        assert command.main(arguments) == 2
        said = capsys.readouterr()
        spec = next(name for name in ("stranger.py:make", "theirs.py:make", "shutil:rmtree")
                    if name in said.err)  # fmt: skip
        assert f"{spec}, which no grid of this project names" in said.err
        assert "--trust" in said.err and not Path("was_run").exists()
    with pytest.raises(ReplayError, match="trust=True"):
        nanlab.replay_run(*next(a for c, a in commands() if c is replay))


@pytest.mark.parametrize("answer", ["y\n", "n\n", "\n"])
def test_on_a_terminal_it_asks(answer, study, monkeypatch, capsys):
    theirs(study)

    class Terminal:
        isatty = staticmethod(lambda: True)
        readline = staticmethod(lambda: answer)

    monkeypatch.setattr(trust.sys, "stdin", Terminal)
    status = 0 if answer == "y\n" else 2
    for command, arguments in commands():
        forget()
        assert command.main(arguments) == status
        assert "Run it now? [y/N]" in capsys.readouterr().err
        assert Path("was_run").exists() == (status == 0)


def test_trusted_code_is_run(study):
    theirs(study)
    for command, arguments in commands():
        assert command.main([*arguments, "--trust"]) == 0


@pytest.mark.parametrize("spec", ["../theirs.py:make", "results/y/theirs.py:make", "shutil:rmtree"])
def test_a_worker_runs_code_of_the_working_directory_alone(spec, study, capsys):
    flags = ["--out", "results/y", "--no-report", "--set", 'exec.engine="files"']
    assert sweep.main(["grid.toml", *flags]) == 0
    prepared = Path("results/y") / CHUNKS / PLAN
    grid = prepared_grid(Path("results/y")).replace("stranger.py:make", spec)
    if spec.endswith("theirs.py:make"):
        shutil.copy("stranger.py", spec.partition(":")[0])
    prepared.write_text(sealed_grid(grid))
    forget()
    work = ["results/y", "--shard", "0/1"]
    assert worker.main(work) == 2
    assert f"{spec}, which does not lie in the working directory" in capsys.readouterr().err
    assert not Path("was_run").exists()
    if spec.endswith("theirs.py:make"):
        assert worker.main([*work, "--trust"]) == 0


# ---- files that lead elsewhere ----


@pytest.mark.parametrize("name", ["../secret.csv", "/etc/hostname", "figures/x.svg", ".."])
def test_a_manifest_that_lists_files_of_another_folder_is_refused(name, study, capsys):
    import json

    from nanlab.results.files import sealed
    from nanlab.results.manifest import read_manifest

    manifest = read_manifest(study)
    manifest["files"][name] = "0" * 64
    (study / "manifest.json").write_text(json.dumps(sealed(manifest)))
    for command in (verify, report):
        assert command.main(["results/x"]) == 2
        assert "which is no file of this folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    "link", ["runs.parquet", ".chunks", ".owners", "figures", "crashes.log", "tables/runs.md"]
)
def test_a_link_that_leads_out_of_the_folder_is_refused(link, study, capsys):
    Path("theirs").mkdir()
    Path("theirs/kept.json").write_text("mine")
    os.utime("theirs/kept.json", (1, 1))
    path = study / link
    path.parent.mkdir(exist_ok=True)
    if path.exists():
        path.rename("theirs/moved")
    path.symlink_to(Path("theirs").resolve())
    for command, arguments in (
        (sweep, ["grid.toml", "--out", "results/x"]), (report, ["results/x"]),
        (verify, ["results/x"]), (diff, ["results/x", "results/x"]), (replay, ["results/x", "a"]),
    ):  # fmt: skip
        assert command.main(arguments) == 2
        assert f"{path}: it is a link that leads out" in capsys.readouterr().err
    with pytest.raises(nanlab.LoadError, match="it is a link that leads out"):
        nanlab.load("results/x")
    assert Path("theirs/kept.json").read_text() == "mine"


def test_a_link_inside_the_folder_and_a_linked_folder_are_fine(study):
    (study / "latest.csv").symlink_to("runs.csv")
    Path("linked").symlink_to(study)
    assert nanlab.load("linked").height == 2


# ---- formulas ----

TEXTS = ["=cmd|' /C calc'!A0", "+1+1", "-x", "@SUM(A1)", "\tx", "'=x", "'quoted", "plain", "", None,
         "-2.5e3", "+1", "1", "inf-inf", "\r=x", "ä"]  # fmt: skip


def test_a_text_that_a_spreadsheet_would_run_is_quoted_and_read_back_as_it_was():
    frame = pl.DataFrame({"text": TEXTS, "number": [-1.5] * len(TEXTS)})
    text = csv_text(frame)
    cells = pl.read_csv(text.encode(), schema=frame.schema)["text"].to_list()
    numbers = {"-2.5e3", "+1"}
    assert not [cell for cell in cells if cell and cell[0] in "=+-@\t\r" and cell not in numbers]
    assert plain_texts(pl.read_csv(text.encode(), schema=frame.schema)).equals(frame)
    assert "-1.5" in text and "'-1.5" not in text


# ---- nothing is unpickled ----


def test_no_file_is_unpickled(repository):
    found = []
    for path in (repository / "nanlab").rglob("*.py"):
        text = path.read_text("utf-8")
        found += [
            path for _ in re.findall(r"^\s*(?:import|from) (?:pickle|shelve|dill)", text, re.M)
        ]
        found += [path for _ in re.findall(r"allow_pickle\s*=\s*True|\.deserialize\(", text)]
    assert not found


# ---- output that nobody reads ----

MORE = [
    pytest.param(text, marks=pytest.mark.slow)
    for text in ("<&- >&- 2>&-", ">&-", ">&- 2>&-", "2>&-", "| true")
]


def test_output_that_a_users_module_closes_stays_open():
    code = (
        "import sys; from nanlab.cli.streams import allow_closed_output as allow; allow()\n"
        "sys.stdout.close(); sys.stderr.close(); print('out'); print('err', file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "out\n", "err\n")


@pytest.mark.parametrize("output", ["| head -1", *MORE])
def test_a_sweep_whose_output_is_closed_is_complete(output):
    Path("grid.toml").write_text(
        '[run]\nproblem = "quadratic"\nsteps = 20\n[axes]\nlr = [0.1, 3.0]\n[exec]\nwitnesses = 0\n'
    )
    command = f"{sys.executable} -m nanlab.sweep grid.toml --out x --no-report {output}"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr and "BrokenPipe" not in done.stderr
    assert nanlab.load("x").height == 2
    assert verify.changed_files(Path("x")) == []
