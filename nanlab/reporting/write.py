"""Results folder -> its report: every file that people read and cite, beside the tables."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nanlab.reporting.analysis import Analysis, analyse
from nanlab.reporting.captions import caption
from nanlab.reporting.figures import WIDTHS, NoMatplotlib, write_figures
from nanlab.reporting.methods import reproduce
from nanlab.reporting.package import citation, data_package, may_replace_citation
from nanlab.reporting.page import report_page
from nanlab.reporting.sheets import latex, markdown, sheets_of, tex
from nanlab.reporting.text import text
from nanlab.results.files import write_atomically
from nanlab.results.read import ReportError, read_results

LATEX_TABLES = (
    "runs.parquet", "runs.csv", "blames.csv", "curves.parquet", "boundaries.csv", "cells.csv",
)  # fmt: skip
ASKED = ("grid.resolved.toml", "manifest.json")


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was written.

    Attributes:
        page: report.html.
        runs, planned: how many runs are there, and how many were asked for.
        notes: sentences on what is amiss, or could not be written.
    """

    page: Path
    runs: int
    planned: int
    notes: tuple[str, ...]


def write_report(folder: Path) -> Report:
    """Write the report of the study in `folder` into it.

    Raises:
        ReportError: there is nothing to report on, or the folder cannot be written to.
    """
    analysis = analyse(read_results(folder))
    notes = list(analysis.results.notes)
    try:
        try:
            figures = write_figures(folder / "figures", analysis)
        except NoMatplotlib as error:
            figures = []
            notes.append(str(error))
        _write_all(folder, analysis, figures)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ReportError(f"{folder}: the report cannot be written: {reason}") from error
    return Report(
        page=folder / "report.html", runs=analysis.runs.height,
        planned=analysis.results.planned, notes=tuple(notes),
    )  # fmt: skip


def is_reported(folder: Path) -> bool:
    """Whether the folder has a report that is not older than its tables."""
    try:
        return (folder / "report.html").stat().st_mtime >= (
            folder / "manifest.json"
        ).stat().st_mtime
    except OSError:
        return False


def _write_all(folder: Path, analysis: Analysis, figures: Sequence[str]) -> None:
    results = analysis.results
    if figures:
        _write(folder / "figures" / "figures.tex", figures_tex(analysis, figures))
    sheets = sheets_of(analysis)
    tables = folder / "tables"
    tables.mkdir(exist_ok=True)
    for sheet in sheets:
        _write(tables / f"{sheet.name}.md", markdown(sheet))
        _write(tables / f"{sheet.name}.tex", latex(sheet, results.study_id))
    for path in [*tables.glob("*.md"), *tables.glob("*.tex")]:
        if path.stem not in {sheet.name for sheet in sheets}:
            path.unlink()  # of an earlier report, which had more to say
    package = json.dumps(data_package(results), indent=1, ensure_ascii=False)
    _write(folder / "datapackage.json", package + "\n")
    if may_replace_citation(folder / "CITATION.cff"):
        _write(folder / "CITATION.cff", citation(results))
    _write(folder / "REPRODUCE.md", reproduce(analysis))
    _write(folder / "report.md", text(analysis, figures=figures))
    there = [name for name in (*LATEX_TABLES, *ASKED) if (folder / name).is_file()]
    made = ["figures/"] if figures else []
    more = ["tables/", "report.md", "REPRODUCE.md", "CITATION.cff", "datapackage.json"]
    _write(folder / "report.html", report_page(analysis, files_made=[*there, *made, *more]))


def _write(path: Path, content: str) -> None:
    write_atomically(path, lambda p: p.write_text(content, encoding="utf-8"))


def figures_tex(analysis: Analysis, figures: Sequence[str]) -> str:
    r"""The figures with their captions, to be \input where they are wanted."""
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
                rf"  \caption{{{tex(caption(analysis, name))}}}\label{{{label}}}",
                rf"\end{{figure{star}}}",
            ]
    return "\n".join(lines) + "\n"
