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
    """What this process computes with; plain values, the same for the same machine and code."""
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
    """How many threads XLA splits a CPU's programs for, the larger of cores and devices.

    Large operations are split, and then round otherwise: with one thread in place of two those of
    full batches of 1,000 (one of the 38 studies of the ledger).
    """
    return max(schedulable_cores(), jax.local_device_count()) if device.platform == "cpu" else None


def flushes_subnormals() -> bool:
    """Whether the device takes a subnormal float32 for zero; XLA on the CPU does."""
    tiny = np.float32(1e-40)
    return bool(np.asarray(jax.numpy.asarray(tiny) * np.float32(2.0)) == 0)


def product_bits(device: Device, multiply: Callable[[Any, Any], Any] = jnp.matmul) -> int | None:
    """How many significant bits of its float32 factors a matrix product keeps, as it is by default.

    All 24, or 11 of them (TF32, on NVIDIA's GPUs since Ampere) or 8 (bfloat16, on TPUs), unless
    JAX_DEFAULT_MATMUL_PRECISION asks for more; measured. None on a CPU, which keeps all.

    Args:
        device: that it is asked of.
        multiply: the product.
    """
    if device.platform == "cpu":
        return None
    size, bits = 128, 23
    factors = 1 + 2.0 ** -np.arange(1, bits + 1)
    left = np.zeros((size, size), np.float32)
    left[:bits, :bits] = np.diag(factors)
    product = multiply(jnp.asarray(left), jnp.eye(size, dtype=np.float32))
    kept = np.diagonal(np.asarray(product))[:bits] == factors.astype(np.float32)
    return 1 + int(np.flatnonzero(kept).max(initial=-1)) + 1
