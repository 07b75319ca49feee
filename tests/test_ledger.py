"""The ledger: planted claims are settled rightly, and the committed ones hold up to shuffling."""

import json
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sampled import sampled

from nanlab import claims
from nanlab.cli.exit_status import CRASHED
from nanlab.ledger import rules
from nanlab.ledger import strata as pairs
from nanlab.ledger.claim import Claim, every_id, stem_of
from nanlab.ledger.rules import rule_hash
from nanlab.ledger.conditions import conditions_of
from nanlab.ledger.figures import MAX_FIGURES
from nanlab.ledger.judge import judge, rules_of

ROOT = Path(__file__).resolve().parents[1]
COMMITTED = ROOT / "results/claims"

STUDY = """
[run]
task = "iris"
model = "mlp"
depth = 1
width = 8
loss = "mse"
train_examples = 100
steps = 20

[axes]
lr = [0.01, 100.0]
input_scale = [1.0, 1.02]
init_scale = [1.0, 3.0, 10.0]
seed = { range = 20 }

[exec]
devices = 1
witnesses = 0
"""
TRUE = """
[claim]
id = "A1"
says = "A learning rate of 100 makes more NaN than one of 0.01."
kind = "effect"
range = "here"
strata = ["init_scale"]
measure = { outcome = ["nan"] }
contrast = { with = { lr = 100.0 }, without = { lr = 0.01 }, at_least = 0.3 }
"""
FALSE = """
[claim]
id = "A2"
says = "Inputs 2 % larger make more NaN."
kind = "effect"
range = "here"
study = "A1"
measure = { outcome = ["nan"] }
contrast = { with = { input_scale = 1.02 }, without = { input_scale = 1.0 }, at_least = 0.3 }
"""
NULL = """
[claim]
id = "A3"
says = "Inputs 2 % larger change nothing."
kind = "null"
range = "here"
study = "A1"
within = 0.1
measure = { outcome = ["nan"] }
contrast = { with = { input_scale = 1.02 }, without = { input_scale = 1.0 }, at_least = 0.0 }
"""
CURE = """
[claim]
id = "A4"
says = "A rate of 0.01 in place of 100 cures runs that fail."
kind = "effect"
range = "here"
study = "A1"
where = { init_scale = 1.0 }
measure = { outcome = ["trained", "stalled"] }

[claim.contrast]
move = { lr = -1 }
of_failed = true
at_least = 0.3
placebos = [{ input_scale = 1 }]
random_of = [{ input_scale = 1 }, { input_scale = -1 }, { lr = -1 }]
"""
NOTHING_FAILS = """
[claim]
id = "A5"
says = "A fresh look at rates of 0.01 cures runs that fail."
kind = "effect"
range = "here"
study = "A1"
strata = ["init_scale"]
where = { lr = 0.01, init_scale = [1.0, 3.0] }
measure = { outcome = ["trained", "stalled"] }

[claim.contrast]
with = { input_scale = 1.02 }
without = { input_scale = 1.0 }
of_failed = true
at_least = 0.3
"""
SHARE = """
[claim]
id = "B4"
says = "Failures begin in the initial state."
kind = "distribution"
range = "here"
study = "A1"
of_failed = true
share_at_least = 0.5
measure = { equals = { origin_phase = "init" } }
"""
UNTESTABLE = """
[claim]
id = "E11"
says = "Some machine that nobody has makes NaN."
kind = "effect"
range = "nowhere"
reason = "Nobody has that machine."
"""


@pytest.fixture(scope="module")
def ledger(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ledger")
    texts = {
        "A01": TRUE + STUDY,
        "A02": FALSE,
        "A03": NULL,
        "A04": CURE,
        "A05": NOTHING_FAILS,
        "B04": SHARE,
        "E11": UNTESTABLE,
    }
    for stem, text in texts.items():
        (folder / f"{stem}.toml").write_text(text.lstrip(), encoding="utf-8")
    flags = ["--sweeps", str(folder), "--out", str(folder / "out")]
    assert claims.main(["A1", "A2", *flags]) == claims.DONE
    return folder, flags


def rows(folder):
    return {row["id"]: row for row in pl.read_csv(folder / "out/claims.csv").iter_rows(named=True)}


def test_planted_claims_true_and_false_are_settled_so(ledger):
    words = {name: row["verdict"] for name, row in rows(ledger[0]).items()}
    assert words == {
        "A1": "supported", "A2": "refuted", "A3": "supported", "A4": "supported",
        "A5": "open", "B4": "refuted", "E11": "not testable here",
    }  # fmt: skip


def test_a_claim_that_is_not_testable_here_says_why_and_tells_no_numbers(ledger, capsys):
    folder, flags = ledger
    row = rows(folder)["E11"]
    assert row["condition"] == "Nobody has that machine."
    assert {row[n] for n in ("effect", "seeds", "stratum", "table", "code_sha256")} == {None}
    assert pl.read_csv(folder / "out/strata.csv").filter(pl.col("id") == "E11").is_empty()
    page = (folder / "out/README.md").read_text("utf-8")
    assert "## Not testable here" in page and "Nobody has that machine." in page
    assert "1 not testable here" in page
    capsys.readouterr()
    assert claims.main(["E11", "--dry-run", *flags]) == claims.DONE
    assert "0 runs" in capsys.readouterr().out
    assert claims.main(["E11", *flags]) == claims.DONE
    told = capsys.readouterr().out
    assert "E11  not testable here Some machine" in told


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (UNTESTABLE + "within = 0.1\n", "has a reason why it is not testable here, so it has no"),
        (UNTESTABLE.replace("reason", "remark"), "has no measure; it asks"),
    ],
)
def test_a_claim_has_either_a_rule_or_a_reason(text, sentence, tmp_path, capsys):
    (tmp_path / "E11.toml").write_text(text, encoding="utf-8")
    assert claims.main(["--sweeps", str(tmp_path), "--out", str(tmp_path)]) == claims.WRONG
    assert sentence in capsys.readouterr().err


def test_a_cure_is_held_against_each_of_its_placebos(ledger):
    strata = pl.read_csv(ledger[0] / "out/strata.csv").filter(pl.col("id") == "A4")
    told = ["a fresh seed", "input_scale +1", "a random direction"]
    assert strata["placebo"].to_list() == told


def test_a_random_direction_is_one_move_of_each_run(ledger):
    # Counted over in a loop: of each failing run the moves that the grid has, one of them drawn.
    runs = pl.read_parquet(ledger[0] / "out/A01/runs.parquet").filter(pl.col("init_scale") == 1.0)
    by_place = {(r["lr"], r["input_scale"], r["seed"]): r for r in runs.iter_rows(named=True)}
    scales = sorted({scale for _, scale, _ in by_place})
    finite = []
    for (lr, scale, seed), run in by_place.items():
        if lr != 100.0 or run["outcome"] not in pairs.FAILED:
            continue
        other = scales[1 - scales.index(scale)]
        possible = [(lr, other, seed), (0.01, scale, seed)]
        drawn = by_place[possible[int(run["run_id"][:8], 16) % 2]]
        finite.append(drawn["outcome"] not in pairs.FAILED)
    assert 0.2 < sum(finite) / len(finite) < 0.8
    strata = pl.read_csv(ledger[0] / "out/strata.csv").filter(pl.col("id") == "A4")
    row = strata.row(by_predicate=pl.col("placebo") == "a random direction", named=True)
    assert row["runs_without"] == len(finite)
    assert row["finite_without"] == pytest.approx(sum(finite) / len(finite), abs=1e-6)


def test_where_nothing_fails_a_cure_has_a_row_and_stays_open(ledger):
    strata = pl.read_csv(ledger[0] / "out/strata.csv").filter(pl.col("id") == "A5")
    assert strata["stratum"].to_list() == ["init_scale 1", "init_scale 3"]
    assert strata["answer"].to_list() == ["open"] * 2
    assert strata["seeds"].to_list() == [0, 0] and strata["effect"].null_count() == 2


def test_the_runs_that_stay_finite_are_counted_beside_those_that_train(ledger):
    runs = pl.read_parquet(ledger[0] / "out/A01/runs.parquet")
    strata = pl.read_csv(ledger[0] / "out/strata.csv")
    (row,) = strata.filter(id="A1", stratum="init_scale 3").iter_rows(named=True)
    for side, lr in (("finite_with", 100.0), ("finite_without", 0.01)):
        some = runs.filter(pl.col("lr") == lr, pl.col("init_scale") == 3.0)
        failed = some["outcome"].is_in(["nan", "inf", "recovered"]).sum()
        assert row[side] == pytest.approx(1 - failed / some.height, abs=1e-6)
    cure = strata.filter(id="A4", placebo="a fresh seed")
    assert cure["finite_with"].to_list() == [1.0] and cure["finite_without"].to_list() == [0.0]


def test_with_fewer_than_twenty_seeds_a_stratum_stays_open():
    claim = Claim.model_validate(tomllib.loads(TRUE)["claim"])
    for seeds, word in ((19, rules.OPEN), (20, rules.HOLDS)):
        stratum = pairs.Stratum(
            key={}, values=np.ones(seeds), with_=1.0, without=0.0, runs_with=1, runs_without=1
        )
        found = rules.finding(claim, stratum)
        assert rules.answer(claim, found, found.p) == word


@pytest.mark.parametrize(
    ("least", "without", "word"),
    [(0.3, 0.71, rules.OPEN), (0.3, 0.70, rules.FAILS), (-0.3, 0.29, rules.OPEN),
     (-0.3, 0.30, rules.FAILS)],
)  # fmt: skip
def test_where_the_other_side_leaves_no_room_for_the_effect_a_stratum_stays_open(
    least, without, word
):
    # Of 71 % that fail without it, no factor makes 30 % more fail.
    text = TRUE.replace("at_least = 0.3", f"at_least = {least}")
    claim = Claim.model_validate(tomllib.loads(text)["claim"])
    stratum = pairs.Stratum(
        key={}, values=np.zeros(20), with_=without, without=without, runs_with=20, runs_without=20
    )
    found = rules.finding(claim, stratum)
    assert rules.answer(claim, found, found.p) == word


def test_a_claim_that_fails_in_a_stratum_and_holds_in_none_is_refuted():
    claim = Claim.model_validate(tomllib.loads(TRUE)["claim"])
    strata = [
        pairs.Stratum(
            key={"init_scale": str(i)}, values=np.full(seeds, effect), with_=effect, without=0.0,
            runs_with=seeds, runs_without=seeds,
        )
        for i, (seeds, effect) in enumerate([(20, 0.0), (3, 0.0)])
    ]  # fmt: skip
    found = [rules.finding(claim, each) for each in strata]
    told = rules.verdict(claim, found, [f.p for f in found])
    assert (told.word, told.condition) == ("refuted", "not for init scale 0. open for init scale 1")


def test_a_rule_that_was_another_at_an_earlier_result_is_told_even_by_force(ledger, capsys):
    # --force runs a study again: the hash of the rule that stood there is kept beside the new one.
    folder, _ = ledger
    claim = Claim.model_validate(tomllib.loads(FALSE)["claim"])
    other = claim.model_copy(update={"within": 0.5})
    assert rules_of(claim, folder / "out/A01") == [rule_hash(claim)]
    assert rules_of(other, folder / "out/A01") == [rule_hash(other), rule_hash(claim)]
    assert rules_of(claim, folder / "nowhere") == [rule_hash(claim)]
    manifest = {"rules": {"A2": rules_of(other, folder / "out/A01")}}
    judged = judge([claim], {"A01": folder / "out/A01"})[0]
    assert not judged.rule_changed
    assert replace(judged, manifest=manifest).rule_changed
    corrected = claim.model_copy(update={"corrected": "It counted rounding."})
    assert rule_hash(corrected) == rule_hash(claim)
    assert replace(judged, claim=corrected).rule_changed


def test_the_page_has_a_figure_for_the_most_telling_and_the_same_bytes_twice(ledger):
    folder, flags = ledger
    figures = sorted((folder / "out/figures").glob("*.svg"))
    assert figures and len(figures) <= MAX_FIGURES
    told = (folder / "out/README.md").read_text("utf-8")
    for path in figures:
        assert f"(figures/{path.name})" in told
        assert path.read_text("utf-8").count("<path") > 20
    before = {path.name: path.read_bytes() for path in figures}
    (folder / "out/figures/E13.svg").write_text("of a claim that is no longer told", "utf-8")
    assert claims.main(flags) == claims.DONE
    after = {path.name: path.read_bytes() for path in (folder / "out/figures").iterdir()}
    assert after == before


def test_a_placebo_that_leaves_the_grid_for_every_failing_run_is_told(ledger, capsys):
    # The failing runs are those with the larger rate: there is none beyond it.
    folder, flags = ledger
    path = folder / "A04.toml"
    path.write_text(CURE.replace("{ input_scale = 1 }", "{ lr = 1 }"), encoding="utf-8")
    try:
        assert claims.main(flags) == claims.WRONG
        assert "claim A4: placebo lr +1 leaves the grid for every run" in capsys.readouterr().err
    finally:
        path.write_text(CURE, encoding="utf-8")


def test_the_effect_is_the_mean_over_seeds_of_paired_differences(ledger):
    runs = pl.read_parquet(ledger[0] / "out/A01/runs.parquet")
    strata = pl.read_csv(ledger[0] / "out/strata.csv").filter(pl.col("id") == "A1")
    for scale in (1.0, 3.0, 10.0):
        share = {
            (lr, seed): np.mean(
                [
                    row["outcome"] == "nan"
                    for row in runs.iter_rows(named=True)
                    if (row["lr"], row["seed"], row["init_scale"]) == (lr, seed, scale)
                ]
            )
            for lr in (0.01, 100.0)
            for seed in range(20)
        }
        effect = np.mean([share[100.0, s] - share[0.01, s] for s in range(20)])
        told = strata.filter(pl.col("stratum") == f"init_scale {scale:g}")["effect"].to_list()
        assert told == [pytest.approx(effect, abs=1e-6)]


def test_a_rule_that_is_changed_after_the_result_is_told(ledger, capsys):
    folder, flags = ledger
    path = folder / "A02.toml"
    old = path.read_text(encoding="utf-8")
    path.write_text(old.replace("at_least = 0.3", "at_least = 0.2"), encoding="utf-8")
    try:
        assert claims.main(flags) == claims.DONE
        assert "Inputs 2 % larger make more NaN. (its rule was changed" in capsys.readouterr().out
        assert rows(folder)["A2"]["rule_changed"] and not rows(folder)["A1"]["rule_changed"]
    finally:
        path.write_text(old, encoding="utf-8")
        claims.main(flags)


def test_a_finished_study_is_not_run_again_and_gives_the_same_bytes(ledger):
    folder, flags = ledger
    names = ("claims.csv", "strata.csv", "claims.md", "claims.tex", "README.md")
    before = {name: (folder / "out" / name).read_bytes() for name in names}
    finished = json.loads((folder / "out/A01/manifest.json").read_text("utf-8"))["finished"]
    assert claims.main(["--all", *flags]) == claims.DONE
    assert {name: (folder / "out" / name).read_bytes() for name in names} == before
    assert json.loads((folder / "out/A01/manifest.json").read_text("utf-8"))["finished"] == finished


WRONG = {
    "says": ('says = "x"\n', "claim.says: is missing"),
    "kind": ('kind = "guess"', "claim.kind: "),
    "rule": ("at_least = 0.3", "claim.contrast.at_least: is missing"),
    "key": ("measure =", "claim.mesure: unknown key"),
    "id": ('id = "A1"', 'claim.id: must be that of the file: claim "B1" belongs into B01.toml'),
}
CHANGES = {
    "says": lambda t: "\n".join(line for line in t.splitlines() if "says" not in line) + "\n",
    "kind": lambda t: t.replace('"effect"', '"guess"'),
    "rule": lambda t: t.replace(", at_least = 0.3", ""),
    "key": lambda t: t.replace("measure =", "mesure ="),
    "id": lambda t: t.replace('"A1"', '"B1"'),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_a_claim_that_is_wrong_is_told_by_its_key(name, tmp_path, capsys):
    (tmp_path / "A01.toml").write_text(CHANGES[name](TRUE) + STUDY, encoding="utf-8")
    assert claims.main(["--sweeps", str(tmp_path), "--out", str(tmp_path)]) == claims.WRONG
    told = capsys.readouterr().err
    assert WRONG[name][1] in told
    assert "Traceback" not in told


def test_a_folder_that_cannot_be_is_told(tmp_path, capsys):
    (tmp_path / "A01.toml").write_text(TRUE + STUDY, encoding="utf-8")
    (tmp_path / "file").write_text("", encoding="utf-8")
    flags = ["A1", "--sweeps", str(tmp_path), "--out", str(tmp_path / "file/out")]
    assert claims.main(flags) == CRASHED
    assert "cannot write" in capsys.readouterr().err


def test_a_claim_that_is_not_there_is_told(capsys, tmp_path):
    (tmp_path / "A01.toml").write_text(TRUE + STUDY, encoding="utf-8")
    assert claims.main(["A9", "--sweeps", str(tmp_path), "--out", str(tmp_path)]) == claims.WRONG
    assert "A9: is no claim of the ledger" in capsys.readouterr().err


def test_conditions_are_told_as_short_as_they_can_be():
    keys = [{"steps": s, "static.precision": p} for s in ("10", "1000") for p in ("a", "b", "c")]
    assert conditions_of(keys, ["no", "no", "yes", "yes", "yes", "yes"]) == {
        "no": ["steps 10, precision a or b"],
        "yes": ["steps 10, precision c", "steps 1000"],
    }
    assert conditions_of(keys, ["yes", "no", "yes"] * 2) == {
        "yes": ["precision a or c"],
        "no": ["precision b"],
    }
    assert conditions_of([{}], ["open"]) == {"open": [""]}


# The ledger that is committed.

FILES = sorted((ROOT / "sweeps/claims").glob("*.toml"))
TABLES = {path.stem: tomllib.loads(path.read_text("utf-8"))["claim"] for path in FILES}
CLAIMS = {stem: Claim.model_validate(table) for stem, table in TABLES.items()}


MEASURED = [s for s, c in CLAIMS.items() if (COMMITTED / c.study_stem / "runs.parquet").is_file()]
SETTLED = [s for s, c in CLAIMS.items() if s in MEASURED or c.reason]


def test_every_committed_claim_has_a_file_of_its_name_and_a_study():
    assert set(TABLES) <= {stem_of(name) for name in every_id()}
    assert {claim.study_stem for claim in CLAIMS.values()} <= set(TABLES)


@pytest.mark.slow
def test_the_committed_verdicts_are_those_of_the_committed_tables():
    studies = {CLAIMS[s].study_stem: COMMITTED / CLAIMS[s].study_stem for s in MEASURED}
    ordered = [name for name in every_id() if stem_of(name) in SETTLED]
    judged = judge([CLAIMS[stem_of(n)] for n in ordered], studies)
    committed = pl.read_csv(COMMITTED / "claims.csv")
    assert [each.claim.id for each in judged] == committed["id"].to_list()
    assert [each.verdict.word for each in judged] == committed["verdict"].to_list()
    assert [each.rule_changed for each in judged] == committed["rule_changed"].to_list()


@pytest.mark.slow
def test_the_whole_ledger_needs_at_most_600_compiles(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert claims.main(["--all", "--dry-run"]) == claims.DONE
    last = capsys.readouterr().out.strip().splitlines()[-1].split()
    assert last[0] == "all" and int(last[last.index("compiles,") - 1].replace(",", "")) <= 600


@pytest.mark.parametrize("stem", sampled([s for s in MEASURED if CLAIMS[s].kind == "effect"], 6))
def test_shuffled_labels_support_no_effect(stem):
    # Of a cure: the labels of the cured run and of its placebo.
    claim = CLAIMS[stem]
    runs = pl.read_parquet(COMMITTED / claim.study_stem / "runs.parquet")
    strata = [
        (
            each.pairs.get_column("seed").to_numpy(),
            (each.pairs["_true"] - each.pairs["_true_without"]).to_numpy(),
        )
        for each in pairs.compared(claim, runs)
        if each.pairs.height
    ]
    supported = sum(_is_supported(claim, strata, np.random.default_rng(i)) for i in range(200))
    assert supported <= 10


def _is_supported(claim, strata, rng):
    """Whether the claim holds in every stratum once each pair's labels are dealt anew."""
    sign = 1.0 if claim.contrast.at_least >= 0 else -1.0
    for seeds, differences in strata:
        dealt = differences * rng.choice([-1.0, 1.0], len(differences))
        values = np.array([dealt[seeds == seed].mean() for seed in np.unique(seeds)])
        if sign * values.mean() < sign * claim.contrast.at_least:
            return False
        stratum = pairs.Stratum(
            key={}, values=values, with_=0.0, without=0.0, runs_with=1, runs_without=1
        )
        found = rules.finding(claim, stratum)
        if rules.answer(claim, found, found.p) != rules.HOLDS:
            return False
    return True


@pytest.mark.parametrize("name", ["A1", "A01", "a1"])
def test_a_claim_may_be_called_as_its_study_is(name, capsys):
    assert claims.main([name, "--dry-run", "--sweeps", str(ROOT / "sweeps/claims")]) == claims.DONE
    assert capsys.readouterr().out.startswith("A01 ")
