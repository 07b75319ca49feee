"""This process -> what made a result: versions, device, code, commit."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nanlab.backend.jaxpr import Device
from nanlab.engine.block_width import (block_bytes, block_of)
from nanlab.backend.machine import (processor, schedulable_cores)

_PACKAGE = Path(__file__).parent
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


IRRELEVANT = ("devices", "polars")
"""What a run's bits do not depend on."""


def threads(device: Device) -> int | None:
    """How many threads XLA splits a CPU's programs for, the larger of cores and devices.

    Large operations are split, and then round otherwise: with one thread in place of two those of
    full batches of 1,000 (one of the 38 studies of the ledger).
    """
    return max(schedulable_cores(), jax.local_device_count()) if device.platform == "cpu" else None


def fingerprint(environment: dict[str, Any]) -> str:
    """A hash of what a run's bits may depend on."""
    relevant = {k: v for k, v in environment.items() if k not in IRRELEVANT}
    return hashlib.sha256(json.dumps(relevant, sort_keys=True).encode()).hexdigest()[:16]


def code_hash() -> str:
    """A hash of nanlab's own source files."""
    digest = hashlib.sha256()
    for path in sorted(_PACKAGE.rglob("*.py")):
        digest.update(path.relative_to(_PACKAGE).as_posix().encode() + b"\0")
        digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()


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


def git_state() -> dict[str, Any]:
    """The commit of nanlab's checkout, and whether its code differs from it; nulls outside one."""
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return {"commit": None, "dirty": None}
    changed = _git("status", "--porcelain", "--", "nanlab", "sweeps", "constraints.txt")
    return {"commit": commit, "dirty": bool(changed)}


def _git(*arguments: str) -> str | None:
    command = ["git", "-C", str(_PACKAGE.parent), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def file_hash(path: Path) -> str:
    """The SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
