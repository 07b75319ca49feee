"""Arrays on any device -> finite, inf or NaN, read when they are ready; nothing waits for them.

Small arrays are packed into one vector by a program of its own, right after the computation that
returned them. The vector is read on the host once it is ready, and it is the copy of those that a
later call donates. For each larger array a program returns one flag. Neither is part of the user's
program, which would be compiled differently with it. (A check inside it costs more, too.)
"""

from __future__ import annotations

import ctypes
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache, cached_property, lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nanlab.backend.finiteness import FINITE, NAN, array_code, code_of

# Bytes of an array that are packed: copying more takes longer than a program for it alone.
PACKED = 32 << 10
# As few small arrays are read where they lie.
_READ_WHERE_THEY_LIE = 3
# The packs in which the copy of a donated array is looked for.
_PACKS = 3
_HOST_MEMORY = ("unpinned_host", "device")


def inexact(leaves: Iterable[Any]) -> list[Any]:
    """Return the leaves that can hold an inf or a NaN."""
    return [leaf for leaf in leaves if _can_be_bad(leaf)]


def _can_be_bad(leaf: Any) -> bool:
    dtype = getattr(leaf, "dtype", None)
    return isinstance(leaf, float | complex) or (dtype is not None and _is_inexact(dtype))


@cache
def _is_inexact(dtype: Any) -> bool:
    return bool(jnp.issubdtype(dtype, jnp.inexact))


@contextmanager
def plain_settings() -> Generator[None]:
    """Switch off settings of the user that would stop or report what is run for the watch."""
    with ExitStack() as stack:
        for setting in (jax.debug_nans, jax.debug_infs, jax.disable_jit, jax.log_compiles):
            stack.enter_context(setting(False))
        stack.enter_context(jax.transfer_guard("allow"))
        yield


@dataclass(kw_only=True)
class Layout:
    """How the outputs of a program are read.

    Attributes:
        inexact: indices of those that can be bad.
        small: indices of those that are packed, by type.
        large: indices of those that have a flag each.
        at: for a packed one (vector, its first element), by index.
    """

    inexact: list[int] = field(default_factory=list[int])
    small: list[list[int]] = field(default_factory=list[list[int]])
    large: list[int] = field(default_factory=list[int])
    at: dict[int, tuple[int, int]] = field(default_factory=dict[int, tuple[int, int]])


def layout_of(avals: Sequence[Any]) -> Layout:
    """Return the layout for outputs, or their abstract values, of these shapes and types."""
    layout, groups, filled = Layout(), dict[Any, int](), list[int]()
    for index, aval in enumerate(avals):
        if not _can_be_bad(aval):
            continue
        layout.inexact.append(index)
        size = int(np.prod(getattr(aval, "shape", ())))
        if not size:
            continue
        # A weak type would be lost in a vector.
        if size * aval.dtype.itemsize > PACKED or getattr(aval, "weak_type", False):
            layout.large.append(index)
            continue
        group = groups.setdefault(aval.dtype, len(groups))
        if group == len(filled):
            layout.small.append([])
            filled.append(0)
        layout.at[index] = group, filled[group]
        layout.small[group].append(index)
        filled[group] += size
    return layout


class Pack:
    """Small outputs of a program, and the vectors that they were copied into."""

    def __init__(self, outputs: Sequence[Any], layout: Layout, vectors: Sequence[Any]) -> None:
        self._vectors, self._at = vectors, layout.at
        # The arrays stay alive, so that no other gets the identity of one.
        self._leaves = [outputs[i] for i in layout.at]

    @cached_property
    def _index_of(self) -> dict[int, int]:
        # Without a tuple for each: they would make Python's collector run in every call.
        return dict(zip(map(id, self._leaves), self._at, strict=True))

    def lacks(self, leaves: Sequence[Any]) -> list[Any]:
        """Return the arrays that are not in here."""
        index_of = self._index_of
        return [x for x in leaves if id(x) not in index_of]

    def copy(self, leaf: Any) -> Any:
        """Return a copy of an array as it was; None if it is not in here."""
        place = self._at.get(self._index_of.get(id(leaf), -1))
        if place is None:
            return None
        group, start = place
        flat = jax.lax.dynamic_slice_in_dim(self._vectors[group], start, leaf.size)
        return flat.reshape(leaf.shape)


@dataclass(kw_only=True)
class Reading:
    """Outputs that are being read.

    Attributes:
        leaves: those that can be bad.
        on_host: arrays that are read where they lie.
        flags: whether other arrays are finite, on their device.
        waiting: what has to be ready.
    """

    leaves: Sequence[Any]
    on_host: Sequence[Any] = ()
    flags: Sequence[Any] = ()
    waiting: Sequence[Any] = ()

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

    def begin(self, outputs: Sequence[Any], layout: Layout) -> Reading:
        """Start to read a computation's outputs; its reader runs nothing else meanwhile."""
        leaves = [outputs[i] for i in layout.inexact]
        arrays = [x for x in leaves if isinstance(x, jax.Array)]
        if len(arrays) < len(leaves) or not leaves or len(leaves[0].sharding.device_set) > 1:
            return Reading(leaves=leaves, on_host=leaves, waiting=arrays)
        on_host = [outputs[i] for group in layout.small for i in group]
        flags = [self._is_finite(outputs[i]) for i in layout.large]
        if len(on_host) > _READ_WHERE_THEY_LIE:
            on_host = self._pack(outputs, layout)
        if on_host and not _devices_read_on_host(leaves[0].sharding):
            flags, on_host = [*flags, *map(self._is_finite, on_host)], []
        return Reading(leaves=leaves, on_host=on_host, flags=flags, waiting=[*on_host, *flags])

    def _pack(self, outputs: Sequence[Any], layout: Layout) -> list[Any]:
        vectors = self._packed([[outputs[i] for i in group] for group in layout.small])
        self._packs.append(Pack(outputs, layout, vectors))
        return vectors

    def finish(self, reading: Reading, original: Callable[[Any], Any]) -> int | None:
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
                buffers = _buffers(leaf)
                if buffers is None:
                    on_device.append(leaf)
                    continue
                worst = max([worst, *(code_of(buffer) for buffer in buffers)])
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
        copies = dict(zip(map(id, missing), self._copies(missing) if missing else (), strict=True))

        def copy(leaf: Any) -> Any:
            if id(leaf) in copies:
                return copies[id(leaf)]
            return next((x for pack in packs if (x := pack.copy(leaf)) is not None), None)

        return copy

    def packed_copy(self, leaf: Any) -> Any:
        """Return a copy of a small array that was returned a short while ago, or None."""
        return next((x for pack in self._packs if (x := pack.copy(leaf)) is not None), None)


def is_deleted(leaf: Any) -> bool:
    """Return whether a leaf is an array that was donated or deleted."""
    return isinstance(leaf, jax.Array) and leaf.is_deleted()


def _is_set(flag: jax.Array) -> bool:
    if _devices_read_on_host(flag.sharding) == 1:
        return bool(_memory(flag)[0])
    with jax.transfer_guard("allow"):
        return bool(flag)


def _are_finite(arrays: Iterable[Any]) -> bool:
    for array in arrays:
        buffers = _buffers(array)
        if buffers is None:
            return False
        for buffer in buffers:
            if buffer.dtype.kind not in "fc":
                if code_of(buffer):
                    return False
                continue
            # A sum is not finite if a term is not; it takes a third of the time of looking at each.
            with np.errstate(all="ignore"):
                if not np.isfinite(np.add.reduce(buffer)) and not np.isfinite(buffer).all():
                    return False
    return True


def _buffers(leaf: Any) -> list[np.ndarray] | None:
    """Return the memory of an array, by shards; None if it is to be read on its device."""
    if not isinstance(leaf, jax.Array):
        return [np.asarray(leaf)]
    n_devices = _devices_read_on_host(leaf.sharding)
    if n_devices == 1:
        return [_memory(leaf)] if leaf.size else []
    if not n_devices:
        return None
    return [_memory(shard.data) for shard in leaf.addressable_shards if shard.data.size]


@lru_cache(256)
def _devices_read_on_host(sharding: jax.sharding.Sharding) -> int:
    """Return the number of devices whose memory can be read where it lies; 0 if it cannot."""
    is_here = sharding.is_fully_addressable and sharding.memory_kind in (None, *_HOST_MEMORY)
    devices = sharding.device_set
    return len(devices) if is_here and all(d.platform == "cpu" for d in devices) else 0


def _memory(array: jax.Array) -> np.ndarray:
    # `np.asarray` would leave the array holding a second reference to its buffer, which changes
    # what a later donation does. The view is used as long as the array is there, and no longer.
    array.block_until_ready()
    memory: Any = (ctypes.c_char * array.nbytes).from_address(array.unsafe_buffer_pointer())
    return np.frombuffer(memory, dtype=array.dtype)
