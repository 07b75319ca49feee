"""Who comes first at a study: one alone, also where no hard links are, and on a full disk none."""

import errno
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import pytest
from sampled import sampled

from nanlab.grid import load_grid
from nanlab.plan.plan import make_plan
from nanlab.results import environments as store_devices
from nanlab.results.environments import FIRST, DevicesError, device_name, join, sign
from nanlab.results.errors import StoreError
from nanlab.results.files import sealed, unsealed
from nanlab.study.executors import executor_of

STUDIES, MACHINES = 10, 4


def machine(name):
    return {"platform": "cpu", "processor": name, "threads": 2, "jax": "1"}


def refusing(code):
    def refuse(*_, **__):
        raise OSError(code, os.strerror(code))

    return refuse


def first_of(folder):
    """The environment that came first, without the hash that seals it."""
    content = (folder / FIRST).read_bytes()
    assert sealed(unsealed(content)) == json.loads(content)
    return unsealed(content)


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(params=["links", "no links"])
def linking(request, monkeypatch):
    if request.param == "no links":
        monkeypatch.setattr(os, "link", refusing(errno.EOPNOTSUPP))
    return request.param


# They meet at each study: nobody joins before all are there.
MEETING = """
import errno, os, sys, time
from pathlib import Path
from nanlab.results.environments import join
me, without_links, studies, machines = sys.argv[1], sys.argv[2].split(), *map(int, sys.argv[3:])
machine = {"platform": "cpu", "processor": me, "threads": 2, "jax": "1"}
def refuse(*_, **__):
    raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
if me in without_links:
    os.link = refuse
for number in range(studies):
    study = Path(f"study{number}")
    Path(study, f"here-{me}").touch()
    while len(list(study.glob("here-*"))) < machines:
        time.sleep(0.0005)
    try:
        join(study, machine, mixed=False)
        print(study, "taken")
    except Exception as error:  # the others do not wait for it at the next
        print(study, error)
assert "jax" not in sys.modules
"""


@pytest.mark.parametrize("without_links", sampled(["0 1", "0 1 2 3"], 2))
def test_of_several_machines_at_once_one_alone_comes_first_without_links_too(without_links):
    for number in range(STUDIES):
        Path(f"study{number}").mkdir()
    asked = [sys.executable, "-c", MEETING]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    running = [
        subprocess.Popen(
            [*asked, str(me), without_links, str(STUDIES), str(MACHINES)], text=True, **pipes
        )
        for me in range(MACHINES)
    ]
    try:
        ended = [each.communicate(timeout=60) for each in running]
    finally:
        for each in running:
            each.kill()
    assert [each.returncode for each in running] == [0] * MACHINES, ended
    said = [out.splitlines() for out, _ in ended]
    for number, told in enumerate(zip(*said, strict=True)):
        study = Path(f"study{number}")
        (first,) = [me for me, line in enumerate(told) if line == f"{study} taken"]
        assert first_of(study) == machine(str(first))
        refused = f"{study} this study is computed on {device_name(machine(str(first)))}, "
        assert all(line.startswith(refused) for me, line in enumerate(told) if me != first)
        left = {path.name for path in study.iterdir() if not path.name.startswith("here-")}
        assert left - {FIRST} == {path.name for path in study.glob("devices-*.json")}


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOTSUP, errno.ENOSYS])
def test_whatever_error_says_that_there_are_no_links_a_worker_goes_on(
    code, own_folder, monkeypatch
):
    monkeypatch.setattr(os, "link", refusing(code))
    join(own_folder, machine("one"), mixed=False)
    join(own_folder, machine("one"), mixed=False)
    assert first_of(own_folder) == machine("one")
    with pytest.raises(DevicesError, match=r"is computed on one \(2 threads\)"):
        join(own_folder, machine("two"), mixed=False)


@pytest.mark.parametrize("written", [0, 30])
def test_a_word_that_is_half_written_is_waited_for(written, own_folder, linking):
    path, text = own_folder / FIRST, json.dumps(machine("one"))
    path.write_text(text[:written])

    def finish():
        time.sleep(0.5)
        path.write_text(text)

    other = threading.Thread(target=finish)
    other.start()
    with pytest.raises(DevicesError, match=r"is computed on one \(2 threads\)"):
        join(own_folder, machine("two"), mixed=False)
    other.join()
    assert names_in(own_folder) == [FIRST]


def test_who_waits_for_a_word_that_is_taken_back_comes_first(own_folder, linking):
    path = own_folder / FIRST
    path.write_text("{")
    threading.Timer(0.3, path.unlink).start()
    join(own_folder, machine("two"), mixed=False)
    assert first_of(own_folder) == machine("two")


def test_a_word_that_nobody_finishes_is_a_sentence_that_says_what_to_do(
    own_folder, linking, monkeypatch
):
    monkeypatch.setattr(store_devices, "WHOLE_S", 0.3)
    (own_folder / FIRST).write_text('{"platform": "cp')
    with pytest.raises(DevicesError, match=r"devices\.json is incomplete: .* Delete it"):
        join(own_folder, machine("two"), mixed=False)
    assert names_in(own_folder) == [FIRST]
    (own_folder / FIRST).unlink()
    join(own_folder, machine("two"), mixed=False)


def test_a_full_disk_is_a_sentence_and_leaves_nothing_to_wait_for(own_folder, linking, monkeypatch):
    # What is written to a full disk may be refused as late as when it is flushed.
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refusing(errno.ENOSPC))
        with pytest.raises(StoreError, match="no space left on device; what is finished is stored"):
            join(own_folder, machine("one"), mixed=False)
    # Through a link a whole word was given before this machine was to sign.
    assert names_in(own_folder) == ([FIRST] if linking == "links" else [])
    join(own_folder, machine("one"), mixed=False)


# The system's own refusal: a file may not grow beyond 20 bytes.
TOO_LARGE = """
import os, resource, signal, sys
from pathlib import Path
from nanlab.results.errors import StoreError
from nanlab.results.files import sealed, unsealed
from nanlab.results.environments import join
machine = {"platform": "cpu", "processor": "one", "threads": 2, "jax": "1"}
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20, resource.RLIM_INFINITY))
try:
    join(Path("x"), machine, mixed=False)
except StoreError as error:
    print(error)
"""


def test_the_systems_own_refusal_is_a_sentence_and_leaves_no_partial(own_folder):
    Path("x").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", TOO_LARGE], capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.stdout.startswith(f"cannot write {Path('x', FIRST)}: file too large"), done.stderr
    assert names_in(Path("x")) == []


def test_a_word_that_may_not_be_read_is_a_sentence(own_folder):
    (own_folder / FIRST).mkdir()
    with pytest.raises(DevicesError, match=r"cannot read .*devices\.json: is a directory"):
        join(own_folder, machine("one"), mixed=False)


def test_signing_on_a_full_disk_is_a_sentence_wherever_a_study_begins(own_folder, monkeypatch):
    Path("grid.toml").write_text(
        '[run]\nproblem = "quadratic"\n\n[axes]\nlr = [0.1]\n\n[exec]\nmixed_devices = true\n'
    )
    grid = load_grid(Path("grid.toml"))
    chunks = own_folder / "x" / ".chunks"
    monkeypatch.setattr(os, "fsync", refusing(errno.ENOSPC))
    with pytest.raises(StoreError, match=r"cannot write .*: no space left on device"):
        executor_of(grid, make_plan(grid), Path("x"), jax.devices(), "local")
    with pytest.raises(StoreError, match=r"cannot write .*: no space left on device"):
        sign(chunks, machine("one"))
    assert names_in(chunks) == []
