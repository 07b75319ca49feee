"""Finding, frame, arrays -> Site: what is told of one site."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nanlab.backend.finiteness import FINITE, code_of
from nanlab.blame.diagnosis.contents import Index
from nanlab.blame.program.program import Program


def element_at(array: np.ndarray, index: Index | None) -> np.ndarray | None:
    """One element of an array, if there is an index."""
    return None if index is None else np.asarray(array[index])


def any_bad(arrays: Sequence[np.ndarray]) -> bool:
    """Whether some array has an inf or a NaN."""
    return any(code_of(array) != FINITE for array in arrays)


def one_shard(
    program: Program, index: int, operands: list[np.ndarray], results: list[np.ndarray]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Inside a `shard_map`: what the first device held whose result is bad."""
    depth = program.shards(program.equations[index].frame)
    for _ in range(depth):
        bad = [i for i in range(len(results[0])) if any_bad([np.asarray(r[i]) for r in results])]
        device = bad[0] if bad else 0
        results = [np.asarray(r[device]) for r in results]
        values = [program.values[v] for v in program.equations[index].operands]
        operands = [
            np.asarray(x[device]) if x.ndim > len(v.shape) else x
            for x, v in zip(operands, values, strict=True)
        ]
    return operands, results
