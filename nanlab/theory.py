"""Published laws -> measurements: `python -m nanlab.theory` sets theory beside the lab.

Exit status: 0 done, 1 a chunk crashed, 2 a law's file or a flag is wrong, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from nanlab.cli.exit_status import CRASHED, DONE, STOPPED, WRONG
from nanlab.cli.interrupt import RESUMES
from nanlab.cli.streams import allow_closed_output
from nanlab.cli.studies import StudyArguments, describe_plans, is_there, run_studies
from nanlab.grid import Complaint, GridError, load_grid
from nanlab.grid.source import read_source
from nanlab.results.errors import ReportError, StoreError, writing

if TYPE_CHECKING:
    from nanlab.ledger.laws import Law


@dataclass(frozen=True, kw_only=True)
class Arguments(StudyArguments):
    """Measure published laws of training; without arguments, list what is measured."""

    laws: Annotated[list[str], tyro.conf.Positional] = field(default_factory=list[str])
    """names of files in `sweeps/theory`, for example catapult"""
    all: bool = False
    """all laws; finished studies are not run again"""
    sweeps: Path = Path("sweeps/theory")
    """folder of the laws' grid files"""
    out: Path = Path("results/theory")
    """folder of the table and of its studies"""


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    arguments = tyro.cli(
        Arguments, prog="python -m nanlab.theory", args=argv,
        config=(tyro.conf.FlagCreatePairsOff,),
    )  # fmt: skip
    try:
        laws = _read(arguments.sweeps)
        chosen = list(laws) if arguments.all else _known(arguments, laws)
        grids = {stem: load_grid(arguments.sweeps / f"{stem}.toml") for stem in chosen}
        if arguments.dry_run:
            print(describe_plans(grids))
            return DONE
        status = DONE
        if chosen:
            status = run_studies(grids, arguments.out, force=arguments.force, rules={})
        return status or _write(laws, arguments)
    except (GridError, ReportError) as error:
        print(error, file=sys.stderr)
        return WRONG
    except StoreError as error:
        print(error, file=sys.stderr)
        return CRASHED
    except KeyboardInterrupt:
        print(f"\nstopped; {RESUMES}", file=sys.stderr)
        return STOPPED


def _read(folder: Path) -> dict[str, list[Law]]:
    from nanlab.ledger.laws import read_laws

    found = {
        path.stem: read_laws(str(path), read_source(str(path), [], []).tree.get("law"))
        for path in sorted(folder.glob("*.toml"))
    }
    if not found:
        raise GridError(str(folder), [Complaint(sentence="there is no law's file, X.toml, here")])
    return found


def _known(arguments: Arguments, laws: Mapping[str, object]) -> list[str]:
    unknown = [name for name in arguments.laws if name not in laws]
    if unknown:
        complaints = [Complaint(key=name, sentence="is no law's file") for name in unknown]
        known = Complaint(sentence=f"it has {', '.join(laws)}")
        raise GridError(str(arguments.sweeps), [*complaints, known])
    return list(dict.fromkeys(arguments.laws))


def _write(laws: Mapping[str, list[Law]], arguments: Arguments) -> int:
    from nanlab.ledger.claim import LedgerError
    from nanlab.ledger.judge import RUNS, study_of
    from nanlab.ledger.law_page import write_laws
    from nanlab.ledger.laws import measurements

    try:
        found = [
            each
            for stem, of_file in laws.items()
            if is_there(arguments.out / stem)
            for runs in [study_of(arguments.out / stem).table(RUNS)]
            for law in of_file
            for each in measurements(stem, law, runs)
        ]
    except LedgerError as error:
        raise GridError(str(arguments.sweeps), [Complaint(sentence=str(error))]) from error
    if found:
        with writing(arguments.out):
            write_laws(arguments.out, found)
    missing = [stem for stem in laws if stem not in {each.stem for each in found}]
    for each in found:
        condition = ", ".join(each.key.values())
        print(f"{each.answer:10} {each.law.says}{f' ({condition})' if condition else ''}")
    for stem in missing:
        print(f"{'not run':10} {stem}")
    return DONE


if __name__ == "__main__":
    allow_closed_output()
    sys.exit(main())
