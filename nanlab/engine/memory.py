"""Group -> bytes: what a launch will need, from shapes alone; nothing is compiled."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

from nanlab.backend.jaxpr import Device
from nanlab.backend.machine import memory_left
from nanlab.engine.block_width import array_bytes, state_bytes, step_arrays
from nanlab.problems.problem import Problem

COPIES = 6
"""Of each lane's state: the launch's own and its result, the host's copy of those that failed, and
these three again as they are followed from their inf to their NaN. Where all of a launch fails 5
were measured, where none does 2."""


class Need(NamedTuple):
    """What a launch needs: bytes for each of its lanes, and for all of it together."""

    each_lane: int
    fixed: int

    def launch(self, lanes: int) -> int:
        """About how many bytes a launch of so many lanes needs at its peak."""
        return self.each_lane * lanes + self.fixed

    def check(self, lanes: int, free: int | None, *, smallest: int) -> None:
        """See that a launch fits; `smallest` is how many lanes one has at least.

        Raises:
            MemoryError: it does not; the sentence says what does.
        """
        if free is None or self.launch(lanes) <= free:
            return
        fits = (free - self.fixed) // self.each_lane
        raise MemoryError(
            f"a launch of {lanes:,} lanes needs about {in_words(self.launch(lanes))}, and "
            f"{in_words(free)} are free; {way_out(fits, smallest=smallest)}"
        )


def way_out(lanes: int, *, smallest: int) -> str:
    """What to do where so many lanes fit the memory, and a launch has at least `smallest`."""
    fits = lanes // smallest * smallest
    if fits > 0:
        return f"set exec.chunk_runs to {fits:,} or less (--set exec.chunk_runs={fits})"
    return (
        f"not even the smallest launch, of {smallest:,} lanes, fits; make the model or the batch "
        "smaller, or use fewer devices (--set exec.devices=1)"
    )


def is_lack_of_memory(error: Exception) -> bool:
    """Whether it says that memory was not enough: Python's own, or XLA's by its words."""
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)


def launch_need(problem: Problem, *, at_once: int) -> Need:
    """About how much memory launches need.

    For each lane its state, and on each device the arrays of one block's step: all of them,
    although XLA uses some of their places again, so it errs on the large side.

    Args:
        problem: what runs.
        at_once: lanes that run at once: a block on each device.
    """
    arrays, constants = step_arrays(problem)
    step, data = (sum(map(array_bytes, each)) for each in (arrays, constants))
    return Need(max(1, COPIES * state_bytes(problem)), step * at_once + data)


def available_bytes(devices: Sequence[Device]) -> int | None:
    """The memory that is free for launches now, of all devices in bytes; None where nothing tells.

    CPU devices share the machine's, or what its container or job may take; of accelerators the
    fullest counts, since shares are even.
    """
    if devices[0].platform != "cpu":
        told = [device.memory_stats() or {} for device in devices]
        if any("bytes_limit" not in stats for stats in told):
            return None
        free = [int(stats["bytes_limit"]) - int(stats.get("bytes_in_use", 0)) for stats in told]
        return min(free) * len(devices)
    known = [each for each in (_system_bytes(), memory_left()) if each is not None]
    return min(known) if known else None


def _system_bytes() -> int | None:
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            fields = dict(line.split(":", 1) for line in lines)
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        pages = getattr(os, "sysconf_names", {})
        if "SC_PHYS_PAGES" not in pages:
            return None
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def in_words(count: int | float) -> str:
    """Bytes as a person reads them: "3.2 GiB"."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            break
        count /= 1024
    return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
