"""Arrays on any device -> finite, inf or NaN; the arrays and JAX's settings stay as they are."""

from __future__ import annotations

import ctypes
from collections.abc import Generator, Iterable, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nanlab.backend.finiteness import FINITE, NAN, array_code, code_of

# What is smaller is read where it lies: that takes microseconds, and no compilation.
READ_ON_HOST = 1 << 20


def inexact(leaves: Iterable[Any]) -> list[Any]:
    """Return the leaves that can hold an inf or a NaN."""
    return [
        leaf
        for leaf in leaves
        if isinstance(leaf, float | complex)
        or (hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.inexact))
    ]


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
                else:
                    worst = max([worst, *map(code_of, buffers)])
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
    if leaf.size > READ_ON_HOST or not leaf.is_fully_addressable:
        return None
    if any(device.platform != "cpu" for device in leaf.devices()):
        return None
    shards = [shard.data for shard in leaf.addressable_shards]
    return [_memory(shard) for shard in shards if shard.size]


def _memory(array: jax.Array) -> np.ndarray:
    # `np.asarray` would leave the array holding a second reference to its buffer, which changes
    # what a later donation does; reading the memory leaves nothing. A copy, as it is freed with
    # the array.
    array.block_until_ready()
    address = array.unsafe_buffer_pointer()
    memory: Any = (ctypes.c_char * array.nbytes).from_address(address)
    return np.frombuffer(memory, dtype=array.dtype).copy()
