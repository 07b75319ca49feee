"""Results folder -> its report: the files that people read and cite, next to the tables."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanlab.reporting.analysis import Analysis, analyze
from nanlab.reporting.figures import WIDTHS, write_figures
from nanlab.reporting.package import data_package, may_replace_citation
from nanlab.reporting.page import report_page
from nanlab.reporting.rendering import rendered
from nanlab.reporting.sheets import latex, markdown
from nanlab.reporting.templates import context_of
from nanlab.results.files import write_text
from nanlab.results.read import ReportError, read_results
from nanlab.results.text_tables import latex_name

TABLES = ("runs.parquet", "runs.csv", "blames.csv", "curves.parquet", "boundaries.csv",
          "cells.csv", "grid.resolved.toml", "manifest.json")  # fmt: skip
REPORT = ("figures/", "tables/", "report.md", "REPRODUCE.md", "CITATION.cff", "datapackage.json")
"""What the report consists of, besides the page."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """A written report.

    Attributes:
        page: path of report.html.
        answer: the answer, a sentence.
        runs: number of runs that are there.
        planned: number of runs of the grid.
        notes: sentences on what is amiss with the folder.
    """

    page: Path
    answer: str
    runs: int
    planned: int
    notes: tuple[str, ...]


def write_report(folder: Path) -> Report:
    """Write the report of the study in `folder` into it.

    Args:
        folder: the results folder.

    Returns:
        What was written.

    Raises:
        ReportError: there is nothing to report on, or the folder is not writable.
    """
    analysis = analyze(read_results(folder))
    try:
        context = context_of(analysis)
        _write_all(folder, analysis, context)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ReportError(f"{folder}: the report cannot be written: {reason}") from error
    return Report(
        page=folder / "report.html", answer=context["answer"].sentence, runs=analysis.runs.height,
        planned=analysis.results.planned, notes=analysis.results.notes,
    )  # fmt: skip


def is_reported(folder: Path) -> bool:
    """Return whether the folder has a report that is not older than its tables."""
    try:
        return (folder / "report.html").stat().st_mtime >= (
            folder / "manifest.json"
        ).stat().st_mtime
    except OSError:
        return False


def _write_all(folder: Path, analysis: Analysis, context: Mapping[str, Any]) -> None:
    results, sheets = analysis.results, context["sheets"]
    figures = write_figures(folder / "figures", analysis)
    if figures:
        text = rendered(
            "figures.tex", **context, columns=WIDTHS, label=latex_name(results.study_id)
        )
        write_text(folder / "figures" / "figures.tex", text)
    tables = folder / "tables"
    tables.mkdir(exist_ok=True)
    for name, sheet in sheets.items():
        write_text(tables / f"{name}.md", markdown(sheet))
        write_text(tables / f"{name}.tex", latex(sheet, results.study_id))
    for path in [*tables.glob("*.md"), *tables.glob("*.tex")]:
        if path.stem not in sheets:
            path.unlink()  # of an earlier report with more tables
    package = json.dumps(data_package(folder, results), indent=1, ensure_ascii=False)
    write_text(folder / "datapackage.json", package + "\n")
    if may_replace_citation(folder / "CITATION.cff"):
        write_text(folder / "CITATION.cff", rendered("CITATION.cff", **context))
    for name in ("REPRODUCE.md", "report.md"):
        write_text(folder / name, rendered(name, **context))
    others = [name for name in TABLES if (folder / name).is_file()] + [*REPORT]
    page = report_page(analysis, context, figures=figures, other_files=others)
    write_text(folder / "report.html", page)
