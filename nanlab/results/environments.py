"""Environment -> who may work at a study: the same software, and the same kind of device.

Where several machines share a study, the first of them decides what kind of device it is of.
Another kind rounds differently: its rows are refused, or told apart in the table if they are
wanted.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nanlab.results.errors import reason_of, writing
from nanlab.results.files import partial_of, write_atomically
from nanlab.results.provenance import IRRELEVANT, fingerprint

Environment = Mapping[str, Any]

KIND = (
    "platform", "device_kind", "processor", "threads", "system", "block", "block_bytes",
    "flushes_subnormals", "product_bits",
)  # fmt: skip
"""What may differ between the devices of a study that is allowed to have several kinds."""

FIRST = "devices.json"

WHOLE_S = 30.0
"""How long the first machine's word may take to be seen whole, on a shared file system."""

_LOOK_S = 0.2


class DevicesError(Exception):
    """A machine may not work at a study; the message is a sentence for a person."""


def device_name(environment: Environment) -> str:
    """What a person calls the kind of device: its accelerator's name, or processor and threads."""
    if environment["platform"] != "cpu":
        return str(environment["device_kind"])
    return f"{environment['processor']} ({environment.get('threads')} threads)"


def is_same_software(one: Environment, other: Environment) -> bool:
    """Whether two environments differ in their devices alone."""
    return not _differences(one, other, but=KIND)


def _differences(one: Environment, other: Environment, *, but: tuple[str, ...]) -> list[str]:
    names = sorted((one.keys() | other.keys()) - set(but) - set(IRRELEVANT))
    return [name for name in names if one.get(name) != other.get(name)]


def check_alike(first: Environment, mine: Environment, *, mixed: bool) -> None:
    """See that what would be computed here can stand beside what the first machine computes.

    Args:
        first: the environment of the first machine that worked at the study.
        mine: that of this one.
        mixed: whether several kinds of devices are allowed.

    Raises:
        DevicesError: it cannot.
    """
    names = _differences(first, mine, but=KIND)
    if names:
        told = "; ".join(
            f"{n} is {_shown(mine, n)} here and {_shown(first, n)} there" for n in names
        )
        raise DevicesError(
            f"this machine computes with other software than the study's first: {told}. "
            "Install the same on both, or begin anew with --force"
        )
    if mixed or fingerprint(dict(first)) == fingerprint(dict(mine)):
        return
    raise DevicesError(
        f"this study is computed on {device_name(first)}, and this machine has "
        f"{device_name(mine)}, which may round differently; exec.mixed_devices = true allows both, "
        "and the table of runs then says which run was computed on which"
    )


def _shown(environment: Environment, name: str) -> str:
    value = environment.get(name)
    if isinstance(value, str) and len(value) > 32 and value.isalnum():
        return value[:12]
    return json.dumps(value)


def sign(chunks: Path, environment: Environment) -> None:
    """Leave word among the chunks of what this machine computes with.

    Raises:
        StoreError: it cannot be written.
    """
    path = chunks / f"devices-{fingerprint(dict(environment))}.json"
    text = json.dumps(dict(environment), indent=1)
    with writing(path):
        write_atomically(path, lambda p: p.write_text(text, encoding="utf-8"))


def signed(chunks: Path) -> dict[str, dict[str, Any]]:
    """The environments that have worked here, by their fingerprints."""
    found = sorted(chunks.glob("devices-*.json"))
    return {
        path.stem.removeprefix("devices-"): json.loads(path.read_text(encoding="utf-8"))
        for path in found
    }


def join(chunks: Path, environment: Environment, *, mixed: bool) -> None:
    """Begin to work at the study of which these are the chunks.

    Raises:
        DevicesError: this machine may not.
        StoreError: its word cannot be written.
    """
    path, text = chunks / FIRST, json.dumps(dict(environment))
    until = time.monotonic() + WHOLE_S
    while (first := first_environment(chunks)) is None:
        if _comes_first(path, text):
            continue
        if time.monotonic() > until:
            raise DevicesError(
                f"{path} is not whole: who began it was stopped. Delete it, and give the same "
                "command again"
            )
        time.sleep(_LOOK_S)
    check_alike(first, environment, mixed=mixed)
    sign(chunks, environment)


def first_environment(chunks: Path) -> dict[str, Any] | None:
    """That of the first machine; None where there is none, or not all of its word yet.

    Raises:
        DevicesError: its word cannot be read.
    """
    path = chunks / FIRST
    try:
        # The beginning of a JSON object is never JSON: what can be read is whole.
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    except OSError as error:
        raise DevicesError(f"cannot read {path}: {reason_of(error)}") from error


def _comes_first(path: Path, text: str) -> bool:
    """Make this file, unless there is one; whether it was made."""
    partial = partial_of(path)
    with writing(path):
        try:
            partial.write_text(text, encoding="utf-8")
            return _links(partial, path) or _creates(path, text)
        except FileExistsError:
            return False
        finally:
            partial.unlink(missing_ok=True)


def _links(partial: Path, path: Path) -> bool:
    """Give a whole file its name, unless there is one of that name; False: there are no links.

    Raises:
        FileExistsError: there is one.
    """
    try:
        # Unlike a rename, a link never takes the place of another's: there is one first.
        os.link(partial, path)
    except FileExistsError:
        raise
    except OSError:
        # Each file system without hard links has its own error. Was it another, such as a full
        # disk, then the file cannot be created either, and that says why.
        return False
    return True


def _creates(path: Path, text: str) -> bool:
    """Make a file where there are no hard links.

    Of several machines one alone creates it, also beside one that links. A rename would take the
    place of another's, and a lock would outlive who died with it. The others may see it half
    written, and wait until it is whole.

    Raises:
        FileExistsError: there is one.
    """
    file = path.open("x", encoding="utf-8")
    try:
        with file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        # It is this process's own: half a word would keep all the others waiting.
        path.unlink(missing_ok=True)
        raise
    return True
