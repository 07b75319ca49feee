"""This process -> the devices that the lab computes on; where JAX begins."""

from __future__ import annotations

import jax

from nanlab.backend.compile_cache import PROGRAMS_BYTES, drop_oldest, programs_folder
from nanlab.backend.jaxpr import Device
from nanlab.backend.machine import cores


def lab_devices(count: int | None = None) -> list[Device]:
    """Set this process up for the lab, and list the devices that it computes on.

    Args:
        count: how many are wanted; None for all.
    """
    configure_lab(count)
    return list(jax.devices()[:count])


def lab_without_accelerator() -> list[Device]:
    """Set this process up to look on while others compute; its devices, for shapes alone.

    Call it before JAX computes anything: a process that has begun on a GPU takes its memory.
    """
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_platforms", "cpu")
    return list(jax.devices())


def configure_lab(devices: int | None = None, *, keep_programs: bool = True) -> None:
    """Set this process up for the lab: 64-bit types on, as many CPU devices as cores.

    Compiled programs are kept for this user, unless a cache of JAX's is set already
    (JAX_COMPILATION_CACHE_DIR) or switched off (JAX_ENABLE_COMPILATION_CACHE=false). Call it before
    JAX computes anything; `nanlab.pinpoint` in a user's process never does.

    Args:
        devices: CPU devices wanted; None for one a core, or for those that there are where JAX has
            already started.
        keep_programs: whether to; not in a process that is a person's own.

    Raises:
        RuntimeError: JAX has already started with another number of CPU devices.
    """
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
        # The witnesses run a hundred small programs, op by op: 2.6 s to compile, 1.2 to read.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
