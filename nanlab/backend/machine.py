"""This machine -> its processor, what this process may use of it, and where programs are kept."""

from __future__ import annotations

import contextlib
import math
import os
import platform
from functools import cache
from pathlib import Path

_VECTORS = ("avx512f", "avx2", "avx", "sve2", "sve", "asimd")
"""Vector instruction sets, the widest first: XLA compiles for the widest that there is."""


_GROUPS, _OWN_GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


@cache
def processor() -> str:
    """The processor's name, family and model, and its widest vectors: what bits may depend on.

    A name alone is not enough: machines in a cloud say "AMD EPYC" of several generations.
    """
    told: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            told.setdefault(name.strip().lower(), value.strip())
    flags = (told.get("flags") or told.get("features") or "").split()
    parts = [
        told.get("model name") or platform.processor() or platform.machine(),
        *(f"{key} {told[key]}" for key in ("cpu family", "model") if key in told),
        next((vectors for vectors in _VECTORS if vectors in flags), ""),
    ]
    return ", ".join(part for part in parts if part)


def cores() -> int:
    """How many cores this process may use: those it may run on, or fewer by a container's quota."""
    quotas = [
        number
        for folder in _control_groups("cpu")
        for quota, period in [_quota(folder)]
        if quota and period and (number := math.ceil(quota / period)) > 0
    ]
    return min([schedulable_cores(), *quotas])


def schedulable_cores() -> int:
    """How many cores this process may run on, as XLA counts them; a quota is not seen."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return allowed or 1


def memory_left() -> int | None:
    """How many bytes the container or the job may still take; None where nothing limits it.

    What the kernel keeps of files that were read, and can drop, counts as free.
    """
    left: list[int] = []
    for folder in _control_groups("memory"):
        limit = _number(folder, "memory.max", "memory.limit_in_bytes")
        used = _number(folder, "memory.current", "memory.usage_in_bytes")
        if limit is None or used is None:
            continue
        told = dict(line.split() for line in _text(folder / "memory.stat").splitlines())
        files = told.get("total_inactive_file") or told.get("inactive_file") or 0
        left.append(limit - max(0, used - int(files)))
    return max(0, min(left)) if left else None


def _control_groups(controller: str) -> list[Path]:
    """The folders of this process's control groups (Linux), its own first, of either version.

    A container sees its own as the root; what is not there is left out when it is read.
    """
    found: list[Path] = []
    for line in _text(_OWN_GROUPS).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        root = _GROUPS / controller if controllers else _GROUPS
        own = root / path.lstrip("/")
        found += [own, *(each for each in own.parents if each.is_relative_to(root))]
    return found


def _quota(folder: Path) -> tuple[int | None, int | None]:
    """Microseconds of the processors in each period, and the period."""
    first, _, second = _text(folder / "cpu.max").partition(" ")
    if first:
        return _whole(first), _whole(second)
    return _number(folder, "cpu.cfs_quota_us"), _number(folder, "cpu.cfs_period_us")


def _number(folder: Path, *names: str) -> int | None:
    told = (_whole(_text(folder / name)) for name in names)
    return next((number for number in told if number is not None), None)


def _whole(text: str) -> int | None:
    """A number of a control group; "max" and -1 are none."""
    return int(text) if text.strip().isdecimal() else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
