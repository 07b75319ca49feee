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
from nanlab.results.errors import ReportError, StoreError, reason_of
from nanlab.results.files import write_text
from nanlab.results.manifest import MANIFEST, read_manifest
from nanlab.results.ownership import owned
from nanlab.results.read import current_study, read_results
from nanlab.results.text_tables import latex_name

TABLES = ("runs.parquet", "runs.csv", "blames.csv", "curves.parquet", "boundaries.csv",
          "cells.csv", "grid.resolved.toml", "manifest.json")  # fmt: skip
REPRODUCE = "REPRODUCE.md"
REPORT = ("figures/", "tables/", "report.md", REPRODUCE, "CITATION.cff", "datapackage.json")
"""What the report consists of, besides the page."""


@dataclass(frozen=True, kw_only=True)
class WrittenReport:
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


def write_report(folder: Path) -> WrittenReport:
    """Write the report of the study in `folder` into it.

    Args:
        folder: the results folder.

    Returns:
        What was written.

    Raises:
        ReportError: there is nothing to report on, or the folder is not writable.
    """
    try:
        current_study(folder)  # raises ReportError if there is none
        with owned(folder, "report", wait_s=60.0):
            while True:
                study = current_study(folder)
                analysis = analyze(read_results(folder))
                results, context = analysis.results, context_of(analysis)
                _write_all(folder, analysis, context)
                # Again, if a sweep has written other tables meanwhile.
                if current_study(folder) == study:
                    break
    except StoreError as error:
        raise ReportError(str(error)) from error
    except OSError as error:
        reason, at = reason_of(error), error.filename2 or error.filename
        of = f" ({at}); move it away, or free it" if at else ""
        raise ReportError(f"{folder}: the report cannot be written: {reason}{of}") from error
    return WrittenReport(
        page=folder / "report.html", answer=context["answer"].sentence, runs=results.runs.height,
        planned=results.planned, notes=results.notes,
    )  # fmt: skip


def is_reported(folder: Path) -> bool:
    """Return whether the folder has a report on these tables that is not older than they are."""
    page, manifest = folder / "report.html", folder / MANIFEST
    try:
        digest = read_manifest(folder)["files"]["runs.parquet"]
        is_newer = page.stat().st_mtime >= manifest.stat().st_mtime
        return is_newer and digest in (folder / REPRODUCE).read_text("utf-8", "replace")
    except (OSError, KeyError, ReportError):
        return False


def _write_all(folder: Path, analysis: Analysis, context: Mapping[str, Any]) -> None:
    results, sheets = analysis.results, context["sheets"]
    # While it is missing, and it is written last, the report is not complete.
    (folder / REPRODUCE).unlink(missing_ok=True)
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
    write_text(folder / "report.md", rendered("report.md", **context))
    others = [name for name in TABLES if (folder / name).is_file()] + [*REPORT]
    page = report_page(analysis, context, figures=figures, other_files=others)
    write_text(folder / "report.html", page)
    write_text(folder / REPRODUCE, rendered(REPRODUCE, **context))
