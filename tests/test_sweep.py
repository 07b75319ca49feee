"""`python -m nanlab.sweep grid.toml` as a person runs it: a process of its own, with flags."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
from killing import killing

from nanlab.sweep import STOPPED, main

TABLES = ("runs.parquet", "runs.csv", "blames.csv")
LEFT = {*TABLES, "grid.resolved.toml", "manifest.json"}

GRID = """\
title = "Which learning rates overflow?"

[run]
problem = "quadratic"
steps = 300

[axes]
lr = [0.5, 1.0, 2.5, 3.0, 1e38]
precision = ["float32", "float64"]

[exec]
chunk_runs = 1024
devices = 2
"""
# Three chunks of at most 128 runs.
LONGER = GRID.replace("[0.5, 1.0, 2.5, 3.0, 1e38]", "{ logspace = [0.1, 1e38], num = 300 }")
LONGER = LONGER.replace(', "float64"', "").replace("chunk_runs = 1024", "chunk_runs = 128")


def environment(**changes):
    left_out = {"COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"}
    kept = {name: value for name, value in os.environ.items() if name not in left_out}
    return kept | {"TERM": "xterm-256color"} | changes


def run(*command, **changes):
    return subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, timeout=200,
        env=environment(**changes),
    )  # fmt: skip


def sweep(*arguments, **changes):
    return run("-m", "nanlab.sweep", *arguments, "--no-report", **changes)


def write(text, name="grid.toml"):
    Path(name).write_text(text, encoding="utf-8")
    return name


def bytes_of(folder):
    return {name: Path(folder, name).read_bytes() for name in TABLES}


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A folder where the sweep of GRID was run once, without a terminal; and what it printed."""
    folder = tmp_path_factory.mktemp("first")
    (folder / "sweeps").mkdir()
    (folder / "sweeps/overflow.toml").write_text(GRID, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "nanlab.sweep", "sweeps/overflow.toml", "--no-report"],
        capture_output=True, text=True, timeout=200, cwd=folder, env=environment(),
    )  # fmt: skip
    return folder, done


def test_a_good_grid_ends_with_a_summary_and_every_file(first):
    folder, done = first
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines() if line.strip()]
    assert lines[0] == ["outcomes"]
    assert lines[1] == ["precision", "trained", "diverged", "nan", "runs"]
    assert lines[2:4] == [["float32", "2", "0", "3", "5"], ["float64", "2", "2", "1", "5"]]
    assert lines[-1] == ["10", "runs", "in", "results/overflow"]
    assert "overflow in mul" in done.stdout
    assert "inf-inf in add" in done.stdout
    assert {path.name for path in (folder / "results/overflow").iterdir()} == LEFT
    manifest = json.loads((folder / "results/overflow/manifest.json").read_text())
    assert manifest["command"] == "python -m nanlab.sweep sweeps/overflow.toml"


def test_the_oracles_steps_stand_in_the_table(first):
    folder, _ = first
    runs = pl.read_parquet(folder / "results/overflow/runs.parquet")
    steps = runs.filter(pl.col("precision") == "float32").select("lr", "fault_step", "nan_step")
    # DESIGN section 7, by plain iteration; its indices are of iterates, a step makes the next one.
    assert steps.rows()[:4] == [
        (0.5, None, None),
        (1.0, None, None),
        (2.5, 111, 218),
        (3.0, 65, 128),
    ]


def test_progress_is_plain_lines_on_standard_error_where_there_is_no_terminal(first):
    _, done = first
    assert done.stderr.splitlines()[0] == "group 1 of 2: 5 runs"
    assert re.search(r"^10 of 10 runs, 4 failed, [\d,]+ runs/s$", done.stderr, re.MULTILINE)
    assert "\x1b" not in done.stdout + done.stderr
    assert "\r" not in done.stderr


def test_the_second_time_it_says_that_it_is_finished(first, monkeypatch, capsys):
    folder, _ = first
    monkeypatch.chdir(folder)
    before = bytes_of("results/overflow")
    assert main(["sweeps/overflow.toml", "--no-report"]) == 0
    said = capsys.readouterr()
    sentence = "results/overflow is finished, all 10 runs; --force runs them again\n"
    assert said.err == ""
    assert said.out.startswith(sentence)
    assert said.out.endswith("10 runs in results/overflow\n")
    assert {path.name for path in Path("results/overflow").iterdir()} == LEFT
    assert bytes_of("results/overflow") == before


def test_one_device_more_flags_and_a_narrow_screen_give_the_same_bytes(first):
    folder, _ = first
    done = sweep(
        write(GRID), "--out", "here", "--exec.devices=1", "--set", "exec.witnesses=20",
        "--run.steps", "300", COLUMNS="40",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert bytes_of("here") == bytes_of(folder / "results/overflow")
    assert json.loads(Path("here/manifest.json").read_text())["environment"]["devices"] == 1
    table, _, _ = done.stdout.partition("10 runs in")
    # A path is never broken, so it may be a line that is longer.
    assert all(len(line) <= 40 or len(line.split()) == 1 for line in table.splitlines())


# Enough runs that each of eight devices has some: 8 x 64 lanes, and a few more.
QUADRATIC = """\
[run]
problem = "quadratic"
steps = 150

[axes]
lr = { logspace = [0.1, 1e38], num = 520 }
"""
TRAINING = """\
[run]
task = "breast_cancer"
depth = 2
width = 8
optimizer = "adam"
steps = 10

[axes]
lr = { logspace = [1e-3, 1e38], num = 520 }
"""


@pytest.mark.slow
@pytest.mark.parametrize("text", [QUADRATIC, TRAINING], ids=["numbers", "training"])
def test_lanes_over_eight_devices_of_one_process_make_the_bytes_of_two(text):
    eight = sweep(write(text), "--out", "eight", "--set", "exec.devices=8")
    assert eight.returncode == 0, eight.stderr
    assert main(["grid.toml", "--out", "two", "--set", "exec.devices=2", "--no-report"]) == 0
    manifests = [json.loads(Path(f, "manifest.json").read_text()) for f in ("eight", "two")]
    assert [each["environment"]["devices"] for each in manifests] == [8, 2]
    assert len(manifests[0]["outcomes"]) > 1
    assert bytes_of("eight") == bytes_of("two")


# A dry run, and then something that does compile, to see that this would have been seen.
UNCOMPILED = """
import sys
import jax
def refuse(*arguments, **options):
    raise AssertionError("compiled")
jax._src.compiler.backend_compile_and_load = refuse
from nanlab.sweep import main
status = main(sys.argv[1:])
try:
    jax.jit(lambda x: x + 1)(1)
except AssertionError as error:
    print(error)
sys.exit(status)
"""


def test_a_dry_run_says_what_would_run_and_does_nothing():
    two = LONGER.replace('["float32"]', '["float32", "float64"]')
    done = run("-c", UNCOMPILED, write(two), "--dry-run", "--out", "there")
    assert done.returncode == 0, done.stderr
    title, *lines, last = done.stdout.splitlines()
    assert last == "compiled", "this test no longer sees what is compiled"
    assert title == "grid.toml: Which learning rates overflow?"
    said = dict(line.split(maxsplit=1) for line in lines)
    assert said["runs"] == "600"
    assert said["groups"].startswith("2 ")
    # Of 300 runs each group has three chunks of 100, and a chunk two blocks.
    assert said["chunks"] == "6"
    assert said["blocks"] == "12 of 64 lanes, on 2 devices"
    assert re.fullmatch(
        r"about [\d.]+ (bytes|[KM]iB) for the largest launch, .* are free", said["memory"]
    )
    assert not Path("there").exists()


def test_help_needs_no_jax_and_names_every_flag():
    listed = "import sys; from nanlab import sweep\n"
    listed += "try: sweep.main(['--help'])\nfinally: print('jax' in sys.modules)"
    done = run("-c", listed, COLUMNS="80")
    assert done.stdout.splitlines()[-1] == "False"
    for flag in ("--out", "--set", "--force", "--dry-run"):
        assert flag in done.stdout, flag
    assert "{None}" not in done.stdout


# What is asked, and a part of the sentence that answers it.
WRONG = {
    "a file that is not there": (None, ["nothing.toml"], "nothing.toml"),
    "TOML that is none": ("[axes\nlr = 1", [], "line 1, column 6"),
    "an unknown key": ('[axes]\nactivaton = ["relu"]', [], 'did you mean "activation"?'),
    "a wrong type": ('[run]\nsteps = "many"', [], 'run.steps = "many" (line 2): must be a whole'),
    "an empty axis": ("[axes]\nlr = []", [], "axes.lr"),
    "a value twice": ("[axes]\nlr = [1.0, 1.0]", [], "axes.lr"),
    "a value that is not finite": ("[axes]\nlr = [1.0, nan]", [], "axes.lr"),
    "a zip of two lengths": ("[[zip]]\nlr = [1.0, 2.0]\nseed = [1, 2, 3]", [], "zip"),
    "an exclude of everything": ("[axes]\nlr = [1.0]\n[[exclude]]\nlr = 1.0", [], "exclude"),
    "a flag for a key that is not there": (GRID, ["--run.stepz", "5"], "run.stepz"),
    "a --set without a value": (GRID, ["--set", "run.steps"], "KEY=VALUE"),
}
SPEAK = """
import contextlib, io, json, sys
from nanlab.sweep import main
told = []
for arguments in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(arguments)
    told.append((status, out.getvalue(), err.getvalue()))
print(json.dumps([told, "jax" in sys.modules]))
"""


def test_what_is_wrong_with_a_grid_is_a_sentence_and_2_and_needs_no_jax():
    asked = []
    for number, (text, flags, _) in enumerate(WRONG.values()):
        asked.append([*([] if text is None else [write(text, f"grid{number}.toml")]), *flags])
    done = run("-c", SPEAK, json.dumps(asked))
    assert done.returncode == 0, done.stderr
    told, has_jax = json.loads(done.stdout)
    assert not has_jax
    for case, (status, out, err) in zip(WRONG, told, strict=True):
        sentence = WRONG[case][2]
        assert (status, out) == (2, ""), case
        assert sentence in err, (case, err)
        assert "Traceback" not in err, case
    assert not Path("results").exists()


def test_a_wrong_grid_is_answered_without_a_traceback_by_the_command_itself():
    done = sweep(write(WRONG["an unknown key"][0]))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        "grid.toml: 1 problem",
        '  axes.activaton (line 2): unknown key; did you mean "activation"?',
    ]


@pytest.mark.parametrize("out", ["in_the_way", "in_the_way/below", "/proc/results"])
def test_results_that_cannot_be_written_there_are_a_sentence_and_2(out, capsys):
    Path("in_the_way").write_text("mine")
    assert main([write(GRID), "--out", out]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert re.fullmatch(rf"cannot write {out}: [a-z ]+; --out names another folder\n", said.err), (
        said.err
    )
    assert Path("in_the_way").read_text() == "mine"


@pytest.mark.parametrize(
    "flushes, reused",
    [
        pytest.param(2, None, marks=pytest.mark.slow, id="before the first chunk is in its place"),
        pytest.param(
            4, 200, marks=pytest.mark.slow, id="when two chunks of three are in their places"
        ),
        pytest.param(6, 300, marks=pytest.mark.slow, id="when the tables are half written"),
        pytest.param(9, 300, marks=pytest.mark.slow, id="before the manifest is in its place"),
    ],
)
def test_killed_by_the_system_the_same_command_finishes_the_rest(flushes, reused):
    write(LONGER)
    assert main(["grid.toml", "--out", "undisturbed", "--no-report"]) == 0
    killed = run("-c", killing("nanlab.sweep"), str(flushes), "grid.toml", "--out", "killed")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert list(Path("killed").rglob("*.partial")), "it was killed between a file and its place"
    done = sweep("grid.toml", "--out", "killed", COLUMNS="200")
    assert done.returncode == 0, done.stderr
    # On a wide screen each site is one line.
    blames = pl.read_csv("killed/blames.csv")
    assert len(
        re.findall(r" nanlab/problems/quadratic.py:\d+ *$", done.stdout, re.MULTILINE)
    ) == 2 * len(blames), done.stdout
    there = re.findall(r"^(\d+) of 300 runs are there already$", done.stderr, re.MULTILINE)
    assert there == ([] if reused is None else [str(reused)])
    assert bytes_of("killed") == bytes_of("undisturbed")
    assert {path.name for path in Path("killed").iterdir()} == LEFT


@pytest.mark.slow
@pytest.mark.parametrize("after_s", [0.02, 0.3, 0.7, 1.2, 2.0])
def test_killed_at_no_chosen_moment_the_same_command_finishes_the_rest(after_s):
    command = [sys.executable, "-m", "nanlab.sweep", write(LONGER), "--out", "killed"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment()) as running:
        assert running.stderr.readline().startswith("group 1 of 1")
        time.sleep(after_s)
        running.kill()
    assert sweep("grid.toml", "--out", "killed").returncode == 0
    assert sweep("grid.toml", "--out", "undisturbed").returncode == 0
    assert bytes_of("killed") == bytes_of("undisturbed")
    assert {path.name for path in Path("killed").iterdir()} == LEFT


def test_ctrl_c_stops_at_once_and_says_how_to_go_on():
    # Fast for a chunk of 128 runs; then one that would take minutes.
    text = LONGER.replace("steps = 300\n", "").replace("[axes]", "[axes]\nsteps = [10, 10000000]")
    text = text.replace("[0.1, 1e38], num = 300", "[0.1, 1.0], num = 100")
    command = [sys.executable, "-m", "nanlab.sweep", write(text)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    ) as running:
        assert running.stderr.readline() == "group 1 of 1: 200 runs\n"
        # The first chunk is in its place, the second on its way.
        for _ in range(600):
            if list(Path("results/grid/.chunks").glob("????????????????-*.parquet")):
                break
            time.sleep(0.1)
        time.sleep(1.0)  # it is counted a moment after it is stored
        asked = time.monotonic()
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=60)
        took_s = time.monotonic() - asked
    assert running.returncode == STOPPED == 130
    assert took_s < 3, "one second or two, and something for a busy machine"
    sentence = (
        "stopped: 100 of 200 runs are stored in results/grid; the same command resumes from there"
    )
    assert err.splitlines()[-1] == sentence
    assert (out, "Traceback" in err) == ("", False)


def test_ctrl_c_before_anything_has_begun_is_a_sentence_too(monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("nanlab.grid.load_grid", interrupted)
    assert main([write(GRID)]) == STOPPED
    assert capsys.readouterr().err == "\nstopped; the same command resumes from there\n"


TERMINAL = """
import os, pty, sys
status = pty.spawn([sys.executable, "-m", "nanlab.sweep", *sys.argv[1:]])
sys.exit(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"NO_COLOR": "1"}], ids=["color", "NO_COLOR"])
def test_a_terminal_gets_a_bar_and_no_color_where_none_is_wanted(changes):
    pytest.importorskip("pty")
    done = run("-c", TERMINAL, write(GRID), COLUMNS="100", **changes)
    assert done.returncode == 0, done.stderr
    text = done.stdout
    assert "10 runs in " in re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", text)
    assert "10/10" in text or "5/10" in re.sub(r"\x1b\[[\d;]*m", "", text)
    # 30 to 37 and 90 to 97 are the colors.
    colors = re.findall(r"\x1b\[(?:\d+;)*(?:3[0-7]|9[0-7]|38;[\d;]+)m", text)
    assert bool(colors) == (not changes)
