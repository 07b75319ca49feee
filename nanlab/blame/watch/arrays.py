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
# As few small arrays are not packed.
READ_ALONE = 3
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
        loose: indices of the arrays that are not packed, whether they can be bad or not.
    """

    inexact: list[int] = field(default_factory=list[int])
    small: list[list[int]] = field(default_factory=list[list[int]])
    large: list[int] = field(default_factory=list[int])
    at: dict[int, tuple[int, int]] = field(default_factory=dict[int, tuple[int, int]])
    loose: list[int] = field(default_factory=list[int])


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
    packed = layout.at if len(layout.at) > READ_ALONE else {}
    layout.loose = [i for i, x in enumerate(avals) if i not in packed and _is_array(x)]
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


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array)


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
