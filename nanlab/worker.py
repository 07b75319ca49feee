"""results/X, shard -> chunks: `python -m nanlab.worker results/X --shard i/n`, one of n processes.

Each runs its share of a study that `python -m nanlab.sweep` has prepared with
`exec.engine = "files"`. Workers need only the folder. The sweep command then writes the tables.

Exit status: 0 all chunks of the shard are stored, 1 one of them crashed or could not be written,
2 the study is not prepared, does not fit into memory, or may not be computed here, 130 stopped by
Ctrl-C or SIGTERM. A chunk that killed its worker three times counts as crashed.
"""

from __future__ import annotations

import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from nanlab.cli.exit_status import CRASHED, DONE, STOPPED, WRONG
from nanlab.cli.interrupt import RESUMES, interruptibly
from nanlab.cli.streams import allow_closed_output
from nanlab.grid import Grid, GridError, load_grid
from nanlab.plan.plan import Plan, make_plan
from nanlab.results.errors import ReportError
from nanlab.results.manifest import MANIFEST, REPAIR, read_manifest
from nanlab.results.snapshot import when_still
from nanlab.results.store import CHUNKS, PLAN, prepared_grid, sealed_grid
from nanlab.study.trust import check_lies_here, is_allowed

if TYPE_CHECKING:
    from nanlab.cli.progress import ProgressBar

_STOPPED = f"stopped; {RESUMES}"


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Run a share of a study that python -m nanlab.sweep prepared with exec.engine = "files"."""

    results: Annotated[Path, tyro.conf.Positional]
    """the study's folder, for example results/quickstart"""
    shard: Annotated[str, tyro.conf.arg(metavar="I/N")]
    """the share to run: 0/8 to 7/8 for eight workers"""
    trust: bool = False
    """run code that the folder names and that does not lie in the working directory"""


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    try:
        return _main(argv)
    except KeyboardInterrupt:
        print(f"\n{_STOPPED}", file=sys.stderr)
        return STOPPED


def _main(argv: list[str] | None) -> int:
    arguments = tyro.cli(
        Arguments, prog="python -m nanlab.worker", args=argv, config=(tyro.conf.FlagCreatePairsOff,)
    )
    folder = arguments.results
    try:
        shard = _shard(arguments.shard)
        resolved = when_still(folder, lambda: prepared_grid(folder))
        if resolved is None:
            return _unprepared(folder)
        grid = load_grid(folder / CHUNKS / PLAN)
        if grid.source.text != sealed_grid(resolved):
            raise ReportError(f"{folder}: another study has just been prepared; start again")
        plan = make_plan(grid)
        if not (arguments.trust or is_allowed(lambda: check_lies_here(plan, folder))):
            return WRONG
        return _work(grid, plan, folder, shard)
    except (GridError, ReportError, ValueError) as error:
        print(error, file=sys.stderr)
        return WRONG
    except MemoryError as error:
        # The message suggests --set, which is a flag of the sweep command.
        way = "; python -m nanlab.sweep takes that flag, and prepares the study again"
        print(f"{folder}: {error}{way if '--set' in str(error) else ''}", file=sys.stderr)
        return WRONG


def _shard(text: str) -> tuple[int, int]:
    number, slash, of = text.partition("/")
    if not (slash and number.isdecimal() and of.isdecimal() and int(number) < int(of)):
        raise ValueError(f"--shard {text}: must be i/n with i from 0 to n - 1, such as 0/8")
    return int(number), int(of)


def _unprepared(folder: Path) -> int:
    if (folder / MANIFEST).exists():
        read_manifest(folder)  # raises ReportError if it is damaged
        print(f"{folder} is finished: there is nothing left to run")
        return DONE
    lost = folder / CHUNKS / PLAN if (folder / CHUNKS).is_dir() else folder / MANIFEST
    if lost.parent != folder or (folder / "runs.parquet").exists():
        raise ReportError(f"{lost} is missing; {REPAIR}")
    print(
        f"{folder} holds no prepared study: python -m nanlab.sweep prepares one, with "
        'exec.engine = "files"',
        file=sys.stderr,
    )
    return WRONG


def _work(grid: Grid, plan: Plan, folder: Path, shard: tuple[int, int]) -> int:
    from nanlab.cli.progress import ProgressBar
    from nanlab.problems.user_code import UserCodeError
    from nanlab.results.environments import DevicesError
    from nanlab.results.errors import FolderError, StoreError
    from nanlab.results.ownership import owned
    from nanlab.study.chunk_runner import NotRepeatableError
    from nanlab.study.shared_folder import discount_attempts

    def stopped() -> str:
        progress.__exit__()
        # SIGKILL may follow SIGTERM before the launch ends, which is not the chunk's fault.
        discount_attempts()
        return _STOPPED

    try:
        with ProgressBar() as progress, owned(folder, "worker"):
            return interruptibly(lambda: _run_chunks(grid, plan, folder, shard, progress), stopped)
    except (DevicesError, FolderError, NotRepeatableError, UserCodeError) as error:
        print(f"{folder}: {error}", file=sys.stderr)
        return WRONG
    except StoreError as error:
        print(error, file=sys.stderr)
        return CRASHED


def _run_chunks(
    grid: Grid, plan: Plan, folder: Path, shard: tuple[int, int], progress: ProgressBar
) -> int:
    from nanlab.backend.config import lab_devices
    from nanlab.problems.build import user_specs
    from nanlab.results.environments import join
    from nanlab.study.chunk_runner import chunk_runner_on
    from nanlab.study.chunks import Crash
    from nanlab.study.shared_folder import pieces_of, share, work

    options, (number, of) = grid.exec, shard
    study_pieces = pieces_of(plan, options.chunk_runs)
    pieces = share(study_pieces, number, of)
    if not pieces:
        chunks = len(study_pieces)
        print(f"shard {number}/{of} of {folder} is empty: the study has {chunks:,} chunks")
        return DONE
    curves, mixed = options.curves, options.mixed_devices
    devices = lab_devices(options.devices)
    runner, store, environment = chunk_runner_on(
        folder, user_specs(plan), devices, curves=curves, mixed=mixed
    )
    join(store.chunks, environment, mixed=mixed)
    store.unpack(plan.run_ids, curves=curves)
    done = store.stored(plan.run_ids, curves=curves).done
    for chunk in store.damaged:
        progress.damaged(chunk)
    total = sum(len(piece.runs) for piece in pieces)
    entered, crashed = set[int](), 0
    progress.started(total, sum(int(done[piece.runs].sum()) for piece in pieces))
    for piece, run in work(plan, pieces, done, runner, store):
        if piece.group not in entered:
            entered.add(piece.group)
            progress.entered(plan.groups[piece.group], piece.group, len(plan.groups))
        report = run()
        if isinstance(report, Crash):
            crashed += report.runs
            progress.crashed(report.runs, report.error)
        else:
            progress.advanced(report.runs, report.failed)
    print(f"shard {number}/{of} of {folder}: {total - crashed:,} of {total:,} runs are stored")
    return CRASHED if crashed else DONE


if __name__ == "__main__":
    # Job schedulers send SIGTERM first; handle it like Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    allow_closed_output()
    sys.exit(main())
