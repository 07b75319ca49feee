"""Results folder -> its report: the files that people read and cite, next to the tables."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from nanlab.reporting.analysis import Analysis, analyze
from nanlab.reporting.captions import caption
from nanlab.reporting.figures import WIDTHS, write_figures
from nanlab.reporting.methods import reproduce
from nanlab.reporting.package import citation, data_package, may_replace_citation
from nanlab.reporting.page import report_page
from nanlab.reporting.sheets import latex, markdown, sheets_of
from nanlab.reporting.text import report_text
from nanlab.results.errors import ReportError, StoreError, reason_of
from nanlab.results.files import write_atomically
from nanlab.results.manifest import MANIFEST, read_manifest
from nanlab.results.ownership import owned
from nanlab.results.read import Results, current_study, read_results
from nanlab.results.text_tables import latex_escape

TABLES = ("runs.parquet", "runs.csv", "blames.csv", "curves.parquet", "boundaries.csv",
          "cells.csv", "grid.resolved.toml", "manifest.json")  # fmt: skip
REPRODUCE = "REPRODUCE.md"
REPORT = ("figures/", "tables/", "report.md", REPRODUCE, "CITATION.cff", "datapackage.json")
"""What the report consists of, besides the page."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """A written report.

    Attributes:
        page: path of report.html.
        runs: number of runs that are there.
        planned: number of runs of the grid.
        notes: sentences on what is amiss with the folder.
    """

    page: Path
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
    try:
        current_study(folder)  # raises ReportError if there is none
        with owned(folder, "report", wait_s=60.0):
            while True:
                results = _write_all(folder)
                # Again, if a sweep has written other tables meanwhile.
                if current_study(folder) == (results.grid_sha256, results.manifest):
                    break
    except StoreError as error:
        raise ReportError(str(error)) from error
    except OSError as error:
        reason, at = reason_of(error), error.filename2 or error.filename
        of = f" ({at}); move it away, or free it" if at else ""
        raise ReportError(f"{folder}: the report cannot be written: {reason}{of}") from error
    return Report(
        page=folder / "report.html", runs=results.runs.height,
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


def _write_all(folder: Path) -> Results:
    analysis = analyze(read_results(folder))
    results = analysis.results
    # While it is missing, and it is written last, the report is not complete.
    (folder / REPRODUCE).unlink(missing_ok=True)
    figures = write_figures(folder / "figures", analysis)
    if figures:
        _write(folder / "figures" / "figures.tex", figures_tex(analysis, figures))
    sheets = sheets_of(analysis)
    tables = folder / "tables"
    tables.mkdir(exist_ok=True)
    for name, sheet in sheets.items():
        _write(tables / f"{name}.md", markdown(sheet))
        _write(tables / f"{name}.tex", latex(sheet, results.study_id))
    for path in [*tables.glob("*.md"), *tables.glob("*.tex")]:
        if path.stem not in sheets:
            path.unlink()  # of an earlier report with more tables
    package = json.dumps(data_package(results), indent=1, ensure_ascii=False)
    _write(folder / "datapackage.json", package + "\n")
    if may_replace_citation(folder / "CITATION.cff"):
        _write(folder / "CITATION.cff", citation(results))
    _write(folder / "report.md", report_text(analysis))
    others = [name for name in TABLES if (folder / name).is_file()] + [*REPORT]
    _write(folder / "report.html", report_page(analysis, figures=figures, other_files=others))
    _write(folder / REPRODUCE, reproduce(analysis))
    return results


def _write(path: Path, content: str) -> None:
    write_atomically(path, lambda p: p.write_text(content, encoding="utf-8"))


def figures_tex(analysis: Analysis, figures: Iterable[str]) -> str:
    r"""Return the figures with their captions, for \input in a paper."""
    study = analysis.results.study_id
    lines = ["% Package: graphicx. figure for one column, figure* for two."]
    for name in figures:
        for columns in WIDTHS:
            star = "*" if columns == "2col" else ""
            width = r"\textwidth" if star else r"\columnwidth"
            label = f"fig:{study}-{name}{'-wide' if star else ''}"
            lines += [
                rf"\begin{{figure{star}}}",
                r"  \centering",
                rf"  \includegraphics[width={width}]{{{name}-{columns}.pdf}}",
                rf"  \caption{{{latex_escape(caption(analysis, name))}}}\label{{{label}}}",
                rf"\end{{figure{star}}}",
            ]
    return "\n".join(lines) + "\n"
