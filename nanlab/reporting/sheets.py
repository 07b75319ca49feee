"""Analysis -> sheets: the tables of a report, as text, for Markdown, LaTeX and HTML alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from nanlab.reporting.analysis import Analysis
from nanlab.reporting.captions import caption, critical_name, made_of
from nanlab.reporting.causes import ROLES, SAID, blame_sentence
from nanlab.reporting.critical import Critical
from nanlab.reporting.groups import groups_of
from nanlab.reporting.layout import parameters_of
from nanlab.reporting.words import exact, number, percent

MOST_BLAMES = 12
MOST_CAUSES = 12


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """A table as it is printed.

    Attributes:
        name: of its files.
        caption: what it shows, with the study's id, runs and seeds.
        head: of the columns.
        rows: text; every row as long as `head`.
        numbers: which columns hold numbers, and are flushed right.
    """

    name: str
    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: frozenset[int]


def sheets_of(analysis: Analysis) -> list[Sheet]:
    """Every table that the study has something to say in."""
    made = [
        _outcomes(analysis),
        _critical(analysis),
        _causes(analysis),
        _blames(analysis),
        _instructive(analysis),
        asked_sheet(analysis),
    ]
    return [sheet for sheet in made if sheet.rows]


def _outcomes(analysis: Analysis) -> Sheet:
    outcomes = list(analysis.outcomes())
    groups = groups_of(analysis.runs, analysis.layout, most=24)
    rows = [_ended(label, frame, outcomes) for label, frame in groups]
    if len(groups) > 1:
        rows.append(_ended("", analysis.runs, outcomes))
    head = ["runs with", *outcomes, "runs", "with a fault"]
    return Sheet(
        name="outcomes", caption=caption(analysis, "counts"), head=head, rows=rows,
        numbers=frozenset(range(1, len(head))),
    )  # fmt: skip


def _ended(label: str, frame: pl.DataFrame, outcomes: Sequence[str]) -> list[str]:
    counts = [int((frame["outcome"] == outcome).sum()) for outcome in outcomes]
    faults = int(frame["fault_step"].is_not_null().sum())
    told = [f"{n:,}" for n in (*counts, frame.height)]
    return [label or "all", *told, percent(faults, frame.height)]


def _critical(analysis: Analysis) -> Sheet:
    layout = analysis.layout
    has_rows = bool(layout.y.name)
    theory = any(each.theory for each in analysis.criticals)
    mixed = any(each.mixed for each in analysis.criticals)
    head = [
        *(["runs with"] if layout.facets else []), *([layout.y.name] if has_rows else []),
        critical_name(analysis), "95 % interval" if analysis.results.seeds > 1 else "between",
        "paths", *(["stable again above"] if mixed else []), *(["theory"] if theory else []),
    ]  # fmt: skip
    rows = [
        [
            *([each.label] if layout.facets else []), *([exact(each.row)] if has_rows else []),
            *_told(each), f"{each.seeds:,}", *([f"{each.mixed:,}"] if mixed else []),
            *([number(each.theory.value, 4) if each.theory else ""] if theory else []),
        ]
        for each in analysis.criticals
    ]  # fmt: skip
    text = 1 if layout.facets else 0
    return Sheet(
        name="critical", caption=caption(analysis, "critical-table"), head=head, rows=rows,
        numbers=frozenset(range(text, len(head))),
    )  # fmt: skip


def _told(each: Critical) -> tuple[str, str]:
    if each.value is None or each.low is None or each.high is None:
        return f"{each.side} {number(each.bound)}", ""
    return number(each.value), f"{number(each.low)} to {number(each.high)}"


def _causes(analysis: Analysis) -> Sheet:
    rows = [
        [
            SAID[role], cause.mechanism, cause.primitive, ", ".join(cause.phases), cause.module,
            f"{cause.runs:,}", percent(cause.runs, sum(c.runs for c in analysis.causes[role])),
        ]
        for role in ROLES
        for cause in analysis.causes[role][:MOST_CAUSES]
    ]  # fmt: skip
    return Sheet(
        name="causes", caption=caption(analysis, "causes").replace(", colored by phase", ""),
        head=["", "mechanism", "primitive", "phase", "module, mostly", "runs", "share"],
        rows=rows, numbers=frozenset({5, 6}),
    )  # fmt: skip


def _blames(analysis: Analysis) -> Sheet:
    blames = analysis.results.blames
    rows = [
        [
            row["blame_id"], f"{row['runs']:,}", blame_sentence(row, "origin"),
            "the same" if _is_same(row) else blame_sentence(row, "culprit"),
            row["witness"] or "", row["example_run"],
        ]
        for row in blames.head(MOST_BLAMES).iter_rows(named=True)
    ]  # fmt: skip
    more = (
        f" The {len(rows)} most frequent of {blames.height:,}." if blames.height > len(rows) else ""
    )
    return Sheet(
        name="blames",
        caption="Distinct blames: what made the first inf or NaN, and what the first NaN."
        f"{more} {made_of(analysis)}",
        head=["blame", "runs", "first inf or NaN", "first NaN", "witness", "example"],
        rows=rows, numbers=frozenset({1}),
    )  # fmt: skip


def _is_same(row: dict[str, object]) -> bool:
    names = ("mechanism", "primitive", "phase", "module", "source")
    return all(row[f"origin_{name}"] == row[f"culprit_{name}"] for name in names)


def _instructive(analysis: Analysis) -> Sheet:
    layout = analysis.layout
    shown = [n for n in (*layout.facets, layout.y.name, layout.x.name) if n]
    shown += [n for n in layout.pooled if n not in shown]
    if "seed" in analysis.runs.columns and analysis.results.seeds > 1:
        shown.append("seed")
    rows = [
        [
            each.row["run_id"], each.why, *(exact(each.row[name]) for name in shown),
            each.row["outcome"], _step(each.row["fault_step"]), _step(each.row["nan_step"]),
        ]
        for each in analysis.instructive
    ]  # fmt: skip
    head = ["run", "why", *shown, "outcome", "fault step", "NaN step"]
    return Sheet(
        name="instructive", caption=caption(analysis, "instructive"), head=head, rows=rows,
        numbers=frozenset({len(head) - 1, len(head) - 2}),
    )  # fmt: skip


def _step(step: int | None) -> str:
    return "" if step is None else f"{step:,}"


def asked_sheet(analysis: Analysis) -> Sheet:
    """What was varied, and what was the same for every run."""
    runs, rows = analysis.runs, list[list[str]]()
    fixed: list[str] = []
    for name in parameters_of(runs):
        values = runs[name].unique(maintain_order=True).to_list()
        told = [value for value in values if value is not None]
        if len(values) == 1:
            fixed.append(f"{name} = {exact(values[0])}")
            continue
        if all(isinstance(v, int | float) for v in told) and len(told) > 6:
            told.sort()
            rows.append([name, f"{len(told):,}", f"{exact(told[0])} to {exact(told[-1])}"])
        else:
            rows.append([name, f"{len(values):,}", ", ".join(map(exact, values))])
    rows.append(["the same in every run", "", ", ".join(fixed)])
    return Sheet(
        name="parameters", caption=f"What was varied, and what was not. {made_of(analysis)}",
        head=["parameter", "values", ""], rows=rows, numbers=frozenset({1}),
    )  # fmt: skip


def markdown(sheet: Sheet) -> str:
    """The table in Markdown, its caption below it."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    rule = "|" + "|".join("---:" if i in sheet.numbers else "---" for i in range(len(sheet.head)))
    lines = [line(sheet.head), rule + "|", *map(line, sheet.rows), "", sheet.caption]
    return "\n".join(lines) + "\n"


_TEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "$": r"\$",
    "{": r"\{", "}": r"\}", "^": r"\^{}", "~": r"\textasciitilde{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", "β": r"$\beta$", "λ": r"$\lambda$",
    "è": r"\`{e}", "≥": r"$\geq$", "±": r"$\pm$",
}  # fmt: skip
WIDE_COLUMN = 28
"""Columns with longer text are set as paragraphs, and share what is left of the page."""


def tex(text: str) -> str:
    """Text with every letter that LaTeX takes for a command escaped."""
    return "".join(_TEX.get(letter, letter) for letter in text)


def latex(sheet: Sheet, study: str) -> str:
    """The table in LaTeX: packages booktabs and longtable, a label `tab:STUDY-NAME`."""
    longest = [max([len(row[i]) for row in sheet.rows], default=0) for i in range(len(sheet.head))]
    wide = [i for i, letters in enumerate(longest) if letters > WIDE_COLUMN]
    share = f"{0.62 / len(wide):.2f}" if wide else ""
    kinds = [
        f"p{{{share}\\linewidth}}" if i in wide else "r" if i in sheet.numbers else "l"
        for i in range(len(sheet.head))
    ]

    def line(cells: Sequence[str]) -> str:
        return " & ".join(map(tex, cells)) + r" \\"

    lines = [
        "% Packages: booktabs, longtable.",
        r"{\small\setlength{\tabcolsep}{4pt}",
        rf"\begin{{longtable}}{{@{{}}{''.join(kinds)}@{{}}}}",
        rf"\caption{{{tex(sheet.caption)}}}\label{{tab:{study}-{sheet.name}}}\\",
        r"\toprule",
        line(sheet.head),
        r"\midrule",
        r"\endhead",
        *map(line, sheet.rows),
        r"\bottomrule",
        r"\end{longtable}}",
    ]
    return "\n".join(lines) + "\n"
