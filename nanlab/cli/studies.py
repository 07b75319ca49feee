"""Grids -> results folders: run the unfinished studies of a list, one after another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nanlab.cli.exit_status import CRASHED, DONE
from nanlab.cli.interrupt import run_interruptibly
from nanlab.grid import Grid
from nanlab.plan.plan import make_plan
from nanlab.results.manifest import MANIFEST
from nanlab.results.store import CHUNKS

if TYPE_CHECKING:
    from nanlab.cli.progress import ProgressBar
    from nanlab.study.study import Study


@dataclass(frozen=True, kw_only=True)
class StudyArguments:
    """Flags of the commands that run a list of studies."""

    dry_run: bool = False
    """print the number of runs and compiles, and stop"""
    force: bool = False
    """run the studies again, even finished ones"""


def is_there(folder: Path) -> bool:
    """Return whether a study is finished; one that lost its manifest is reported, not left out."""
    has_tables = (folder / "runs.parquet").exists() and not (folder / CHUNKS).exists()
    return (folder / MANIFEST).exists() or has_tables


def describe_plans(grids: Mapping[str, Grid]) -> str:
    """Return the number of runs and compiles of each study, and of all, as lines."""
    plans = {stem: make_plan(grid) for stem, grid in grids.items()}
    counts = [(stem, len(plan), len(plan.groups)) for stem, plan in plans.items()]
    wide = max(map(len, ["all", *plans]))
    lines = [
        f"{stem:{wide}}  {runs:8,} runs  {groups:4,} compiles" for stem, runs, groups in counts
    ]
    runs, groups = sum(c[1] for c in counts), sum(c[2] for c in counts)
    lines.append(f"{'all':{wide}}  {runs:8,} runs  {groups:4,} compiles, in {len(grids)} studies")
    return "\n".join(lines)


def run_studies(
    grids: Mapping[str, Grid],
    out: Path,
    *,
    force: bool,
    rules: Mapping[str, Mapping[str, Sequence[str]]],
) -> int:
    """Run the studies that are not finished.

    Args:
        grids: grids by the name of the study, which is also that of its folder in `out`.
        out: folder of the studies.
        force: whether finished studies are run again.
        rules: hashes of the rules that a study's manifest records, by study.

    Returns:
        The exit status: DONE, or CRASHED if a chunk or a study crashed.
    """
    from nanlab.backend.config import configure_lab

    configure_lab(None)
    import jax

    from nanlab.cli.progress import ProgressBar
    from nanlab.results.errors import StoreError
    from nanlab.study.study import Study

    plans = {stem: make_plan(grid) for stem, grid in grids.items()}
    status = DONE
    with ProgressBar(total=sum(map(len, plans.values()))) as progress:
        for number, (stem, grid) in enumerate(grids.items(), 1):
            progress.about = f"{stem} ({number} of {len(grids)})"
            try:
                study = Study(
                    grid=grid, plan=plans[stem], folder=out / stem, devices=list(jax.devices()),
                    listener=progress, arguments=[grid.path], engine="local",
                    rules={name: list(hashes) for name, hashes in rules.get(stem, {}).items()},
                )  # fmt: skip
                crashed = _run(study, progress, force=force)
            except (StoreError, MemoryError) as error:
                progress.say(f"{grid.path}: {error}")
                return CRASHED
            status = CRASHED if crashed else status
            jax.clear_caches()  # type: ignore[no-untyped-call]
    return status


def _run(study: Study, progress: ProgressBar, *, force: bool) -> bool:
    """Run a study that is not finished, or any with `force`; return whether a chunk crashed."""
    with closing(study):
        if study.is_finished() and not force:
            study.clear_away()
            progress.started(len(study.plan), len(study.plan))
            return False
        progress.say(f"{progress.about}: {study.grid.title}")
        return bool(run_interruptibly(study, progress, force=force).manifest["crashed"])
