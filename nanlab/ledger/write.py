"""Ledger -> its folder: tables, page and figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nanlab.ledger.figures import write_ledger_figures
from nanlab.ledger.judge import Judged, ledger_frame, strata_frame
from nanlab.ledger.page import ledger_page
from nanlab.ledger.tables import claims_latex, claims_markdown
from nanlab.results.files import write_text


def write_ledger(folder: Path, judged: Sequence[Judged]) -> None:
    """Write the files of the ledger."""
    files = {
        "claims.csv": ledger_frame(judged).write_csv(),
        "strata.csv": strata_frame(judged).write_csv(),
        "claims.md": claims_markdown(judged),
        "claims.tex": claims_latex(judged),
        "README.md": ledger_page(judged),
    }
    for name, text in files.items():
        write_text(folder / name, text)
    write_ledger_figures(folder, judged)
