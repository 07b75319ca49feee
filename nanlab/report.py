"""Results folder -> report: `python -m nanlab.report results/X`; it reads only files.

Exit status: 0 done, 2 there are no results to report on, or a flag is wrong.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from nanlab.cli.exit_status import DONE, WRONG
from nanlab.cli.streams import allow_closed_output


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Write the report of a study, finished or running: pages, figures and tables to cite."""

    results: Annotated[Path, tyro.conf.Positional]
    """the folder of the study, for example results/quickstart"""


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    arguments = tyro.cli(
        Arguments, prog="python -m nanlab.report", args=argv, config=(tyro.conf.FlagCreatePairsOff,)
    )
    from nanlab.reporting.write import write_report
    from nanlab.results.read import ReportError

    try:
        report = write_report(arguments.results)
    except ReportError as error:
        print(error, file=sys.stderr)
        return WRONG
    for note in report.notes:
        print(note, file=sys.stderr)
    missing = report.planned - report.runs
    incomplete = f"{report.runs:,} of {report.planned:,} runs, {missing:,} are missing"
    print(report.answer)
    print(f"{incomplete if missing else f'{report.runs:,} runs'}: {report.page}")
    return DONE


if __name__ == "__main__":
    allow_closed_output()
    sys.exit(main())
