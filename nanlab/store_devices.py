"""Environment -> who may work at a study: the same software, and the same kind of device.

Where several machines share a study, the first of them decides what kind of device it is of.
Another kind rounds differently: its rows are refused, or told apart in the table if they are
wanted.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nanlab.provenance import IRRELEVANT, fingerprint
from nanlab.tables import partial_of, write_atomically

Environment = Mapping[str, Any]

KIND = (
    "platform", "device_kind", "processor", "threads", "system", "block", "block_bytes",
    "flushes_subnormals", "product_bits",
)  # fmt: skip
"""What may differ between the devices of a study that is allowed to have several kinds."""

FIRST = "devices.json"


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
    """Leave word among the chunks of what this machine computes with."""
    path = chunks / f"devices-{fingerprint(dict(environment))}.json"
    text = json.dumps(dict(environment), indent=1)
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
    """
    path = chunks / FIRST
    partial = partial_of(path)
    partial.write_text(json.dumps(dict(environment)), encoding="utf-8")
    try:
        # Unlike a rename, a link never takes the place of another's: there is one first.
        os.link(partial, path)
    except FileExistsError:
        first = json.loads(path.read_text(encoding="utf-8"))
        check_alike(first, environment, mixed=mixed)
    finally:
        partial.unlink(missing_ok=True)
    sign(chunks, environment)
