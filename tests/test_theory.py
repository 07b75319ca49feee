"""Laws: a measurement against its prediction, decided by the interval; the command."""

import math
import tomllib
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from nanlab import theory
from nanlab.grid.errors import GridError
from nanlab.ledger.claim import LedgerError
from nanlab.ledger.laws import Agreement, Law, measurements, read_laws

ROOT = Path(__file__).resolve().parents[1]

LAW = {
    "says": "It doubles", "source": "us", "quantity": "number", "formula": "2 w",
    "predicted": '2.0 * "static.w"', "by": ["static.w"], "within": 0.1,
}  # fmt: skip


def runs_of(values, *, w=1.0, seeds=None, **columns):
    """Return runs whose final loss is `values`."""
    count = len(values)
    return pl.DataFrame(
        {"run_id": [f"{w}-{i}" for i in range(count)], "outcome": ["stalled"] * count,
         "seed": list(range(count)) if seeds is None else seeds, "static.w": [w] * count,
         "final_loss": values, **columns}
    )  # fmt: skip


@pytest.mark.parametrize(
    ("mean", "spread", "answer"),
    [
        (2.0, 0.01, Agreement.AGREES),
        (2.0, 2.0, Agreement.BORDERLINE),
        (2.19, 0.1, Agreement.BORDERLINE),
        (3.0, 0.1, Agreement.DIFFERS),
        (1.0, 0.1, Agreement.DIFFERS),
    ],
)
def test_the_interval_decides(mean, spread, answer):
    values = mean + spread * np.linspace(-1.0, 1.0, 20)
    (found,) = measurements("x", Law.model_validate(LAW), runs_of(values))
    assert found.answer is answer
    assert found.value == pytest.approx(mean)
    # Student's t, 19 degrees of freedom.
    half = 2.093024 * values.std(ddof=1) / math.sqrt(20)
    assert (found.low, found.high) == pytest.approx((mean - half, mean + half))


def test_a_law_has_a_prediction_for_each_condition():
    runs = pl.concat([runs_of([2.0, 2.0], w=1.0), runs_of([4.0, 4.2], w=2.0)])
    found = measurements("x", Law.model_validate(LAW), runs)
    assert [(f.key, f.predicted) for f in found] == [
        ({"static.w": "1"}, 2.0),
        ({"static.w": "2"}, 4.0),
    ]


def test_a_boundary_is_bracketed_by_the_axis():
    axis = np.linspace(0.0, 4.0, 41)
    runs = runs_of((axis < 1.93).astype(float), seeds=[0] * 41, **{"knobs.lr": axis})
    law = Law.model_validate(
        LAW | {"boundary": "knobs.lr", "measure": {"column": "final_loss", "above": 0.5}}
    )
    (found,) = measurements("x", law, runs)
    assert (found.low, found.value, found.high) == pytest.approx((1.9, 1.95, 2.0))
    # An island at the other end of the axis does not count: the last change does.
    island = runs.with_columns(
        final_loss=pl.when(pl.col("knobs.lr") < 0.15).then(0.0).otherwise("final_loss")
    )
    (found,) = measurements("x", law, island)
    assert found.value == pytest.approx(1.95)
    never = runs.with_columns(final_loss=pl.lit(1.0))
    (found,) = measurements("x", law, never)
    assert found.value is None
    assert found.answer is Agreement.BORDERLINE


def test_a_slope_is_that_of_logarithms():
    depth = np.array([1.0, 2.0, 4.0, 8.0] * 3)
    seeds = [0] * 4 + [1] * 4 + [2] * 4
    runs = runs_of(3.0 * depth**2.0, seeds=seeds, **{"static.depth": depth})
    (found,) = measurements("x", Law.model_validate(LAW | {"slope": "static.depth"}), runs)
    assert found.value == pytest.approx(2.0)
    assert found.seeds == 3


def test_a_share_of_none_has_an_interval():
    law = Law.model_validate(LAW | {"predicted": "0.0", "within": 0.05})
    (found,) = measurements("x", law, runs_of([0.0] * 100))
    assert (found.low, found.high) == pytest.approx((0.0, 1.0 - 0.025 ** (1 / 100)))
    (found,) = measurements("x", law, runs_of([0.0] * 20))
    assert found.answer is Agreement.BORDERLINE


def test_a_law_that_does_not_fit_its_runs_says_so():
    with pytest.raises(LedgerError, match="its study has no such runs"):
        measurements("x", Law.model_validate(LAW | {"where": {"static.w": 7.0}}), runs_of([1.0]))
    with pytest.raises(LedgerError, match="nothing"):
        measurements("x", Law.model_validate(LAW | {"column": "nothing"}), runs_of([1.0]))
    with pytest.raises(GridError, match="law: is missing"):
        read_laws("x.toml", None)
    with pytest.raises(GridError, match=r"law\.0\.within: "):
        read_laws("x.toml", [{key: LAW[key] for key in LAW if key != "within"}])
    with pytest.raises(GridError, match="a boundary has a measure"):
        read_laws("x.toml", [LAW | {"boundary": "knobs.lr"}])


GRID = """
title = "What is the largest stable learning rate on x^2 / 2?"

[[law]]
says = "Gradient descent is stable up to 2 / curvature"
source = "textbooks"
quantity = "largest stable learning rate"
formula = "2"
predicted = "2.0"
boundary = "lr"
measure = { column = "final_loss", to = "initial_loss", below = 1.0 }
within = 0.02
remark = "The bracket is 0.02 wide."

[run]
problem = "quadratic"
steps = 50

[axes]
lr = [1.0, 1.5, 1.99, 2.01, 2.5]
"""


def test_the_command_runs_studies_and_writes_the_table(tmp_path, capsys):
    (tmp_path / "laws").mkdir()
    flags = ["--sweeps", str(tmp_path / "laws"), "--out", str(tmp_path / "out")]
    assert theory.main(flags) == 2
    assert "there is no law's file" in capsys.readouterr().err
    (tmp_path / "laws/stable.toml").write_text(GRID)
    assert theory.main(["lost", *flags]) == 2
    assert "it has stable" in capsys.readouterr().err
    assert theory.main(["stable", "--dry-run", *flags]) == 0
    assert "5 runs" in capsys.readouterr().out
    assert theory.main(flags) == 0
    assert "not run    stable" in capsys.readouterr().out
    assert theory.main(["stable", *flags]) == 0
    assert "agrees     Gradient descent is stable" in capsys.readouterr().out
    page = (tmp_path / "out/README.md").read_text()
    assert "2 [1.99, 2.01] | 1 | **agrees**" in page
    assert "The bracket is 0.02 wide." in page
    assert pl.read_csv(tmp_path / "out/laws.csv").get_column("answer").to_list() == ["agrees"]
    assert "<svg" in (tmp_path / "out/laws.svg").read_text()


def test_the_committed_laws_are_valid_and_measured():
    laws = {path.stem: path for path in (ROOT / "sweeps/theory").glob("*.toml")}
    for path in laws.values():
        read_laws(str(path), tomllib.loads(path.read_text())["law"])
    table = pl.read_csv(ROOT / "results/theory/laws.csv")
    assert set(table.get_column("study")) == {f"sweeps/theory/{stem}.toml" for stem in laws}


def test_a_ratio_is_taken_seed_by_seed_and_may_have_a_bound_alone():
    base = np.array([1.0, 5.0, 9.0, 2.0])
    runs = pl.concat([runs_of(base, w=1.0), runs_of(base * [10.0, 11.0, 12.0, 13.0], w=2.0)])
    ratio = LAW | {"by": [], "where": {"static.w": 2.0}, "over": {"static.w": 1.0}}
    for relation, predicted, answer in [
        ("at least", 9.0, Agreement.AGREES),
        ("at least", 11.5, Agreement.BORDERLINE),
        ("at least", 20.0, Agreement.DIFFERS),
        ("at most", 20.0, Agreement.AGREES),
        ("at most", 5.0, Agreement.DIFFERS),
    ]:
        law = Law.model_validate(ratio | {"relation": relation, "predicted": str(predicted)})
        (found,) = measurements("x", law, runs)
        assert found.value == pytest.approx((10 * 11 * 12 * 13) ** 0.25)
        assert found.answer is answer
