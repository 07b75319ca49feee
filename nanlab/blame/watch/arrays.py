"""Where arrays lie, how many are read at once, and copies of them."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property, lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# Bytes of an array that are packed: copying more takes longer than a program for it alone.
PACKED = 32 << 10
# Copies begin at multiples of this number of bytes; blocks of memory that wait to be used again.
_ALIGNED, _FREE = 64, 3
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


@dataclass(kw_only=True)
class PackLayout:
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


def pack_layout(avals: Sequence[Any]) -> PackLayout:
    """Return the layout for outputs, or their abstract values, of these shapes and types."""
    layout, groups, filled = PackLayout(), dict[Any, int](), list[int]()
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

    def __init__(self, outputs: Sequence[Any], layout: PackLayout, vectors: Sequence[Any]) -> None:
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


class HostCopies:
    """Copies of arrays that lie in the host's memory, in memory that is used again."""

    def __init__(self, leaves: Sequence[Any], free: dict[int, list[np.ndarray[Any, Any]]]) -> None:
        self._at: dict[int, tuple[int, Any]] = {}
        end = 0
        for leaf in leaves:
            self._at[id(leaf)] = end, leaf
            end += -(-leaf.nbytes // _ALIGNED) * _ALIGNED
        # New memory costs more than the copy: the system hands out each page of it.
        self._free = free.setdefault(end, [])
        self._memory = self._free.pop() if self._free else np.empty(end, np.uint8)
        for start, leaf in self._at.values():
            if leaf.size:
                self._memory[start : start + leaf.nbytes] = memory(leaf).view(np.uint8)

    def __del__(self) -> None:
        if len(self._free) < _FREE:
            self._free.append(self._memory)

    def copy(self, leaf: Any) -> Any:
        """Return a copy of an array as it was; None if it is not in here."""
        if id(leaf) not in self._at:
            return None
        start, leaf = self._at[id(leaf)]
        flat = self._memory[start : start + leaf.nbytes].copy().view(leaf.dtype)
        return jax.device_put(flat.reshape(leaf.shape), leaf.sharding)


def lies_on_host(leaf: Any) -> bool:
    """Return whether an array can be copied, with all that it is, from the host's memory."""
    is_plain = not leaf.weak_type and not jnp.issubdtype(leaf.dtype, jax.dtypes.extended)
    return is_plain and devices_read_on_host(leaf.sharding) == 1


def buffers(leaf: Any) -> list[np.ndarray] | None:
    """Return the memory of an array, by shards; None if it is to be read on its device."""
    if not isinstance(leaf, jax.Array):
        return [np.asarray(leaf)]
    n_devices = devices_read_on_host(leaf.sharding)
    if n_devices == 1:
        return [memory(leaf)] if leaf.size else []
    if not n_devices:
        return None
    return [memory(shard.data) for shard in leaf.addressable_shards if shard.data.size]


@lru_cache(256)
def devices_read_on_host(sharding: jax.sharding.Sharding) -> int:
    """Return the number of devices whose memory can be read where it lies; 0 if it cannot."""
    is_here = sharding.is_fully_addressable and sharding.memory_kind in (None, *_HOST_MEMORY)
    devices = sharding.device_set
    return len(devices) if is_here and all(d.platform == "cpu" for d in devices) else 0


def memory(array: jax.Array) -> np.ndarray:
    """Return an array's memory on the host, in one dimension, without a reference to it."""
    # `np.asarray` would leave the array holding a second reference to its buffer, which changes
    # what a later donation does. The view is used as long as the array is there, and no longer.
    array.block_until_ready()
    at: Any = (ctypes.c_char * array.nbytes).from_address(array.unsafe_buffer_pointer())
    return np.frombuffer(at, dtype=array.dtype)
