"""The software and hardware that this process computes with."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nanlab.backend.jaxpr import Device
from nanlab.backend.machine import processor, schedulable_cores
from nanlab.engine.block_width import block_bytes, block_of
from nanlab.results.provenance import code_hash

_LIBRARIES = ("jax", "jaxlib", "flax", "optax", "chex", "numpy", "polars")


def environment(devices: list[Device]) -> dict[str, Any]:
    """Return what the results may depend on, as plain values; equal for equal machines and code."""
    device = devices[0]
    return {
        "nanlab": version("nanlab"),
        "python": platform.python_version(),
        **{name: version(name) for name in _LIBRARIES},
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
        "platform": device.platform,
        "device_kind": device.device_kind,
        "devices": len(devices),
        "threads": threads(device),
        "block": block_of(device),
        "block_bytes": block_bytes(device),
        "x64": bool(jax.config.read("jax_enable_x64")),
        "flushes_subnormals": flushes_subnormals(),
        "product_bits": product_bits(device),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "code_sha256": code_hash(),
    }


def threads(device: Device) -> int | None:
    """Return the number of threads that XLA splits a CPU's programs for; None elsewhere."""
    # Large operations are split over threads, and round differently by their number: those of full
    # batches of 1,000 do with one thread or two (one of the 38 studies of the ledger).
    return max(schedulable_cores(), jax.local_device_count()) if device.platform == "cpu" else None


def flushes_subnormals() -> bool:
    """Return whether the device flushes subnormal float32 to zero; XLA on the CPU does."""
    tiny = np.float32(1e-40)
    return bool(np.asarray(jax.numpy.asarray(tiny) * np.float32(2.0)) == 0)


def product_bits(device: Device, multiply: Callable[[Any, Any], Any] = jnp.matmul) -> int | None:
    """Measure how many significant bits of its float32 factors a matrix product uses by default.

    Args:
        device: where the product runs.
        multiply: the product to measure.

    Returns:
        24, 11 (TF32, NVIDIA GPUs since Ampere) or 8 (bfloat16, TPUs), unless
        JAX_DEFAULT_MATMUL_PRECISION sets more; None on a CPU, which uses all.
    """
    if device.platform == "cpu":
        return None
    size, bits = 128, 23
    factors = 1 + 2.0 ** -np.arange(1, bits + 1)
    left = np.zeros((size, size), np.float32)
    left[:bits, :bits] = np.diag(factors)
    product = multiply(jnp.asarray(left), jnp.eye(size, dtype=np.float32))
    is_exact = np.diagonal(np.asarray(product))[:bits] == factors.astype(np.float32)
    return 1 + int(np.flatnonzero(is_exact).max(initial=-1)) + 1
