"""grid.toml -> results: `python -m nanlab.sweep grid.toml`, the pipeline, a line a stage.

Exit status: 0 done (runs that fail are results), 1 a chunk crashed or the results could not be
written, 2 the grid or a flag is wrong (or asks for more memory than there is), 130 stopped by
Ctrl-C.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from nanlab.cli.interrupt import STOPPED, run_interruptibly

if TYPE_CHECKING:
    from nanlab.backend.jaxpr import Device
    from nanlab.grid import Grid, GridError
    from nanlab.plan.plan import Plan

DONE, CRASHED, WRONG = 0, 1, 2


MOST_REPORTED = 200_000
"""Of more runs a sweep writes no report by itself: of a million it takes 2.4 GB and two minutes,
where the sweep's own memory does not grow."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Train every run that a grid file asks for, and say of each failing one what made its NaN.

    Any value that the file has can be overridden: --run.steps 50, --axes.lr.num 9.
    """

    grid: Annotated[Path, tyro.conf.Positional]
    """the grid file, for example sweeps/quickstart.toml"""
    out: Annotated[Path | None, tyro.conf.arg(metavar="PATH")] = None
    """where the results go; results/<name of the grid file> if not given"""
    set: Annotated[list[str], tyro.conf.UseAppendAction] = field(default_factory=list[str])
    """KEY=VALUE in TOML, may add keys: --set axes.width='[8, 16]', --set exec.devices=1"""
    force: bool = False
    """run everything again, even what is finished"""
    dry_run: bool = False
    """say what would run, and stop"""
    no_report: bool = False
    """leave out the report; python -m nanlab.report makes it later"""


def main(argv: list[str] | None = None) -> int:
    """Run the command; the exit status."""
    try:
        return _main(argv)
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from there", file=sys.stderr)
        return STOPPED


def _main(argv: list[str] | None) -> int:
    given = sys.argv[1:] if argv is None else argv
    if {"-h", "--help"} & set(given):
        _parsed(["--help"])  # nobody waits for a grid's modules to read how the command is called
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
    if error := _own_error(grid, plan):
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


def _own_error(grid: Grid, plan: Plan) -> GridError | None:
    """What is wrong with a person's own code, tried before anything runs."""
    from nanlab.grid import GridError
    from nanlab.problems.build import check_user_groups
    from nanlab.problems.user_code import UserCodeError

    try:
        check_user_groups(plan)
    except UserCodeError as error:
        return GridError(grid.path, [grid.complaint(error.key, error.sentence)])
    return None


def _devices(grid: Grid) -> list[Device]:
    """The devices to run on; this is where JAX is first imported, and set up."""
    from nanlab.backend.config import lab_devices, lab_without_accelerator

    is_elsewhere = grid.exec.engine == "ray"
    return lab_without_accelerator() if is_elsewhere else lab_devices(grid.exec.devices)


def _range(numbers: Iterable[int]) -> str:
    """8, or 8 to 64."""
    least, most = min(numbers, default=0), max(numbers, default=0)
    return f"{most}" if least == most else f"{least} to {most}"


def _dry_run(grid: Grid, plan: Plan, devices: list[Device]) -> int:
    import numpy as np

    from nanlab.engine.block_width import block_for, launch_lanes
    from nanlab.engine.memory import available_bytes, in_words, launch_need
    from nanlab.plan.rounds import bounds
    from nanlab.problems.build import build_problem
    from nanlab.study.chunk_runner import cut_here
    from nanlab.study.chunks import cut

    asked, chunk_runs = np.ones(len(plan), np.bool_), grid.exec.chunk_runs
    if grid.exec.engine == "local":
        pieces = cut_here(plan, asked, chunk_runs, devices)
    else:
        pieces = cut(plan, asked, chunk_runs=chunk_runs)
    largest, n_blocks, widths = 0, 0, set[int]()
    for number, its in groupby(pieces, attrgetter("group")):
        problem, sizes = build_problem(plan.groups[number].statics), [len(p.runs) for p in its]
        width = block_for(problem, devices[0])
        need = launch_need(problem, at_once=width * len(devices))
        lanes = launch_lanes(max(sizes), block=width, devices=len(devices))
        largest = max(largest, need.launch(lanes))
        n_blocks += sum(-(-size // width) for size in sizes)
        widths.add(width)
    free = available_bytes(devices)
    print(f"{grid.path}: {grid.title}")
    print(f"  runs    {len(plan):,}")
    print(f"  groups  {len(plan.groups):,} (each is compiled once)")
    print(f"  blocks  {n_blocks:,} of {_range(widths)} lanes, on {len(devices)} devices")
    print(f"  chunks  {len(pieces):,}")
    for line in bounds(grid):
        print(f"  {line}")
    print(f"  memory  about {in_words(largest)} for the largest launch", end="")
    print(f", {in_words(free)} are free" if free is not None else "")
    return DONE


def _run(
    grid: Grid, plan: Plan, devices: list[Device], arguments: Arguments, given: list[str]
) -> int:
    from nanlab.cli.progress import ProgressBar, show_summary
    from nanlab.grid import GridError
    from nanlab.results.environments import DevicesError
    from nanlab.results.store import FolderError, StoreError
    from nanlab.study.ray_cluster import ClusterError
    from nanlab.study.shared_folder import Unfinished
    from nanlab.study.study import Study

    folder, force = arguments.out or Path("results") / grid.stem, arguments.force
    try:
        with ProgressBar() as watcher:
            study = Study(
                grid=grid, plan=plan, folder=folder, devices=devices, listener=watcher,
                arguments=[each for each in given if each != "--no-report"],
            )  # fmt: skip
            with closing(study):
                if study.is_finished() and not force:
                    study.store.forget_chunks()
                    result = study.finished()
                    many = result.manifest["runs"]
                    print(f"{folder} is finished, all {many:,} runs; --force runs them again")
                elif grid.exec.engine == "files" and study.prepare(force=force):
                    return _tell_workers(folder, plan, grid)
                else:
                    result = run_interruptibly(study, watcher, force=force)
    except (ClusterError, FolderError, GridError) as error:
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
    show_summary(result, study.plan)
    if not arguments.no_report:
        _report(folder, len(plan))
    return _tell_crashed(result.manifest["crashed"], folder, grid)


def _tell_crashed(crashed: int, folder: Path, grid: Grid) -> int:
    """Say how many runs crashed, if any, and how they run again; the exit status."""
    from nanlab.study.study import CRASHES

    if not crashed:
        return DONE
    again = "the same command runs them again"
    if grid.exec.engine == "files":
        again = "workers run those again that killed none of them"
    print(f"{crashed:,} runs crashed, see {folder / CRASHES}; {again}", file=sys.stderr)
    return CRASHED


def _report(folder: Path, runs: int) -> None:
    """Write the report, unless there is one of these tables; whatever comes of it is told only."""
    from nanlab.reporting.write import is_reported, write_report
    from nanlab.results.read import ReportError

    if is_reported(folder):
        return
    if runs > MOST_REPORTED:
        print(f"so many runs have no report yet: python -m nanlab.report {folder} writes it")
        return
    try:
        report = write_report(folder)
    except ReportError as error:
        print(error, file=sys.stderr)
    except Exception as error:  # the study is done and kept, and the report can be made again
        print(
            f"the report could not be written: {type(error).__name__}: {error}; "
            f"python -m nanlab.report {folder} tries again",
            file=sys.stderr,
        )
    else:
        for note in report.notes:
            print(note, file=sys.stderr)
        print(f"report in {report.page}")


def _tell_workers(folder: Path, plan: Plan, grid: Grid) -> int:
    from nanlab.study.shared_folder import pieces_of

    many = len(pieces_of(plan, grid.exec.chunk_runs))
    print(f"{folder} is prepared: {len(plan):,} runs in {many:,} chunks. To run them, start n of")
    print(f"  python -m nanlab.worker {shlex.quote(str(folder))} --shard i/n")
    print(
        "with i from 0 to n - 1, on as many machines; then this sweep again: it writes the tables"
    )
    return DONE


if __name__ == "__main__":
    sys.exit(main())
