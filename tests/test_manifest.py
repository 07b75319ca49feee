"""manifest.json: counts of two small tables by hand, hashes of the files, no path of a machine."""

import hashlib
import json
from pathlib import Path

import polars as pl
import pytest

from nanlab.blame.vocabulary import WitnessAnswer
from nanlab.results.manifest import Testimony as Answers
from nanlab.results.manifest import command_line, write_manifest
from nanlab.results.provenance import fingerprint

pytestmark = pytest.mark.smoke
ABOUT = {
    "title": "Why?", "command": "python -m nanlab.sweep why.toml", "rules": None,
    "search": {"rounds": 3}, "groups": 2, "witness_cap": 5, "wall_s": {"all": 1.5},
}  # fmt: skip
RUNS = pl.LazyFrame({
    "outcome": ["nan", "trained", "nan", "inf", "crashed"],
    "blame_status": ["reproduced", None, "compiled-only", "reproduced", None],
})  # fmt: skip
BLAMES = pl.DataFrame({"witness": ["agrees", "not-asked", "not-asked"]})
ENVIRONMENT = {"jax": "1", "devices": 2, "polars": "3"}
AGREES, DISAGREES = WitnessAnswer.AGREES, WitnessAnswer.DISAGREES


def write(folder, **changes):
    (folder / "runs.csv").write_text("a,b\n")
    (folder / "blames.csv").write_text("")
    asked = {
        "about": ABOUT, "environment": ENVIRONMENT, "environments": {"x": ENVIRONMENT},
        "resolved": "[run]\n", "runs": RUNS, "blames": BLAMES,
        "said": {"b1": Answers(AGREES, DISAGREES, True, True),
                 "b2": Answers(AGREES, None, None, False)},
        "files": ["runs.csv", "blames.csv"],
    }  # fmt: skip
    manifest = write_manifest(folder, **(asked | changes))
    assert json.loads((folder / "manifest.json").read_text()) == manifest
    return manifest


def test_runs_outcomes_and_witnesses_are_counted(tmp_path):
    manifest = write(tmp_path)
    assert (manifest["runs"], manifest["groups"], manifest["rounds"]) == (5, 2, 3)
    # The most frequent first; of equal ones by name.
    assert list(manifest["outcomes"].items()) == [
        ("nan", 2), ("crashed", 1), ("inf", 1), ("trained", 1),
    ]  # fmt: skip
    assert manifest["crashed"] == 1
    assert manifest["blame_status"] == {"reproduced": 2, "compiled-only": 1}
    assert manifest["distinct_blames"] == 3
    assert manifest["witnesses"] == {
        "cap": 5, "asked": 2, "said": {"not-asked": 2, "agrees": 1}, "finite_before": 1,
        "before_asked": 1, "bad_after": 1,
    }  # fmt: skip


def test_the_hashes_are_those_of_the_files_and_of_the_grid_that_is_written(tmp_path):
    manifest = write(tmp_path)
    assert list(manifest["files"]) == ["blames.csv", "runs.csv"]
    for name, digest in manifest["files"].items():
        assert digest == hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
    assert (tmp_path / "grid.resolved.toml").read_text() == "[run]\n"
    assert manifest["grid_sha256"] == hashlib.sha256(b"[run]\n").hexdigest()
    assert not list(tmp_path.glob("*.partial"))


def test_environments_are_listed_only_where_there_are_several(tmp_path):
    assert "environments" not in write(tmp_path)
    assert "rules" not in write(tmp_path)
    two = {"x": ENVIRONMENT, "y": {**ENVIRONMENT, "jax": "2"}}
    assert write(tmp_path, environments=two)["environments"] == two


def test_the_fingerprint_is_of_what_bits_depend_on():
    assert fingerprint(ENVIRONMENT) == fingerprint({**ENVIRONMENT, "devices": 9, "polars": "4"})
    assert fingerprint(ENVIRONMENT) != fingerprint({**ENVIRONMENT, "jax": "2"})


@pytest.mark.parametrize(
    ("answers", "word"),
    [((AGREES, DISAGREES), DISAGREES), ((DISAGREES, AGREES), DISAGREES), ((AGREES, None), AGREES)],
)
def test_the_word_of_a_blame_is_the_worse_of_its_two(answers, word):
    assert Answers(*answers, None, False).word == word


def test_the_command_names_no_folder_of_this_machine(own_folder):
    grid = Path.cwd() / "sweeps/x y.toml"
    elsewhere = Path.cwd().parent / "elsewhere/z.toml"
    said = command_line([str(grid), "--out", str(elsewhere), "--run.steps", "5"])
    assert said == "python -m nanlab.sweep 'sweeps/x y.toml' --out z.toml --run.steps 5"
