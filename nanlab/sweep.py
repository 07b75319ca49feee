"""grid.toml -> results: `python -m nanlab.sweep grid.toml`.

Exit status: 0 done (runs that diverge are results), 1 a chunk crashed or the results could not be
written, 2 the grid or a flag is wrong (or needs more memory than there is), 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import sys
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from nanlab.cli.exit_status import CRASHED, DONE, STOPPED, WRONG
from nanlab.cli.interrupt import RESUMES, run_interruptibly
from nanlab.cli.streams import allow_closed_output

if TYPE_CHECKING:
    from nanlab.backend.jaxpr import Device
    from nanlab.grid import Grid, GridError
    from nanlab.plan.plan import Plan
    from nanlab.study.study import Study, StudyResult

MOST_REPORTED = 200_000
"""A sweep of more runs writes no report: that of a million takes 2.4 GB of memory and two minutes,
while the sweep's own memory does not grow."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Train every run of a grid file, and report what caused the NaN of each failing one.

    Any value in the file can be overridden: --run.steps 50, --axes.lr.num 9.
    """

    grid: Annotated[Path, tyro.conf.Positional]
    """the grid file, for example sweeps/quickstart.toml"""
    out: Annotated[Path | None, tyro.conf.arg(metavar="PATH")] = None
    """results folder; default: results/<name of the grid file>"""
    set: Annotated[list[str], tyro.conf.UseAppendAction] = field(default_factory=list[str])
    """KEY=VALUE in TOML; may add keys: --set axes.width='[8, 16]', --set exec.devices=1"""
    force: bool = False
    """run everything again, even what is finished"""
    dry_run: bool = False
    """print what would run, and stop"""
    no_report: bool = False
    """skip the report; python -m nanlab.report writes it later"""


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    try:
        return _main(argv)
    except KeyboardInterrupt:
        print(f"\nstopped; {RESUMES}", file=sys.stderr)
        return STOPPED


def _main(argv: list[str] | None) -> int:
    given = sys.argv[1:] if argv is None else argv
    if {"-h", "--help"} & set(given):
        _parsed(["--help"])  # before the slow imports
    from nanlab.grid import GridError, load_grid, split_arguments
    from nanlab.plan.plan import make_plan

    rest, overrides = split_arguments(given)
    arguments = _parsed(rest)
    try:
        grid = load_grid(arguments.grid, overrides=overrides, sets=arguments.set)
        plan = make_plan(grid, progress=_listed)
    except GridError as error:
        print(error, file=sys.stderr)
        return WRONG
    for warning in grid.warnings:
        print(f"{grid.path}: {warning}", file=sys.stderr)
    devices = _devices(grid)
    if error := _user_code_error(grid, plan):
        print(error, file=sys.stderr)
        return WRONG
    if arguments.dry_run:
        return _dry_run(grid, plan, devices)
    return _run(grid, plan, devices, arguments, given)


def _listed(n_points: int, total: int) -> None:
    """Show how much of a grid that takes seconds to list has been listed."""
    if total >= 1_000_000:
        end = "\n" if n_points == total else "\r"
        print(f"listing runs: {n_points / total:4.0%}", end=end, file=sys.stderr, flush=True)


def _parsed(rest: list[str]) -> Arguments:
    return tyro.cli(
        Arguments, prog="python -m nanlab.sweep", args=rest, config=(tyro.conf.FlagCreatePairsOff,)
    )


def _user_code_error(grid: Grid, plan: Plan) -> GridError | None:
    """Return what is wrong with user-defined code, tried before anything runs."""
    from nanlab.grid import GridError
    from nanlab.problems.build import check_user_groups
    from nanlab.problems.user_code import UserCodeError

    try:
        for remark in check_user_groups(plan):
            print(remark, file=sys.stderr)
    except UserCodeError as error:
        return GridError(grid.path, [grid.complaint(error.key, error.sentence)])
    return None


def _devices(grid: Grid) -> list[Device]:
    """Return the devices to run on; this imports and configures JAX."""
    from nanlab.backend.config import lab_devices, lab_without_accelerator

    is_elsewhere = grid.exec.engine == "ray"
    return lab_without_accelerator() if is_elsewhere else lab_devices(grid.exec.devices)


def _dry_run(grid: Grid, plan: Plan, devices: list[Device]) -> int:
    from nanlab.study.dry_run import dry_run

    print("\n".join(dry_run(grid, plan, devices)))
    return DONE


def _run(
    grid: Grid, plan: Plan, devices: list[Device], arguments: Arguments, given: list[str]
) -> int:
    from nanlab.cli.summary import show_summary
    from nanlab.grid import GridError
    from nanlab.results.environments import DevicesError
    from nanlab.results.errors import FolderError, StoreError
    from nanlab.study.chunk_runner import NotRepeatableError
    from nanlab.study.ray_cluster import ClusterError
    from nanlab.study.shared_folder import Unfinished

    folder = arguments.out or Path("results") / grid.stem
    try:
        result = _result(grid, plan, devices, folder, arguments, given)
    except (ClusterError, FolderError, GridError, NotRepeatableError) as error:
        print(error, file=sys.stderr)
        return WRONG
    except StoreError as error:
        print(error, file=sys.stderr)
        return CRASHED
    except Unfinished as error:
        print(f"{folder}: {error}; python -m nanlab.worker runs them", file=sys.stderr)
        return CRASHED
    except (DevicesError, MemoryError) as error:
        print(f"{grid.path}: {error}", file=sys.stderr)
        return WRONG
    if result is None:
        return DONE
    show_summary(result)
    if not arguments.no_report:
        _report(folder, len(plan))
    return _report_crashes(result.manifest["crashed"], folder, grid)


def _result(
    grid: Grid, plan: Plan, devices: list[Device], folder: Path, arguments: Arguments,
    given: list[str],
) -> StudyResult | None:  # fmt: skip
    """Run the study; return None if it was only prepared for workers."""
    from nanlab.cli.progress import ProgressBar
    from nanlab.study.shared_folder import instructions
    from nanlab.study.study import Study

    with ProgressBar() as progress:
        study = Study(
            grid=grid, plan=plan, folder=folder, devices=devices, listener=progress,
            arguments=[each for each in given if each != "--no-report"],
        )  # fmt: skip
        with closing(study):
            if study.is_finished() and not arguments.force:
                return _finished(study)
            if grid.exec.engine == "files" and study.prepare(force=arguments.force):
                print(instructions(folder, plan, grid.exec.chunk_runs))
                return None
            return run_interruptibly(study, progress, force=arguments.force)


def _finished(study: Study) -> StudyResult:
    study.clear_away()
    result = study.finished()
    runs = result.manifest["runs"]
    print(f"{study.folder} is finished, all {runs:,} runs; --force runs them again")
    return result


def _report_crashes(crashed: int, folder: Path, grid: Grid) -> int:
    """Print how many runs crashed and how to repeat them, and return the exit status."""
    from nanlab.study.study import CRASHES

    if not crashed:
        return DONE
    again = "the same command repeats them"
    if grid.exec.engine == "files":
        again = "workers repeat those that did not kill a worker"
    print(f"{crashed:,} runs crashed, see {folder / CRASHES}; {again}", file=sys.stderr)
    return CRASHED


def _report(folder: Path, runs: int) -> None:
    """Write the report unless it is up to date; an error is printed and does not fail the sweep."""
    from nanlab.reporting.write import is_reported, write_report
    from nanlab.results.read import ReportError

    if is_reported(folder):
        return
    if runs > MOST_REPORTED:
        print(
            f"skipping the report for more than {MOST_REPORTED:,} runs; "
            f"python -m nanlab.report {folder} writes it"
        )
        return
    try:
        report = write_report(folder)
    except ReportError as error:
        print(error, file=sys.stderr)
    except Exception as error:  # the results are stored, and the report can be repeated
        print(
            f"the report could not be written: {type(error).__name__}: {error}; "
            f"python -m nanlab.report {folder} tries again",
            file=sys.stderr,
        )
    else:
        for note in report.notes:
            print(note, file=sys.stderr)
        print(f"report in {report.page}")


if __name__ == "__main__":
    allow_closed_output()
    sys.exit(main())
