"""Analysis -> report.md: the report as text, with the figures where they were drawn."""

from __future__ import annotations

from collections.abc import Sequence

from nanlab.grid.outcome import Outcome
from nanlab.reporting.analysis import Analysis
from nanlab.reporting.answer import answer_of
from nanlab.reporting.captions import HEADINGS, caption, figures_of, made_of
from nanlab.reporting.methods import GLOSSARY, checklist, methods_paragraph
from nanlab.reporting.page import missing_sentence
from nanlab.reporting.sheets import markdown, sheets_of
from nanlab.reporting.words import percent

BELOW = {"outcomes": "outcomes", "critical": "critical", "causes": "causes"}
"""Figure -> the table that stands below it."""
LAST = {
    "instructive": HEADINGS["instructive"],
    "blames": "The most frequent blames",
    "parameters": "What was run",
}


def text(analysis: Analysis, *, figures: Sequence[str]) -> str:
    """The report as Markdown; `figures` are the names of those that were drawn."""
    results, sheets = analysis.results, {sheet.name: sheet for sheet in sheets_of(analysis)}
    lines = [f"# {results.title}", "", made_of(analysis)]
    lines += [f"\n> {note}" for note in results.notes]
    if results.missing:
        lines += ["", f"> {missing_sentence(analysis)}"]
    lines += ["", *answer_of(analysis)]
    for name in figures_of(analysis):
        lines += ["", f"## {HEADINGS[name]}", ""]
        if name in figures:
            lines += [f"![{HEADINGS[name]}](figures/{name}-2col.svg)", "", caption(analysis, name)]
        if name == "outcomes":
            lines += ["", *_ended(analysis)]
        if name in BELOW and BELOW[name] in sheets:
            lines += ["", markdown(sheets[BELOW[name]]).rstrip()]
    for name, title in LAST.items():
        if name in sheets:
            lines += ["", f"## {title}", "", markdown(sheets[name]).rstrip()]
    lines += ["", "## Methods", "", methods_paragraph(analysis), "", "## What reviewers ask", ""]
    lines += [f"- **{question}** {answer}" for question, answer in checklist(analysis)]
    lines += ["", "## The words", ""]
    lines += [f"- **{word}**: {meaning}." for word, meaning in GLOSSARY.items()]
    return "\n".join(lines) + "\n"


def _ended(analysis: Analysis) -> list[str]:
    total = analysis.runs.height
    return [
        f"- **{outcome}** {n:,} ({percent(n, total)}): {Outcome(outcome).meaning}"
        for outcome, n in analysis.outcomes().items()
    ]
