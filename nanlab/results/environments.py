"""Which machines may work on a study: those with the same software and kind of device.

If several machines share a study, the first one determines the kind of device. Another kind rounds
differently: it is refused, or, with `mixed_devices`, its rows are marked in the table.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from nanlab.results.errors import reason_of, writing
from nanlab.results.files import partial_of, remove, sealed, unsealed, write_text
from nanlab.results.provenance import IRRELEVANT, fingerprint

Environment = Mapping[str, Any]

KIND = (
    "platform", "device_kind", "processor", "threads", "system", "block", "block_bytes",
    "flushes_subnormals", "product_bits",
)  # fmt: skip
"""Entries that may differ between the machines of a study with `mixed_devices`."""

FIRST = "devices.json"

WHOLE_S = 30.0
"""Timeout for the first machine's file to become readable on a shared file system."""

_POLL_S = 0.2


class DevicesError(Exception):
    """A machine may not work on a study; the message is a sentence for the user."""


def device_name(environment: Environment) -> str:
    """Return a readable name of the device: the accelerator, or processor and threads."""
    if environment["platform"] != "cpu":
        return str(environment["device_kind"])
    return f"{environment['processor']} ({environment.get('threads')} threads)"


def is_same_software(one: Environment, other: Environment) -> bool:
    """Return whether two environments differ only in their devices."""
    return not _differences(one, other, but=KIND)


def _differences(one: Environment, other: Environment, *, but: tuple[str, ...]) -> list[str]:
    names = sorted((one.keys() | other.keys()) - set(but) - set(IRRELEVANT))
    return [name for name in names if one.get(name) != other.get(name)]


def check_alike(first: Environment, mine: Environment, *, mixed: bool) -> None:
    """Check that results from this machine may join those of the first machine.

    Args:
        first: environment of the first machine that worked on the study.
        mine: environment of this machine.
        mixed: whether several kinds of devices are allowed.

    Raises:
        DevicesError: they may not.
    """
    names = _differences(first, mine, but=KIND)
    if names:
        differences = "; ".join(
            f"{n} is {_shown(mine, n)} here and {_shown(first, n)} there" for n in names
        )
        raise DevicesError(
            f"this machine's software differs from that of the study's first machine: "
            f"{differences}. Install the same versions on both, or start over with --force"
        )
    if mixed or fingerprint(dict(first)) == fingerprint(dict(mine)):
        return
    raise DevicesError(
        f"this study is computed on {device_name(first)}, and this machine has "
        f"{device_name(mine)}, which may round differently; exec.mixed_devices = true allows both, "
        "and adds a column `device` to the table of runs"
    )


def _shown(environment: Environment, name: str) -> str:
    value = environment.get(name)
    if isinstance(value, str) and len(value) > 32 and value.isalnum():
        return value[:12]
    return json.dumps(value)


def sign(chunks: Path, environment: Environment) -> None:
    """Write this machine's environment into the folder of the chunks."""
    path = chunks / f"devices-{fingerprint(dict(environment))}.json"
    with writing(path):
        write_text(path, json.dumps(dict(environment), indent=1))


def signed(chunks: Path) -> dict[str, dict[str, Any]]:
    """Return the environments that were written by `sign`, by fingerprint."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(chunks.glob("devices-*.json")):
        name = path.stem.removeprefix("devices-")
        with suppress(OSError, ValueError, KeyError):  # a damaged one is of no machine
            environment = unsealed(path.read_bytes())
            if fingerprint(environment) == name and device_name(environment):
                found[name] = environment
    return found


def join(chunks: Path, environment: Environment, *, mixed: bool) -> None:
    """Join the machines that work on a study.

    Args:
        chunks: the folder of its chunks.
        environment: the environment of this machine.
        mixed: whether several kinds of devices are allowed.

    Raises:
        DevicesError: this machine may not work on it.
        StoreError: its environment cannot be written.
    """
    path, text = chunks / FIRST, json.dumps(sealed(environment))
    until = time.monotonic() + WHOLE_S
    while (first := first_environment(chunks)) is None:
        if _comes_first(path, text):
            continue
        if time.monotonic() > until:
            raise DevicesError(
                f"{path} is incomplete: the process that wrote it was stopped. Delete it and run "
                "the same command again"
            )
        time.sleep(_POLL_S)
    check_alike(first, environment, mixed=mixed)
    sign(chunks, environment)


def first_environment(chunks: Path) -> dict[str, Any] | None:
    """Read the environment of the first machine.

    Returns:
        The environment; None if there is no such file yet, or it is only partly written.

    Raises:
        DevicesError: the file cannot be read.
    """
    path = chunks / FIRST
    try:
        # A prefix of a JSON object is never valid JSON, so what parses is complete.
        return unsealed(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    except OSError as error:
        raise DevicesError(f"cannot read {path}: {reason_of(error)}") from error


def _comes_first(path: Path, text: str) -> bool:
    """Create this file unless it exists; return whether it was created."""
    partial = partial_of(path)
    with writing(path):
        try:
            partial.write_text(text, encoding="utf-8")
            return _links(partial, path) or _creates(path, text)
        except FileExistsError:
            return False
        finally:
            remove([partial])


def _links(partial: Path, path: Path) -> bool:
    """Hard-link a complete file to its name.

    Returns:
        True if linked, False if the file system has no hard links.

    Raises:
        FileExistsError: there is a file of that name.
    """
    try:
        # Unlike a rename, a link never replaces the file of another machine.
        os.link(partial, path)
    except FileExistsError:
        raise
    except OSError:
        # Every file system without hard links has its own error. After any other, such as a full
        # disk, creating the file fails too, with the right message.
        return False
    return True


def _creates(path: Path, text: str) -> bool:
    """Create a file exclusively, without hard links.

    Exactly one machine succeeds, even if others use hard links. A rename could replace another
    machine's file, and a lock could outlive its holder. Readers retry until the JSON parses.

    Returns:
        True.

    Raises:
        FileExistsError: there is a file of that name.
    """
    file = path.open("x", encoding="utf-8")
    try:
        with file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        # An incomplete file would keep all other machines waiting.
        path.unlink(missing_ok=True)
        raise
    return True
