"""What the ledger's page says: sentences from numbers, and maps over a planted grid."""

import itertools
import subprocess
import sys

import numpy as np
import polars as pl
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from nanlab.ledger import maps, words
from nanlab.ledger.claim import Claim
from nanlab.ledger.findings import factors_text, finding_text
from nanlab.ledger.judge import Answer, Judged, RangeJudged, runs_of_studies
from nanlab.ledger.rules import estimate, results_of, verdict
from nanlab.ledger.sentences import (
    answer_label,
    breaks_text,
    conditions_text,
    dependences,
    open_text,
)
from nanlab.ledger.strata import Stratum

pytestmark = pytest.mark.smoke


def claim(*, least=0.3, **more):
    contrast = {"with": {"clip": "value"}, "without": {"clip": "none"}, "at_least": least}
    contrast |= more.pop("contrast", {})
    return Claim.model_validate(
        {"id": "B12", "says": "It helps.", "kind": "effect", "asks": "faults", "range": "",
         "contrast": contrast} | more
    )  # fmt: skip


def stratum(with_, without, *, seeds=60, cells=4, placebo="", decides=True, **key):
    sides = [np.full(seeds, share) for share in (with_, without)]
    return Stratum(
        key={name: str(value) for name, value in key.items()}, values=sides[0] - sides[1],
        with_seeds=sides[0], without_seeds=sides[1], runs_with=seeds * cells,
        runs_without=seeds * cells, cells=cells, placebo=placebo, decides=decides,
    )  # fmt: skip


def judged_of(claim, name="usual", **strata):
    """The claim, judged in one range from strata of each question."""
    answers = []
    for question, each in strata.items():
        found = results_of(claim, question, each)
        overall = tuple(estimate(claim, one) for one in each[:1])
        answers.append(
            Answer(question=question, verdict=verdict(claim, found), findings=tuple(found),
                   overall=overall)
        )  # fmt: skip
    one = RangeJudged(name=name, claim=claim, answers=tuple(answers), manifests=())
    return Judged(claim=claim, ranges=(one,))


def test_a_cures_sentence_has_both_answers_and_its_placebo():
    cure = claim(contrast={"of_failed": True})
    seed = "a fresh seed"
    judged = judged_of(cure, faults=[stratum(0.97, 0.02, placebo=seed)],
                       trains=[stratum(0.41, 0.01, placebo=seed)])  # fmt: skip
    assert finding_text(judged) == (
        "Of the runs that fail without it, 97 % [91, 97] stay finite with clipping by value, 2 % "
        "with only another seed: +95 points [+83, +95]. The rule requires +30 points or more. "
        "41 % train with it, 1 % with only another seed."
    )
    assert judged.word == "supported"


def test_a_finding_that_is_the_opposite_of_the_claim_says_so():
    harm = claim(contrast={"with": {"activation": "relu"}, "without": {"activation": "tanh"}})
    judged = judged_of(harm, faults=[stratum(0.1, 0.6)])
    assert judged.word == "refuted" and "the opposite of the claim" in finding_text(judged)
    rarer = claim(contrast=dict(harm.contrast.model_dump(by_alias=True), at_least=-0.2))
    assert "opposite" not in finding_text(judged_of(rarer, faults=[stratum(0.1, 0.6)]))


def test_each_named_factor_has_its_number_best_first():
    names = {"Adam": {"optimizer": "adam"}, "a warm-up": {"schedule": "warmup"}}
    cure = claim(contrast={"of_failed": True, "names": names}, strata=["factor"])
    seed = "a fresh seed"
    strata = [stratum(share, 0.09, placebo=seed, factor=name)
              for name, share in (("a warm-up", 0.18), ("Adam", 1.0))]  # fmt: skip
    judged = judged_of(cure, faults=strata)
    answer = judged.ranges[0].primary
    factors = tuple(estimate(cure, each) for each in strata)
    named = Answer(question="faults", verdict=answer.verdict, findings=answer.findings,
                   overall=answer.overall, factors=factors)  # fmt: skip
    assert factors_text(cure, named) == (
        "Share of the failing runs that stay finite: Adam 100 %, a warm-up 18 %; 9 % with only "
        "another seed."
    )
    assert factors_text(cure, answer) == ""


def test_a_harms_sentence_names_both_sides_and_the_other_answer():
    harm = claim(
        contrast={"with": {"activation": "relu"}, "without": {"activation": "tanh"}}, least=0.05
    )
    judged = judged_of(harm, faults=[stratum(0.41, 0.12)], trains=[stratum(0.38, 0.5)])
    assert finding_text(judged) == (
        "41 % of runs have a fault with ReLU, 12 % with tanh: +29 points [+21, +33]. "
        "The rule requires +5 points or more. Of the same runs 38 % and 50 % train."
    )


@pytest.mark.parametrize(
    ("more", "labels"),
    [
        ({}, ("Faults more often", "Trains less often")),
        ({"least": -0.1}, ("Faults less often", "Trains more often")),
        ({"contrast": {"of_failed": True}}, ("Stays finite", "Trains")),
        ({"kind": "null", "within": 0.1}, ("Faults as often", "Trains as often")),
        ({"asks": "trains"}, ("Faults less often", "Trains more often")),
    ],
)
def test_each_answer_says_what_it_is_about(more, labels):
    assert tuple(answer_label(claim(**more), each) for each in ("faults", "trains")) == labels


def test_the_page_says_on_which_parameters_alone_a_verdict_depends():
    strata = [
        stratum(share, 0.0, task=task, width=width)
        for task, width, share in (
            ("digits", 32, 0.9), ("digits", 128, 0.9), ("wine", 32, 0.0), ("wine", 128, 0.0)
        )
    ]  # fmt: skip
    judged = judged_of(claim(strata=["task", "width"]), faults=strata)
    assert dependences(judged.ranges[0]) == ["task"]
    assert conditions_text(judged.ranges[0].primary.verdict) == (
        "Holds: the digits. Fails: the wine data."
    )
    assert breaks_text(judged) == "Usual range, fails: the wine data."


def test_what_breaks_a_claim_names_what_is_beyond_it_too():
    beyond = claim(strata=["norm"], beyond={"norm": ["layer"]})
    strata = [stratum(0.9, 0.0, norm="batch"), stratum(0.0, 0.0, norm="layer", decides=False)]
    judged = judged_of(beyond, faults=strata)
    assert judged.word == "supported"
    assert breaks_text(judged) == "Beyond the claim, fails: layer normalization."


def test_an_open_answer_says_why():
    few = judged_of(claim(), faults=[stratum(1.0, 0.0, seeds=19, cells=1)])
    assert open_text(few.claim, few.ranges[0].primary) == "too few seeds: 19"
    wide = judged_of(claim(), faults=[stratum(0.2, 0.0, seeds=20)])
    assert "zero and the required size are both possible" in open_text(
        wide.claim, wide.ranges[0].primary
    )
    nothing = judged_of(claim(), faults=[stratum(0.0, 0.9)])
    assert nothing.word == "refuted"
    no_room = judged_of(claim(), faults=[stratum(0.9, 0.9)])
    assert (
        open_text(no_room.claim, no_room.ranges[0].primary)
        == "no run fails, or so many that the effect has no room"
    )


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.0, "0 %"), (0.001, "<1 %"), (0.5, "50 %"), (0.999, ">99 %"), (1.0, "100 %")],
)
def test_a_share_that_is_not_0_or_1_never_reads_as_if_it_were(share, text):
    assert words.share_text(share) == text


def test_phrases_are_words_and_no_keys():
    cases = {
        ("lr", (0.1, 1.0)): "a learning rate of 0.1 or 1",
        ("static.precision", ("float16",)): "float16",
        ("clip", ("none", "value", "global_norm")):
            "no clipping, clipping by value or clipping by norm",
        ("activation_without", ("tanh",)): "against tanh",
        ("momentum", (0.9,)): "momentum 0.9",
        ("steps", ("1000",)): "1,000 steps",
        ("init_scale", ("1.41421", "300")): "weights 1.414 or 300 times LeCun's",
        ("loss_epsilon", (1e-12,)): "a constant of 1e-12",
        ("bias_scale", (-10.0, -1000.0)): "biases of -10 or -1,000",
        ("label_noise", (0.0,)): "no wrong labels",
        ("dropout", (0.0, 0.3)): "dropout 0 or 0.3",
        ("lr", (100000,)): "a learning rate of 100,000",
    }  # fmt: skip
    for (name, values), text in cases.items():
        assert words.phrase(name, values) == text


SCALES, RATES = (0.5, 1.0, 2.0, 4.0), (0.003, 0.03, 0.3, 3.0)


def planted(*, widths=(32,), seeds=3):
    """A run for each place and seed; a fault where relu's weights times its rate exceed 1."""
    places = itertools.product(
        ("relu", "tanh"), ("mse", "softmax_cross_entropy"), SCALES, RATES, widths, range(seeds)
    )
    rows = []
    for activation, loss, scale, rate, width, seed in places:
        fails = activation == "relu" and scale * rate * width / 32 > 1.0 + 0.1 * (seed == 0)
        rows.append(
            {"run_id": str(len(rows)), "task": "digits", "activation": activation, "loss": loss,
             "init_scale": scale, "lr": rate, "width": width, "depth": 3, "seed": seed,
             "outcome": "nan" if fails else "stalled", "final_accuracy": 0.5}
        )  # fmt: skip
    return pl.DataFrame(rows)


def test_a_map_holds_the_shares_of_each_weight_and_rate():
    cells = maps.map_of(planted())
    assert cells.height == 2 * 2 * 4 * 4
    for row in cells.iter_rows(named=True):
        fails = row["activation"] == "relu" and row["init_scale"] * row["lr"] > 1.1
        assert row["fault"] == float(fails) and row["trains"] == float(not fails)
    few = planted().filter(pl.col("lr") > 0.1)
    assert maps.map_of(few).is_empty() and maps.map_of(pl.DataFrame({"lr": [1.0]})).is_empty()


def test_a_map_has_a_box_around_the_usual_range_a_bar_and_units():
    cells = maps.map_of(planted())
    figure = Figure()
    maps.draw_map(figure, {"usual": cells, "stress": cells}, "fault", "share of runs with a fault")
    *panels, bar = figure.axes
    boxes = [[p for p in axes.patches if isinstance(p, Rectangle)] for axes in panels]
    assert [len(each) for each in boxes] == [1, 1, 1, 1]
    (x, y), (box,) = boxes[0][0].get_xy(), boxes[0]
    ends = (x, x + box.get_width(), y, y + box.get_height())
    assert ends == pytest.approx((0.5, 4.0, 0.003, 3.0))
    assert bar.get_ylabel() == "share of runs with a fault"
    assert panels[2].get_xlabel() == "initial weights (times LeCun's)"


def test_the_figure_of_widths_takes_the_study_with_most_of_them():
    (shapes,) = maps.shapes_of([planted(), planted(widths=(32, 128))])
    assert shapes.name == "widths"
    assert shapes.cells["width"].unique().sort().to_list() == [32, 128]
    # Over four rates: weights of 0.5 and 128 units fail at a rate of 3 alone.
    (row,) = shapes.cells.filter(width=128, activation="relu", init_scale=0.5).iter_rows(named=True)
    assert row["fault"] == 0.25 and "rates of 0.003, 0.03, 0.3 and 3" in shapes.caption
    assert not maps.shapes_of([planted(), pl.DataFrame({"width": [1]})])
    figure = Figure()
    maps.draw_shapes(figure, shapes)
    assert figure.axes[0].get_ylabel() == "runs with a fault (%)"


def test_shapes_are_compared_at_the_rates_that_all_of_them_have():
    runs = planted(widths=(32, 128)).filter((pl.col("width") == 32) | (pl.col("lr") == 0.3))
    (shapes,) = maps.shapes_of([runs])
    assert "a learning rate of 0.3 (" in shapes.caption
    faults = shapes.cells.filter(activation="relu", init_scale=1.0).sort("width")["fault"]
    assert faults.to_list() == [0.0, 1.0]
    deep = planted().with_columns(pl.lit(8).cast(pl.Int64).alias("depth"))
    both = maps.shapes_of([runs, pl.concat([planted(), deep])])
    assert [each.name for each in both] == ["widths", "depths"]


def test_tables_are_joined_with_each_run_once_and_defaults_where_a_parameter_is_absent():
    first = planted(seeds=1)
    second = first.head(4).vstack(first.tail(2).with_columns(pl.lit("new").alias("run_id")).head(1))
    table = runs_of_studies(
        [first.drop("depth"), second.with_columns(pl.lit("value").alias("clip"))]
    )
    assert table.height == first.height + 1
    assert table.filter(run_id="new")["clip"].to_list() == ["value"]
    assert set(table.filter(pl.col("run_id") != "new")["clip"]) == {"none"}
    assert table["depth"].null_count() == 0


def test_judging_and_writing_the_ledger_needs_no_jax():
    code = (
        "import sys, nanlab.claims, nanlab.ledger.history, nanlab.ledger.judge, "
        "nanlab.ledger.write, nanlab.results.statistics; assert 'jax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
