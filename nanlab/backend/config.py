"""This process -> the devices that the lab computes on; where JAX begins."""

from __future__ import annotations

import jax

from nanlab.backend.jaxpr import Device, configure_lab


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
