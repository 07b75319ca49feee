"""This machine's processor, and the cores and memory that this process may use."""

from __future__ import annotations

import contextlib
import math
import os
import platform
from functools import cache
from pathlib import Path

_VECTORS = ("avx512f", "avx2", "avx", "sve2", "sve", "asimd")
"""Vector instruction sets, the widest first: XLA compiles for the widest available."""

_GROUPS, _OWN_GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


@cache
def processor() -> str:
    """Return the processor's name, family, model and widest vectors, on which bits may depend."""
    # Cloud machines of several generations share the name "AMD EPYC".
    fields: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            fields.setdefault(name.strip().lower(), value.strip())
    flags = (fields.get("flags") or fields.get("features") or "").split()
    parts = [
        fields.get("model name") or platform.processor() or platform.machine(),
        *(f"{key} {fields[key]}" for key in ("cpu family", "model") if key in fields),
        next((vectors for vectors in _VECTORS if vectors in flags), ""),
    ]
    return ", ".join(part for part in parts if part)


def cores() -> int:
    """Return the number of cores that affinity and the container's quota allow this process."""
    quotas = [
        number
        for folder in _control_groups("cpu")
        for quota, period in [_quota(folder)]
        if quota and period and (number := math.ceil(quota / period)) > 0
    ]
    return min([schedulable_cores(), *quotas])


def schedulable_cores() -> int:
    """Return the number of cores of this process's affinity, as XLA counts them."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return allowed or 1


def memory_left() -> int | None:
    """Return the bytes that the container or job may still allocate; None if unlimited."""
    left: list[int] = []
    for folder in _control_groups("memory"):
        limit = _number(folder, "memory.max", "memory.limit_in_bytes")
        used = _number(folder, "memory.current", "memory.usage_in_bytes")
        if limit is None or used is None:
            continue
        # The kernel's cache of files counts as free.
        stat = dict(line.split() for line in _text(folder / "memory.stat").splitlines())
        files = stat.get("total_inactive_file") or stat.get("inactive_file") or 0
        left.append(limit - max(0, used - int(files)))
    return max(0, min(left)) if left else None


def _control_groups(controller: str) -> list[Path]:
    """Return the folders of this process's control groups (Linux, v1 and v2), innermost first."""
    # In a container its own group is the root, so some of these folders do not exist.
    found: list[Path] = []
    for line in _text(_OWN_GROUPS).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        root = _GROUPS / controller if controllers else _GROUPS
        own = root / path.lstrip("/")
        found += [own, *(parent for parent in own.parents if parent.is_relative_to(root))]
    return found


def _quota(folder: Path) -> tuple[int | None, int | None]:
    """Return the CPU time allowed in each period, and the period, in microseconds."""
    first, _, second = _text(folder / "cpu.max").partition(" ")
    if first:
        return _whole(first), _whole(second)
    return _number(folder, "cpu.cfs_quota_us"), _number(folder, "cpu.cfs_period_us")


def _number(folder: Path, *names: str) -> int | None:
    numbers = (_whole(_text(folder / name)) for name in names)
    return next((number for number in numbers if number is not None), None)


def _whole(text: str) -> int | None:
    """Return a control group's number; None for "max" and -1."""
    return int(text) if text.strip().isdecimal() else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
