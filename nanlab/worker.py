"""results/X, shard -> chunks: `python -m nanlab.worker results/X --shard i/n`, one of n processes.

Each runs its share of a study that `python -m nanlab.sweep` has prepared with
`exec.engine = "files"`. They need nothing but the folder. The sweep command then writes the
tables.

Exit status: 0 all chunks of the shard are there, 1 one of them crashed or could not be written,
2 the study is not prepared, is too large for the memory, or may not be computed here, 130 stopped
by Ctrl-C.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from nanlab.grid import Grid, GridError, load_grid
from nanlab.interruptible import STOPPED
from nanlab.plan import Plan, make_plan

DONE, CRASHED, WRONG = 0, 1, 2


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Run a share of a study that python -m nanlab.sweep prepared with exec.engine = "files"."""

    results: Annotated[Path, tyro.conf.Positional]
    """the study's folder, for example results/quickstart"""
    shard: Annotated[str, tyro.conf.arg(metavar="I/N")]
    """which share: 0/8 to 7/8 are those of eight workers"""


def main(argv: list[str] | None = None) -> int:
    """Run the command; the exit status."""
    try:
        return _main(argv)
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from there", file=sys.stderr)
        return STOPPED


def _main(argv: list[str] | None) -> int:
    arguments = tyro.cli(Arguments, prog="python -m nanlab.worker", args=argv)
    folder = arguments.results
    path = folder / ".chunks" / "grid.resolved.toml"
    try:
        shard = _shard(arguments.shard)
        if not path.is_file():
            return _unprepared(folder)
        grid = load_grid(path)
        return _work(grid, make_plan(grid), folder, shard)
    except (GridError, ValueError) as error:
        print(error, file=sys.stderr)
        return WRONG
    except MemoryError as error:
        print(f"{folder}: {error}", file=sys.stderr)
        return WRONG


def _shard(text: str) -> tuple[int, int]:
    number, slash, of = text.partition("/")
    if not (slash and number.isdecimal() and of.isdecimal() and int(number) < int(of)):
        raise ValueError(f"--shard {text}: must be i/n with i from 0 to n - 1, such as 0/8")
    return int(number), int(of)


def _unprepared(folder: Path) -> int:
    if (folder / "manifest.json").is_file():
        print(f"{folder} is finished: there is nothing left to run")
        return DONE
    print(
        f"{folder} holds no study that is prepared: python -m nanlab.sweep prepares one, with "
        'exec.engine = "files"',
        file=sys.stderr,
    )
    return WRONG


def _work(grid: Grid, plan: Plan, folder: Path, shard: tuple[int, int]) -> int:
    """Run the shard's chunks, one after another."""
    from nanlab.chunks import Crash
    from nanlab.chunks_bench import bench_at
    from nanlab.lab import lab_devices
    from nanlab.own import OwnCodeError
    from nanlab.problems import own_specs
    from nanlab.shards import pieces_of, work
    from nanlab.store import FolderError, StoreError
    from nanlab.store_devices import DevicesError, join
    from nanlab.terminal import Watcher

    how, (number, of) = grid.exec, shard
    curves, mixed = how.curves, how.mixed_devices
    try:
        devices = lab_devices(how.devices)
        bench, store, made = bench_at(folder, own_specs(plan), devices, curves=curves, mixed=mixed)
        join(store.chunks, made, mixed=mixed)
        store.unpack(plan.run_ids, curves=curves)
        done = store.kept(plan.run_ids, curves=curves).done
        pieces = pieces_of(plan, how.chunk_runs)[number::of]
        total = sum(len(piece.runs) for piece in pieces)
        entered, crashed = set[int](), 0
        with Watcher() as watcher:
            watcher.started(total, sum(int(done[piece.runs].sum()) for piece in pieces))
            for piece, run in work(plan, pieces, done, bench, store):
                if piece.group not in entered:
                    entered.add(piece.group)
                    watcher.entered(plan.groups[piece.group], piece.group, len(plan.groups))
                report = run()
                if isinstance(report, Crash):
                    crashed += report.runs
                    watcher.crashed(report.runs, report.error)
                else:
                    watcher.advanced(report.runs, report.failed)
    except (DevicesError, FolderError, OwnCodeError) as error:
        print(f"{folder}: {error}", file=sys.stderr)
        return WRONG
    except StoreError as error:
        print(error, file=sys.stderr)
        return CRASHED
    print(f"shard {number}/{of} of {folder}: {total - crashed:,} of {total:,} runs are there")
    return CRASHED if crashed else DONE


if __name__ == "__main__":
    sys.exit(main())
