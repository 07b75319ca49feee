"""Arrays on any device -> finite, inf or NaN, read when they are ready; nothing waits for them.

Small arrays are packed into one vector by a program of its own, right after the computation that
returned them. The vector is read on the host once it is ready, and it is the copy of those that a
later call donates. Of larger arrays a program returns one flag; those of a call that donates
nothing are read where they lie if that is the host's memory. None of this is part of the user's
program, which would be compiled differently with it. (A check inside it costs more, too.)
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

from nanlab.backend.finiteness import FINITE, NAN, array_code, code_of, groups_are_finite
from nanlab.blame.watch.arrays import (
    READ_ALONE,
    Pack,
    PackLayout,
    buffers,
    devices_read_on_host,
    memory,
)
from nanlab.blame.watch.replays import Replay, Replays

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
        self._are_finite = jax.jit(lambda leaves: jnp.stack(groups_are_finite(leaves)))
        self._packed = jax.jit(
            lambda groups: [jnp.concatenate([jnp.ravel(x) for x in group]) for group in groups]
        )
        self._packs = deque[Pack](maxlen=_PACKS)

    def begin(
        self, outputs: Sequence[Any], layout: PackLayout, *, is_donating: bool
    ) -> OutputReading:
        """Start to read a computation's outputs; its reader runs nothing else meanwhile."""
        leaves = [outputs[i] for i in layout.inexact]
        arrays = [x for x in leaves if isinstance(x, jax.Array)]
        if len(arrays) < len(leaves) or not leaves or len(leaves[0].sharding.device_set) > 1:
            return OutputReading(leaves=leaves, on_host=leaves, waiting=arrays)
        small = [outputs[i] for group in layout.small for i in group]
        large = [outputs[i] for i in layout.large]
        packs = self._pack(outputs, layout) if len(small) > READ_ALONE else []
        own = large if packs else [*large, *small]
        if not devices_read_on_host(leaves[0].sharding):
            flags, on_host = [self._are_finite([*own, *packs])], []
        elif is_donating and large:  # what it returns is donated next
            flags, on_host = [self._are_finite(own)], packs
        else:
            flags, on_host = [], [*packs, *own]
        return OutputReading(
            leaves=leaves,
            on_host=on_host,
            flags=flags,
            waiting=[*on_host, *flags],
            is_borrowed=bool(own) and not flags,
        )

    def _pack(self, outputs: Sequence[Any], layout: PackLayout) -> list[Any]:
        vectors = self._packed([[outputs[i] for i in group] for group in layout.small])
        self._packs.append(Pack(outputs, layout, vectors))
        return vectors

    def finish(self, reading: OutputReading, original: Callable[[Any], Any]) -> int | None:
        """Wait for outputs and read them.

        Args:
            reading: what `begin` returned.
            original: returns a copy of a deleted array, or None.

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

    def copies(
        self, leaves: Sequence[Any], replays: Replays
    ) -> tuple[Callable[[Any], Any], dict[int, tuple[Replay, int]]]:
        """Copy arrays that are about to be donated, but those that can be computed again.

        Returns:
            A function that finds the copy of an array, and where the others come from.
        """
        packs, missing = tuple(self._packs)[::-1], list(leaves)
        for pack in packs:
            missing = pack.lacks(missing) if missing else missing
        sources = replays.sources(missing)
        copied = self._copies(missing) if sources is None else ()
        copies = {id(x): (x, copy) for x, copy in zip(missing, copied, strict=False)}

        def copy(leaf: Any) -> Any:
            if id(leaf) in copies:
                return copies[id(leaf)][1]
            return next((x for pack in packs if (x := pack.copy(leaf)) is not None), None)

        replays.donated(leaves, copy)
        return copy, sources or {}

    def packed_copy(self, leaf: Any) -> Any:
        """Return a copy of a small array that was returned a short while ago, or None."""
        return next((x for pack in self._packs if (x := pack.copy(leaf)) is not None), None)


def is_deleted(leaf: Any) -> bool:
    """Return whether a leaf is an array that was donated or deleted."""
    return isinstance(leaf, jax.Array) and leaf.is_deleted()


def _is_set(flag: jax.Array) -> bool:
    if devices_read_on_host(flag.sharding) == 1:
        return bool(memory(flag).all())
    with jax.transfer_guard("allow"):
        return bool(np.asarray(flag).all())


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
