"""Who is writing to a results folder: one sweep, or any number of workers.

Each process that writes has a file of its own in `.owners/`, and touches it every `HEARTBEAT_S`
seconds. An owner is alive if its process exists (same machine), or if its heartbeat is not older
than `STALE_S` (another machine that sees the folder). Ages are measured with the clock of the file
system, so that machines need not agree on the time.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import random
import threading
import time
from collections.abc import Generator, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from nanlab.results.errors import FolderError, reason_of
from nanlab.results.files import outward_link, remove, sealed, unsealed

OWNERS = ".owners"
HEARTBEAT_S = 10.0
STALE_S = 60.0
_ATTEMPTS = 40

Role = Literal["sweep", "worker", "collect", "report"]
_TOGETHER = (
    {"worker"}, {"worker", "collect"}, {"report", "sweep"}, {"report", "worker"},
    {"report", "collect"},
)  # fmt: skip


_MINE = set[Path]()
"""The files of this process."""


class BusyError(FolderError):
    """Another process writes to the folder; the message says which, and what to do."""


@dataclass(frozen=True, kw_only=True)
class Owner:
    """A process that writes to a results folder.

    Attributes:
        role: "sweep" owns the tables alone; "worker" shares them with other workers and with one
            "collect", a sweep that gathers what they have computed; "report" owns the report.
        host: name of the machine.
        process: process id there.
        started: when the process started, in clock ticks since the machine's boot; 0 if unknown.
            It tells a process from a later one that got the same id.
        since: when it began to write, ISO 8601, UTC.
        is_settled: False while the process is still finding out whether it may write.
    """

    role: Role
    host: str
    process: int
    started: int
    since: str
    is_settled: bool

    @property
    def is_this_process(self) -> bool:
        """Whether it is this process."""
        return (self.host, self.process) == (_host(), os.getpid())


@contextlib.contextmanager
def owned(folder: Path, role: Role, *, wait_s: float = 0.0) -> Generator[None]:
    """Own a results folder for as long as the context is open.

    Args:
        folder: the results folder, created if it does not exist.
        role: what this process does there.
        wait_s: how long to wait for another process that owns it.

    Yields:
        Nothing.

    Raises:
        BusyError: another process owns the folder.
        FolderError: the folder cannot be created or written to.
    """
    owners = Path(os.path.realpath(folder)) / OWNERS
    if (link := outward_link(folder)) is not None:
        raise FolderError(f"{link}: it is a link that leads out of the results folder; delete it")
    path = owners / f"{_host()}-{os.getpid()}-{threading.get_ident():x}-{time.time_ns():x}.json"
    _MINE.add(path)
    try:
        _acquire(folder, path, role, time.monotonic() + wait_s)
    except OSError as error:
        _leave(path)
        raise FolderError(
            f"cannot write {folder}: {reason_of(error)}; --out names another folder"
        ) from error
    except BaseException:
        _leave(path)
        raise
    stop = threading.Event()
    heart = threading.Thread(target=_beat, args=(path, stop), daemon=True)
    heart.start()
    try:
        yield
    finally:
        stop.set()
        heart.join()
        _leave(path)


def leave_all() -> None:
    """Give up every folder that this process owns, because it is about to end."""
    for path in list(_MINE):
        _leave(path)


def _leave(path: Path) -> None:
    _MINE.discard(path)
    with contextlib.suppress(OSError):
        os.unlink(path)
        os.rmdir(path.parent)  # fails, as it should, while another worker is there


def live_owner(folder: Path) -> Owner | None:
    """Return a process that writes to the tables of `folder` now, if there is one."""
    owners = Path(os.path.realpath(folder)) / OWNERS
    if owners.is_symlink() or not owners.is_dir():
        return None
    writing = (owner for _, owner in _others(owners, None) if owner.role != "report")
    owner = next(writing, None)
    with contextlib.suppress(OSError):
        os.rmdir(owners)  # the last owner could not, while this process looked
    return owner


def _acquire(folder: Path, path: Path, role: Role, until: float) -> None:
    """Become an owner.

    Each contender first announces itself, then looks for others. Whoever sees nobody settles; two
    that see each other both withdraw and retry after a random time. So no two can both settle.

    Raises:
        BusyError: another process owns the folder.
    """
    attempts = 0
    while attempts < _ATTEMPTS or time.monotonic() < until:
        attempts += 1
        _write(path, _myself(role, is_settled=False))
        others = [
            owner for _, owner in _others(path.parent, path) if {role, owner.role} not in _TOGETHER
        ]
        if not others:
            _write(path, _myself(role, is_settled=True))
            return
        path.unlink(missing_ok=True)
        settled = [owner for owner in others if owner.is_settled]
        if settled and time.monotonic() >= until:
            raise BusyError(
                f"{folder}: {sentence_about(settled[0])}; wait until it ends, stop it, or name "
                "another folder with --out"
            )
        time.sleep(random.uniform(0.02, 0.2))
    raise BusyError(f"{folder}: several processes contend for this folder; start one of them again")


def sentence_about(owner: Owner) -> str:
    """Return what an owner does, and which process it is."""
    here = "" if owner.host == _host() else f" on {owner.host}"
    what = {"worker": "a worker is writing", "report": "a report is being written"}
    return (
        f"{what.get(owner.role, 'a sweep is writing')} to this folder (process {owner.process}"
        f"{here}, since {owner.since})"
    )


def _others(owners: Path, mine: Path | None) -> Iterator[tuple[Path, Owner]]:
    """Yield the owners that are alive, and delete the files of those that are not."""
    try:
        paths = sorted(owners.glob("*.json"))
    except OSError:
        return
    now = _now_there(owners) if any(path != mine for path in paths) else 0.0
    for path in paths:
        if path == mine:
            continue
        try:
            owner = Owner(**unsealed(path.read_bytes()))
            age = now - path.stat().st_mtime
        except FileNotFoundError:
            continue  # it has just ended
        except (OSError, ValueError, TypeError) as error:
            with contextlib.suppress(OSError):
                # A file that is being written, or is left half-written by a full disk.
                if now - path.stat().st_mtime > STALE_S:
                    remove([path])
                    continue
            # A contender replaces its file in one piece: a damaged one is not about to change.
            yield path, _unreadable(path, is_settled=not isinstance(error, OSError))
            continue
        # This process may not have been able to delete its file.
        is_left = owner.is_this_process and path not in _MINE
        if _is_alive(owner, age) and not is_left:
            yield path, owner
        else:
            remove([path])


def _is_alive(owner: Owner, age: float) -> bool:
    if owner.host != _host() or type(owner.process) is not int:
        return age <= STALE_S
    try:
        os.kill(owner.process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return age <= STALE_S
    started = _started(owner.process)
    return started == owner.started if started and owner.started else age <= STALE_S


def _myself(role: Role, *, is_settled: bool) -> Owner:
    return Owner(
        role=role,
        host=_host(),
        process=os.getpid(),
        started=_started(os.getpid()),
        since=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        is_settled=is_settled,
    )


def _unreadable(path: Path, *, is_settled: bool) -> Owner:
    host, _, rest = path.name.partition("-")
    process = rest.partition("-")[0]
    number = int(process) if process.isdecimal() else 0
    return Owner(
        role="sweep",
        host=host,
        process=number,
        started=0,
        since=f"an unknown time: {path} is damaged",
        is_settled=is_settled,
    )


def _write(path: Path, owner: Owner) -> None:
    partial = path.with_suffix(".new")
    for attempt in range(_ATTEMPTS):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text(json.dumps(sealed(asdict(owner))), encoding="utf-8")
            os.replace(partial, path)
            return
        except (FileNotFoundError, FileExistsError):  # another owner has just removed the folder
            if attempt == _ATTEMPTS - 1:
                raise


def _now_there(owners: Path) -> float:
    """Return the time by the clock that stamps files in this folder."""
    probe = owners / f"clock-{_host()}-{os.getpid()}-{threading.get_ident():x}"
    try:
        probe.touch()
        return probe.stat().st_mtime
    except OSError:
        return time.time()  # readers may not be allowed to write there
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)


def _beat(path: Path, stop: threading.Event) -> None:
    while not stop.wait(HEARTBEAT_S):
        with contextlib.suppress(OSError):
            os.utime(path)


def _started(process: int) -> int:
    """Return when a process started, in clock ticks since boot (Linux); 0 elsewhere, -1 if dead."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
        state, *fields = stat.rpartition(")")[2].split()
        # A zombie has ended; its parent has not collected its status yet.
        return -1 if state in "ZX" else int(fields[18])
    except (OSError, ValueError, IndexError):
        return 0


def _host() -> str:
    return "".join(c if c.isalnum() or c == "." else "_" for c in platform.node()) or "here"
