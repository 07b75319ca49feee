"""Results folder <-> finished rows: what is kept, not believed, and cannot be written."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from resealed import reseal

from nanlab.blame.site import Site
from nanlab.grid import load_grid
from nanlab.plan.plan import make_plan
from nanlab.results import frames as tables
from nanlab.results.chunk_index import curves_path
from nanlab.results.errors import FolderError, StoreError
from nanlab.results.files import write_parquet
from nanlab.results.provenance import fingerprint
from nanlab.results.runs_table import RunsTable
from nanlab.results.schema import CURVES
from nanlab.results.store import Store
from nanlab.results.streaming import write_tables

pytestmark = pytest.mark.smoke

HERE, ELSEWHERE = "0123456789abcdef", "fedcba9876543210"
RESOLVED = '[run]\nproblem = "quadratic"\n\n[axes]\nlr = [1.0, 2.0, 3.0]\n'
OVERFLOW = Site(
    primitive="mul",
    phase="forward",
    module="",
    source="net.py:3",
    library="",
    function="step",
    mechanism="overflow",
    iterations=(4,),
)


def rows_of(*run_ids, outcome="stalled", origin=None):
    """Rows of RESULT for these runs."""
    told = {
        "run_id": list(run_ids),
        "outcome": [outcome] * len(run_ids),
        "initial_loss": [0.5] * len(run_ids),
        "nonfinite_gradient_steps": [0] * len(run_ids),
        **{k: [v] * len(run_ids) for k, v in tables.site_columns("origin", origin).items()},
        "blame_status": [None if origin is None else "reproduced"] * len(run_ids),
    }
    nothing = [None] * len(run_ids)
    return tables.result_frame({name: told.get(name, nothing) for name in tables.RESULT})


def finish(folder, outcome="nan"):
    """Write a finished study into `folder`, as `study.py` does; its rows of RESULT."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "grid.resolved.toml"
    path.write_text(RESOLVED, encoding="utf-8")
    plan = make_plan(load_grid(path))
    results = rows_of(*plan.run_ids.tolist(), outcome=outcome, origin=OVERFLOW)
    named = tables.with_blame_ids(results)
    blames = tables.with_witnesses(tables.blames_frame(named), {})
    runs = RunsTable(plan).frame(named, blames)
    write_tables(folder, runs.__getitem__, runs.height, blames, csv_runs=10)
    reseal(folder, fingerprint=HERE, crashed=int(outcome == "crashed"))
    return results


def kept(store, *asked):
    """The rows that are kept of the runs that are asked for, or of the finished study's."""
    (store.folder / "asked.toml").write_text(RESOLVED, encoding="utf-8")
    plan = make_plan(load_grid(store.folder / "asked.toml"))
    (store.folder / "asked.toml").unlink()
    run_ids = np.array(asked or plan.run_ids.tolist())
    store.unpack(run_ids)
    found = store.stored(run_ids)
    return found.rows(np.flatnonzero(found.done))


def names_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_chunks_that_were_kept_are_there_in_another_process(own_folder):
    first, second = rows_of("a", "b"), rows_of("c", outcome="nan", origin=OVERFLOW)
    store = Store(own_folder / "x", HERE)
    store.save(first)
    store.save(second)
    again = kept(Store(own_folder / "x", HERE), "c", "a", "not run", "b")
    expected = pl.concat([second, first])
    assert_frame_equal(again, expected, check_exact=True)


def test_a_run_that_is_kept_twice_is_there_once(own_folder):
    store = Store(own_folder, HERE)
    store.save(rows_of("a", "b"))
    store.save(rows_of("b", "c"))
    assert kept(store, "a", "b", "c")["run_id"].to_list() == ["a", "b", "c"]


# What happens to a chunk's file.
DAMAGE = {
    "cut short": lambda path: os.truncate(path, 100),
    "empty": lambda path: os.truncate(path, 0),
    "garbage": lambda path: path.write_bytes(b"no Parquet"),
    "another chunk's rows": lambda path: write_parquet(rows_of("d", "e"), path),
    "a folder": lambda path: (path.unlink(), path.mkdir(), (path / "file").touch()),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_chunk_is_set_aside_and_the_others_are_used(damage, own_folder):
    store = Store(own_folder, HERE)
    name = store.save(rows_of("a", "b"))
    store.save(rows_of("c"))
    damage(store.chunks / name)
    again = Store(own_folder, HERE)
    assert again.stored(np.array(["a", "b", "c"])).done.tolist() == [False, False, True]
    assert again.damaged == [name]
    assert (store.chunks / f"damaged-{name}").exists()
    assert again.save(rows_of("a", "b")) == name
    assert again.stored(np.array(["a", "b", "c"])).done.all()
    again.remove_chunks()
    assert not store.chunks.exists()


def test_a_chunk_whose_curves_are_damaged_is_set_aside(own_folder):
    store = Store(own_folder, HERE)
    curves = pl.DataFrame({"run_id": ["a"], "step": [0], "observable": ["loss"], "layer": [""],
                           "value": [1.0]}, schema=CURVES)  # fmt: skip
    path = store.chunks / store.save(rows_of("a"), curves)
    assert Store(own_folder, HERE).stored(np.array(["a"]), curves=True).done.all()
    os.truncate(curves_path(path), 10)
    assert not Store(own_folder, HERE).stored(np.array(["a"]), curves=True).done.any()


def test_a_run_that_is_asked_for_and_not_kept_has_crashed(own_folder):
    store = Store(own_folder, HERE)
    store.save(rows_of("b"))
    found = store.stored(np.array(["a", "b"]))
    assert found.done.tolist() == [False, True]
    expected = pl.concat([rows_of("b"), tables.crashed_frame(["a"])])
    assert_frame_equal(found.rows(np.array([1, 0])), expected, check_exact=True)


def test_what_another_environment_made_is_not_used(own_folder):
    Store(own_folder, ELSEWHERE).save(rows_of("a"))
    assert kept(Store(own_folder, HERE), "a").height == 0
    assert kept(Store(own_folder, ELSEWHERE), "a").height == 1
    finish(own_folder)
    assert kept(Store(own_folder, HERE)).height == 3
    assert kept(Store(own_folder, ELSEWHERE)).height == 0
    assert not Store(own_folder, ELSEWHERE).is_finished(RESOLVED)


def test_the_rows_of_a_finished_study_are_used_again(own_folder):
    results = finish(own_folder)
    store = Store(own_folder, HERE)
    assert_frame_equal(kept(store), results, check_exact=True)
    assert store.is_finished(RESOLVED)
    assert not store.is_finished(RESOLVED + "seed = [1]\n")


# What happens to a finished study's folder, and whether its rows can still be used.
MEDDLING = {
    "runs.csv is gone": (lambda folder: (folder / "runs.csv").unlink(), True),
    "runs.csv was saved by a spreadsheet": (lambda f: (f / "runs.csv").write_text("a;b"), True),
    "runs.parquet is gone": (lambda folder: (folder / "runs.parquet").unlink(), False),
    "runs.parquet is cut short": (lambda f: os.truncate(f / "runs.parquet", 100), False),
    "blames.csv is another's": (lambda folder: (folder / "blames.csv").write_text("a,b"), False),
    "the manifest is gone": (lambda folder: (folder / "manifest.json").unlink(), False),
    "the manifest is cut short": (lambda f: os.truncate(f / "manifest.json", 9), False),
    "the manifest is no table": (lambda f: (f / "manifest.json").write_text("[1]"), False),
}


@pytest.mark.parametrize("meddle, is_used", MEDDLING.values(), ids=MEDDLING)
def test_tables_that_somebody_changed_are_written_again(meddle, is_used, own_folder):
    finish(own_folder)
    meddle(own_folder)
    store = Store(own_folder, HERE)
    assert not store.is_finished(RESOLVED)
    assert kept(store).height == (3 if is_used else 0)


def test_a_study_with_crashed_runs_is_not_finished(own_folder):
    finish(own_folder, outcome="crashed")
    store = Store(own_folder, HERE)
    assert not store.is_finished(RESOLVED)
    assert kept(store).height == 0


def test_a_killed_process_leaves_nothing_that_a_new_one_does_not_clear_away(own_folder):
    store = Store(own_folder / "x", HERE)
    store.save(rows_of("a"))
    for left in ("runs.parquet.partial", ".chunks/half.parquet.partial"):
        (own_folder / "x" / left).write_bytes(b"PAR1 and no more")
    store = Store(own_folder / "x", HERE)
    assert [name for name in names_in(own_folder) if "partial" in name] == []
    assert kept(store, "a", "b")["run_id"].to_list() == ["a"]
    store.remove_chunks()
    assert list((own_folder / "x").iterdir()) == []


def test_what_a_person_keeps_in_the_folder_stays(own_folder):
    (own_folder / "notes.md").write_text("mine")
    store = Store(own_folder, HERE)
    store.save(rows_of("a"))
    store.remove_chunks()
    assert names_in(own_folder) == ["notes.md"]


def file_in_the_way(folder):
    (folder / "x").write_text("mine")
    return folder / "x"


def file_above(folder):
    (folder / "x").write_text("mine")
    return folder / "x" / "results"


def not_writable(folder):
    # Even root cannot make a folder there.
    return Path("/proc/results")


@pytest.mark.parametrize("place", [file_in_the_way, file_above, not_writable])
def test_a_folder_that_cannot_be_is_answered_with_a_sentence(place, own_folder):
    folder = place(own_folder)
    with pytest.raises(StoreError) as raised:
        Store(folder, HERE)
    assert isinstance(raised.value, FolderError)
    sentence = str(raised.value)
    assert sentence.startswith(f"cannot write {folder}")
    assert "\n" not in sentence
    assert "--out names another folder" in sentence
    assert folder.is_file() == (place is file_in_the_way), "and a file there is left alone"


@pytest.mark.parametrize("after", [0, 2])
def test_a_full_disk_is_a_sentence_and_loses_nothing_that_was_kept(after, own_folder, monkeypatch):
    store = Store(own_folder / "x", HERE)
    for number in range(after):
        store.save(rows_of(f"run{number}"))
    before = names_in(own_folder)

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StoreError, match="no space left on device; what is finished is stored"):
            store.save(rows_of("another"))
    assert names_in(own_folder) == before
    assert kept(Store(own_folder / "x", HERE), "run0", "run1", "another").height == after


# The system's own refusal, through polars' own writer: a file may not grow beyond 600 bytes.
TOO_LARGE = """
import resource, signal, sys
from nanlab.results.schema import CURVES
from nanlab.results.errors import StoreError
from nanlab.results.store import Store
sys.path.insert(0, sys.argv[2])
from test_store import HERE, rows_of
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = Store(__import__("pathlib").Path(sys.argv[1]), HERE)
resource.setrlimit(resource.RLIMIT_FSIZE, (600, resource.RLIM_INFINITY))
try:
    store.save(rows_of(*map(str, range(1000))))
except StoreError as error:
    print(error)
"""


def test_polars_own_refusal_to_write_is_a_sentence_too(own_folder):
    done = subprocess.run(
        [sys.executable, "-c", TOO_LARGE, str(own_folder / "x"), str(Path(__file__).parent)],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.stdout.startswith(f"cannot write {own_folder}"), done.stderr
    assert "file too large" in done.stdout
    assert names_in(own_folder) == []


def test_the_fingerprint_is_of_all_that_a_runs_bits_depend_on_and_of_nothing_else():
    here = {"jax": "0.10.2", "block": 64, "code_sha256": "ab", "devices": 2, "polars": "2.1.0"}
    same = [{"devices": 1}, {"polars": "3.0.0"}, {"devices": 8, "polars": "9"}]
    other = [{"jax": "0.12.0"}, {"block": 128}, {"code_sha256": "ac"}, {"threads": 2}]
    assert {fingerprint(here | change) for change in same} == {fingerprint(here)}
    assert len({fingerprint(here | change) for change in other} | {fingerprint(here)}) == 5
    assert fingerprint(dict(reversed(here.items()))) == fingerprint(here)
