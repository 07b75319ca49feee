"""Calls before a fault, in the replay -> how large their arguments are: headroom and norms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr, tree_flatten_with_path

from nanlab.backend.finiteness import largest_magnitude, measured_as
from nanlab.recorder.arrays import by_devices, is_inexact
from nanlab.recorder.tape import TapeEntry


class RunUp:
    """Measures the arguments of the last calls up to a faulty one.

    A training has no such cost before a fault: these numbers come of the replay.

    Args:
        first: number of the first call to measure.
    """

    def __init__(self, first: int) -> None:
        self._first = first
        self._measured: list[tuple[TapeEntry, list[int], list[Any], list[Any]]] = []

    def measure(self, entry: TapeEntry, leaves: list[Any]) -> None:
        """Measure the arguments of a call, without waiting."""
        places = [i for i, x in enumerate(leaves) if is_inexact(x)]
        if entry.number < self._first or not places:
            return
        arrays = [leaves[i] for i in places]
        groups = by_devices(arrays).values()
        results = [_measure([arrays[i] for i in group]) for group in groups]
        order = [places[i] for group in groups for i in group]
        self._measured.append((entry, order, [leaves[i].dtype for i in order], results))

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for each call, as `Fault.run_up` has it."""
        return [_row(*measured) for measured in self._measured]


def magnitudes(xs: list[Any]) -> tuple[Any, Any]:
    """Return the logarithms, base 10, of each array's largest magnitude and of its norm."""
    if not xs:
        return jnp.zeros(0, jnp.float32), jnp.zeros(0, jnp.float32)
    largest = [largest_magnitude(x) for x in xs]
    norms = [
        # Scaled by the largest magnitude: the squares would overflow before the values do.
        jnp.log10(m) + jnp.log10(jnp.linalg.norm(jnp.ravel(jnp.abs(x) / jnp.where(m > 0, m, 1))))
        for x, m in zip(xs, largest, strict=True)
    ]
    return jnp.stack([jnp.log10(m).astype(jnp.float32) for m in largest]), jnp.stack(
        [norm.astype(jnp.float32) for norm in norms]
    )


_measure = jax.jit(magnitudes)


def headroom_of(largest: np.ndarray[Any, Any], dtypes: Sequence[Any]) -> np.ndarray[Any, Any]:
    """Return how many decades magnitudes are below their types' maxima; -inf for a NaN."""
    limits = np.array([np.log10(float(jnp.finfo(measured_as(d)).max)) for d in dtypes])
    return np.where(np.isnan(largest), -np.inf, limits - largest)


def _row(
    entry: TapeEntry, places: list[int], dtypes: list[Any], results: list[Any]
) -> dict[str, Any]:
    largest = np.concatenate([np.asarray(part) for part, _ in results])
    norms = np.concatenate([np.asarray(part) for _, part in results]).astype(np.float64)
    headroom = headroom_of(largest, dtypes)
    least = int(np.argmin(headroom))
    tree = entry.plan.tree
    paths = tree_flatten_with_path(tree.unflatten(range(len(entry.plan.donated))))[0]
    is_state = [entry.watched.is_state(tree, place) for place in places]
    norm = np.sqrt(np.sum(10 ** (2 * norms[is_state]))) if any(is_state) else np.nan
    return {
        "call": entry.number,
        "step": entry.step,
        "function": entry.watched.name,
        "headroom": float(headroom[least]),
        "leaf": argument_name(paths[places[least]][0]),
        "norm": float(norm),
    }


def argument_name(path: Any) -> str:
    """Return the name of a leaf of (args, kwargs)."""
    return f"{'kwargs' if path[0].idx else 'args'}{keystr(path[1:])}"
