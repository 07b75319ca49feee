"""The ledger: planted claims are settled rightly, and the committed ones hold up to shuffling."""

import json
import re
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sampled import sampled

from nanlab import claims
from nanlab.cli.exit_status import CRASHED
from nanlab.grid import GridError
from nanlab.grid.outcome import FAILED
from nanlab.grid.parameters import PARAMETERS
from nanlab.ledger import measures, pairs, rules
from nanlab.ledger import strata as measured_strata
from nanlab.ledger.claim import Claim, every_id, read_claim, stem_of
from nanlab.ledger.conditions import conditions_of
from nanlab.ledger.frames import ledger_frame, strata_frame
from nanlab.ledger.history import History
from nanlab.ledger.judge import judge, rules_of, runs_of_studies
from nanlab.ledger.measures import MOST_FREQUENT, trains
from nanlab.ledger.rules import rule_hash
from nanlab.ledger.write import write_ledger

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
asks = "faults"
range = "here"
strata = ["init_scale"]
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
within = 0.2
measure = { outcome = ["nan"] }
contrast = { with = { input_scale = 1.02 }, without = { input_scale = 1.0 }, at_least = 0.0 }
"""
CURE = """
[claim]
id = "A4"
says = "A rate of 0.01 in place of 100 cures runs that fail."
kind = "effect"
asks = "faults"
range = "here"
study = "A1"
where = { init_scale = [1.0, 3.0] }

[claim.contrast]
move = { lr = -1 }
of_failed = true
at_least = 0.02
placebos = [{ input_scale = 1 }]
random_of = [{ input_scale = 1 }, { input_scale = -1 }, { lr = -1 }]
"""
NOTHING_FAILS = """
[claim]
id = "A5"
says = "A fresh look at rates of 0.01 cures runs that fail."
kind = "effect"
asks = "faults"
range = "here"
study = "A1"
strata = ["init_scale"]
where = { lr = 0.01, init_scale = [1.0, 3.0] }

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


def strata_of(ledger, claim_id, question="faults"):
    strata = pl.read_csv(ledger[0] / "out/strata.csv")
    return strata.filter(pl.col("id") == claim_id, pl.col("question") == question)


def test_planted_claims_true_and_false_are_settled_so(ledger):
    words = {name: row["verdict"] for name, row in rows(ledger[0]).items()}
    assert words == {
        "A1": "supported", "A2": "refuted", "A3": "supported", "A4": "supported",
        "A5": "open", "B4": "refuted", "E11": "not testable here",
    }  # fmt: skip


def test_a_claim_that_is_not_testable_here_says_why_and_has_no_numbers(ledger, capsys):
    folder, flags = ledger
    row = rows(folder)["E11"]
    assert row["condition"] == "Nobody has that machine."
    assert {row[n] for n in ("effect", "seeds", "stratum", "tables", "code_sha256")} == {None}
    assert pl.read_csv(folder / "out/strata.csv").filter(pl.col("id") == "E11").is_empty()
    page = (folder / "out/README.md").read_text("utf-8")
    assert "**Not testable here.** Nobody has that machine." in page
    assert "1 not testable here" in page
    capsys.readouterr()
    assert claims.main(["E11", "--dry-run", *flags]) == claims.DONE
    assert "0 runs" in capsys.readouterr().out
    assert claims.main(["E11", *flags]) == claims.DONE
    assert "E11  not testable here Some machine" in capsys.readouterr().out


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
    strata = strata_of(ledger, "A4")
    placebos = ["a fresh seed", "input_scale +1", "a random direction"]
    assert strata["placebo"].to_list() == placebos


def test_a_random_direction_is_one_move_of_each_run(ledger):
    # Counted over in a loop: of each failing run the moves that the grid has, one of them drawn.
    runs = pl.read_parquet(ledger[0] / "out/A01/runs.parquet").filter(pl.col("init_scale") < 10.0)
    at = ("lr", "input_scale", "seed", "init_scale")
    by_place = {tuple(run[name] for name in at): run for run in runs.iter_rows(named=True)}
    scales = sorted({place[1] for place in by_place})
    finite = []
    for (lr, scale, *place), run in by_place.items():
        if lr != 100.0 or run["outcome"] not in FAILED:
            continue
        other = scales[1 - scales.index(scale)]
        possible = [(lr, other, *place), (0.01, scale, *place)]
        drawn = by_place[possible[int(run["run_id"][:8], 16) % 2]]
        finite.append(drawn["outcome"] not in FAILED)
    assert 0.2 < sum(finite) / len(finite) < 0.8
    strata = strata_of(ledger, "A4")
    row = strata.row(by_predicate=pl.col("placebo") == "a random direction", named=True)
    assert row["runs_without"] == len(finite)
    # Each seed has as many failing runs as the others, so the mean over seeds is that over runs.
    assert row["without"] == pytest.approx(sum(finite) / len(finite), abs=1e-6)


def test_alternatives_are_each_paired_by_all_but_their_own_parameters(ledger):
    # A rate of 0.01 at the failing run's weights, and the failing rate at other weights.
    runs = pl.read_parquet(ledger[0] / "out/A01/runs.parquet")
    alternatives = [{"lr": 0.01}, {"init_scale": [3.0, 10.0]}]
    contrast = {"with": alternatives, "without": {"lr": 100.0, "init_scale": 1.0}, "at_least": 0.1}
    claim = effect(contrast=contrast, strata=[])
    ((_, found, _),) = measured_strata.compared(claim, "faults", runs)
    columns = ("lr", "lr_without", "init_scale", "init_scale_without")
    kinds = {tuple(row[name] or row[name.removesuffix("_without")] for name in columns)
             for row in found.iter_rows(named=True)}  # fmt: skip
    assert kinds == {(0.01, 100.0, 1.0, 1.0), (100.0, 100.0, 3.0, 1.0), (100.0, 100.0, 10.0, 1.0)}
    assert found.height == 3 * 2 * 20


@pytest.mark.parametrize("column", [["1", "8", "full", "8"], [1, 8, 64, 8]])
@pytest.mark.parametrize("wanted", [8, "8", [8], ["8"]])
def test_a_rule_names_a_batch_size_as_text_or_as_a_number(column, wanted):
    runs = pl.DataFrame({"batch_size": column, "lr": [0.1, 0.2, 0.3, 0.4]})
    assert pairs.matching(runs, {"batch_size": wanted})["lr"].to_list() == [0.2, 0.4]
    assert pairs.matching(runs, {"batch_size": [8, "full"], "lr": 0.2})["lr"].to_list() == [0.2]


NAMED = {
    "with": {"lr": [0.01, 1.0]}, "without": {"lr": 100.0}, "at_least": 0.1,
    "names": {"a small rate": {"lr": 0.01}, "a larger rate": {"lr": [1.0, 10.0]}},
}  # fmt: skip


def test_alternatives_with_names_are_strata_and_measured_each_by_itself(ledger):
    folder = ledger[0] / "out/A01"
    claim = effect(contrast=NAMED, strata=["factor"], any_of=["factor"])
    (judged,) = judge([claim], {"A01": folder})
    (stress,) = judged.ranges
    answer = stress.primary
    names = [each.stratum.key["factor"] for each in answer.factors]
    assert set(names) <= set(NAMED["names"]) and names
    assert {each.stratum.name for each in answer.findings} == {f"factor {n}" for n in names}
    # Where one is enough, the overall number is that of the best.
    best = max(each.effect for each in answer.factors)
    assert [each.effect for each in answer.overall] == [best]
    plain = effect(contrast={k: v for k, v in NAMED.items() if k != "names"}, strata=["lr"])
    (alone,) = judge([plain], {"A01": folder})
    by_rate = {f.stratum.key["lr"]: f.effect for f in alone.ranges[0].primary.findings}
    assert sorted(by_rate.values()) == sorted(each.effect for each in answer.factors)


def test_swapped_runs_change_sides(ledger):
    runs = pl.read_parquet(ledger[0] / "out/A01/runs.parquet")
    contrast = {"with": {"lr": 0.01}, "without": {"lr": 100.0}, "at_least": 0.1}
    swapped = contrast | {"swapped": {"init_scale": 3.0}}
    effects = [
        {s.name: s.values.mean() for s in measured_strata.strata_of(claim, "faults", runs)[0]}
        for claim in (effect(contrast=contrast), effect(contrast=swapped))
    ]
    assert effects[0].keys() == effects[1].keys()
    for name, value in effects[0].items():
        assert effects[1][name] == (-value if name == "init_scale 3" else value)


def test_what_no_run_can_show_is_not_measured():
    runs = pl.DataFrame({"outcome": ["stalled", "nan"], "final_accuracy": [None, None]},
                        schema_overrides={"final_accuracy": pl.Float64})  # fmt: skip
    assert measures.is_measured("faults", runs) and not measures.is_measured("trains", runs)
    assert measures.is_measured("trains", runs.with_columns(outcome=pl.lit("trained")))


def test_where_nothing_fails_a_cure_has_a_row_and_shows_nothing(ledger):
    strata = strata_of(ledger, "A5")
    assert strata["stratum"].to_list() == ["init_scale 1", "init_scale 3"]
    assert strata["answer"].to_list() == [rules.UNSEEN] * 2
    assert strata["seeds"].to_list() == [0, 0] and strata["effect"].null_count() == 2
    assert "there is nothing to cure" in rows(ledger[0])["A5"]["finding"]


def test_the_runs_that_train_are_counted_next_to_those_with_a_fault(ledger):
    runs = pl.read_parquet(ledger[0] / "out/A01/runs.parquet")
    for question, holds in (
        ("faults", lambda run: run["outcome"] in FAILED),
        # Iris has three classes of 50: a quarter of the way from 1/3 to 1 is one half.
        ("trains", lambda run: run["outcome"] not in FAILED and run["final_accuracy"] >= 0.5005),
    ):
        (row,) = (
            strata_of(ledger, "A1", question).filter(stratum="init_scale 3").iter_rows(named=True)
        )
        for side, lr in (("with", 100.0), ("without", 0.01)):
            group = runs.filter(pl.col("lr") == lr, pl.col("init_scale") == 3.0)
            share = np.mean([holds(run) for run in group.iter_rows(named=True)])
            assert row[side] == pytest.approx(share, abs=1e-6)
    # A cause of faults is expected to train less often, by as much.
    assert (strata_of(ledger, "A1", "trains")["effect"] < 0).all()
    assert strata_of(ledger, "A4", "faults")["with"].to_list() == [1.0] * 3


def test_a_run_trains_by_its_accuracy_where_there_are_classes_and_by_its_loss_elsewhere():
    table = pl.DataFrame(
        {
            "task": ["digits", "digits", "wine", "wine", "diabetes", "digits", "my:task"],
            "final_accuracy": [0.33, 0.32, 0.54, 0.55, None, 0.9, 0.1],
            "outcome": ["stalled", "trained", "trained", "diverged", "trained", "nan", "trained"],
        }
    )
    expected = [True, False, False, True, True, False, True]
    assert table.select(trains().alias("trains"))["trains"].to_list() == expected


@pytest.mark.parametrize("task", ["digits", "breast_cancer", "wine", "iris", "images"])
def test_the_most_frequent_class_is_that_of_the_data(task):
    from nanlab.parts.tasks import TASKS

    targets = TASKS[task].load({"image_size": PARAMETERS["image_size"].default})[1]
    share = np.bincount(targets).max() / len(targets)
    assert share <= MOST_FREQUENT[task] < share + 0.0015


def stratum(values, *, key=None, without=0.0, cells=2, decides=True):
    values = np.asarray(values, dtype=float)
    return measured_strata.Stratum(
        key=key or {}, values=values, with_seeds=values + without,
        without_seeds=np.full(len(values), without), runs_with=len(values),
        runs_without=len(values), cells=cells, decides=decides,
    )  # fmt: skip


def effect(least=0.3, **more):
    table = tomllib.loads(TRUE)["claim"]
    return Claim.model_validate(
        table | {"contrast": table["contrast"] | {"at_least": least}} | more
    )


def answers(claim, *strata):
    return [each.answer for each in rules.results_of(claim, "faults", strata)]


def test_with_few_seeds_a_stratum_stays_open():
    for seeds, cells, word in (
        (19, 2, rules.OPEN), (20, 2, rules.HOLDS), (19, 1, rules.OPEN), (20, 1, rules.HOLDS),
    ):  # fmt: skip
        assert answers(effect(), stratum(np.ones(seeds), cells=cells)) == [word]


@pytest.mark.parametrize(
    ("least", "value", "without", "word"),
    [
        (0.3, 0.8, 0.0, rules.HOLDS), (0.3, 0.5, 0.0, rules.BORDERLINE),
        (0.3, 0.2, 0.0, rules.OPEN), (0.3, 0.0, 0.0, rules.FAILS), (0.3, -0.5, 0.5, rules.FAILS),
        # Of 71 % that fail without it, no factor makes 30 % more fail; but it may make fewer fail.
        (0.3, 0.2, 0.71, rules.UNSEEN), (0.3, -0.7, 0.71, rules.FAILS),
        (0.3, 0.0, 0.70, rules.FAILS), (-0.3, -0.8, 1.0, rules.HOLDS),
        (-0.3, 0.0, 0.29, rules.UNSEEN), (-0.3, 0.6, 0.29, rules.FAILS),
    ],
)  # fmt: skip
def test_the_whole_interval_decides_a_stratum(least, value, without, word):
    assert answers(effect(least), stratum([value] * 20, without=without)) == [word]


@pytest.mark.parametrize(
    ("within", "value", "seeds", "word"),
    [(0.2, 0.0, 20, rules.HOLDS), (0.02, 0.0, 40, rules.OPEN), (0.02, 0.0, 200, rules.HOLDS),
     (0.02, 0.3, 60, rules.FAILS)],
)  # fmt: skip
def test_a_null_claim_needs_seeds_for_its_margin(within, value, seeds, word):
    claim = Claim.model_validate(tomllib.loads(NULL)["claim"] | {"within": within})
    assert answers(claim, stratum([value] * seeds)) == [word]


VERDICTS = {
    # name: (values of the strata, verdict, answers with conditions)
    "all hold": ([0.9, 0.9], "supported", []),
    "some hold, some fail": ([0.9, 0.0], "conditional", ["holds", "fails"]),
    "half hold, the others are undecided": ([0.9, 0.2], "supported", ["holds", "open"]),
    "fewer hold, none fails": ([0.9, 0.2, 0.2], "borderline", ["holds", "open"]),
    "all fail": ([0.0, 0.0], "refuted", []),
    "half fail, none holds": ([0.0, 0.2], "refuted", ["fails", "open"]),
    "fewer fail, none holds": ([0.0, 0.2, 0.2], "open", ["fails", "open"]),
    "an effect of about the required size": ([0.5, 0.5], "borderline", []),
    "one of about the required size, one less": ([0.5, 0.0], "refuted", ["borderline", "fails"]),
    "most of about the required size": ([0.5, 0.5, 0.0], "borderline", ["borderline", "fails"]),
    "undecided": ([0.2, 0.2], "open", []),
    "nothing to see in one": ([0.9, None], "supported", []),
    "nothing to see": ([None, None], "open", []),
}


@pytest.mark.parametrize("name", VERDICTS)
def test_a_verdict_joins_the_strata_that_show_something(name):
    values, word, conditions = VERDICTS[name]
    claim = effect()
    strata = [
        stratum([] if value is None else [value] * 20, key={"init_scale": str(i)})
        for i, value in enumerate(values)
    ]
    found = rules.verdict(claim, rules.results_of(claim, "faults", strata))
    assert (found.word, sorted(found.conditions)) == (word, sorted(conditions))
    assert sum(found.counts.values()) == sum(value is not None for value in values)


def test_strata_beyond_the_claim_are_reported_and_decide_nothing():
    claim = effect(beyond={"init_scale": [10.0]})
    strata = [
        stratum([0.9] * 20, key={"init_scale": "1"}),
        stratum([0.0] * 20, key={"init_scale": "10"}, decides=False),
    ]
    found = rules.results_of(claim, "faults", strata)
    assert [each.answer for each in found] == [rules.HOLDS, rules.FAILS]
    assert rules.verdict(claim, found).word == "supported"
    alone = rules.results_of(claim, "faults", strata[:1])
    assert alone[0].adjusted == found[0].adjusted


def test_of_alternatives_one_is_enough():
    claim = effect(strata=["optimizer", "loss"], any_of=["optimizer"])
    strata = [
        stratum([value] * 20, key={"optimizer": optimizer, "loss": loss})
        for optimizer, loss, value in (
            ("adam", "mse", 0.9), ("sgd", "mse", 0.0), ("adam", "x", 0.0), ("sgd", "x", 0.0)
        )
    ]  # fmt: skip
    found = rules.verdict(claim, rules.results_of(claim, "faults", strata))
    assert (found.word, found.conditions["holds"]) == ("conditional", ["squared error"])


def test_an_alternative_that_shows_nothing_is_not_known_to_fail():
    claim = effect(strata=["optimizer"], any_of=["optimizer"])
    fails = stratum([0.0] * 20, key={"optimizer": "sgd"})
    no_room = stratum([0.1] * 20, without=0.9, key={"optimizer": "adam"})
    assert rules.verdict(claim, rules.results_of(claim, "faults", [fails])).word == "refuted"
    both = rules.verdict(claim, rules.results_of(claim, "faults", [fails, no_room]))
    assert both.word == "open" and not both.counts


def test_a_stratum_more_in_one_claim_changes_no_other(ledger):
    folder, _ = ledger
    table = tomllib.loads(TRUE)["claim"]
    few, more = [], ["init_scale", "input_scale"]
    small, large = (Claim.model_validate(table | {"strata": names}) for names in (few, more))
    other = Claim.model_validate(tomllib.loads(FALSE)["claim"])
    studies = {"A01": folder / "out/A01"}
    before, after = (judge([claim, other], studies)[1:] for claim in (small, large))
    assert strata_frame(before).equals(strata_frame(after))
    assert ledger_frame(before).equals(ledger_frame(after))
    # Nor do strata in which nothing can be seen count as tests.
    unseen = [stratum([], key={"init_scale": str(i)}) for i in range(40)]
    alone = rules.results_of(effect(), "faults", [stratum([0.9] * 20)])
    among = rules.results_of(effect(), "faults", [stratum([0.9] * 20), *unseen])
    assert alone[0].adjusted == among[0].adjusted


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
    (stress,) = judged.ranges
    assert replace(judged, ranges=(replace(stress, manifests=(manifest,)),)).rule_changed
    corrected = claim.model_copy(update={"corrected": "It counted rounding."})
    assert rule_hash(corrected) == rule_hash(claim)
    assert replace(judged, claim=corrected).rule_changed


USUAL = {"study": "weights", "range": "LeCun's weights", "where": {"init_scale": [1.0, 10.0]}}


def test_the_usual_range_is_the_headline_and_the_stress_range_shows_what_breaks_it(
    ledger, tmp_path
):
    # The usual range here: with weights of LeCun's or more, 2 % larger inputs are "beyond".
    folder = ledger[0] / "out/A01"
    usual = USUAL | {"strata": ["input_scale"], "beyond": {"input_scale": [1.02]}}
    held = effect(usual=usual, because="Three runs of ten.")
    fails = effect(0.3, id="A2", study=["A1"], contrast={
        "with": {"input_scale": 1.02}, "without": {"input_scale": 1.0}, "at_least": 0.3,
    }, usual={"study": "weights", "range": "the same", "contrast": {
        "with": {"lr": 100.0}, "without": {"lr": 0.01}, "at_least": 0.3}})  # fmt: skip
    studies = {"A01": folder, "usual/weights": folder}
    judged = judge([held, fails], studies)
    assert [[one.name for one in each.ranges] for each in judged] == [["usual", "stress"]] * 2
    assert [each.word for each in judged] == ["supported", "supported"]
    decides = {f.stratum.name: f.stratum.decides for f in judged[0].ranges[0].primary.findings}
    assert decides == {"input_scale 1": True, "input_scale 1.02": False}
    write_ledger(tmp_path, judged, studies, History(first={"A1": "refuted", "A2": "supported"}))
    table = pl.read_csv(tmp_path / "claims.csv")
    assert table["usual"].to_list() == ["supported", "supported"]
    assert table["stress"].to_list() == ["supported", "refuted"]
    assert table["what_breaks_it"][1] == "Stress range: fails everywhere."
    page = (tmp_path / "README.md").read_text("utf-8")
    assert re.search(r"Usual range: \*\*supported\*\*.*\. Stress range: \*\*refuted\*\*", page)
    assert "Three runs of ten." in page and "| [A1](#a1) | refuted | supported |" in page
    assert "init_scale" not in page and "Effect" not in page
    tex = (tmp_path / "claims.tex").read_text("utf-8")
    assert r"\begin{tabularx}{\textwidth}" in tex and r"\begin{table*}" in tex


def test_a_claims_usual_study_is_run_with_its_own(tmp_path, capsys):
    text = TRUE + "\n[claim.usual]\nstudy = 'weights'\nrange = 'here'\n" + STUDY
    (tmp_path / "A01.toml").write_text(text, encoding="utf-8")
    flags = ["--sweeps", str(tmp_path), "--out", str(tmp_path / "out")]
    assert claims.main(["A1", "--dry-run", *flags]) == claims.WRONG
    assert "usual/weights.toml" in capsys.readouterr().err
    (tmp_path / "usual").mkdir()
    (tmp_path / "usual/weights.toml").write_text(STUDY, encoding="utf-8")
    assert claims.main(["A1", "--dry-run", *flags]) == claims.DONE
    assert "usual/weights" in capsys.readouterr().out
    # A study that no claim reads is for the figures, and belongs to the whole ledger.
    (tmp_path / "usual/map.toml").write_text(STUDY, encoding="utf-8")
    assert claims.main(["A1", "--dry-run", *flags]) == claims.DONE
    assert "usual/map" not in capsys.readouterr().out
    assert claims.main(["--all", "--dry-run", *flags]) == claims.DONE
    assert "usual/map" in capsys.readouterr().out


WRONG_USUAL = {
    "a study and a reason": ({"none": "x", "study": "y"}, "so it has no study"),
    "no study": ({"range": "x"}, "has a study and a range in words, or none and the reason"),
    "an unknown key": ({**USUAL, "rnge": {}}, "claim.usual.rnge: unknown key"),
    "beyond what is no stratum": ({**USUAL, "beyond": {"lr": [1.0]}}, "which is not one of the st"),
    "a rule of another kind": ({**USUAL, "share_at_least": 0.5}, "examples and distributions have"),
}


@pytest.mark.parametrize("name", WRONG_USUAL)
def test_a_usual_range_that_does_not_fit_its_claim_is_refused(name):
    usual, sentence = WRONG_USUAL[name]
    table = tomllib.loads(TRUE)["claim"] | {"usual": usual}
    with pytest.raises(GridError, match=re.escape(sentence)):
        read_claim("A01.toml", table)


def test_a_seal_covers_the_rule_the_grid_and_the_version_of_what_decides(ledger, monkeypatch):
    claim = Claim.model_validate(tomllib.loads(FALSE)["claim"])
    judged = judge([claim], {"A01": ledger[0] / "out/A01"})[0]
    (stress,) = judged.ranges
    other_grid = {**stress.manifests[0], "grid_sha256": "0"}
    seals = {
        judged.seal,
        replace(judged, ranges=(replace(stress, manifests=(other_grid,)),)).seal,
        replace(judged, claim=claim.model_copy(update={"strata": ("lr",)})).seal,
    }
    monkeypatch.setattr(rules, "RULES_VERSION", 99)
    assert len({*seals, judged.seal}) == 4


def test_the_page_shows_its_figures_and_has_the_same_bytes_twice(ledger):
    folder, flags = ledger
    figures = sorted((folder / "out/figures").glob("*.svg"))
    assert [path.stem for path in figures] == ["cures", "harms"]
    page = (folder / "out/README.md").read_text("utf-8")
    for path in figures:
        assert f"(figures/{path.name})" in page
        assert path.read_text("utf-8").count("<path") > 20
    before = {path.name: path.read_bytes() for path in figures}
    (folder / "out/figures/E13.svg").write_text("of an earlier ledger", "utf-8")
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
    strata = strata_of(ledger, "A1")
    for scale in (1.0, 3.0, 10.0):
        share = {
            (lr, seed): np.mean(
                [
                    row["outcome"] in FAILED
                    for row in runs.iter_rows(named=True)
                    if (row["lr"], row["seed"], row["init_scale"]) == (lr, seed, scale)
                ]
            )
            for lr in (0.01, 100.0)
            for seed in range(20)
        }
        effect = np.mean([share[100.0, s] - share[0.01, s] for s in range(20)])
        found = strata.filter(pl.col("stratum") == f"init_scale {scale:g}")["effect"].to_list()
        assert found == [pytest.approx(effect, abs=1e-6)]


def test_a_rule_that_is_changed_after_the_result_is_told(ledger, capsys):
    folder, flags = ledger
    path = folder / "A02.toml"
    old = path.read_text(encoding="utf-8")
    path.write_text(old.replace("at_least = 0.3", "at_least = 0.2"), encoding="utf-8")
    try:
        assert claims.main(flags) == claims.DONE
        shown = capsys.readouterr().out
        assert "A2   refuted*     Inputs 2 % larger" in shown and "A1   supported  " in shown
        assert f"* its rule was changed after the result: see {folder / 'out/README.md'}" in shown
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
    "key": ("strata =", "claim.stratta: unknown key"),
    "id": ('id = "A1"', 'claim.id: must be that of the file: claim "B1" belongs into B01.toml'),
}
CHANGES = {
    "says": lambda t: "\n".join(line for line in t.splitlines() if "says" not in line) + "\n",
    "kind": lambda t: t.replace('"effect"', '"guess"'),
    "rule": lambda t: t.replace(", at_least = 0.3", ""),
    "key": lambda t: t.replace("strata =", "stratta ="),
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
        "no": ["10 steps, a or b"],
        "yes": ["10 steps, c", "1,000 steps"],
    }
    assert conditions_of(keys, ["yes", "no", "yes"] * 2) == {
        "yes": ["a or c"],
        "no": ["b"],
    }
    assert conditions_of([{}], ["open"]) == {"open": [""]}


# The ledger that is committed.

FILES = sorted((ROOT / "sweeps/claims").glob("[A-E][0-9][0-9].toml"))
TABLES = {path.stem: tomllib.loads(path.read_text("utf-8"))["claim"] for path in FILES}
CLAIMS = {stem: Claim.model_validate(table) for stem, table in TABLES.items()}


def is_measured(claim):
    return all((COMMITTED / s / "runs.parquet").is_file() for s in claim.every_study)


MEASURED = [s for s, c in CLAIMS.items() if not c.reason and is_measured(c)]
SETTLED = [s for s, c in CLAIMS.items() if s in MEASURED or c.reason]


def test_every_committed_claim_has_a_file_of_its_name_and_a_study():
    assert set(TABLES) <= {stem_of(name) for name in every_id()}
    stems = {stem for claim in CLAIMS.values() for stem in claim.every_study if not claim.reason}
    assert all((ROOT / f"sweeps/claims/{stem}.toml").is_file() for stem in stems)


@pytest.mark.slow
def test_a_study_of_the_usual_range_has_sixty_seeds_where_a_seed_has_one_run():
    # Of claims about the runs that fail, seeds without such a run do not count.
    cures = {c.id for c in CLAIMS.values() if c.contrast is not None and c.contrast.of_failed}
    whole = [c.id for c in CLAIMS.values() if not c.of_failed and c.id not in cures]
    strata = pl.read_csv(COMMITTED / "strata.csv", infer_schema_length=None)
    usual = strata.filter(pl.col("id").is_in(whole), range="usual", cells=1)
    assert usual.filter(pl.col("seeds") < 60).is_empty()


@pytest.mark.slow
def test_the_committed_verdicts_are_those_of_the_committed_tables():
    stems = {stem for s in MEASURED for stem in CLAIMS[s].every_study}
    ordered = [name for name in every_id() if stem_of(name) in SETTLED]
    judged = judge([CLAIMS[stem_of(n)] for n in ordered], {s: COMMITTED / s for s in stems})
    committed = pl.read_csv(COMMITTED / "claims.csv")
    for name, column in (("id", [each.claim.id for each in judged]),
                         ("verdict", [each.word for each in judged]),
                         ("rule_sha256", [each.seal for each in judged])):  # fmt: skip
        assert committed[name].to_list() == column


@pytest.mark.slow
def test_the_whole_ledger_needs_at_most_700_compiles(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert claims.main(["--all", "--dry-run"]) == claims.DONE
    last = capsys.readouterr().out.strip().splitlines()[-1].split()
    assert last[0] == "all" and int(last[last.index("compiles,") - 1].replace(",", "")) <= 700


@pytest.mark.parametrize("stem", sampled([s for s in MEASURED if CLAIMS[s].kind == "effect"], 6))
def test_shuffled_labels_support_no_effect(stem):
    # Of a cure: the labels of the cured run and of its placebo.
    claim = CLAIMS[stem].in_usual_range() or CLAIMS[stem]
    runs = runs_of_studies(
        [pl.read_parquet(COMMITTED / s / "runs.parquet") for s in claim.study_stems]
    )
    strata = [
        (
            each.pairs.get_column("seed").to_numpy(),
            (each.pairs["_true"] - each.pairs["_true_without"]).to_numpy(),
        )
        for each in measured_strata.compared(claim, claim.asks, runs)
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
        if rules.results_of(claim, claim.asks, [stratum(values)])[0].answer != rules.HOLDS:
            return False
    return True


@pytest.mark.parametrize("name", ["A1", "A01", "a1"])
def test_a_claim_may_be_called_as_its_study_is(name, capsys):
    assert claims.main([name, "--dry-run", "--sweeps", str(ROOT / "sweeps/claims")]) == claims.DONE
    assert capsys.readouterr().out.startswith("A01 ")
