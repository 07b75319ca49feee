"""Analysis -> the tables of a report as text, for Markdown, LaTeX and HTML."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from nanlab.reporting.analysis import Analysis
from nanlab.reporting.captions import caption, critical_name
from nanlab.reporting.causes import ROLES, SITE_NAMES
from nanlab.reporting.critical import critical_text
from nanlab.reporting.groups import choices_of, divided
from nanlab.reporting.layout import parameters_of
from nanlab.reporting.rendering import rendered
from nanlab.reporting.source_lines import SourceLines
from nanlab.reporting.words import exact, number, percent
from nanlab.results.text_tables import latex_floats

MAX_BLAMES = 12
MAX_CAUSES = 12
MAX_GROUPS = 24
WIDE_COLUMN = 28
"""Columns with longer text are paragraphs in LaTeX, and share the rest of the page."""
ONE_COLUMN = 48
"""Letters of a row that fit into one column of a page."""


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """A printed table.

    Attributes:
        name: stem of its files.
        caption: its content, with the study's id, runs and seeds.
        head, rows: column names, and cells as text.
        numbers: indices of the columns of numbers, which are aligned right.
    """

    name: str
    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: frozenset[int]


Content = tuple[Sequence[str], Sequence[Sequence[str]], Iterable[int]]
"""Column names, rows, and indices of the columns of numbers."""


def sheets_of(analysis: Analysis) -> dict[str, Sheet]:
    """Return the tables that this study has data for, by name."""
    contents = {name: content(analysis) for name, content in CONTENTS.items()}
    return {
        name: Sheet(
            name=name, caption=caption(analysis, name, table=True), head=head, rows=rows,
            numbers=frozenset(numbers),
        )
        for name, (head, rows, numbers) in contents.items() if rows
    }  # fmt: skip


def _outcomes(analysis: Analysis) -> Content:
    runs, outcomes = analysis.runs, list(analysis.outcomes())
    tied = analysis.layout.tied
    names = choices_of(analysis.layout)
    names += [name for name, by in tied.items() if by in names]
    if not names or runs.select(names).n_unique() > MAX_GROUPS:
        names = []
    rows: list[list[str]] = []
    groups = [*divided(runs, names)] if names else []
    for values, frame in [*groups, (("all", *[""] * (len(names) - 1)), runs)]:
        counts = [int((frame["outcome"] == outcome).sum()) for outcome in outcomes]
        faults = frame.height - frame["fault_step"].null_count()
        cells = [f"{n:,}" for n in (*counts, frame.height)]
        share = f"{faults:,}" if analysis.results.finer else percent(faults, frame.height)
        rows.append([*map(exact, values), *cells, share])
    head = [*(names or ["runs with"]), *outcomes, "runs", "with a fault"]
    return head, rows, range(len(names) or 1, len(head))


def _critical(analysis: Analysis) -> Content:
    layout, criticals = analysis.layout, analysis.criticals
    facets = {name: [exact(layout.panels[c.panel][i]) for c in criticals]
              for i, name in enumerate(layout.facets)}  # fmt: skip
    between = "95 % interval" if analysis.results.seeds > 1 else "between"
    columns = facets | {
        layout.y.name: [exact(c.row) for c in criticals] if layout.y.name else [],
        critical_name(analysis): [critical_text(c) for c in criticals],
        "range over seeds" if analysis.results.finer else between: [
            f"{number(c.low)} to {number(c.high)}" if c.low is not None and c.high is not None
            else "" for c in criticals
        ],
        "paths": [f"{c.seeds:,}" for c in criticals],
        "not simple" if analysis.results.finer else "stable again above": [
            f"{c.mixed:,}" for c in criticals
        ] if any(c.mixed for c in criticals) else [],
        "theory": [number(c.theory.value, 4) if c.theory else "" for c in criticals],
    }  # fmt: skip
    columns = {name: cells for name, cells in columns.items() if any(cells)}
    rows = list(zip(*columns.values(), strict=True))
    choices = len(facets) + bool(layout.y.name and not layout.y.is_number)
    return list(columns), rows, range(choices, len(columns))


def _causes(analysis: Analysis) -> Content:
    rows = [
        [SITE_NAMES[role], cause.mechanism, cause.primitive, ", ".join(cause.phases), cause.module,
         f"{cause.runs:,}", percent(cause.runs, sum(c.runs for c in analysis.causes[role]))]
        for role in ROLES
        for cause in analysis.causes[role][:MAX_CAUSES]
    ]  # fmt: skip
    head = ["", "mechanism", "primitive", "phase", "module (most frequent)", "runs", "share"]
    return head, rows, (5, 6)


def _blames(analysis: Analysis) -> Content:
    rows: list[list[str]] = []
    sources = SourceLines(analysis.results.manifest)
    for row in analysis.results.blames.head(MAX_BLAMES).iter_rows(named=True):
        origin, culprit = (sources.blame_sentence(row, role) for role in ROLES)
        culprit = "the same" if origin == culprit else culprit
        rows.append([row["blame_id"], f"{row['runs']:,}", origin, culprit, row["witness"] or "",
                     row["example_run"]])  # fmt: skip
    return ["blame", "runs", *SITE_NAMES.values(), "witness", "example"], rows, (1,)


def _instructive(analysis: Analysis) -> Content:
    layout = analysis.layout
    names = [n for n in (*layout.facets, layout.y.name, layout.x.name, *layout.pooled) if n]
    names += ["seed"] if analysis.results.seeds > 1 else []
    rows = [
        [pick.row["run_id"], pick.why, *(exact(pick.row[name]) for name in names),
         pick.row["outcome"], *("" if pick.row[step] is None else f"{pick.row[step]:,}"
                                for step in ("fault_step", "nan_step"))]
        for pick in analysis.instructive
    ]  # fmt: skip
    head = ["run", "why", *names, "outcome", "fault step", "NaN step"]
    return head, rows, (len(head) - 1, len(head) - 2)


def _parameters(analysis: Analysis) -> Content:
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
    return ["parameter", "values", ""], rows, (1,)


CONTENTS: Mapping[str, Callable[[Analysis], Content]] = {
    "outcomes": _outcomes, "critical": _critical, "causes": _causes, "blames": _blames,
    "instructive": _instructive, "parameters": _parameters,
}  # fmt: skip


def markdown(sheet: Sheet) -> str:
    """Return a table in Markdown, its caption below it."""
    return rendered("table.md", sheet=sheet)


def latex(sheet: Sheet, study: str) -> str:
    """Return a table in LaTeX, labeled `tab:STUDY-NAME`, for papers of one or two columns."""
    cells = [[row[i] for row in [sheet.head, *sheet.rows]] for i in range(len(sheet.head))]
    longest = [max(map(len, column)) for column in cells]
    wide = {i for i, letters in enumerate(longest) if letters > WIDE_COLUMN}
    paragraph = f">{{\\raggedright\\arraybackslash}}p{{{0.62 / max(len(wide), 1):.2f}\\linewidth}}"
    columns = "".join(
        paragraph if i in wide else "r" if i in sheet.numbers else "l" for i in range(len(longest))
    )
    fits = not wide and sum(longest) + 2 * len(longest) <= ONE_COLUMN
    table = latex_floats(
        sheet.head, sheet.rows, columns=f"@{{}}{columns}@{{}}", caption=sheet.caption,
        label=f"tab:{study}-{sheet.name}", environment="table" if fits else "table*",
    )  # fmt: skip
    return f"% Packages: booktabs, array. table for one column, table* for both.\n{table}\n"
