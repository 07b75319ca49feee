"""Claims -> verdicts: `python -m nanlab.claims` settles claims, or lists the ledger.

Exit status: 0 done, 1 a chunk crashed, 2 a claim's file or a flag is wrong, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
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
    from nanlab.ledger.claim import Claim

LEDGER = Path("results/claims")


@dataclass(frozen=True, kw_only=True)
class Arguments(StudyArguments):
    """Settle published claims about NaN by measurement; without arguments, list them."""

    claims: Annotated[list[str], tyro.conf.Positional] = field(default_factory=list[str])
    """claims by name, for example A1 B10"""
    all: bool = False
    """all claims; finished studies are not run again"""
    sweeps: Path = Path("sweeps/claims")
    """folder of the claims' grid files"""
    out: Path = LEDGER
    """folder of the ledger and of its studies"""


@dataclass(frozen=True, kw_only=True)
class LedgerEntry:
    """A claim of the ledger and its file."""

    path: Path
    claim: Claim


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    arguments = tyro.cli(
        Arguments, prog="python -m nanlab.claims", args=argv,
        config=(tyro.conf.FlagCreatePairsOff,),
    )  # fmt: skip
    try:
        entries = read_entries(arguments.sweeps)
        chosen = _chosen(arguments, entries)
        stems = _studies(chosen, arguments.sweeps if arguments.all else None)
        grids = {stem: load_grid(arguments.sweeps / f"{stem}.toml") for stem in stems}
        if arguments.dry_run:
            print(describe_plans(grids))
            return DONE
        status = DONE
        if chosen:
            rules = _rules(entries, arguments.out)
            status = run_studies(grids, arguments.out, force=arguments.force, rules=rules)
        return status or _write_ledger(entries, arguments)
    except (GridError, ReportError) as error:
        print(error, file=sys.stderr)
        return WRONG
    except StoreError as error:
        print(error, file=sys.stderr)
        return CRASHED
    except KeyboardInterrupt:
        print(f"\nstopped; {RESUMES}", file=sys.stderr)
        return STOPPED


def read_entries(folder: Path) -> list[LedgerEntry]:
    """Read all claims that have a file.

    Args:
        folder: the folder of the files.

    Returns:
        The claims, in the ledger's order.

    Raises:
        GridError: a file is not valid.
    """
    from nanlab.ledger.claim import every_id, read_claim, stem_of

    entries: list[LedgerEntry] = []
    for claim_id in every_id():
        path = folder / f"{stem_of(claim_id)}.toml"
        if path.is_file():
            table = read_source(str(path), [], []).tree.get("claim", {})
            entries.append(LedgerEntry(path=path, claim=read_claim(str(path), table)))
    return entries


def _chosen(arguments: Arguments, entries: Sequence[LedgerEntry]) -> list[LedgerEntry]:
    if arguments.all:
        return list(entries)
    by_id = {entry.claim.id: entry for entry in entries}
    # E08, the name of the file and of the study, also means E8.
    names = [name[:1].upper() + name[1:].lstrip("0") for name in arguments.claims]
    unknown = [
        given for given, name in zip(arguments.claims, names, strict=True) if name not in by_id
    ]
    if unknown:
        known = ", ".join(by_id) or "no claim's file, such as A01.toml"
        complaints = [Complaint(key=name, sentence="is no claim of the ledger") for name in unknown]
        raise GridError(str(arguments.sweeps), [*complaints, Complaint(sentence=f"it has {known}")])
    return [by_id[name] for name in dict.fromkeys(names)]


def _studies(entries: Sequence[LedgerEntry], sweeps: Path | None) -> list[str]:
    """Return the studies of some claims; with `sweeps`, also those of the figures alone."""
    stems = [stem for e in entries if not e.claim.reason for stem in e.claim.every_study]
    figures = sorted((sweeps / "usual").glob("*.toml")) if sweeps else []
    return list(dict.fromkeys([*stems, *(f"usual/{path.stem}" for path in figures)]))


def _rules(entries: Sequence[LedgerEntry], out: Path) -> dict[str, dict[str, list[str]]]:
    """Return the hashes of the claims' rules, now and earlier, by study and claim."""
    from nanlab.ledger.judge import rules_of

    rules: dict[str, dict[str, list[str]]] = {}
    for entry in entries:
        for stem in entry.claim.every_study:
            rules.setdefault(stem, {})[entry.claim.id] = rules_of(entry.claim, out / stem)
    return rules


def _write_ledger(entries: Sequence[LedgerEntry], arguments: Arguments) -> int:
    from nanlab.ledger.claim import LedgerError
    from nanlab.ledger.history import read_history
    from nanlab.ledger.judge import judge
    from nanlab.ledger.sentences import conditions_text
    from nanlab.ledger.write import write_ledger

    studies = {
        stem: arguments.out / stem
        for stem in _studies(entries, arguments.sweeps)
        if is_there(arguments.out / stem)
    }
    try:
        judged = judge([entry.claim for entry in entries], studies)
    except LedgerError as error:
        raise GridError(str(arguments.sweeps), [Complaint(sentence=str(error))]) from error
    if judged:
        with writing(arguments.out):
            write_ledger(arguments.out, judged, studies, read_history(arguments.sweeps))
    by_id = {each.claim.id: each for each in judged}
    for entry in entries:
        each = by_id.get(entry.claim.id)
        if each is None:
            print(f"{entry.claim.id:4} {'not run':12} {entry.claim.says}")
            continue
        print(f"{entry.claim.id:4} {each.word + '*' * each.rule_changed:12} {entry.claim.says}")
        for one in each.ranges:
            where = conditions_text(one.primary.verdict)
            if where or len(each.ranges) > 1:
                word = one.primary.verdict.word
                print(f"{'':17} {one.name} range: {word}.{f' {where}' if where else ''}")
        if each.claim.reason:
            print(f"{'':17} {each.claim.reason}")
    if any(each.rule_changed for each in judged):
        print(f"* its rule was changed after the result: see {arguments.out / 'README.md'}")
    return DONE


if __name__ == "__main__":
    allow_closed_output()
    sys.exit(main())
