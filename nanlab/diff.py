"""results/X, results/Y -> which runs changed: `python -m nanlab.diff results/X results/Y`.

Two studies of the same grid, made with two versions of a library or on two devices, are matched
run by run; two that differ in a parameter, such as the precision, by all the others.

Exit status: 0 done, 2 there is no such study or the two cannot be matched.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

if TYPE_CHECKING:
    import polars as pl

    from nanlab.results.compare import RunComparison

DONE, WRONG = 0, 2
SHOWN = 12
"""How many kinds of change are printed."""
OF_THE_MACHINE = ("devices", "polars", "code_sha256", "own_code_sha256")
"""Entries of the environment that are not told: no run depends on them, or they are hashes."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Tell which runs of two studies ended otherwise, or failed for another reason."""

    before: Annotated[Path, tyro.conf.Positional]
    """a study's folder"""
    now: Annotated[Path, tyro.conf.Positional]
    """the folder of the study that it is compared with"""
    out: Path | None = None
    """write the tables here: changed.csv, outcomes.csv, blames.csv, diff.md, and a figure of the
    outcomes"""


class DiffError(Exception):
    """Two studies cannot be compared; the message is a sentence for a person."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Two studies, compared.

    Attributes:
        comparison: their runs, matched.
        on: the columns that they were matched by.
        factors: parameter -> its one value in each study, where these differ.
        environments: what differs of what made them: name -> (before, now).
    """

    comparison: RunComparison
    on: Sequence[str]
    factors: Mapping[str, tuple[Any, Any]]
    environments: Mapping[str, tuple[Any, Any]]


def main(argv: list[str] | None = None) -> int:
    """Run the command; the exit status."""
    arguments = tyro.cli(Arguments, prog="python -m nanlab.diff", args=argv)
    try:
        found = difference(arguments.before, arguments.now)
        text = _told(found, arguments.before, arguments.now)
        print(text)
        if arguments.out is not None:
            _write(arguments.out, found, text)
            _draw(arguments.out, found, (arguments.before, arguments.now))
            print(f"written to {arguments.out}")
    except DiffError as error:
        print(error, file=sys.stderr)
        return WRONG
    except OSError as error:
        print(f"cannot write {arguments.out}: {(error.strerror or '').lower()}", file=sys.stderr)
        return WRONG
    return DONE


def difference(before: Path, now: Path) -> Difference:
    """Match the runs of two finished studies.

    Args:
        before, now: their folders.

    Raises:
        DiffError: a folder holds no finished study, or the runs cannot be matched.
    """
    from nanlab.grid.parameters import PARAMETERS, is_user_defined
    from nanlab.results.compare import compare_runs, completed

    (old, made_old), (new, made_new) = _study(before), _study(now)
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
    told = [k for k in made_old if k in made_new and k not in OF_THE_MACHINE]
    made = {k: (made_old[k], made_new[k]) for k in told if made_old[k] != made_new[k]}
    return Difference(comparison=comparison, on=on, factors=factors, environments=made)


def _is_factor(old: pl.Series, new: pl.Series) -> bool:
    """Whether a parameter has one value in each study, and not the same."""
    return old.n_unique() == new.n_unique() == 1 and old[0] != new[0]


def _study(folder: Path) -> tuple[pl.DataFrame, dict[str, Any]]:
    import polars as pl

    if not (folder / "manifest.json").is_file():
        raise DiffError(f"{folder} holds no finished study: there is no manifest.json in it")
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    return pl.read_parquet(folder / "runs.parquet"), manifest["environment"]


def _outcomes(found: Difference) -> pl.DataFrame:
    """How many runs ended so before (a row an outcome) and so now (a column an outcome)."""
    import polars as pl

    from nanlab.grid.outcome import Outcome

    pairs = found.comparison.pairs
    here = set(pairs["outcome"]) | set(pairs["outcome_now"])
    words = [word for word in Outcome if word in here]
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
    """A row for each way in which blames changed, the most frequent first."""
    import polars as pl

    from nanlab.results.compare import ROLES, site_text

    names = [f"{role}{suffix}" for role in ROLES for suffix in ("", "_now")]
    told = [site_text(r, suffix=s).alias(f"{r}{s}") for r in ROLES for s in ("", "_now")]
    changed = found.comparison.differing("blame").with_columns(told)
    counted = changed.group_by(names, maintain_order=True).agg(
        pl.len().alias("runs"), pl.col("run_id").first().alias("example_run")
    )
    return counted.sort(["runs", "example_run"], descending=[True, False])


def _changed(found: Difference) -> pl.DataFrame:
    """The runs whose outcome or blame changed, with what they were asked."""
    import polars as pl

    from nanlab.grid.parameters import PARAMETERS, is_user_defined
    from nanlab.results.compare import ROLES, site_text

    changed = found.comparison.differing("outcome", "blame")
    asked = [n for n in changed.columns if n in PARAMETERS or is_user_defined(n)]
    ids = [n for n in ("run_id", "run_id_now") if n in changed.columns]
    ends = [f"{name}{s}" for name in ("outcome", "fault_step", "nan_step") for s in ("", "_now")]
    told = [site_text(r, suffix=s).alias(f"{r}{s}") for r in ROLES for s in ("", "_now")]
    return changed.select(*ids, *(pl.col(n) for n in asked if n not in ids), *ends, *told)


def _told(found: Difference, before: Path, now: Path) -> str:
    from nanlab.results.compare import failing

    comparison, pairs = found.comparison, found.comparison.pairs
    many = pairs.height
    failed = failing(pairs)
    lines = [f"# {before} and {now}", ""]
    for what, both in (("made with", found.environments), ("parameter", found.factors)):
        lines += [f"- {what} {name}: {old} → {new}" for name, (old, new) in both.items()]
    same_blame = int(failed["same_blame"].sum())
    lines += [
        f"- {many:,} runs matched by {', '.join(found.on)}; {comparison.only_before:,} only in "
        f"{before}, {comparison.only_now:,} only in {now}",
        f"- {comparison.same('outcome'):,} of {many:,} have the same outcome, "
        f"{comparison.same('numbers'):,} the same numbers to the bit",
        f"- {same_blame:,} of the {failed.height:,} that fail in one of the two have the same "
        "origin and culprit",
        "", f"Outcomes in {before} (rows) and in {now} (columns):", "",
        *_markdown(_outcomes(found)),
    ]  # fmt: skip
    blames = _blames(found)
    if blames.height:
        lines += ["", "Blames that changed:", "", *_markdown(blames.head(SHOWN))]
        left = blames.height - SHOWN
        lines += ["", f"and {left:,} kinds of change more"] if left > 0 else []
    return "\n".join(lines)


def _markdown(frame: pl.DataFrame) -> list[str]:
    rows = [frame.columns, ["---"] * frame.width, *(map(str, row) for row in frame.rows())]
    return ["| " + " | ".join(row) + " |" for row in rows]


def _write(folder: Path, found: Difference, text: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "diff.md").write_text(text + "\n", encoding="utf-8")
    tables = {"changed": _changed(found), "outcomes": _outcomes(found), "blames": _blames(found)}
    for name, table in tables.items():
        (folder / f"{name}.csv").write_text(table.write_csv(), encoding="utf-8")


def _draw(folder: Path, found: Difference, studies: tuple[Path, Path]) -> None:
    from nanlab.reporting.changes import write_changes

    table = _outcomes(found)
    counts = table.drop("outcome").to_numpy()
    before, now = (study.resolve().name for study in studies)
    names = (before, now) if before != now else tuple(map(str, studies))
    write_changes(folder, table["outcome"].to_list(), counts, (names[0], names[1]))


if __name__ == "__main__":
    sys.exit(main())
