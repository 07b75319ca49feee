"""Any file of a results folder, damaged in any way: no command answers wrongly, or in a traceback.

`python -m pytest tests/test_corruption.py -m slow` measures all cases, and with WRITE_DOCS=1 writes
the table in docs/corruption.md; the quick tests take a sample and hold the table to it.
"""

import contextlib
import io
import json
import os
import random
import shutil
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import polars as pl
import pytest
from remembered import Remembered

import nanlab
from nanlab import claims, diff, replay, report, sweep, verify, worker
from nanlab.engine import group_runner
from nanlab.results import environments, snapshot
from nanlab.results.ownership import OWNERS
from nanlab.results.read import read_results
from nanlab.results.store import CHUNK_FILES, CHUNKS, Store
from nanlab.results.text_tables import markdown_table
from nanlab.study import chunk_runner

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/corruption.md"

SEARCH = """\
title = "What is the largest stable learning rate?"

[run]
problem = "quadratic"
steps = 150

[axes]
lr = { logspace = [0.1, 10.0], num = 5 }
curvature = [0.5, 1.0]

[search]
axis = "lr"

[exec]
devices = 2
curves = true
witnesses = 0
"""
PLAIN = """\
[run]
problem = "quadratic"
steps = 150

[axes]
lr = { logspace = [0.1, 10.0], num = 40 }

[exec]
devices = 2
chunk_runs = 20
curves = true
witnesses = 0
"""
CLAIM = """\
[claim]
id = "A1"
says = "Gradient descent overflows."
kind = "distribution"
range = "A quadratic, 300 steps"
strata = ["curvature"]
of_failed = true
share_at_least = 0.5

[claim.measure.equals]
origin_mechanism = "overflow"

[run]
problem = "quadratic"
steps = 300

[axes]
curvature = [1.0, 2.0]
lr = [0.1, 3.0]
seed = { range = 2 }

[exec]
devices = 2
witnesses = 0
"""


# ---- damages ----


def flip(path, draw):
    content = bytearray(path.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)


def delete(path):
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def put_folder(path):
    delete(path)
    (path / "inside").mkdir(parents=True)


DAMAGES: dict[str, Callable[..., object]] = {
    "flip": flip,
    "truncate": lambda path, _: os.truncate(path, path.stat().st_size // 2),
    "empty": lambda path, _: os.truncate(path, 0),
    "garbage": lambda path, draw: path.write_bytes(draw.randbytes(300)),
    "delete": lambda path, _: delete(path),
    "folder": lambda path, _: put_folder(path),
}


# ---- folders ----


class Stopped(BaseException):
    """Stands for a process that is stopped after its first chunk."""


def stopped_after_one_chunk(patch):
    save = Store.save

    def save_one(self, *given):
        save(self, *given)
        raise Stopped

    patch.setattr(Store, "save", save_one)


def finished(folder):
    (folder / "x.toml").write_text(SEARCH)
    assert sweep.main(["x.toml", "--out", "x"]) == 0
    shutil.copytree(folder / "x", folder / "other")


def stopped(folder):
    (folder / "x.toml").write_text(PLAIN)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        stopped_after_one_chunk(patch)
        sweep.main(["x.toml", "--out", "x", "--no-report"])
    (folder / "x" / OWNERS).mkdir()
    owner = {"role": "sweep", "host": "elsewhere", "process": 7, "started": 0, "since": "long ago",
             "is_settled": True}  # fmt: skip
    (folder / "x" / OWNERS / "elsewhere-7-0-0.json").write_text(json.dumps(owner))
    os.utime(folder / "x" / OWNERS / "elsewhere-7-0-0.json", (1, 1))


def prepared(folder):
    (folder / "x.toml").write_text(PLAIN + 'engine = "files"\n')
    assert sweep.main(["x.toml", "--out", "x"]) == 0
    assert worker.main(["x", "--shard", "0/2"]) == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunk_runner.ChunkRunner, "run", crash)
        assert worker.main(["x", "--shard", "1/2"]) == 1
    (folder / "x" / CHUNKS / "begun-0123456789abcdef-1").touch()


def crash(self, chunk):
    return chunk_runner.crash_of(len(chunk.plan), RuntimeError("broken"))


def ledger(folder):
    (folder / "sweeps").mkdir()
    (folder / "sweeps/A01.toml").write_text(CLAIM)
    assert claims.main(["--all", *LEDGER]) == 0


LEDGER = ["--sweeps", "sweeps", "--out", "x"]
FOLDERS = {"finished": finished, "stopped": stopped, "prepared": prepared, "ledger": ledger}


def kind_of(path):
    """The row of the table that a file belongs to."""
    name, parent = path.name, path.parent.name
    if parent in {"figures", "tables"}:
        return f"{parent}/"
    if parent == OWNERS:
        return f"{OWNERS}/ of a process that has ended"
    if parent == CHUNKS:
        marks = {"curves-": "curves of a chunk", "devices-": "devices-*.json",
                 "crash-": "crash-*.json", "begun-": "begun-*"}  # fmt: skip
        word = next((word for mark, word in marks.items() if name.startswith(mark)), None)
        return f"{CHUNKS}/ " + (word or ("chunk" if name.endswith(".parquet") else name))
    return name


def files_of(name, folder):
    """One file of each kind."""
    inside = folder / "x/A01" if name == "ledger" else folder / "x"
    paths = sorted(path for path in inside.rglob("*") if path.is_file())
    return list({kind_of(path): path.relative_to(folder) for path in reversed(paths)}.values())


# ---- commands ----


class Said(NamedTuple):
    """What a command answered: exit status, what it printed, and the rows or tables it is about."""

    status: int
    text: str
    answer: object


def spoken(main, arguments, answer=None):
    """Run a command in this process; its answer is what it printed, unless `answer` reads it."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(arguments)
    text = out.getvalue() + err.getvalue()
    return Said(status, text, answer() if answer is not None and status == 0 else text)


def tables_of(folder):
    names = ("runs.parquet", "runs.csv", "blames.csv", "curves.parquet", "boundaries.csv")
    return {name: (folder / name).read_bytes() for name in names if (folder / name).is_file()}


def loaded():
    frames = {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for table in ("runs", "blames", "curves", "boundaries"):
            try:
                frames[table] = nanlab.load("x", table)
            except nanlab.LoadError as error:
                frames[table] = str(error)
    return frames, "".join(str(each.message) for each in caught)


def load_all():
    """Load every table: each is the table, or a sentence."""
    frames, warned = loaded()
    return Said(0, warned, frames)


def run_ids_stored():
    """The runs in all chunks, with what they found."""
    chunks = [pl.read_parquet(path) for path in Path("x", CHUNKS).glob(CHUNK_FILES)]
    return sorted(map(str, pl.concat(chunks).rows())) if chunks else []


def run_id():
    runs = pl.read_parquet("intact/runs.parquet")
    return runs.filter(pl.col("fault_step").is_not_null())["run_id"][0]


COMMANDS = {
    "sweep": lambda: spoken(
        sweep.main, ["x.toml", "--out", "x", "--no-report"], lambda: tables_of(Path("x"))
    ),
    "worker": lambda: spoken(worker.main, ["x", "--shard", "0/1"], run_ids_stored),
    "report": lambda: spoken(report.main, ["x"], lambda: Path("x/report.md").read_text()),
    "load": load_all,
    "diff": lambda: spoken(diff.main, ["x", "other"]),
    "verify": lambda: spoken(verify.main, ["x"]),
    "replay": lambda: spoken(replay.main, ["x", run_id()]),
    "claims": lambda: spoken(claims.main, LEDGER, lambda: Path("x/claims.csv").read_text()),
}
USED_ON = {
    "finished": ("sweep", "worker", "report", "load", "diff", "verify", "replay"),
    "stopped": ("sweep", "report", "load"),
    "prepared": ("sweep", "worker", "report", "load"),
    "ledger": ("claims",),
}
SAME, REPEATED, NOTED, FEWER, REFUSED = "same", "repeated", "noted", "fewer", "refused"


def verdict_on(said, intact, path, damage):
    """One word about a command's answer on a damaged folder; raises AssertionError at a fault."""
    about = f"{said}, not {intact}"
    assert "Traceback" not in said.text, about
    if isinstance(said.answer, dict) and "runs" in said.answer:
        return verdict_on_tables(said, intact, path)
    if (said.status, said.answer) == (intact.status, intact.answer):
        return REPEATED if "damaged" in said.text else SAME
    if "is prepared" in said.text or "python -m nanlab.worker runs them" in said.text:
        return REPEATED
    if "are missing" in said.text:
        return FEWER
    if said.status == 0:
        assert "was changed after" in said.text or "the manifest lists it" in said.text, about
        return NOTED
    assert said.status in (1, 2, 3), about
    assert path.name in said.text, about
    return REFUSED


def verdict_on_tables(said, intact, path):
    word = SAME
    for table, before in intact.answer.items():
        now = said.answer[table]
        if isinstance(now, str) or isinstance(before, str):
            if type(now) is not type(before) or now != before:
                is_told = path.name in str(now) or "are missing" in str(now)
                assert is_told, now
                word = REFUSED
        elif not now.equals(before):
            assert "missing" in said.text and now.height < before.height, said.text
            assert now.join(before, on=now.columns, how="anti", nulls_equal=True).is_empty()
            word = FEWER
    return word


# ---- the matrix ----


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The intact folders, by name."""
    made = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunk_runner, "GroupRunner", Remembered)
        patch.setattr("nanlab.reporting.write.write_figures", draw_nothing)
        for name, build in FOLDERS.items():
            made[name] = tmp_path_factory.mktemp(name)
            patch.chdir(made[name])
            with (
                contextlib.redirect_stdout(io.StringIO()),
                contextlib.redirect_stderr(io.StringIO()),
            ):
                build(made[name])
            shutil.copytree("x", "intact")
    return made


def draw_nothing(folder, analysis):
    folder.mkdir(exist_ok=True)
    (folder / "figure.svg").write_text("<svg/>")
    return {}


@pytest.fixture(autouse=True)
def quick(monkeypatch, folders):
    """No waiting, no drawing, and what is compiled is compiled once."""
    monkeypatch.setattr(chunk_runner, "GroupRunner", Remembered)
    monkeypatch.setattr(group_runner, "GroupRunner", Remembered)
    monkeypatch.setattr("nanlab.reporting.write.write_figures", draw_nothing)
    monkeypatch.setattr(snapshot, "PATIENCE_S", 0.1)
    monkeypatch.setattr(environments, "WHOLE_S", 0.1)
    results = read_results(folders["finished"] / "intact")
    again = (results.runs, results.manifest["environment"])
    monkeypatch.setattr(verify, "_run_again", lambda *_: again)


def cases(folders):
    for name, folder in folders.items():
        for path in files_of(name, folder):
            for damage in DAMAGES:
                for command in USED_ON[name]:
                    yield name, path, damage, command


def measured(folders, chosen, seed):
    """{(kind of file, command): the words of all damages}."""
    intact: dict[tuple[str, str], Said] = {}
    words: dict[tuple[str, str], set[str]] = {}
    failures: list[str] = []
    draw = random.Random(seed)
    for name, path, damage, command in chosen:
        if damage == "flip" and not (folders[name] / path).stat().st_size:
            continue
        if (name, command) not in intact:
            with copy_of(folders[name]):
                intact[name, command] = COMMANDS[command]()
        with copy_of(folders[name]):
            at = path.stat().st_mtime
            DAMAGES[damage](path, draw)
            if path.exists():
                os.utime(path, (at, at))  # a flipped bit leaves no trace
            try:
                word = verdict_on(COMMANDS[command](), intact[name, command], path, damage)
            except Exception as error:
                failures.append(f"{name} {path} {damage} {command}: {error!r}")
            else:
                words.setdefault((f"{name}: {kind_of(path)}", command), set()).add(word)
    assert not failures, "\n".join(failures)
    return words


@contextlib.contextmanager
def copy_of(folder):
    """Work in a copy of a folder."""
    with tempfile.TemporaryDirectory(dir=".") as work, contextlib.chdir(work):
        shutil.copytree(folder, ".", dirs_exist_ok=True)
        yield


def test_a_sample_of_damages(folders):
    chosen = random.Random(3).sample(list(cases(folders)), 16)
    table = PAGE.read_text("utf-8")
    for (kind, command), words in measured(folders, chosen, seed=3).items():
        (row,) = (line for line in table.splitlines() if line.startswith(f"| {kind} |"))
        cells = dict(zip(COMMANDS, row.strip("| ").split("|")[1:], strict=True))
        assert words <= set(cells[command].strip().split(", ")), (kind, command)


@pytest.mark.parametrize("name", ["stopped", "prepared"])
def test_an_unfinished_study_is_reported(folders, name):
    with copy_of(folders[name]):
        said = COMMANDS["report"]()
        page = Path("x/report.html").read_text("utf-8")
    assert said.status == 0 and "are missing" in said.text, said
    assert "The study is not finished" in page and "Not recorded." in page


@pytest.mark.slow
def test_every_file_every_damage_every_command(folders):
    words = measured(folders, cases(folders), seed=int(os.environ.get("SEED", "1")))
    order = list(FOLDERS)
    kinds = sorted({k for k, _ in words}, key=lambda k: (order.index(k.partition(":")[0]), k))
    rows = [
        [kind, *(", ".join(sorted(words.get((kind, command), {"-"}))) for command in COMMANDS)]
        for kind in kinds
    ]
    table = markdown_table(["file", *COMMANDS], rows)
    head, _, _ = PAGE.read_text("utf-8").partition("| file |")
    if os.environ.get("WRITE_DOCS"):
        PAGE.write_text(head + table + "\n", encoding="utf-8")
    assert PAGE.read_text("utf-8") == head + table + "\n"
