"""Two commands on one results folder, killed at random moments: no wrong result, no traceback."""

import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest

GRID = """\
title = "TITLE"

[run]
problem = "quadratic"
steps = 150

[axes]
lr = { logspace = [0.1, LAST], num = 60 }

[exec]
devices = 2
chunk_runs = 20
witnesses = 1
"""
TABLES = ("runs.parquet", "runs.csv", "blames.csv")

# Imports once what all commands need, then forks for each: a line of arguments -> a process id.
SERVER = """
import json, os, sys, traceback
from nanlab import claims, diff, replay, report, sweep, verify, worker
import nanlab, nanlab.reporting.write, nanlab.study.study, nanlab.cli.progress, nanlab.engine.lanes

# Drawing takes most of the time, and the figures depend on the same tables as the page.
nanlab.reporting.write.write_figures = lambda folder, analysis: {}

def run(command, *arguments):
    if command == "load":
        import nanlab, warnings
        warnings.simplefilter("always")
        try:
            sys.stdout.write(nanlab.load(*arguments).write_csv())
            return 0
        except nanlab.LoadError as error:
            sys.stderr.write(str(error))
            return 2
    return globals()[command].main(list(arguments))

for line in sys.stdin:
    log, *arguments = json.loads(line)
    process = os.fork()
    if process:
        print(process, flush=True)
        _, status = os.waitpid(process, os.WNOHANG)
        continue
    os.close(0)
    out = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(out, 1), os.dup2(out, 2)
    status = 70
    try:
        status = run(*arguments)
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush(), sys.stderr.flush()
    with open(log + ".status", "w") as file:
        file.write(str(int(status)))
    os._exit(0)
"""


class Commands:
    """Runs commands as processes of their own, quickly."""

    def __init__(self, folder):
        kept = dict(os.environ, JAX_ENABLE_COMPILATION_CACHE="true", XDG_CACHE_HOME=str(folder))
        self._server = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", SERVER], cwd=folder, env=kept, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        self._folder, self._number = folder, 0

    def start(self, *arguments):
        """Start a command; return it."""
        self._number += 1
        log = self._folder / f"{self._number}.log"
        self._server.stdin.write(json.dumps([str(log), *arguments]) + "\n")
        self._server.stdin.flush()
        return Command(int(self._server.stdout.readline()), log, arguments)

    def run(self, *arguments):
        """Run a command to its end; return it."""
        command = self.start(*arguments)
        command.wait()
        return command

    def close(self):
        self._server.stdin.close()
        self._server.stdout.close()
        self._server.wait()


class Command:
    """A command that has been started."""

    def __init__(self, process, log, arguments):
        self.process, self.log, self.arguments = process, log, arguments

    @property
    def is_running(self):
        try:
            state = Path(f"/proc/{self.process}/stat").read_text().rpartition(")")[2].split()[0]
        except (OSError, IndexError):
            return False
        return state != "Z"

    def wait(self):
        deadline = time.monotonic() + 300
        while self.is_running:
            assert time.monotonic() < deadline, f"{self.arguments} hangs"
            time.sleep(0.02)

    @property
    def status(self):
        """The exit status; None if it was killed."""
        path = Path(f"{self.log}.status")
        return int(path.read_text()) if path.exists() and path.stat().st_size else None

    @property
    def text(self):
        return self.log.read_text() if self.log.exists() else ""


CHOICES = [
    ("sweep", "a.toml", "--out", "x"),
    ("sweep", "a.toml", "--out", "x", "--no-report"),
    ("sweep", "a.toml", "--out", "x", "--force", "--no-report"),
    ("sweep", "b.toml", "--out", "x"),
    ("sweep", "b.toml", "--out", "x", "--no-report"),
    ("sweep", "a.toml", "--out", "x", "--no-report", "--set", 'exec.engine="files"'),
    ("worker", "x", "--shard", "0/1"),
    ("report", "x"),
    ("load", "x"),
    ("diff", "x", "of_a"),
    ("verify", "x", "--sample", "10"),
    ("replay", "x", "RUN"),
]
STARTS = ["nothing", "of_a", "of_b", "stopped"]


@pytest.fixture(scope="module")
def commands(tmp_path_factory):
    """The commands, in a folder with the undisturbed studies of_a and of_b, and one stopped."""
    folder = tmp_path_factory.mktemp("pairs")
    for name, last in (("a", "1e38"), ("b", "10.0")):
        (folder / f"{name}.toml").write_text(
            GRID.replace("TITLE", f"Question {name}").replace("LAST", last)
        )
    commands = Commands(folder)
    try:
        for name in ("a", "b"):
            began = time.monotonic()
            done = commands.run("sweep", f"{name}.toml", "--out", f"of_{name}")
            assert done.status == 0, done.text
        commands.longest = time.monotonic() - began
        commands.folder = folder
        stopped = commands.start("sweep", "a.toml", "--out", "stopped")
        while stopped.is_running and not list(folder.glob("stopped/.chunks/????????????????-*")):
            time.sleep(0.005)
        with contextlib.suppress(ProcessLookupError):
            os.kill(stopped.process, signal.SIGKILL)
        stopped.wait()
        yield commands
    finally:
        commands.close()


def lines_of(folder):
    """The lines of a report, without those that hold a time or a commit."""
    text = re.sub("of_a|of_b|stopped", "x", (folder / "report.md").read_text())
    return [
        line
        for line in text.splitlines()
        if not re.search(r"\d (s|min|ms|seconds)\b|commit|Compute", line)
    ]


def rows_of(text):
    """The rows of a table of runs, without the witness, which a running study has not asked."""
    return {line.rpartition(",")[0] for line in text.splitlines()}


def check_answer(done, folder):
    """What a command answered is right, or it refused in a sentence."""
    about = f"{done.arguments}: {done.status}\n{done.text}"
    assert "Traceback" not in done.text, about
    assert done.status in (None, 0, 1, 2, 3, 130), about
    if done.status != 0:
        return
    if done.arguments[0] == "load":
        rows = rows_of(done.text[done.text.index("run_id,") :])
        whole = [rows_of((folder / f"of_{name}/runs.csv").read_text()) for name in "ab"]
        assert any(rows <= each for each in whole), about
        assert rows in whole or "runs are missing" in done.text, about
    if done.arguments[0] == "verify":
        assert "it reproduces" in done.text, about


def check_folder(folder):
    """A report that is there is that of one study, or says that it is not finished."""
    if (folder / "x/report.md").exists():
        reports = [lines_of(folder / f"of_{name}") for name in "ab"]
        now = lines_of(folder / "x")
        assert now in reports or any("is not finished" in line for line in now), now
    runs = folder / "x/runs.parquet"
    if runs.exists():
        pl.read_parquet(runs)  # whole


def run_pair(commands, draw):
    """Run two commands on one folder, perhaps kill them, check, and resume."""
    folder = commands.folder
    shutil.rmtree(folder / "x", ignore_errors=True)
    start = draw.choice(STARTS)
    if start != "nothing":
        shutil.copytree(folder / start, folder / "x")
    example = pl.read_csv(folder / "of_a/blames.csv")["example_run"][0]
    running = []
    for _ in range(2):
        arguments = [example if word == "RUN" else word for word in draw.choice(CHOICES)]
        running.append(commands.start(*arguments))
        time.sleep(draw.uniform(0.0, 0.5 * commands.longest))
    for command in running:
        kill = draw.choice([None, signal.SIGKILL, signal.SIGTERM])
        if kill is not None:
            time.sleep(draw.uniform(0.0, 0.6 * commands.longest))
            with contextlib.suppress(ProcessLookupError):
                if command.is_running:
                    os.kill(command.process, kill)
    for command in running:
        command.wait()
        check_answer(command, folder)
    check_folder(folder)
    again = commands.run("sweep", "a.toml", "--out", "x")
    assert again.status == 0, again.text
    assert "Traceback" not in again.text, again.text
    for name in TABLES:
        assert (folder / "x" / name).read_bytes() == (folder / "of_a" / name).read_bytes(), name
    assert lines_of(folder / "x") == lines_of(folder / "of_a")
    assert not [path for path in (folder / "x").rglob("*") if path.name.startswith(".")]
    return [start, *(f"{c.arguments[0]} {c.status}" for c in running)]


@pytest.mark.skipif(not hasattr(os, "fork") or not Path("/proc/self/stat").exists(), reason="Linux")
@pytest.mark.parametrize(
    ("pairs", "seed"),
    [
        pytest.param(1, 5, id="one"),
        pytest.param(40, int(os.environ.get("SEED", "1")), marks=pytest.mark.slow, id="many"),
    ],
)
def test_random_pairs_of_commands_on_one_folder_never_answer_wrongly(pairs, seed, commands):
    for number in range(pairs):
        draw = random.Random(1_000 * seed + number)
        print(number, *run_pair(commands, draw), sep=", ")
