"""A study reproduces, or what does not is told; two studies are matched, and what changed too."""

import json
import shutil
from pathlib import Path

import jax
import polars as pl
import pytest
from resealed import reseal

from nanlab import diff, sweep, verify
from nanlab.results.compare import compare_runs

GRID = """
[run]
problem = "quadratic"
steps = 150
precision = "PRECISION"

[axes]
optimizer = ["sgd", "momentum"]
lr = { logspace = [0.01, 1000.0], num = 6 }
curvature = [0.5, 1.0, 2.0]

[exec]
witnesses = 0
"""


TRAINING = """
[run]
task = "iris"
model = "mlp"
depth = 1
width = 8
loss = "mse"
steps = 20

[axes]
activation = ["relu", "tanh"]
lr = { logspace = [0.01, 1000.0], num = 6 }
seed = { range = 3 }

[exec]
witnesses = 0
"""


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    folder = tmp_path_factory.mktemp("studies")
    for precision in ("float32", "float16"):
        grid = folder / f"{precision}.toml"
        grid.write_text(GRID.replace("PRECISION", precision), encoding="utf-8")
        assert (
            sweep.main([str(grid), "--out", str(folder / precision), "--no-report"]) == sweep.DONE
        )
    return folder


@pytest.fixture
def study(studies, tmp_path):
    return Path(shutil.copytree(studies / "float32", tmp_path / "study"))


def change(study, environment=(), **values):
    """Write other values into the first failing run, and what the manifest says of the files."""
    runs = pl.read_parquet(study / "runs.parquet")
    first = runs.filter(pl.col("fault_step").is_not_null())["run_id"][0]
    here = pl.col("run_id") == first
    runs = runs.with_columns(
        pl.when(here).then(pl.lit(value)).otherwise(pl.col(name)).alias(name)
        for name, value in values.items()
    )
    runs.write_parquet(study / "runs.parquet")
    reseal(study, environment)
    return first


@pytest.fixture
def run_before(studies, monkeypatch):
    """What running it again gives, without the waiting: that it does is tested on its own."""
    runs = pl.read_parquet(studies / "float32/runs.parquet")
    manifest = json.loads((studies / "float32/manifest.json").read_text("utf-8"))
    monkeypatch.setattr(verify, "_run_again", lambda *_: (runs, manifest["environment"]))


def test_a_study_reproduces_to_the_bit_where_it_was_made(study, capsys):
    assert verify.main([str(study)]) == verify.DONE
    told = capsys.readouterr().out
    assert "36 of 36 runs run again" in told
    assert "36 of 36 the same numbers, to the bit" in told
    assert told.strip().endswith("it reproduces")


@pytest.mark.slow
def test_studies_of_other_numbers_of_devices_are_run_again_in_one_process(tmp_path, capsys):
    Path("training.toml").write_text(TRAINING, encoding="utf-8")
    study = tmp_path / "training"
    assert sweep.main(["training.toml", "--out", str(study), "--no-report"]) == sweep.DONE
    assert verify.main([str(study)]) == verify.DONE
    assert "36 of 36 the same numbers, to the bit" in capsys.readouterr().out
    other = Path(shutil.copytree(study, study.parent / "other"))
    grid = (other / "grid.resolved.toml").read_text("utf-8")
    assert "[exec]\n" in grid
    grid = grid.replace("[exec]\n", "[exec]\ndevices = 1\n")
    (other / "grid.resolved.toml").write_text(grid, encoding="utf-8")
    reseal(other)
    assert verify.main([str(study), str(other), "--sample", "2"]) == verify.DONE
    assert capsys.readouterr().out.count("it reproduces") == 2


def test_a_sample_is_the_same_runs_each_time_and_has_failing_ones(study, capsys):
    runs = pl.read_parquet(study / "runs.parquet")
    plan = verify.finished_study(study).plan
    one, two = (verify._sample(plan, runs, 8) for _ in range(2))
    assert one.run_ids.tolist() == two.run_ids.tolist()
    assert len(one) == 8 and len(one.groups) == 1
    failed = runs.filter(pl.col("run_id").is_in(one.run_ids.tolist()))["fault_step"].count()
    assert failed >= 4
    assert [one.point(i)["lr"] for i in range(8)] == [
        plan.point(plan.run_ids.tolist().index(name))["lr"] for name in one.run_ids
    ]
    assert verify.main([str(study), "--sample", "8"]) == verify.DONE
    assert "8 of 36 runs run again" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"final_loss": 0.123}, "final_loss 0.123 -> "),
        ({"outcome": "trained"}, "outcome trained -> "),
        ({"origin_mechanism": "pole"}, "origin_mechanism pole -> "),
    ],
)
def test_what_does_not_come_out_is_told_by_run_and_exits_3(
    values, sentence, study, run_before, capsys
):
    run_id = change(study, **values)
    assert verify.main([str(study)]) == verify.DIFFERS == 3
    told = capsys.readouterr().out
    assert f"{run_id}: " in told and sentence in told
    assert told.strip().endswith("it does NOT reproduce")


def test_a_line_that_has_moved_is_information_and_no_difference(study, run_before, capsys):
    change(study, origin_source="nanlab/parts/losses.py:1")
    assert verify.main([str(study)]) == verify.DONE
    assert "1 name another line or file, which does not count" in capsys.readouterr().out


def test_elsewhere_outcomes_and_blames_count_and_no_bits(study, run_before, capsys):
    change(study, {"jax": "0.9.0"}, final_loss=0.123)
    assert verify.main([str(study)]) == verify.DONE
    assert "made elsewhere: jax 0.9.0 -> " in capsys.readouterr().out
    change(study, outcome="trained")
    assert verify.main([str(study)]) == verify.DONE
    assert verify.main([str(study), "--agree", "0.99"]) == verify.DIFFERS
    change(study, origin_mechanism="pole")
    assert verify.main([str(study), "--agree-blames", "1.0"]) == verify.DIFFERS


def test_on_a_gpu_outcomes_and_blames_count_and_no_bits(study, run_before, monkeypatch, capsys):
    again = verify._run_again

    def on_a_gpu(grid, plan):
        runs, environment = again(grid, plan)
        return runs, environment | {"platform": "gpu"}

    monkeypatch.setattr(verify, "_run_again", on_a_gpu)
    change(study, {"platform": "gpu"}, final_loss=0.123)
    assert verify.main([str(study)]) == verify.DONE
    assert "on a gpu, whose numbers to the bit are not claimed" in capsys.readouterr().out
    change(study, outcome="trained")
    assert verify.main([str(study), "--agree", "0.99"]) == verify.DIFFERS


def test_studies_of_elsewhere_are_judged_together_and_those_of_here_each(
    study, studies, run_before, capsys
):
    change(study, {"jax": "0.9.0"}, outcome="trained", origin_mechanism="pole")
    strict = ["--agree", "0.98", "--agree-blames", "0"]
    # 35 of 36 are not 98 %; with the same study once more, 71 of 72 are.
    assert verify.main([str(study), *strict]) == verify.DIFFERS
    other = Path(shutil.copytree(studies / "float32", study.parent / "other"))
    change(other, {"jax": "0.9.0"})
    assert verify.main([str(study), str(other), *strict]) == verify.DONE
    assert "judged by outcome and blame: 71 of 72 outcomes" in capsys.readouterr().out
    change(other, {"jax": jax.__version__}, outcome="trained")
    assert verify.main([str(study), str(other), *strict]) == verify.DIFFERS


def test_a_file_that_was_changed_after_the_study_is_told_at_once(study, capsys):
    (study / "blames.csv").write_text("changed", encoding="utf-8")
    assert verify.main([str(study)]) == verify.DIFFERS
    assert "blames.csv was changed after the study" in capsys.readouterr().out
    (study / "blames.csv").unlink()
    assert verify.main([str(study)]) == verify.DIFFERS
    assert "blames.csv is missing" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flag", "value"), [("sample", "0"), ("agree", "1.5"), ("agree-blames", "-1")]
)
def test_a_number_that_cannot_be_is_told(flag, value, study, capsys):
    assert verify.main([str(study), f"--{flag}", value]) == verify.WRONG
    assert f"--{flag} {value}: must be" in capsys.readouterr().err


def test_a_folder_without_a_study_is_told(tmp_path, capsys):
    assert verify.main([str(tmp_path)]) == verify.WRONG
    assert "holds no finished study" in capsys.readouterr().err
    assert diff.main([str(tmp_path), str(tmp_path)]) == diff.WRONG
    assert "holds no finished study" in capsys.readouterr().err


def test_two_studies_of_the_same_grid_are_matched_run_by_run(studies, study, capsys, tmp_path):
    run_id = change(study, {"jax": "0.9.0"}, outcome="trained", culprit_mechanism="pole")
    out = tmp_path / "out"
    flags = [str(studies / "float32"), str(study), "--out", str(out)]
    assert diff.main(flags) == diff.DONE
    told = capsys.readouterr().out
    assert "made with jax: " in told and " → 0.9.0" in told
    assert "35 of 36 have the same outcome, 36 the same numbers" in told
    changed = pl.read_csv(out / "changed.csv")
    assert changed["run_id"].to_list() == [run_id]
    assert changed["outcome_now"].to_list() == ["trained"]
    assert "pole in" in changed["culprit_now"][0]
    outcomes = pl.read_csv(out / "outcomes.csv")
    assert outcomes.select(pl.exclude("outcome")).sum_horizontal().sum() == 36
    assert pl.read_csv(out / "blames.csv")["runs"].to_list() == [1]
    assert (out / "diff.md").read_text("utf-8").strip() in told
    figures = [(out / f"outcomes-1col.{kind}").read_bytes() for kind in ("svg", "pdf")]
    assert b"1 of 36 runs have another outcome" in figures[0]
    assert diff.main(flags) == diff.DONE
    assert [(out / f"outcomes-1col.{kind}").read_bytes() for kind in ("svg", "pdf")] == figures


def test_two_precisions_are_matched_by_everything_else(studies, capsys):
    assert diff.main([str(studies / "float32"), str(studies / "float16")]) == diff.DONE
    told = capsys.readouterr().out
    assert "parameter precision: float32 → float16" in told
    assert "36 runs matched by " in told
    found = diff.difference(studies / "float32", studies / "float16")
    pairs = found.comparison.pairs
    assert "precision" not in found.on and pairs.height == 36
    assert (pairs["run_id"] != pairs["run_id_now"]).all()
    both = pl.read_parquet(studies / "float16/runs.parquet")
    for row in pairs.iter_rows(named=True):
        axes = {name: row[name] for name in ("optimizer", "lr", "curvature")}
        same = both.filter(**axes)
        assert same["outcome"].to_list() == [row["outcome_now"]]


def test_runs_that_share_what_they_are_matched_by_are_refused(studies):
    runs = pl.read_parquet(studies / "float32/runs.parquet")
    with pytest.raises(ValueError, match="several runs share lr"):
        compare_runs(runs, runs, on=["lr"])
