"""`nanlab.load`: the tables as Polars frames that can tell what their columns mean."""

import math
import re
import subprocess
import sys
import threading
from pathlib import Path

import polars as pl
import pytest
from resealed import reseal

import nanlab
from nanlab.reporting.package import data_package
from nanlab.results.read import read_results
from nanlab.results.schema import BOUNDARIES, CELLS, types_of

pytestmark = pytest.mark.smoke

RESULTS = Path(__file__).resolve().parents[1] / "results"
QUICKSTART = RESULTS / "quickstart"


@pytest.mark.parametrize("table", ["runs", "blames"])
def test_a_table_is_the_file_and_every_column_has_a_meaning(table):
    frame = nanlab.load(QUICKSTART, table)
    csv = pl.read_csv(QUICKSTART / f"{table}.csv", infer_schema=False)
    assert (frame.height, frame.columns) == (csv.height, csv.columns)
    told = frame.nanlab.columns
    assert told["column"].to_list() == frame.columns
    assert told["type"].to_list() == [str(kind) for kind in frame.dtypes]
    assert all(told["meaning"])
    for name in frame.columns:
        (row,) = told.filter(column=name).to_dicts()
        assert (row["meaning"], row["unit"]) == (
            frame.nanlab.meaning(name),
            frame.nanlab.unit(name),
        )


def test_units_and_meanings_are_those_of_the_field():
    runs = nanlab.load(str(QUICKSTART))
    assert runs.nanlab.unit("fault_step") == "step, counted from 0"
    assert runs.nanlab.unit("outcome") == ""
    assert "not overflow" in runs.nanlab.meaning("grad_norm_max")
    with_own = runs.with_columns(mine=pl.lit(1))
    assert (with_own.nanlab.meaning("mine"), with_own.nanlab.unit("mine")) == ("", "")
    with pytest.raises(nanlab.LoadError, match="yours: the frame has no such column"):
        runs.nanlab.unit("yours")


@pytest.mark.parametrize("study", sorted(path.parent.name for path in RESULTS.glob("*/runs.csv")))
def test_what_is_missing_is_null_and_never_nan(study):
    runs = nanlab.load(RESULTS / study)
    assert (
        runs["fault_step"].null_count()
        == runs.filter(~pl.col("outcome").is_in(["nan", "inf", "recovered"])).height
    )
    numbers = [name for name, kind in runs.schema.items() if kind.is_float()]
    assert numbers
    for name in numbers:
        assert not any(math.isnan(value) for value in runs[name].drop_nulls())


def searched(folder):
    """A folder with the tables of a search, of no rows."""
    boundaries = {"init_scale": pl.Float64, **types_of(BOUNDARIES)}
    ends = dict.fromkeys(("lr_lower", "lr_upper"), pl.Float64)
    cells = {"seed": pl.Int64, **ends, **types_of(CELLS)}
    pl.DataFrame(schema=boundaries).write_parquet(folder / "boundaries.parquet")
    pl.DataFrame(schema=boundaries).write_csv(folder / "boundaries.csv")
    pl.DataFrame(schema=cells).write_parquet(folder / "cells.parquet")
    return folder


def test_the_tables_of_a_search_tell_their_own_meanings(tmp_path):
    reseal(searched(tmp_path))
    boundaries = nanlab.load(tmp_path, "boundaries")
    # Of blames it is how many share one; here, what the search took.
    assert boundaries.nanlab.meaning("runs") == BOUNDARIES["runs"].meaning
    assert nanlab.load(QUICKSTART, "blames").nanlab.meaning("runs") != BOUNDARIES["runs"].meaning
    assert boundaries.nanlab.unit("lower") == "as the axis"
    assert all(boundaries.nanlab.columns["meaning"])
    cells = nanlab.load(tmp_path, "cells")
    assert cells.nanlab.unit("lr_upper") == "as lr"
    assert all(cells.nanlab.columns["meaning"])


def test_the_data_package_tells_the_columns_of_a_search(tmp_path):
    folder = tmp_path / "quickstart"
    folder.mkdir()
    for path in QUICKSTART.iterdir():
        if path.is_file():
            (folder / path.name).write_bytes(path.read_bytes())
    reseal(searched(folder))
    package = data_package(folder, read_results(folder))
    told = {resource["name"]: resource for resource in package["resources"]}
    fields = told["boundaries-csv"]["schema"]["fields"]
    assert {f["name"]: f["description"] for f in fields} | {"init_scale": ""} == {
        "init_scale": "", **{name: column.meaning for name, column in BOUNDARIES.items()}
    }  # fmt: skip
    assert [f["name"] for f in told["cells-parquet"]["columns"]][:3] == [
        "seed",
        "lr_lower",
        "lr_upper",
    ]


WRONG = {
    "no folder": (("results/nowhere",), "nowhere: there is no such folder; a sweep creates one"),
    "no table of that name": ((QUICKSTART, "run"), "run: there is no such table; one of runs,"),
    "a table that the study has not": (
        (QUICKSTART, "curves"), "this study has no curves; it has runs, blames",
    ),
    "the ledger": ((RESULTS / "claims",), "this is a ledger; load one of its studies, such as"),
    "no results": ((RESULTS.parent / "nanlab",), "this is no results folder"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_mistake_is_answered_with_a_sentence(name):
    arguments, sentence = WRONG[name]
    with pytest.raises(nanlab.LoadError, match=re.escape(sentence)):
        nanlab.load(*arguments)


def test_a_damaged_table_is_told_by_its_name(tmp_path):
    (tmp_path / "runs.parquet").write_text("no Parquet")
    reseal(tmp_path)
    with pytest.raises(
        nanlab.LoadError, match=re.escape(f"{tmp_path}/runs.parquet: it cannot be read")
    ):
        nanlab.load(tmp_path)


def test_a_reader_waits_for_a_sweep_that_is_writing_then_says_who_writes(tmp_path, monkeypatch):
    folder = tmp_path / "study"
    folder.mkdir()
    for path in QUICKSTART.iterdir():
        if path.is_file():
            (folder / path.name).write_bytes(path.read_bytes())
    whole = (folder / "runs.parquet").read_bytes()
    (folder / "runs.parquet").write_bytes((RESULTS / "deep_relu/runs.parquet").read_bytes())
    with pytest.raises(nanlab.LoadError, match=r"runs.parquet was changed after the study"):
        nanlab.load(folder)
    hold = """
import pathlib, sys
from nanlab.results.ownership import owned
with owned(pathlib.Path(sys.argv[1]), "sweep"):
    print("in", flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as sweep:
        assert sweep.stdout.readline() == b"in\n"
        threading.Timer(0.3, (folder / "runs.parquet").write_bytes, [whole]).start()
        assert nanlab.load(folder).height == 720
        (folder / "runs.parquet").write_bytes(whole[:1000])
        monkeypatch.setattr("nanlab.results.snapshot.PATIENCE_S", 0.2)
        with pytest.raises(nanlab.LoadError, match=f"a sweep is writing .*process {sweep.pid}"):
            nanlab.load(folder)
        assert nanlab.load(folder, "blames").height == 21
        sweep.stdin.close()
