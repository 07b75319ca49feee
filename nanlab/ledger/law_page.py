"""Measurements of laws -> README.md, laws.csv and a figure: theory beside the lab."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import polars as pl

from nanlab.ledger.laws import Agreement, Measurement, Relation
from nanlab.ledger.words import plain_name
from nanlab.results.files import csv_text, write_text
from nanlab.results.text_tables import markdown_table

FIGURE = "laws.svg"
READING = (
    "Each row is a published prediction and what nanlab measures in small networks, as a mean "
    "over seeds with its 95 % interval (Student's t; if the quantity is a boundary found on a "
    "grid, half a grid step is added on each side). A measurement *agrees* if the whole interval "
    "lies within the tolerance that the law's file states, *differs* if it lies wholly outside, "
    "and is *borderline* if it lies partly inside. The tolerance was stated before the study ran."
    " A law that differs is not reproduced at this size; its remark says why, as far as that is "
    "known. `python -m nanlab.theory --all` measures everything again; `laws.csv` holds the "
    "numbers, each study's folder the runs."
)


CAPTION = (
    "Measured over predicted value with its 95 % interval, of laws that do not predict 0. Gray: "
    "the tolerance; an inequality has none."
)
SIGNS = {Relation.EQUALS: "", Relation.AT_LEAST: "≥ ", Relation.AT_MOST: "≤ "}


def write_laws(folder: Path, found: Sequence[Measurement]) -> None:
    """Write the page, the table and the figure of all measured laws."""
    write_text(folder / "laws.csv", csv_text(laws_frame(found)))
    write_text(folder / "README.md", laws_page(found))
    _write_figure(folder / FIGURE, found)


def laws_frame(found: Sequence[Measurement]) -> pl.DataFrame:
    """Return a row for each measurement."""
    rows = [
        {
            "law": each.law.says, "source": each.law.source, "condition": _condition(each),
            "quantity": each.law.quantity, "formula": each.law.formula,
            "predicted": _rounded(each.predicted), "measured": _rounded(each.value),
            "low": _rounded(each.low), "high": _rounded(each.high), "within": each.law.within,
            "answer": each.answer.value, "seeds": each.seeds, "runs": each.runs,
            "remark": each.law.remark, "study": f"sweeps/theory/{each.stem}.toml",
        }
        for each in found
    ]  # fmt: skip
    return pl.DataFrame(rows, infer_schema_length=None)


def laws_page(found: Sequence[Measurement]) -> str:
    """Return the Markdown page."""
    groups = [list(group) for _, group in groupby(found, key=lambda each: each.law)]
    agreeing = sum(all(e.answer is Agreement.AGREES for e in group) for group in groups)
    rows = [_row(each, is_first=i == 0) for group in groups for i, each in enumerate(group)]
    header = ("law", "where", "quantity", "theory", "lab", "seeds", "answer", "study")
    lines = [
        "# Theory beside the lab", "",
        f"Of {len(groups)} published laws of training, {agreeing} hold in every condition that was "
        "measured.", "",
        READING, "", f"![Measured over predicted value of each law]({FIGURE})", "", CAPTION, "",
        markdown_table(header, rows), "",
    ]  # fmt: skip
    lines += [
        f"- **{g[0].law.says}.** {g[0].law.remark.rstrip('.')}." for g in groups if g[0].law.remark
    ]
    lines += ["", "## What was measured, and sources", ""]
    lines += [f"- {_source(group[0])}" for group in groups]
    return "\n".join(lines) + "\n"


def _row(each: Measurement, *, is_first: bool) -> tuple[str, ...]:
    lab = "no run has the number"
    if each.value is not None and each.low is not None and each.high is not None:
        lab = f"{each.value:.4g} [{each.low:.4g}, {each.high:.4g}]"
    says = each.law.says if is_first else ""
    study = f"[{each.stem}]({each.stem}/manifest.json)" if is_first else ""
    return (
        says, _condition(each), each.law.quantity if is_first else "",
        f"{SIGNS[each.law.relation]}{each.predicted:.4g}", lab, f"{each.seeds:,}",
        f"**{each.answer}**", study,
    )  # fmt: skip


def _condition(each: Measurement) -> str:
    return ", ".join(
        f"{plain_name(name).replace('_', ' ')} {value}" for name, value in each.key.items()
    )


def _source(each: Measurement) -> str:
    law = each.law
    tolerance = f"{law.within:.1%}" if each.predicted else f"{law.within:g}"
    if not law.within and law.relation is not Relation.EQUALS:
        tolerance = "none, since it is an inequality"
    return (
        f"{law.says} ({law.source}): {law.quantity}, predicted {law.formula}, tolerance "
        f"{tolerance}; [{each.stem}.toml](../../sweeps/theory/{each.stem}.toml)"
    )


def _rounded(number: float | None) -> float | None:
    return None if number is None else float(f"{number:.6g}")


LOOKS = {
    Agreement.AGREES: ("#0072B2", "o"),
    Agreement.DIFFERS: ("#D55E00", "s"),
    Agreement.BORDERLINE: ("#6E6E6E", "D"),
}
"""Color (Okabe and Ito's) and marker of each answer."""


def _write_figure(path: Path, found: Sequence[Measurement]) -> None:
    """Draw measured over predicted, with interval and tolerance, of all laws that predict no 0."""
    import matplotlib
    from matplotlib.figure import Figure

    drawn = [each for each in found if each.predicted and each.value is not None][::-1]
    with matplotlib.rc_context({"svg.hashsalt": "nanlab", "font.size": 8.0}):
        figure = Figure(figsize=(7.0, 0.6 + 0.24 * len(drawn)), layout="constrained")
        axes = figure.add_subplot()
        axes.axvline(1.0, color="#444444", linewidth=0.8)
        for y, each in enumerate(drawn):
            _draw(axes, y, each)
        axes.set_yticks(range(len(drawn)), [_label(each) for each in drawn])
        axes.set_xlabel("measured / predicted; gray: the tolerance that the law's file states")
        for answer in sorted({each.answer for each in drawn}):
            color, marker = LOOKS[answer]
            axes.plot([], [], marker, color=color, label=str(answer))
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
        figure.savefig(path, metadata={"Date": None})


def _draw(axes: object, y: int, each: Measurement) -> None:
    assert each.value is not None and each.low is not None and each.high is not None
    low, value, high = sorted(n / each.predicted for n in (each.low, each.value, each.high))
    color, marker = LOOKS[each.answer]
    axes.barh(y, 2.0 * each.law.within, left=1.0 - each.law.within, height=0.7, color="#DDDDDD")  # type: ignore[attr-defined]
    axes.plot([low, high], [y, y], color=color, linewidth=1.2)  # type: ignore[attr-defined]
    axes.plot([value], [y], marker, color=color, markersize=4.0)  # type: ignore[attr-defined]


def _label(each: Measurement) -> str:
    about = ", ".join(filter(None, (_condition(each), each.law.formula)))
    return f"{each.stem.replace('_', ' ')}: {about}"
