"""results/X, results/Y -> which runs changed: `python -m nanlab.diff results/X results/Y`.

Two studies of the same grid, made with two versions of a library or on two devices, are matched
run by run; two that differ in a parameter, such as the precision, by all the others.

Exit status: 0 done, 2 there is no such study or the two cannot be matched.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from nanlab.cli.exit_status import DONE, WRONG
from nanlab.cli.streams import allow_closed_output
from nanlab.results.errors import reason_of

if TYPE_CHECKING:
    import polars as pl

    from nanlab.results.compare import RunComparison

SHOWN = 12
"""Maximum number of kinds of change to print."""
NOT_COMPARED = ("devices", "polars", "code_sha256", "own_code_sha256")
"""Entries of the environment that are not compared: no run depends on them, or they are hashes."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """List the runs of two studies that ended differently, or failed for another reason."""

    before: Annotated[Path, tyro.conf.Positional]
    """a study's folder"""
    now: Annotated[Path, tyro.conf.Positional]
    """the folder of the study to compare it with"""
    out: Path | None = None
    """write the tables here: changed.csv, outcomes.csv, blames.csv, diff.md, and a figure of the
    outcomes"""


class DiffError(Exception):
    """Two studies cannot be compared; the message is a sentence for the user."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The differences between two studies.

    Attributes:
        comparison: matched runs.
        on: columns that they were matched by.
        factors: parameter -> (before, now), for those constant in each study but not equal.
        environments: entry of the environment -> (before, now), for those that differ.
    """

    comparison: RunComparison
    on: Sequence[str]
    factors: Mapping[str, tuple[Any, Any]]
    environments: Mapping[str, tuple[Any, Any]]


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    arguments = tyro.cli(Arguments, prog="python -m nanlab.diff", args=argv)
    try:
        found = difference(arguments.before, arguments.now)
        text = _text(found, arguments.before, arguments.now)
        print(text)
        if arguments.out is not None:
            _write(arguments.out, found, text)
            _draw(arguments.out, found, (arguments.before, arguments.now))
            print(f"written to {arguments.out}")
    except DiffError as error:
        print(error, file=sys.stderr)
        return WRONG
    except OSError as error:
        at = error.filename2 or error.filename or arguments.out
        print(f"cannot write {at}: {reason_of(error)}", file=sys.stderr)
        return WRONG
    return DONE


def difference(before: Path, now: Path) -> Difference:
    """Match the runs of two finished studies.

    Args:
        before: folder of the first study.
        now: folder of the second study.

    Returns:
        The matched runs, and what differs between the studies.

    Raises:
        DiffError: a folder holds no finished study, or the runs cannot be matched.
    """
    from nanlab.grid.parameters import PARAMETERS, is_user_defined
    from nanlab.results.compare import compare_runs, completed

    (old, environment_old), (new, environment_new) = _study(before), _study(now)
    if set(old["run_id"]) == set(new["run_id"]):
        on, factors = ["run_id"], dict[str, tuple[Any, Any]]()
    else:
        names = [n for n in (*old.columns, *new.columns) if n in PARAMETERS or is_user_defined(n)]
        names = list(dict.fromkeys(names))
        old, new = completed(old, names), completed(new, names)
        absent = [n for n in names if n not in old.columns or n not in new.columns]
        if absent:
            raise DiffError(f"only one of the studies has {', '.join(absent)}")
        factors = {n: (old[n][0], new[n][0]) for n in names if _is_factor(old[n], new[n])}
        on = [n for n in names if n not in factors]
    try:
        comparison = compare_runs(old, new, on=on)
    except ValueError as error:
        raise DiffError(f"{before} and {now} cannot be matched: {error}") from error
    if not comparison.pairs.height:
        raise DiffError(f"{before} and {now} have no run in common, by {', '.join(on)}")
    environments = {
        name: (value, environment_new[name])
        for name, value in environment_old.items()
        if name not in NOT_COMPARED and environment_new.get(name, value) != value
    }
    return Difference(comparison=comparison, on=on, factors=factors, environments=environments)


def _is_factor(old: pl.Series, new: pl.Series) -> bool:
    """Return whether a parameter is constant in each study, with different values."""
    return old.n_unique() == new.n_unique() == 1 and old[0] != new[0]


def _study(folder: Path) -> tuple[pl.DataFrame, dict[str, Any]]:
    from nanlab.results.errors import ReportError
    from nanlab.results.snapshot import snapshot, when_still

    try:
        found = when_still(folder, lambda: snapshot(folder, ["runs.parquet"]))
        return found.table("runs.parquet"), found.manifest["environment"]
    except ReportError as error:
        raise DiffError(str(error)) from error


def _outcomes(found: Difference) -> pl.DataFrame:
    """Return the number of runs by outcome before (rows) and now (columns)."""
    import polars as pl

    from nanlab.grid.outcome import Outcome

    pairs = found.comparison.pairs
    present = set(pairs["outcome"]) | set(pairs["outcome_now"])
    words = [word for word in Outcome if word in present]
    return pl.DataFrame(
        [
            {"outcome": old}
            | {
                new: pairs.filter(pl.col("outcome") == old, pl.col("outcome_now") == new).height
                for new in words
            }
            for old in words
        ]
    )


def _blames(found: Difference) -> pl.DataFrame:
    """Return a row for each kind of change of a blame, most frequent first."""
    import polars as pl

    changed = found.comparison.differing("blame")
    blames = _blame_columns(changed)
    counted = (
        changed.with_columns(blames)
        .group_by([b.name for b in blames])
        .agg(pl.len().alias("runs"), pl.col("run_id").first().alias("example_run"))
    )
    return counted.sort(["runs", "example_run"], descending=[True, False])


def _changed(found: Difference) -> pl.DataFrame:
    """Return the runs whose outcome or blame changed, with their parameters."""
    from nanlab.grid.parameters import PARAMETERS, is_user_defined

    changed = found.comparison.differing("outcome", "blame")
    names = [n for n in changed.columns if n in PARAMETERS or is_user_defined(n)]
    ids = [n for n in ("run_id", "run_id_now") if n in changed.columns]
    ends = [f"{name}{s}" for name in ("outcome", "fault_step", "nan_step") for s in ("", "_now")]
    parameters = [n for n in names if n not in ids]
    return changed.select(*ids, *parameters, *ends, *_blame_columns(changed))


def _blame_columns(pairs: pl.DataFrame) -> list[pl.Series]:
    """Return origin and culprit of both studies as text, a column each."""
    import polars as pl

    from nanlab.results.blame_text import blame_sentence
    from nanlab.results.compare import ROLES

    return [
        pl.Series(
            f"{role}{suffix}",
            [blame_sentence(row, role, line=False, suffix=suffix) for row in pairs.to_dicts()],
            dtype=pl.String,
        )
        for role in ROLES
        for suffix in ("", "_now")
    ]


def _text(found: Difference, before: Path, now: Path) -> str:
    from nanlab.results.compare import failing

    comparison, pairs = found.comparison, found.comparison.pairs
    n_runs = pairs.height
    failed = failing(pairs)
    lines = [f"# {before} and {now}", ""]
    for what, both in (("made with", found.environments), ("parameter", found.factors)):
        lines += [f"- {what} {name}: {old} → {new}" for name, (old, new) in both.items()]
    same_blame = int(failed["same_blame"].sum())
    lines += [
        f"- {n_runs:,} runs matched by {', '.join(found.on)}; {comparison.only_before:,} only in "
        f"{before}, {comparison.only_now:,} only in {now}",
        f"- {comparison.same('outcome'):,} of {n_runs:,} have the same outcome, "
        f"{comparison.same('numbers'):,} the same numbers to the bit",
        f"- {same_blame:,} of the {failed.height:,} that fail in one of the two have the same "
        "origin and culprit",
        "", f"Outcomes in {before} (rows) and in {now} (columns):", "",
        _markdown(_outcomes(found)),
    ]  # fmt: skip
    blames = _blames(found)
    if blames.height:
        lines += ["", "Blames that changed:", "", _markdown(blames.head(SHOWN))]
        left = blames.height - SHOWN
        lines += ["", f"and {left:,} more kinds of change"] if left > 0 else []
    return "\n".join(lines)


def _markdown(frame: pl.DataFrame) -> str:
    from nanlab.results.text_tables import markdown_table

    return markdown_table(frame.columns, [list(map(str, row)) for row in frame.rows()])


def _write(folder: Path, found: Difference, text: str) -> None:
    from nanlab.results.files import write_csv

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "diff.md").write_text(text + "\n", encoding="utf-8")
    tables = {"changed": _changed(found), "outcomes": _outcomes(found), "blames": _blames(found)}
    for name, table in tables.items():
        write_csv(table, folder / f"{name}.csv")


def _draw(folder: Path, found: Difference, studies: tuple[Path, Path]) -> None:
    from nanlab.reporting.changes import write_changes

    table = _outcomes(found)
    counts = table.drop("outcome").to_numpy()
    before, now = (study.resolve().name for study in studies)
    names = (before, now) if before != now else tuple(map(str, studies))
    write_changes(folder, table["outcome"].to_list(), counts, (names[0], names[1]))


if __name__ == "__main__":
    allow_closed_output()
    sys.exit(main())
