"""Estimate the memory of a launch from shapes, without compiling: Problem -> bytes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

from nanlab.backend.jaxpr import Device
from nanlab.backend.machine import memory_left
from nanlab.engine.block_width import array_bytes, state_bytes, step_arrays
from nanlab.problems.problem import Problem

COPIES = 6
"""Copies of each lane's state: the launch's argument and result, the host's copy of those that
failed, and these three again while those are followed from their inf to their NaN. Measured: 5
where all lanes fail, 2 where none does."""


class Need(NamedTuple):
    """Memory of a launch.

    Attributes:
        each_lane: bytes for each lane.
        fixed: bytes for all lanes together.
    """

    each_lane: int
    fixed: int

    def launch(self, lanes: int) -> int:
        """Return the estimated peak of a launch, in bytes."""
        return self.each_lane * lanes + self.fixed

    def check(self, lanes: int, free: int | None, *, smallest: int) -> None:
        """Check that a launch fits.

        Args:
            lanes: lanes of the launch.
            free: free memory in bytes; None if unknown.
            smallest: lanes of the smallest launch.

        Raises:
            MemoryError: it does not fit; the sentence says what does.
        """
        if free is None or self.launch(lanes) <= free:
            return
        fits = (free - self.fixed) // self.each_lane
        raise MemoryError(
            f"a launch of {lanes:,} lanes needs about {in_words(self.launch(lanes))}, and "
            f"{in_words(free)} are free; {way_out(fits, smallest=smallest)}"
        )


def way_out(lanes: int, *, smallest: int) -> str:
    """Return the advice for a memory that fits `lanes`, if launches have at least `smallest`."""
    fits = lanes // smallest * smallest
    if fits > 0:
        return f"set exec.chunk_runs to {fits:,} or less (--set exec.chunk_runs={fits})"
    return (
        f"not even the smallest launch, of {smallest:,} lanes, fits; make the model or the batch "
        "smaller, or use fewer devices (--set exec.devices=1)"
    )


def is_lack_of_memory(error: Exception) -> bool:
    """Return whether an error of Python or XLA says that memory ran out."""
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)


def launch_need(problem: Problem, *, at_once: int) -> Need:
    """Estimate the memory of launches: the lanes' states, and the arrays of one block's step.

    Args:
        problem: the problem.
        at_once: lanes that run at the same time: a block on each device.

    Returns:
        An upper estimate: XLA reuses the buffers of some intermediates.
    """
    intermediates, constants = step_arrays(problem)
    step, data = (sum(map(array_bytes, arrays)) for arrays in (intermediates, constants))
    return Need(max(1, COPIES * state_bytes(problem)), step * at_once + data)


def available_bytes(devices: Sequence[Device]) -> int | None:
    """Return the free memory of all devices together in bytes; None if unknown."""
    if devices[0].platform != "cpu":
        stats = [device.memory_stats() or {} for device in devices]
        if any("bytes_limit" not in each for each in stats):
            return None
        free = [int(each["bytes_limit"]) - int(each.get("bytes_in_use", 0)) for each in stats]
        return min(free) * len(devices)  # launches are shared evenly
    known = [limit for limit in (_system_bytes(), memory_left()) if limit is not None]
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
    """Return a readable size, such as "3.2 GiB"."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            break
        count /= 1024
    return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
