"""The report of a search gives what was searched for, and that of a refinement shares of areas."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from nanlab.report import main
from nanlab.reporting.analysis import analyze
from nanlab.reporting.answer import answer_of
from nanlab.reporting.captions import caption, critical_name
from nanlab.reporting.templates import context_of
from nanlab.results.read import Results, read_results
from nanlab.results.schema import BOUNDARIES, types_of
from nanlab.results.store import Store
from nanlab.sweep import main as sweep

GRID = """\
title = "What is the largest learning rate at which gradient descent converges?"

[run]
problem = "quadratic"
steps = 300

[axes]
optimizer = ["sgd", "nesterov"]
lr = { logspace = [0.1, 10.0], num = 9 }

[search]
axis = "lr"

[exec]
witnesses = 0
"""
THEORY = {"sgd": 2.0, "nesterov": 3.8 / 2.8}


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A finished search, its report, and what the terminal showed."""
    folder = tmp_path_factory.mktemp("search")
    (folder / "grid.toml").write_text(GRID, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("nanlab.reporting.figures.WIDTHS", {"1col": 3.35})
        assert sweep(["grid.toml", "--out", "x"]) == 0
    return folder / "x"


def test_the_answer_is_that_of_the_boundaries_in_every_output(searched, monkeypatch, capsys):
    monkeypatch.setattr("nanlab.reporting.figures.WIDTHS", {"1col": 3.35})
    answers = pl.read_parquet(searched / "boundaries.parquet").filter("answer")
    assert main([str(searched)]) == 0
    parts = []
    for row in answers.iter_rows(named=True):
        assert row["lower"] <= THEORY[row["optimizer"]] * 1.001 <= row["upper"] * 1.002
        parts.append(f"{row['lower']:.4g} ({row['lower']:.4g} to {row['upper']:.4g})"
                     f" with {row['optimizer']}")  # fmt: skip
    sentence = f"The largest learning rate that trains is {', '.join(parts)}."
    assert capsys.readouterr().out.startswith(f"{sentence}\n")
    for name in ("report.md", "report.html", "tables/critical.md", "tables/critical.tex",
                 "figures/figures.tex", "figures/critical-1col.svg"):  # fmt: skip
        text = (searched / name).read_text("utf-8")
        assert "largest learning rate that trains" in text.lower(), name
        assert "whose outcome is trained, while the next one above it" in text, name
        assert "largest stable learning rate" not in text, name
    assert sentence in (searched / "report.md").read_text("utf-8")
    assert "survival" not in {path.name.partition("-")[0] for path in searched.glob("figures/*")}


def test_nothing_is_told_as_a_share_of_an_adaptive_sample(searched):
    text = (searched / "report.md").read_text("utf-8")
    assert "none was tuned" not in text and "none was selected" not in text
    assert text.count("The coarse pass of 18 runs was run whole; all others were placed") >= 2
    head = text.partition("## Outcomes")[0]
    assert "16 of 38, placed by the search" in head and "42 %" not in text


def test_a_sweep_prints_what_it_found(searched, monkeypatch, capsys):
    monkeypatch.chdir(searched.parent)
    monkeypatch.setenv("COLUMNS", "200")
    assert sweep(["grid.toml", "--out", "x", "--no-report"]) == 0
    lines = capsys.readouterr().out.splitlines()
    found = [line for line in lines if line.startswith("  largest learning rate that trains, ")]
    assert [line.split(": ")[0].rpartition(", ")[2] for line in found] == ["sgd", "nesterov"]
    assert all("; theory " in line for line in found)


class Stopped(BaseException):
    """Stands for a study that goes on elsewhere."""


@pytest.mark.parametrize("chunks, known", [(1, False), (2, True), (5, True), (9, True)])
def test_a_running_search_plans_its_rounds_so_far(chunks, known, searched, monkeypatch, capsys):
    monkeypatch.chdir(searched.parent)
    save, saved = Store.save, []

    def save_some(self, rows, curves=None, fingerprint=None):
        if len(saved) == chunks:
            raise Stopped
        saved.append(rows.height)
        return save(self, rows, curves, fingerprint)

    out = f"running{chunks}"
    with monkeypatch.context() as patch:
        patch.setattr(Store, "save", save_some)
        with pytest.raises(Stopped):
            sweep(["grid.toml", "--out", out])
    results = read_results(Path(out))
    rounds = json.loads((searched / "manifest.json").read_text())["search"]["rounds"]
    totals = np.cumsum([each["runs"] for each in rounds]).tolist()
    assert results.runs.height == sum(saved)
    assert results.planned == next(total for total in totals if total > sum(saved))
    assert bool(results.search) == known
    context = context_of(analyze(results))
    if results.missing:
        assert "so far" in context["study"] and "missing so far" in context["notes"][0]
    if known:
        whole = pl.read_parquet(searched / "boundaries.parquet").filter("answer")
        now = results.search["boundaries"].filter("answer")
        assert (now["lower"] <= whole["lower"]).all() and (now["upper"] >= whole["upper"]).all()
        assert context["answer"].sentence.startswith("The largest learning rate that trains is ")


# ---- tables made by hand ----


def results_of(runs, asked, **tables):
    return Results(
        folder=Path("x"), resolved=asked, grid_sha256="0" * 64, runs=runs, blames=pl.DataFrame(),
        curves=pl.DataFrame(schema={"run_id": pl.String, "step": pl.Int64, "value": pl.Float64,
                                    "observable": pl.String, "layer": pl.String}),
        manifest={"search": {"axes": [], "rounds": []}}, planned=runs.height, search=tables,
    )  # fmt: skip


def runs_of(n, **columns):
    empty = ("origin_mechanism", "origin_primitive", "origin_phase", "origin_module",
             "culprit_mechanism", "culprit_primitive", "culprit_phase", "culprit_module",
             "blame_id", "blame_status")  # fmt: skip
    return pl.DataFrame(
        {"run_id": [f"{i:012x}" for i in range(n)], "group_id": ["g"] * n, **columns, "steps": 5},
    ).with_columns(
        fault_step=pl.lit(None, pl.Int64), nan_step=pl.lit(None, pl.Int64),
        final_loss=pl.lit(1.0), grad_norm_max=pl.lit(1.0),
        **{name: pl.lit(None, pl.String) for name in empty},
    )  # fmt: skip


RATES = [0.1, 1.0, 2.0, 3.0, 10.0]


def found(brackets, **search):
    """The answer and analysis of a search with such (value, lower, upper), one for each seed."""
    n = len(brackets)
    runs = runs_of(
        n * len(RATES), seed=[s for s in range(n) for _ in RATES], lr=RATES * n,
        outcome=["trained", "trained", "trained", "nan", "nan"] * n,
    )  # fmt: skip
    columns = {name: [None] * n for name in BOUNDARIES}
    columns |= {"answer": [True] * n, "seen": [1] * n, "lower_run": [None] * n}
    columns |= dict(zip(("value", "lower", "upper"), map(list, zip(*brackets, strict=True)),
                        strict=True))  # fmt: skip
    frame = pl.DataFrame(columns, schema=types_of(BOUNDARIES))
    frame = frame.with_columns(pl.Series("seed", range(n), pl.Int64))
    asked = {"search": {"axis": "lr", **search}}
    blames = pl.DataFrame(schema={"blame_id": pl.String, "runs": pl.Int64})
    results = replace(results_of(runs, asked, boundaries=frame), blames=blames)
    analysis = analyze(results)
    return answer_of(analysis).sentence, analysis


@pytest.mark.parametrize(
    "brackets, finds, sentence",
    [
        ([(1.9, 1.9, 2.0)], "largest that trains",
         "The largest learning rate that trains is 1.9 (1.9 to 2)."),
        ([(1.9, 1.9, 2.0), (2.0, 2.0, 2.1), (2.3, 2.3, 2.4)], "largest that trains",
         "The largest learning rate that trains is 2 (1.9 to 2.4 over 3 seeds)."),
        ([(2.0, 1.9, 2.0), (8.0, 7.0, 8.0)], "smallest that fails",
         "The smallest learning rate that fails is 4 (1.9 to 8 over 2 seeds)."),
        ([(None, 10.0, None)], "largest that trains",
         "The largest learning rate that trains is above 10."),
        ([(None, None, 0.1)], "smallest that trains",
         "The smallest learning rate that trains is below 0.1."),
        ([(None, 10.0, None), (2.0, 2.0, 2.1), (3.0, 3.0, 3.1)], "largest that trains",
         "The largest learning rate that trains is 3 (2 to beyond the axis over 3 seeds)."),
        ([(None, 10.0, None), (None, 10.0, None), (3.0, 3.0, 3.1)], "largest that trains",
         "The largest learning rate that trains is above 10 over 3 seeds."),
    ],
)  # fmt: skip
def test_the_answer_is_the_median_and_range_over_seeds(brackets, finds, sentence):
    said, analysis = found(brackets, finds=finds)
    assert said == sentence
    assert critical_name(analysis) in caption(analysis, "critical")


def test_the_definition_names_outcomes_side_and_tolerance():
    _, analysis = found([(2.0, 2.0, 2.5)], finds="smallest that fails", tolerance=0.5,
                        trains=["trained", "stalled"])  # fmt: skip
    said = caption(analysis, "definition")
    assert "whose outcome is not trained and stalled" in said
    assert "the next one below it, at most 0.5 away" in said or "at most 0.5 in log10 away" in said


def test_shares_of_a_plane_are_areas_on_the_scales_of_its_axes():
    scales = [0.1, 1.0, 10.0]
    points = [(x, y) for y in scales for x in scales]
    runs = runs_of(9, lr=[x for x, _ in points], init_scale=[y for _, y in points],
                   outcome=["trained", "nan", "nan"] * 3)  # fmt: skip
    cells = [(0.1, 1.0, 0.1, 1.0, "trains"), (1.0, 10.0, 0.1, 1.0, "fails"),
             (0.1, 1.0, 1.0, 10.0, None), (1.0, 10.0, 1.0, math.sqrt(10.0), "fails"),
             (1.0, 10.0, math.sqrt(10.0), 10.0, "trains")]  # fmt: skip
    frame = pl.DataFrame(
        cells, orient="row",
        schema={"lr_lower": pl.Float64, "lr_upper": pl.Float64, "init_scale_lower": pl.Float64,
                "init_scale_upper": pl.Float64, "kind": pl.String},
    ).with_columns(corner_run=pl.Series([f"{i:012x}" for i in (0, 1, 3, 4, 4)]))  # fmt: skip
    axes = [{"axis": name, "scale": "log"} for name in ("lr", "init_scale")]
    asked = {"refine": {"axes": ["lr", "init_scale"]}}
    results = replace(
        results_of(runs, asked, cells=frame), manifest={"search": {"axes": axes, "rounds": []}},
        blames=pl.DataFrame(schema={"blame_id": pl.String, "runs": pl.Int64}),
    )  # fmt: skip
    # The third row of values is no corner of a cell, so the axis is that of two.
    results = replace(results, runs=runs)
    ((_, share),) = analyze_areas(results)
    assert share == pytest.approx({"trains": 0.375, "fails": 0.375, "boundary": 0.25})


def analyze_areas(results):
    from nanlab.reporting.layout import layout_of
    from nanlab.reporting.searches import areas_of

    return areas_of(results, layout_of(results.runs, results.finer))
