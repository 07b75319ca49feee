"""Arrays on any device -> finite, inf or NaN; the arrays and JAX's settings stay as they are."""

from __future__ import annotations

import ctypes
from collections.abc import Generator, Iterable, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache, lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nanlab.backend.finiteness import FINITE, NAN, array_code, code_of

# What is smaller is read where it lies: that takes microseconds, and no compilation.
READ_ON_HOST = 1 << 20
_HOST_MEMORY = ("unpinned_host", "device")


def inexact(leaves: Iterable[Any]) -> list[Any]:
    """Return the leaves that can hold an inf or a NaN."""
    return [
        leaf
        for leaf in leaves
        if isinstance(leaf, float | complex)
        or ((dtype := getattr(leaf, "dtype", None)) is not None and _is_inexact(dtype))
    ]


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


class OutputReader:
    """Reads whether arrays are finite."""

    def __init__(self) -> None:
        self._codes = jax.jit(lambda leaves: [array_code(leaf) for leaf in leaves])
        self._copies = jax.jit(lambda leaves: [jnp.copy(leaf) for leaf in leaves])

    def code(self, leaves: Sequence[Any]) -> int | None:
        """Return the worst of FINITE, INF and NAN; None if an array could not be read."""
        worst, on_device = FINITE, list[Any]()
        try:
            for leaf in leaves:
                buffers = _buffers(leaf)
                if buffers is None:
                    on_device.append(leaf)
                    continue
                for buffer in buffers:
                    if buffer.dtype.kind not in "fc" or not np.isfinite(buffer).all():
                        worst = max(worst, code_of(buffer))
                if worst == NAN:
                    return worst
            if on_device:
                with plain_settings():
                    worst = max([worst, *map(int, self._codes(on_device))])
        except Exception:  # a memory space, a layout or a type that has not been met yet
            return None
        return worst

    def copies(self, leaves: Sequence[Any]) -> list[Any]:
        """Copy arrays that are about to be donated."""
        if not leaves:
            return []
        with plain_settings():
            return self._copies(leaves)


def _buffers(leaf: Any) -> list[np.ndarray] | None:
    """Return the memory of an array, by shards; None if it is to be read on its device."""
    if not isinstance(leaf, jax.Array):
        return [np.asarray(leaf)]
    size = leaf.size
    if size > READ_ON_HOST:
        return None
    n_devices = _devices_read_on_host(leaf.sharding)
    if n_devices == 1:
        return [_memory(leaf)] if size else []
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
