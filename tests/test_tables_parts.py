"""Tables that are made in parts have the bytes, the order and the errors of one that is not."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from nanlab.grid import load_grid
from nanlab.plan.plan import make_plan
from nanlab.results import streaming as tables_parts
from nanlab.results.files import csv_text
from nanlab.results.streaming import in_slices, slices, stream_csv, write_parts
from nanlab.study import study
from nanlab.sweep import DONE, main

COUNT = 1_000


@pytest.fixture
def frame():
    rng = np.random.default_rng(0)
    texts = rng.choice(["a", "", None], COUNT).tolist()
    return pl.DataFrame(
        {
            "run_id": [f"{n:012x}" for n in range(COUNT)],
            "number": rng.normal(size=COUNT),
            "text": pl.Series(texts, dtype=pl.String),
            # Nothing but nulls in the first parts.
            "late": pl.Series([None] * 900 + [7] * 100, dtype=pl.Int64),
        }
    )


@pytest.mark.parametrize("size", [1, 7, 333, 999, COUNT, 5_000])
def test_a_parquet_file_has_the_same_bytes_however_large_its_parts(size, frame, own_folder):
    if size == 1:
        frame = frame[:20]
    parts = slices(frame.height, size)
    write_parts(own_folder / "x.parquet", frame.__getitem__, parts, row_group=100_000)
    whole = own_folder / "whole.parquet"
    frame.write_parquet(whole)
    assert (own_folder / "x.parquet").read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in own_folder.iterdir()) == ["whole.parquet", "x.parquet"]


def test_a_large_one_is_in_groups_of_rows_that_do_not_depend_on_its_parts(frame, own_folder):
    made = {}
    for size in (50, 120, 999):
        write_parts(own_folder / "x", frame.__getitem__, slices(COUNT, size), row_group=100)
        made[size] = (own_folder / "x").read_bytes()
    assert len(set(made.values())) == 1
    assert_frame_equal(pl.concat(in_slices(own_folder / "x", 64)), frame)
    frame.write_parquet(own_folder / "whole", row_group_size=100)
    assert made[50] == (own_folder / "whole").read_bytes()


@pytest.mark.parametrize("height", [0, 1, 20])
def test_csv_in_parts_is_csv(height, frame, own_folder, monkeypatch):
    monkeypatch.setattr(tables_parts, "SLICE", 7)
    frame[:height].write_parquet(own_folder / "x.parquet")
    stream_csv(own_folder / "x.parquet", own_folder / "x.csv")
    assert (own_folder / "x.csv").read_text() == csv_text(frame[:height])


GRID = """\
[run]
problem = "quadratic"
steps = 150

[axes]
seed = { range = 3 }
optimizer = ["sgd", "momentum"]
lr = { logspace = [0.1, 1e38], num = 50 }

[exec]
devices = 2
chunk_runs = 64
curves = true
witnesses = 1
"""


@pytest.mark.slow
def test_a_study_whose_tables_are_made_in_parts_has_the_same_bytes(own_folder, monkeypatch):
    Path("grid.toml").write_text(GRID, encoding="utf-8")
    assert main(["grid.toml", "--out", "whole", "--no-report"]) == DONE
    for module in (study, tables_parts):
        monkeypatch.setattr(module, "SLICE", 23)
    monkeypatch.setattr(tables_parts, "CURVES_SLICE", 11)
    assert main(["grid.toml", "--out", "parts", "--no-report"]) == DONE
    names = sorted(path.name for path in Path("whole").iterdir())
    assert names == sorted(path.name for path in Path("parts").iterdir())
    for name in ("runs.parquet", "runs.csv", "blames.csv", "curves.parquet"):
        assert Path("parts", name).read_bytes() == Path("whole", name).read_bytes(), name

    # And what is taken up again of tables in parts is all of it.
    Path("longer.toml").write_text(GRID.replace("[exec]", "[[include]]\nlr = [3e38]\n\n[exec]"))
    Path("parts").rename("longer")
    assert main(["longer.toml", "--out", "longer", "--no-report"]) == DONE
    assert main(["longer.toml", "--out", "fresh", "--no-report"]) == DONE
    for name in ("runs.parquet", "runs.csv", "blames.csv", "curves.parquet"):
        assert Path("longer", name).read_bytes() == Path("fresh", name).read_bytes(), name
    plan = make_plan(load_grid("longer.toml"))
    assert pl.read_parquet("longer/runs.parquet")["run_id"].to_list() == plan.run_ids.tolist()


# The joined file may not be as large as it has to be; its parts may.
REFUSED = """
import resource, signal, sys
from pathlib import Path
import polars as pl
from nanlab.results.streaming import slices, write_parts
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
frame = pl.DataFrame({"x": range(20_000)})
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
try:
    write_parts(Path(sys.argv[1]), frame.__getitem__, slices(20_000, 1_000), row_group=10_000)
except OSError as error:
    print(error.strerror)
"""


def test_a_refusal_to_write_the_joined_file_is_the_systems_own(own_folder):
    done = subprocess.run(
        [sys.executable, "-c", REFUSED, str(own_folder / "x")],
        capture_output=True, text=True, timeout=60, env=os.environ,
    )  # fmt: skip
    assert done.stdout.strip().lower() == "file too large", done.stderr
    assert [path.name for path in own_folder.iterdir()] in ([], ["x"]), "no part is left"
