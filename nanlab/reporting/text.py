"""Analysis -> report.md: the report as Markdown, with its figures."""

from __future__ import annotations

from collections.abc import Iterable

from nanlab.reporting.analysis import Analysis
from nanlab.reporting.answer import answer_of
from nanlab.reporting.captions import HEADINGS, caption, figures_of, study_line
from nanlab.reporting.methods import DEFINITIONS, checklist, methods_paragraph
from nanlab.reporting.page import notes_of, outcome_rows
from nanlab.reporting.sheets import markdown, sheets_of


def report_text(analysis: Analysis) -> str:
    """Return the report as Markdown."""
    sheets, answer = sheets_of(analysis), answer_of(analysis)
    blocks = [f"# {analysis.results.title}", study_line(analysis)]
    blocks += [f"> {note}" for note in notes_of(analysis)]
    blocks += [answer.sentence, _items(answer.numbers)]
    figures = figures_of(analysis)
    for name in figures:
        figure = f"![{HEADINGS[name]}](figures/{name}-2col.svg)"
        blocks += [f"## {HEADINGS[name]}", figure, caption(analysis, name)]
        if name == "outcomes":
            blocks.append(_items((o, f"{runs}: {m}") for o, runs, m in outcome_rows(analysis)))
        if name in sheets:
            blocks.append(markdown(sheets[name]).rstrip())
    for name in ("instructive", "blames", "parameters"):
        if name in sheets:
            blocks += [f"## {HEADINGS[name]}", markdown(sheets[name]).rstrip()]
    blocks += ["## Methods", methods_paragraph(analysis)]
    blocks += ["## Reproducibility checklist", _items(checklist(analysis))]
    blocks += ["## Definitions", _items((w, f"{m}.") for w, m in DEFINITIONS.items())]
    return "\n\n".join(blocks) + "\n"


def _items(pairs: Iterable[tuple[str, str]]) -> str:
    return "\n".join(f"- **{name}**: {text}" for name, text in pairs)
