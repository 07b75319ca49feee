"""Arrays on any device -> finite, inf or NaN, read when they are ready; nothing waits for them.

Small arrays are packed into one vector by a program of its own, right after the computation that
returned them. The vector is read on the host once it is ready, and it is the copy of those that a
later call donates. Larger arrays are read where they lie if that is the host's memory; elsewhere a
program returns one flag for each. None of this is part of the user's program, which would be
compiled differently with it. (A check inside it costs more, too.)
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nanlab.backend.finiteness import FINITE, NAN, array_code, code_of
from nanlab.blame.watch.arrays import (
    HostCopies,
    Pack,
    PackLayout,
    buffers,
    devices_read_on_host,
    lies_on_host,
    memory,
)

# As few small arrays are read where they lie.
_READ_WHERE_THEY_LIE = 3
# The packs in which the copy of a donated array is looked for.
_PACKS = 3


@contextmanager
def plain_settings() -> Generator[None]:
    """Switch off settings of the user that would stop or report what is run for the watch."""
    with ExitStack() as stack:
        for setting in (jax.debug_nans, jax.debug_infs, jax.disable_jit, jax.log_compiles):
            stack.enter_context(setting(False))
        stack.enter_context(jax.transfer_guard("allow"))
        yield


@dataclass(kw_only=True)
class OutputReading:
    """Outputs that are being read.

    Attributes:
        leaves: those that can be bad.
        on_host: arrays that are read where they lie.
        flags: whether other arrays are finite, on their device.
        waiting: what has to be ready.
        is_borrowed: whether the program's own arrays are read, which a later call may be given.
    """

    leaves: Sequence[Any]
    on_host: Sequence[Any] = ()
    flags: Sequence[Any] = ()
    waiting: Sequence[Any] = ()
    is_borrowed: bool = True

    @property
    def is_ready(self) -> bool:
        """Whether reading takes no time; a deleted array is ready."""
        return all(x.is_deleted() or x.is_ready() for x in self.waiting)


class OutputReader:
    """Reads whether arrays are finite, and copies those that are donated."""

    def __init__(self) -> None:
        self._codes = jax.jit(lambda leaves: [array_code(leaf) for leaf in leaves])
        self._copies = jax.jit(lambda leaves: [jnp.copy(leaf) for leaf in leaves])
        self._is_finite = jax.jit(lambda leaf: jnp.isfinite(leaf).all())
        self._packed = jax.jit(
            lambda groups: [jnp.concatenate([jnp.ravel(x) for x in group]) for group in groups]
        )
        self._packs = deque[Pack](maxlen=_PACKS)
        self._memory: dict[int, list[np.ndarray[Any, Any]]] = {}

    def begin(self, outputs: Sequence[Any], layout: PackLayout) -> OutputReading:
        """Start to read a computation's outputs; its reader runs nothing else meanwhile."""
        leaves = [outputs[i] for i in layout.inexact]
        arrays = [x for x in leaves if isinstance(x, jax.Array)]
        if len(arrays) < len(leaves) or not leaves or len(leaves[0].sharding.device_set) > 1:
            return OutputReading(leaves=leaves, on_host=leaves, waiting=arrays)
        small = [outputs[i] for group in layout.small for i in group]
        large = [outputs[i] for i in layout.large]
        packs = self._pack(outputs, layout) if len(small) > _READ_WHERE_THEY_LIE else []
        if devices_read_on_host(leaves[0].sharding):
            own = large if packs else [*large, *small]
            on_host = [*packs, *own]
            return OutputReading(
                leaves=leaves, on_host=on_host, waiting=on_host, is_borrowed=bool(own)
            )
        flags = [self._is_finite(x) for x in (*large, *(packs or small))]
        return OutputReading(leaves=leaves, flags=flags, waiting=flags, is_borrowed=False)

    def _pack(self, outputs: Sequence[Any], layout: PackLayout) -> list[Any]:
        vectors = self._packed([[outputs[i] for i in group] for group in layout.small])
        self._packs.append(Pack(outputs, layout, vectors))
        return vectors

    def finish(self, reading: OutputReading, original: Callable[[Any], Any]) -> int | None:
        """Wait for outputs and read them.

        Args:
            reading: what `begin` returned.
            original: returns a deleted array's copy; None if there is none.

        Returns:
            The worst of FINITE, INF and NAN; None if an array could not be read.
        """
        try:
            gone = [x for x in reading.on_host if isinstance(x, jax.Array) and x.is_deleted()]
            if not gone and all(map(_is_set, reading.flags)) and _are_finite(reading.on_host):
                return FINITE
        except Exception:  # a memory space, a layout or a type that has not been met yet
            return None
        leaves = [original(x) if is_deleted(x) else x for x in reading.leaves]
        return None if any(x is None for x in leaves) else self.code(leaves)

    def code(self, leaves: Sequence[Any]) -> int | None:
        """Return the worst of FINITE, INF and NAN; None if an array could not be read."""
        worst, on_device = FINITE, list[Any]()
        try:
            for leaf in leaves:
                found = buffers(leaf)
                if found is None:
                    on_device.append(leaf)
                    continue
                worst = max([worst, *(code_of(buffer) for buffer in found)])
                if worst == NAN:
                    return worst
            if on_device:
                with plain_settings():
                    worst = max([worst, *map(int, self._codes(on_device))])
        except Exception:  # as above
            return None
        return worst

    def copies(self, leaves: Sequence[Any]) -> Callable[[Any], Any]:
        """Copy arrays that are about to be donated; returns a function that finds a copy."""
        packs, missing = tuple(self._packs)[::-1], list(leaves)
        for pack in packs:
            missing = pack.lacks(missing) if missing else missing
        in_memory = [x for x in missing if lies_on_host(x)]
        on_device = [x for x in missing if not lies_on_host(x)]
        copied = self._copies(on_device) if on_device else ()
        copies = dict(zip(map(id, on_device), copied, strict=True))
        host = HostCopies(in_memory, self._memory) if in_memory else None

        def copy(leaf: Any) -> Any:
            if id(leaf) in copies:
                return copies[id(leaf)]
            if host is not None and (found := host.copy(leaf)) is not None:
                return found
            return next((x for pack in packs if (x := pack.copy(leaf)) is not None), None)

        return copy

    def packed_copy(self, leaf: Any) -> Any:
        """Return a copy of a small array that was returned a short while ago, or None."""
        return next((x for pack in self._packs if (x := pack.copy(leaf)) is not None), None)


def is_deleted(leaf: Any) -> bool:
    """Return whether a leaf is an array that was donated or deleted."""
    return isinstance(leaf, jax.Array) and leaf.is_deleted()


def _is_set(flag: jax.Array) -> bool:
    if devices_read_on_host(flag.sharding) == 1:
        return bool(memory(flag)[0])
    with jax.transfer_guard("allow"):
        return bool(flag)


def _are_finite(arrays: Iterable[Any]) -> bool:
    with np.errstate(all="ignore"):
        for array in arrays:
            found = buffers(array)
            if found is None or not all(map(_is_finite, found)):
                return False
    return True


def _is_finite(buffer: np.ndarray[Any, Any]) -> bool:
    # A sum is not finite if a term is not; it takes a third of the time of looking at each.
    if buffer.dtype.kind == "f" and math.isfinite(np.add.reduce(buffer)):
        return True
    return not code_of(buffer)
