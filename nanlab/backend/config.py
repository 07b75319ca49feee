"""Configure JAX in this process, before it computes anything."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import ExitStack, contextmanager

import jax

from nanlab.backend.compile_cache import PROGRAMS_BYTES, drop_oldest, programs_folder
from nanlab.backend.jaxpr import Device, require_jax
from nanlab.backend.machine import cores


def lab_devices(count: int | None = None) -> list[Device]:
    """Configure this process for the lab and return its devices, `count` of them or all."""
    configure_lab(count)
    return list(jax.devices()[:count])


def lab_without_accelerator() -> list[Device]:
    """Configure this process to trace only, and return its devices; others do the computing."""
    # A process that starts JAX on a GPU reserves its memory.
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_platforms", "cpu")
    return list(jax.devices())


def configure_lab(devices: int | None = None, *, keep_programs: bool = True) -> None:
    """Configure this process for the lab: 64-bit types, one CPU device a core, a compile cache.

    Call it before JAX computes anything; `nanlab.pinpoint` in a user's process never calls it. The
    cache is this user's, unless JAX_COMPILATION_CACHE_DIR names another or
    JAX_ENABLE_COMPILATION_CACHE=false disables it.

    Args:
        devices: number of CPU devices; None for one a core, or as many as JAX has started with.
        keep_programs: whether to use the compile cache; false in a user's own process.

    Raises:
        RuntimeError: JAX has already started with another number of CPU devices.
    """
    require_jax(10, "the lab")
    jax.config.update("jax_enable_x64", True)
    try:
        jax.config.update("jax_num_cpu_devices", devices or cores())
    except RuntimeError:
        if devices is not None:
            raise
    set_already = getattr(jax.config, "jax_compilation_cache_dir", None)
    if keep_programs and set_already is None and (folder := programs_folder()):
        drop_oldest(folder, PROGRAMS_BYTES)
        jax.config.update("jax_compilation_cache_dir", str(folder))
        # Witnesses run a hundred small programs, op by op: 2.6 s to compile, 1.2 s to read.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


_EXAMINING = threading.local()


def is_examining() -> bool:
    """Return whether this thread examines a call, so that what it computes is not the user's."""
    return getattr(_EXAMINING, "depth", 0) > 0


@contextmanager
def without_checks() -> Generator[None]:
    """Suspend the user's checks, and nanlab.debug's watch, while a call is examined."""
    settings = (
        jax.debug_nans(False),
        jax.debug_infs(False),
        jax.disable_jit(False),
        jax.debug_key_reuse(False),  # a call runs more than once, with the same keys
        jax.transfer_guard("allow"),
    )
    with ExitStack() as stack:
        for setting in settings:
            stack.enter_context(setting)
        _EXAMINING.depth = getattr(_EXAMINING, "depth", 0) + 1
        try:
            yield
        finally:
            _EXAMINING.depth -= 1


@contextmanager
def standard_promotion() -> Generator[None]:
    """Suspend the user's rules for mixed types and ranks, which instrumentation need not follow."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield
