"""Arrays of a watched call: copied, checked and read, without waiting and without new bits."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.multihost_utils import process_allgather

from nanlab.backend.finiteness import FINITE, array_code, code_of
from nanlab.backend.jaxpr import is_key

SMALL = 64
"""Outputs of at most this many elements are read after the call: losses, norms, counters."""
_ALIGNMENT = 64  # XLA on a CPU reads memory aligned to this in place, and copies any other

_PAGES = 1 << 12  # bytes from which the memory of an array is better used again

VALUE, NUMPY, ARRAY = 0, 1, 2


class _Kinds(dict[type, int]):
    """Type of a leaf -> VALUE, NUMPY or ARRAY; `isinstance(x, jax.Array)` is slow."""

    def __missing__(self, kind: type) -> int:
        code = NUMPY if issubclass(kind, np.ndarray) else VALUE
        self[kind] = ARRAY if issubclass(kind, jax.Array) else code
        return self[kind]


KINDS = _Kinds()


def is_array(leaf: Any) -> bool:
    """Return whether a leaf is an array of JAX."""
    return KINDS[type(leaf)] == ARRAY


def is_inexact(leaf: Any) -> bool:
    """Return whether a leaf is an array of JAX that can hold an inf or a NaN."""
    return is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.inexact) and leaf.size > 0


def is_metric(leaf: Any) -> bool:
    """Return whether an output is small enough to be read after each call."""
    is_readable = is_inexact(leaf) and leaf.size <= SMALL
    return is_readable and (leaf.is_fully_addressable or leaf.is_fully_replicated)


def is_ready(leaf: Any) -> bool:
    """Return whether an array can be read without waiting."""
    return leaf.is_deleted() or leaf.is_ready()


def _copy_of(x: Any) -> Any:
    if is_key(x):
        data = jnp.copy(jax.random.key_data(x))
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
    return jnp.copy(x)


def _copy_all(xs: list[Any]) -> list[Any]:
    return [_copy_of(x) for x in xs]


@lru_cache(64)
def _copier(shardings: tuple[Any, ...] | None) -> Any:
    # On one device a stated sharding would commit the copies to it, and the step would retrace.
    return jax.jit(_copy_all, out_shardings=None if shardings is None else list(shardings))


# A program of its own: fused into the user's step, or into the copy, it is several times slower.
@jax.jit
def _codes(xs: list[Any]) -> Any:
    return jnp.stack([array_code(x) for x in xs])


def copies(arrays: Sequence[Any], *, on_host: bool = False) -> list[Any]:
    """Copy arrays, each to where it lies or to the host's memory; returns without waiting."""
    result: list[Any] = [None] * len(arrays)
    for devices, places in by_devices(arrays).items():
        group = [arrays[i] for i in places]
        if on_host and not devices[3]:
            there = [x.sharding.with_memory_kind("pinned_host") for x in group]
            made = jax.device_put(group, there)
        else:
            shardings = tuple(x.sharding for x in group) if devices[0] > 1 else None
            made = _copier(shardings)(group)
        for place, copy in zip(places, made, strict=True):
            result[place] = copy
    return result


def to_device(copy: Any, original: Any) -> Any:
    """Return a copy in the host's memory as an array like the original."""
    if original.committed:
        return jax.device_put(copy, original.sharding)
    return jnp.asarray(np.asarray(copy))


class ArrayCodes:
    """ArrayCodes (`backend.finiteness`) of arrays, computed without waiting."""

    def __init__(self, arrays: Sequence[Any]) -> None:
        self._count = len(arrays)
        self._parts = [
            (places, _codes([arrays[i] for i in places])) for places in by_devices(arrays).values()
        ]

    def is_ready(self) -> bool:
        """Return whether they can be read without waiting."""
        return all(part.is_ready() for _, part in self._parts)

    def read(self) -> list[int]:
        """Return them in the order of the arrays."""
        result = [FINITE] * self._count
        for places, part in self._parts:
            for place, code in zip(places, on_host(part).tolist(), strict=True):
                result[place] = code
        return result


def by_devices(arrays: Sequence[Any]) -> dict[Any, list[int]]:
    """Group arrays that one program can take, and leave as committed as they are."""
    groups: dict[Any, list[int]] = {}
    for index, x in enumerate(arrays):
        sharding = x.sharding
        devices = sharding.device_set
        key = (len(devices), frozenset(devices), getattr(x, "committed", True))
        # Keys and small arrays stay on the device: these may be weakly typed.
        is_small = is_key(x) or x.size <= SMALL
        groups.setdefault((*key, is_small, sharding.memory_kind), []).append(index)
    return groups


def on_host(array: Any) -> np.ndarray[Any, Any]:
    """Return an array's numbers; of several processes this process's first shard."""
    if is_array(array) and is_key(array):
        array = jax.random.key_data(array)
    if is_array(array) and not array.is_fully_addressable:
        return np.asarray(array.addressable_shards[0].data)
    return np.asarray(array)


def gathered(leaf: Any) -> Any:
    """Return an array that spans processes as one of this process alone; each has to call this."""
    if not is_array(leaf) or leaf.is_fully_addressable:
        return leaf
    if is_key(leaf):
        data = gathered(jax.random.key_data(leaf))
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
    return jnp.asarray(process_allgather(leaf, tiled=True))


def is_bad(value: np.ndarray[Any, Any]) -> bool:
    """Return whether numbers on the host hold an inf or a NaN."""
    if value.shape == () and value.dtype.kind == "f":
        return not math.isfinite(value)
    return code_of(value) != FINITE


def same_bits(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> bool:
    """Return whether two arrays hold the same numbers, bit for bit."""
    return one.dtype == other.dtype and one.shape == other.shape and _bytes(one) == _bytes(other)


def _bytes(x: np.ndarray[Any, Any]) -> bytes:
    return np.ascontiguousarray(x).tobytes()


class Pool:
    """Memory for copies of NumPy batches, reused: a fresh page costs ten times the copy."""

    def __init__(self) -> None:
        self._free: dict[Any, list[np.ndarray[Any, Any]]] = {}

    def copy(
        self, x: np.ndarray[Any, Any], lent: list[np.ndarray[Any, Any]]
    ) -> np.ndarray[Any, Any]:
        """Return a copy that nobody else writes to; one to give back is added to the list."""
        if x.nbytes < _PAGES or x.dtype.hasobject:
            return x.copy()
        free = self._free.get((x.shape, x.dtype))
        if free:
            copy = free.pop()
        else:
            raw = np.empty(x.nbytes + _ALIGNMENT, np.uint8)
            start = -raw.ctypes.data % _ALIGNMENT
            copy = raw[start : start + x.nbytes].view(x.dtype).reshape(x.shape)
        copy[...] = x
        lent.append(copy)
        return copy

    def give_back(self, copies: list[np.ndarray[Any, Any]]) -> None:
        """Take copies back, the list is emptied; one that JAX or the user still has is let go."""
        while copies:
            copy = copies.pop()
            if sys.getrefcount(copy) <= 2:  # the name, and the argument
                self._free.setdefault((copy.shape, copy.dtype), []).append(copy)
