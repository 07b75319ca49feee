"""A long scan, bad results -> the iteration in which they began, and what it started from."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Int8

from nanlab.backend.finiteness import FINITE, INF, array_code
from nanlab.blame.program.dataflow import upstream
from nanlab.blame.program.program import Equation, Program, flatten_body
from nanlab.blame.program.scan_split import ScanSplit

LONG = 200_000
"""Number of equations run, above which a scan is searched by iteration instead of recorded."""

N_PARTS = 64
"""Number of parts that a scan runs in; the carry is stored before each."""

STORED_CARRY_BYTES = 2**30
"""Most memory that stored carries take."""


class Beginning(NamedTuple):
    """Where bad results of a scan began.

    Attributes:
        iteration: the iteration, in execution order.
        results: indices of the body's results that are bad after it and reach the bad results.
    """

    iteration: int
    results: list[int]


class ScanSearch:
    """Runs a scan in parts, and records after each iteration which results are not finite.

    Args:
        program: program with the scan at its top level.
        equation: the scan.
        arrays: arguments of the program.
        deadline: time (`time.monotonic`) at which it stops.

    Attributes:
        split: the program, split at the scan.
        n_run: number of iterations that ran before the deadline.
    """

    def __init__(
        self, program: Program, equation: Equation, arrays: Sequence[Array], deadline: float
    ) -> None:
        self.split = ScanSplit(program, equation)
        self._start = jax.jit(self.split.before)(*arrays)
        self._n_carry = len(self._start.carry)
        self._part = max(1, -(-self.split.length // N_PARTS))
        self._advance = jax.jit(self._run_part)
        self._first = np.array([array_code(x) for x in self._start.carry], np.int8)
        self._carries: dict[int, list[Array]] = {0: self._start.carry}
        self._codes = self._run(deadline)
        self.n_run = len(self._codes)
        self._feeders = self._arguments_of_results()

    def _run_part(
        self, start: Any, carry: list[Array], first: Array, count: Array
    ) -> tuple[list[Array], Int8[Array, "iterations results"]]:
        def run(index: Any, loop: Any) -> Any:
            carry, codes = loop
            after, stacked = self.split.iterations(start, carry, first=first + index, count=1)
            row = jnp.stack([jnp.int8(FINITE), *map(array_code, (*after, *stacked))])
            return after, codes.at[index].set(row[1:])

        n_results = len(self.split.equation.results)
        codes = jnp.zeros((self._part, n_results), jnp.int8)
        return lax.fori_loop(jnp.zeros_like(count), count, run, (carry, codes))

    def _run(self, deadline: float) -> Int8[np.ndarray, "iterations results"]:
        """Run the scan; return the codes after each iteration, of the whole scan if in time."""
        length, part = self.split.length, self._part
        n_stored = STORED_CARRY_BYTES // (1 + sum(x.nbytes for x in self._start.carry))
        every = max(1, -(-N_PARTS // max(1, n_stored)))
        carry, rows = self._start.carry, [np.zeros((0, len(self.split.equation.results)), np.int8)]
        for number, first in enumerate(range(0, length, part)):
            if time.monotonic() > deadline:
                break
            if number % every == 0:
                self._carries[first] = carry
            count = min(part, length - first)
            carry, codes = self._advance(self._start, carry, np.int32(first), np.int32(count))
            rows.append(np.asarray(codes)[:count])
        return np.concatenate(rows)

    def _arguments_of_results(self) -> list[set[int]]:
        """Return, for each result of the body, the indices of the carry that it depends on."""
        body = flatten_body(self.split.equation, range(len(self.split.equation.results)))
        first = len(self._start.consts)
        carry = {v: i for i, v in enumerate(body.frames[0].arguments[first:][: self._n_carry])}

        def anything(_: Equation) -> bool:
            return True

        found = (
            upstream(body, [r], through=anything, iterated=True) for r in body.frames[0].results
        )
        return [{carry[v] for v in values if v in carry} for values in found]

    def beginning(
        self, results: Collection[int], worst: int, before: int | None = None
    ) -> Beginning | None:
        """Return where bad results began.

        Args:
            results: indices of the scan's bad results; of the carry, if `before` is given.
            worst: NAN to follow NaNs only, INF to follow all values that are not finite.
            before: iteration in whose initial carry the results are bad; None for the scan's end.

        Returns:
            The earliest iteration from which a bad value reached the results; None if none is bad.
        """
        bad = self._codes >= worst
        pending: dict[int, set[int]] = {}
        for result in results:
            rows = (
                np.flatnonzero(bad[:, result])
                if result >= self._n_carry
                else [(self.n_run if before is None else before) - 1]
            )
            if len(rows) and rows[0] >= 0 and bad[rows[0], result]:
                pending.setdefault(int(rows[0]), set()).add(result)
        found = None
        for iteration in range(max(pending, default=-1), -1, -1):
            reached = pending.pop(iteration, set[int]())
            read = {k for result in reached for k in self._feeders[result]}
            fed = {k for k in read if self._is_bad_before(iteration, k, worst)}
            if fed and iteration:
                pending.setdefault(iteration - 1, set()).update(fed)
            elif reached:
                found = Beginning(iteration, sorted(reached))
        return found

    def _is_bad_before(self, iteration: int, carried: int, worst: int) -> bool:
        before = self._codes[:iteration, carried]
        code = before[-1] if iteration else self._first[carried]
        # What was an inf from the start, such as the best value so far, is no fault that began.
        is_meant = worst == INF and self._first[carried] == INF and (before == INF).all()
        return bool(code >= worst) and not is_meant

    def infs_before(self, iteration: int, results: Collection[int]) -> list[int]:
        """Return which of the carry that the results depend on is bad before an iteration."""
        read = {k for result in results for k in self._feeders[result]}
        return [k for k in sorted(read) if self._is_bad_before(iteration, k, INF)]

    def arguments(self, iteration: int) -> list[Array]:
        """Return the arguments of the body in an iteration."""
        first = max(start for start in self._carries if start <= iteration)
        carry = self._carries[first]
        while first < iteration:
            count = min(self._part, iteration - first)
            carry, _ = self._advance(self._start, carry, np.int32(first), np.int32(count))
            first += count
        slices = self.split.slices(self._start, iteration)
        return [*self._start.consts, *carry, *slices]

    def index(self, iteration: int) -> int:
        """Return the index of an iteration in the scanned arrays, as other sites count them."""
        return self.split.length - 1 - iteration if self.split.is_reversed else iteration
