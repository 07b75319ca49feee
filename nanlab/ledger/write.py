"""Ledger -> its folder: tables, page and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from nanlab.ledger.figures import write_ledger_figures
from nanlab.ledger.frames import ledger_frame, strata_frame
from nanlab.ledger.history import History
from nanlab.ledger.judge import Judged
from nanlab.ledger.page import ledger_page
from nanlab.ledger.tables import claims_latex, claims_markdown
from nanlab.results.files import csv_text, write_text


def write_ledger(
    folder: Path, judged: Sequence[Judged], studies: Mapping[str, Path], history: History
) -> None:
    """Write the files of the ledger.

    Args:
        folder: folder of the ledger.
        judged: judged claims.
        studies: name of a study -> its results folder.
        history: what was changed after a first result.
    """
    drawings = write_ledger_figures(folder, judged, studies)
    files = {
        "claims.csv": csv_text(ledger_frame(judged)),
        "strata.csv": csv_text(strata_frame(judged)),
        "claims.md": claims_markdown(judged),
        "claims.tex": claims_latex(judged),
        "README.md": ledger_page(judged, drawings, history),
    }
    for name, text in files.items():
        write_text(folder / name, text)
