"""A faulty iteration of a scan: its operands, their names, and the iterations before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from nanlab.blame.explain.verdict import Verdict
from nanlab.blame.program.program import Program
from nanlab.blame.program.scan_split import ScanSplit
from nanlab.recorder.arrays import SMALL
from nanlab.recorder.run_up import headroom_of


class TracedCall(NamedTuple):
    """A traced call.

    Attributes:
        program: its program.
        names: of the arguments.
        tree: structure of its result.
    """

    program: Program
    names: list[str]
    tree: Any


@dataclass(frozen=True, kw_only=True)
class BadIteration:
    """An iteration of a scan that made an inf or a NaN which went into its carry.

    Attributes:
        iteration: its number, from 0, in the order of execution; -1 for what precedes the scan.
        length: number of iterations of the scan.
        parts: the arrays that every iteration reads; the carry before it; the slices that it reads.
        names: of all these.
        verdict: what `nanlab.pinpoint` finds in this iteration; its sites count iterations of the
            whole scan. None if the fault was not reproduced.
        history: small outputs of the last iterations, oldest first.
        run_up: how large the carry was before the last iterations.
        compared: number of outputs of iterations that were computed again.
        differing: number of these whose bits differ.
    """

    iteration: int
    length: int
    parts: tuple[Sequence[Array], Sequence[Array], Sequence[Array]]
    names: list[str]
    verdict: Verdict | None
    history: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    run_up: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    compared: int = 0
    differing: int = 0


class Chunk(NamedTuple):
    """A chunk: number of its first iteration and of all, carry before it, stacked outputs."""

    first: int
    size: int
    before: Sequence[Array]
    stacked: Sequence[Array]
    is_bad: Any
    is_reversed: bool

    def places(self, offsets: Any) -> Any:
        """Return where the outputs of iterations lie, by their numbers in the chunk."""
        return self.size - 1 - offsets if self.is_reversed else offsets


class ScanNames:
    """Names of a scan's operands and stacked outputs: those of the body's variables."""

    def __init__(self, call: TracedCall, split: ScanSplit) -> None:
        opened = split.equation.opened
        assert opened is not None
        consts, n_carry = opened.consts, opened.carry
        n_slices = len(split.equation.operands) - consts - n_carry
        self.carry = slice(consts, consts + n_carry)
        known = dict(zip(call.program.frames[0].arguments, call.names, strict=True))
        read = split.equation.operands[:consts]
        operands = [known.get(v, f"constant[{i}]") for i, v in enumerate(read)]
        traced = [f"carry[{i}]" for i in range(n_carry)] + [f"slice[{i}]" for i in range(n_slices)]
        info = getattr(opened.bodies[0][0], "debug_info", None)
        own = list(getattr(info, "arg_names", None) or ())[-len(traced) :] if traced else []
        if len(own) == len(traced) and all(own):
            traced = [str(name) for name in own]
        self.operands = operands + traced
        count = len(split.equation.results) - n_carry
        paths = [str(p) for p in getattr(info, "result_paths", None) or ()]
        paths = [p.removeprefix("result") for p in paths if p.startswith("result[1]")]
        self.stacked = paths if len(paths) == count else [f"output[{i}]" for i in range(count)]

    def rows(self, chunks: list[Chunk], iteration: int, count: int) -> list[dict[str, Any]]:
        """Return the small outputs of the last iterations, up to this one."""
        rows: list[dict[str, Any]] = []
        for chunk in reversed(chunks):
            low = max(chunk.first, iteration + 1 - count)
            numbers = np.arange(low, min(chunk.first + chunk.size, iteration + 1))
            places = chunk.places(numbers - chunk.first)
            outputs = {
                name: np.asarray(x)[places]
                for name, x in zip(self.stacked, chunk.stacked, strict=True)
                if floats([x]) and x.size <= SMALL * chunk.size
            }
            rows = [
                {"iteration": int(n)}
                | {k: x[i].item() if x[i].size == 1 else x[i] for k, x in outputs.items()}
                for i, n in enumerate(numbers)
            ] + rows
        return rows

    def sizes(
        self, carry: Sequence[Array], recent: Sequence[Any], numbers: range
    ) -> list[dict[str, Any]]:
        """Return how large the carry was before these iterations.

        Args:
            carry: the carry.
            recent: logarithms of the largest magnitudes and of the norms of its floats, a row an
                iteration, the last of them in `numbers` in the last row.
            numbers: of the iterations.
        """
        names = self.operands[self.carry]
        pairs = [(n, x) for n, x in zip(names, carry, strict=True) if floats([x])]
        if not pairs:
            return []
        rows: list[dict[str, Any]] = []
        for number, largest, norms in zip(numbers, *recent, strict=True):
            headroom = headroom_of(largest, [x.dtype for _, x in pairs])
            least = int(np.argmin(headroom))
            about = {"iteration": number, "headroom": float(headroom[least])}
            norm = float(np.sqrt(np.sum(10 ** (2 * norms.astype(np.float64)))))
            rows.append({**about, "leaf": pairs[least][0], "norm": norm})
        return rows


def floats(arrays: Sequence[Any]) -> list[Any]:
    """Return the arrays that can hold an inf or a NaN; they may be traced."""
    return [x for x in arrays if jnp.issubdtype(x.dtype, jnp.inexact) and x.size > 0]
