"""Analysis -> the tables of a report as text, for Markdown, LaTeX and HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from nanlab.reporting.analysis import Analysis
from nanlab.reporting.captions import caption, critical_name
from nanlab.reporting.causes import ROLES, SITE_NAMES
from nanlab.reporting.critical import critical_text
from nanlab.reporting.groups import groups_of
from nanlab.reporting.layout import parameters_of
from nanlab.reporting.words import exact, number, percent
from nanlab.results.blame_text import blame_sentence
from nanlab.results.text_tables import latex_table, markdown_table

MAX_BLAMES = 12
MAX_CAUSES = 12
MAX_GROUPS = 24
WIDE_COLUMN = 28
"""Columns with longer text are paragraphs in LaTeX, and share the rest of the page."""


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """A printed table.

    Attributes:
        name: stem of its files.
        caption: its content, with the study's id, runs and seeds.
        head: column names.
        rows: cells as text, row by row.
        numbers: indices of the columns of numbers, which are aligned right.
    """

    name: str
    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: frozenset[int]


def sheets_of(analysis: Analysis) -> dict[str, Sheet]:
    """Return the tables that this study has data for, by name."""
    sheets = [
        _outcomes(analysis),
        _critical(analysis),
        _causes(analysis),
        _blames(analysis),
        _instructive(analysis),
        _parameters(analysis),
    ]
    return {sheet.name: sheet for sheet in sheets if sheet.rows}


def _outcomes(analysis: Analysis) -> Sheet:
    outcomes = list(analysis.outcomes())

    def row(label: str, frame: pl.DataFrame) -> list[str]:
        counts = [int((frame["outcome"] == outcome).sum()) for outcome in outcomes]
        faults = int(frame["fault_step"].is_not_null().sum())
        cells = [f"{n:,}" for n in (*counts, frame.height)]
        return [label or "all", *cells, percent(faults, frame.height)]

    groups = groups_of(analysis.runs, analysis.layout, most=MAX_GROUPS)
    if len(groups) > 1:
        groups = [*groups, ("", analysis.runs)]
    head = ["runs with", *outcomes, "runs", "with a fault"]
    return Sheet(
        name="outcomes", caption=caption(analysis, "counts"), head=head,
        rows=[row(label, frame) for label, frame in groups],
        numbers=frozenset(range(1, len(head))),
    )  # fmt: skip


def _critical(analysis: Analysis) -> Sheet:
    layout, criticals = analysis.layout, analysis.criticals
    columns = {
        "runs with": [each.label for each in criticals] if layout.facets else [],
        layout.y.name: [exact(each.row) for each in criticals] if layout.y.name else [],
        critical_name(analysis): [critical_text(each) for each in criticals],
        "95 % interval" if analysis.results.seeds > 1 else "between": [
            f"{number(each.low)} to {number(each.high)}" if each.value is not None else ""
            for each in criticals
        ],
        "paths": [f"{each.seeds:,}" for each in criticals],
        "stable again above": [f"{each.mixed:,}" for each in criticals]
        if any(each.mixed for each in criticals)
        else [],
        "theory": [number(each.theory.value, 4) if each.theory else "" for each in criticals]
        if any(each.theory for each in criticals)
        else [],
    }
    columns = {name: cells for name, cells in columns.items() if cells}
    return Sheet(
        name="critical", caption=caption(analysis, "critical", table=True), head=list(columns),
        rows=list(zip(*columns.values(), strict=True)),
        numbers=frozenset(range(1 if layout.facets else 0, len(columns))),
    )  # fmt: skip


def _causes(analysis: Analysis) -> Sheet:
    rows = [
        [
            SITE_NAMES[role], cause.mechanism, cause.primitive, ", ".join(cause.phases),
            cause.module, f"{cause.runs:,}",
            percent(cause.runs, sum(c.runs for c in analysis.causes[role])),
        ]
        for role in ROLES
        for cause in analysis.causes[role][:MAX_CAUSES]
    ]  # fmt: skip
    return Sheet(
        name="causes", caption=caption(analysis, "causes", table=True),
        head=["", "mechanism", "primitive", "phase", "module (most frequent)", "runs", "share"],
        rows=rows, numbers=frozenset({5, 6}),
    )  # fmt: skip


def _blames(analysis: Analysis) -> Sheet:
    blames = analysis.results.blames
    rows: list[list[str]] = []
    for row in blames.head(MAX_BLAMES).iter_rows(named=True):
        origin, culprit = (blame_sentence(row, role) for role in ROLES)
        rows.append(
            [row["blame_id"], f"{row['runs']:,}", origin,
             "the same" if origin == culprit else culprit, row["witness"] or "",
             row["example_run"]]
        )  # fmt: skip
    more = (
        f"The {len(rows)} most frequent of {blames.height:,}. " if blames.height > len(rows) else ""
    )
    return Sheet(
        name="blames", caption=more + caption(analysis, "blames"),
        head=["blame", "runs", "first inf or NaN", "first NaN", "witness", "example"],
        rows=rows, numbers=frozenset({1}),
    )  # fmt: skip


def _instructive(analysis: Analysis) -> Sheet:
    layout = analysis.layout
    names = [n for n in (*layout.facets, layout.y.name, layout.x.name) if n]
    names += [n for n in layout.pooled if n not in names]
    names += ["seed"] if analysis.results.seeds > 1 else []
    rows = [
        [
            each.row["run_id"], each.why, *(exact(each.row[name]) for name in names),
            each.row["outcome"],
            *("" if each.row[step] is None else f"{each.row[step]:,}"
              for step in ("fault_step", "nan_step")),
        ]
        for each in analysis.instructive
    ]  # fmt: skip
    head = ["run", "why", *names, "outcome", "fault step", "NaN step"]
    return Sheet(
        name="instructive", caption=caption(analysis, "instructive"), head=head, rows=rows,
        numbers=frozenset({len(head) - 1, len(head) - 2}),
    )  # fmt: skip


def _parameters(analysis: Analysis) -> Sheet:
    runs, rows = analysis.runs, list[list[str]]()
    fixed: list[str] = []
    for name in parameters_of(runs):
        values = runs[name].unique(maintain_order=True).to_list()
        known = [value for value in values if value is not None]
        if len(values) == 1:
            fixed.append(f"{name} = {exact(values[0])}")
        elif all(isinstance(v, int | float) for v in known) and len(known) > 6:
            rows.append([name, f"{len(known):,}", f"{exact(min(known))} to {exact(max(known))}"])
        else:
            rows.append([name, f"{len(values):,}", ", ".join(map(exact, values))])
    rows.append(["same in every run", "", ", ".join(fixed)])
    return Sheet(
        name="parameters", caption=caption(analysis, "parameters"),
        head=["parameter", "values", ""], rows=rows, numbers=frozenset({1}),
    )  # fmt: skip


def markdown(sheet: Sheet) -> str:
    """Return a table in Markdown, its caption below it."""
    return f"{markdown_table(sheet.head, sheet.rows, numbers=sheet.numbers)}\n\n{sheet.caption}\n"


def latex(sheet: Sheet, study: str) -> str:
    """Return a table in LaTeX, labeled `tab:STUDY-NAME`."""
    longest = [max([len(row[i]) for row in sheet.rows], default=0) for i in range(len(sheet.head))]
    wide = {i for i, letters in enumerate(longest) if letters > WIDE_COLUMN}
    paragraph = f"p{{{0.62 / len(wide):.2f}\\linewidth}}" if wide else ""
    columns = "".join(
        paragraph if i in wide else "r" if i in sheet.numbers else "l" for i in range(len(longest))
    )
    table = latex_table(
        sheet.head, sheet.rows, columns=f"@{{}}{columns}@{{}}", caption=sheet.caption,
        label=f"tab:{study}-{sheet.name}",
    )  # fmt: skip
    return (
        f"% Packages: booktabs, longtable.\n{{\\small\\setlength{{\\tabcolsep}}{{4pt}}\n{table}}}\n"
    )
