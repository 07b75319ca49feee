"""One sweep, or many workers, write to a results folder; a stale owner is nobody."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from nanlab.results import ownership
from nanlab.results.ownership import BusyError, live_owner, owned

pytestmark = pytest.mark.smoke

HOLD = """
import sys, time, pathlib
from nanlab.results.ownership import owned
with owned(pathlib.Path(sys.argv[1]), sys.argv[2]):
    print("in", flush=True)
    sys.stdin.read()
"""


def holder(folder, role):
    """A process that owns the folder until its input is closed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder), role],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout.readline() == "in\n"
    return process


@pytest.mark.parametrize(
    ("first", "second", "may"),
    [
        ("sweep", "sweep", False),
        ("sweep", "worker", False),
        ("worker", "sweep", False),
        ("worker", "worker", True),
    ],
)
def test_a_sweep_owns_a_folder_alone_and_workers_share_it(tmp_path, first, second, may):
    with holder(tmp_path, first) as process:
        assert live_owner(tmp_path).process == process.pid
        if may:
            with owned(tmp_path, second):
                pass
        else:
            sentence = rf"a {first} is writing .*process {process.pid}, since 20.*--out"
            with pytest.raises(BusyError, match=sentence), owned(tmp_path, second):
                pass
        process.stdin.close()
    with owned(tmp_path, second):
        assert live_owner(tmp_path).process == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_reports_take_turns_and_leave_the_tables_to_a_sweep(tmp_path):
    with holder(tmp_path, "report") as process:
        assert live_owner(tmp_path) is None
        with owned(tmp_path, "sweep"):
            pass
        sentence = rf"a report is being written .*process {process.pid}"
        with pytest.raises(BusyError, match=sentence), owned(tmp_path, "report", wait_s=0.3):
            pass
        threading.Timer(0.3, process.stdin.close).start()
        with owned(tmp_path, "report", wait_s=30):
            pass
    assert list(tmp_path.iterdir()) == []


def test_an_owner_whose_file_could_not_be_deleted_does_not_block_its_own_process(
    tmp_path, monkeypatch
):
    with monkeypatch.context() as patch, owned(tmp_path, "sweep"):
        patch.setattr(os, "unlink", lambda *_, **__: (_ for _ in ()).throw(OSError("full")))
    assert list((tmp_path / ".owners").iterdir())
    with owned(tmp_path, "sweep"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_an_owner_that_was_killed_is_nobody(tmp_path):
    process = holder(tmp_path, "sweep")
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()
    assert list((tmp_path / ".owners").glob("*.json"))
    with owned(tmp_path, "sweep"):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="Linux says how it is")
def test_an_owner_that_nobody_has_waited_for_is_nobody_too(tmp_path):
    process = holder(tmp_path, "sweep")
    process.kill()
    while ") Z " not in Path(f"/proc/{process.pid}/stat").read_text():
        time.sleep(0.01)
    with owned(tmp_path, "sweep"):
        pass
    process.stdin.close()
    process.stdout.close()
    process.wait()


def leave(folder, **about):
    """The file of an owner that this process only pretends to see."""
    (folder / ".owners").mkdir()
    known = {"role": "sweep", "host": "elsewhere", "process": 1, "started": 0,
             "since": "2026-01-01T00:00:00Z", "is_settled": True}  # fmt: skip
    path = folder / ".owners" / "elsewhere-1-0-0.json"
    path.write_text(json.dumps({**known, **about}))
    return path


def test_an_owner_on_another_machine_is_alive_as_long_as_its_heart_beats(tmp_path):
    path = leave(tmp_path)
    with pytest.raises(BusyError, match="on elsewhere"), owned(tmp_path, "worker"):
        pass
    old = time.time() - ownership.STALE_S - 5
    os.utime(path, (old, old))
    with owned(tmp_path, "worker"):
        pass


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="Linux says when it started")
def test_a_process_id_that_was_given_to_another_process_is_not_the_owner(tmp_path):
    leave(tmp_path, host=ownership._host(), process=os.getppid(), started=1)
    with owned(tmp_path, "sweep"):
        pass


def test_the_heart_beats(tmp_path, monkeypatch):
    monkeypatch.setattr(ownership, "HEARTBEAT_S", 0.05)
    with owned(tmp_path, "sweep"):
        (path,) = (tmp_path / ".owners").glob("*.json")
        os.utime(path, (1, 1))
        deadline = time.monotonic() + 10
        while path.stat().st_mtime < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert path.stat().st_mtime > 2


RACE = """
import sys, time, pathlib
from nanlab.results.ownership import BusyError, owned
folder = pathlib.Path(sys.argv[1])
for _ in range(15):
    try:
        with owned(folder, "sweep"):
            (folder / "held").touch(exist_ok=False)
            time.sleep(0.003)
            (folder / "held").unlink()
    except BusyError:
        time.sleep(0.001)
"""


def test_of_processes_that_race_no_two_own_the_folder_at_once(tmp_path):
    racing = [subprocess.Popen([sys.executable, "-c", RACE, str(tmp_path)]) for _ in range(4)]
    assert [process.wait() for process in racing] == [0] * 4


def test_a_damaged_file_of_an_owner_blocks_for_a_minute_at_most(tmp_path):
    path = leave(tmp_path)
    path.write_text("{")
    with pytest.raises(BusyError), owned(tmp_path, "sweep"):
        pass
    old = time.time() - ownership.STALE_S - 5
    os.utime(path, (old, old))
    with owned(tmp_path, "sweep"):
        pass
