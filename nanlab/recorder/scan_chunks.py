"""A training in one call -> the same training, its longest scan run from the host in chunks.

Nothing is added to the body, so the results are those of the whole program, to the bit. Between
chunks the host sees Ctrl-C. After each chunk its carry is checked by a program of its own, and the
flag is read one chunk later. On a fault that chunk runs again, iteration by iteration, from the
carry at its start, which gives the carry before the first faulty iteration.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Bool, Int8

from nanlab.backend.finiteness import NAN, array_code
from nanlab.backend.jaxpr import is_key
from nanlab.blame.explain.verdict import Verdict
from nanlab.blame.pinpoint import pinpoint_call
from nanlab.blame.probes.callbacks import SILENCED
from nanlab.blame.program.call import Call
from nanlab.blame.program.interpreter import bind_equation
from nanlab.blame.program.scan_split import ScanSplit, Start
from nanlab.blame.site import Site
from nanlab.recorder.bad_iteration import BadIteration, Chunk, ScanNames, TracedCall, floats
from nanlab.recorder.run_up import magnitudes

_RUN_UP = 17  # iterations


class _Search(NamedTuple):
    """State of the search for the first bad iteration of a chunk; see `BadIteration`."""

    number: Any
    before: Sequence[Array]
    after: Sequence[Array]
    is_bad: Any
    recent: list[Array]  # logarithms of the largest magnitudes and of the norms, a row an iteration
    differing: Any


class ScanChunks:
    """The compiled parts of one program.

    Args:
        call: the traced call.
        split: its program, split at the scan.
        every: number of iterations in a chunk; a divisor of the scan's length near it is preferred,
            as a chunk of another length compiles again.
        is_strict: whether an inf or a NaN in the stacked outputs is a fault, too. It always is in a
            scan whose carry cannot hold one.
        history: number of iterations whose small outputs are remembered.

    Attributes:
        has_called_back: whether Python functions that the program calls may have been called, so
            that it must not run again.
    """

    def __init__(
        self, call: TracedCall, split: ScanSplit, every: int, is_strict: bool, history: int
    ) -> None:
        self._call, self._split, self._history = call, split, history
        self.counts = _counts(split.length, every)
        values, opened = call.program.values, split.equation.opened
        carried = split.equation.results[: opened.carry if opened else 0]
        self._calls_back = any(
            "callback" in e.primitive or e.primitive in SILENCED for e in call.program.equations
        )
        self.has_called_back = False
        self._is_strict = is_strict or not any(values[v].can_be_bad for v in carried)
        self._names = ScanNames(call, split)
        self._before, self._after = jax.jit(split.before), jax.jit(split.after)
        self._iterations = jax.jit(split.iterations, static_argnames="count")
        self._codes, self._is_bad = jax.jit(_codes), jax.jit(self._is_bad_after)
        self._first_bad = jax.jit(self._search)

    def run(self, arguments: Sequence[Any]) -> Any:
        """Run the program on its arguments.

        Returns:
            Its result, or the `BadIteration`.
        """
        split, chunks = self._split, list[Chunk]()
        start = self._before(*arguments)
        carry, first, codes = start.carry, 0, self._codes(start.carry)
        # From here on a failure is the program's own.
        self._iterations.lower(start, carry, first=0, count=self.counts[0]).compile()
        self.has_called_back = self._calls_back
        for count in self.counts:
            before = carry
            carry, stacked = self._iterations(start, carry, first=first, count=count)
            if chunks and bool(chunks[-1].is_bad):
                break
            if chunks:
                chunks[-1] = chunks[-1]._replace(before=())
            is_bad = self._is_bad(carry, stacked, codes)
            chunks.append(Chunk(first, count, before, stacked, is_bad, split.is_reversed))
            first += count
        if bool(chunks[-1].is_bad):
            return self._found(start, codes, chunks)
        if NAN in np.asarray(codes) and (verdict := self._before_the_scan(arguments)) is not None:
            return self._bad(-1, start, start.carry, verdict)
        stacked = split.joined([chunk.stacked for chunk in chunks])
        return jax.tree.unflatten(self._call.tree, self._after(start, carry, stacked))

    def _is_bad_after(
        self, carry: Sequence[Array], stacked: Sequence[Array], codes: Int8[Array, " n"]
    ) -> Bool[Array, ""]:
        bad = jnp.any(_codes(carry) > codes)
        return bad | jnp.any(_codes(stacked) > 0) if self._is_strict else bad

    def _search(self, start: Start, chunk: Chunk, codes: Int8[Array, " n"]) -> _Search:
        """Run a chunk again up to its first faulty iteration."""
        chunk = chunk._replace(is_reversed=self._split.is_reversed)  # untraced

        def body(state: _Search) -> _Search:
            i, at = state.number, state.number % _RUN_UP
            after, stacked = self._split.iterations(
                start, state.after, first=chunk.first + i, count=1
            )
            were = [lax.dynamic_index_in_dim(x, chunk.places(i)) for x in chunk.stacked]
            differing = sum(map(_differ, stacked, were), start=state.differing)
            recent = [
                old.at[at].set(new)
                for old, new in zip(state.recent, magnitudes(floats(state.after)), strict=True)
            ]
            is_bad = self._is_bad_after(after, stacked, codes)
            return _Search(i + 1, state.after, after, is_bad, recent, differing)

        carry = list(chunk.before)
        recent = [jnp.full((_RUN_UP, len(floats(carry))), jnp.nan, jnp.float32)] * 2
        state = _Search(jnp.int32(0), carry, carry, jnp.bool_(False), recent, jnp.int32(0))
        return lax.while_loop(lambda s: (s.number < chunk.size) & ~s.is_bad, body, state)

    def _found(self, start: Start, codes: Any, chunks: list[Chunk]) -> BadIteration:
        """Return the first bad iteration of the last chunk."""
        chunk = chunks[-1]
        bare = chunk._replace(is_bad=None, is_reversed=False)
        found: _Search = self._first_bad(start, bare, codes)
        if not bool(found.is_bad):
            return self._bad(chunk.first, start, chunk.before, None)
        offset = int(found.number) - 1
        iteration = chunk.first + offset
        bad = self._bad(iteration, start, found.before, self._verdict(iteration, start, found))
        numbers = range(max(chunk.first, iteration + 1 - _RUN_UP), iteration + 1)
        places = [(number - chunk.first) % _RUN_UP for number in numbers]
        recent = [np.asarray(x)[places] for x in found.recent]
        return replace(
            bad,
            history=self._names.rows(chunks, iteration, self._history),
            run_up=self._names.sizes(found.before, recent, numbers),
            compared=(offset + 1) * len(chunk.stacked),
            differing=int(found.differing),
        )

    def _bad(
        self, iteration: int, start: Start, carry: Sequence[Array], verdict: Verdict | None
    ) -> BadIteration:
        slices = self._split.slices(start, max(iteration, 0))
        return BadIteration(
            iteration=iteration,
            length=self._split.length,
            parts=(start.consts, carry, slices),
            names=self._names.operands,
            verdict=verdict,
        )

    # Verdicts.

    def _verdict(self, iteration: int, start: Start, found: _Search) -> Verdict:
        equation = self._split.equation

        def run(*operands: Any) -> Any:
            return bind_equation(equation, operands, length=1)

        slices = [x[None] for x in self._split.slices(start, iteration)]
        operands = [*start.consts, *found.before, *slices]
        run = jax.named_scope(equation.scopes)(run)
        traced = jax.jit(run).trace(*operands)
        names = self._names
        outputs = [f"{name} after the iteration" for name in names.operands[names.carry]]
        call = Call(
            traced=traced,
            arrays=operands,
            names=names.operands,
            numbers={},
            outputs=[*outputs, *names.stacked],
            judged=None if self._is_strict else range(len(outputs)),
        )
        return _counted(pinpoint_call(call), iteration)

    def _before_the_scan(self, arguments: Sequence[Any]) -> Verdict | None:
        """Return what is wrong with what precedes the scan; None if a NaN came with the arguments.

        A NaN that the carry begins with is no fault of an iteration.
        """
        arrays = [jnp.asarray(x) for x in arguments]
        traced = jax.jit(self._split.before).trace(*arrays)
        names = [*self._names.operands, *(f"value[{i}]" for i in range(len(traced.out_info.rest)))]
        call = Call(traced=traced, arrays=arrays, names=self._call.names, numbers={}, outputs=names)
        verdict = pinpoint_call(call)
        return verdict if verdict.nan_outputs and not verdict.input_faults else None


def _differ(one: Any, other: Any) -> Any:
    """Return whether the bits of two arrays differ, as an integer."""
    return jnp.any(_bits(one) != _bits(other)).astype(jnp.int32)


def _bits(x: Any) -> Any:
    if is_key(x):
        return jax.random.key_data(x)
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        return jnp.stack([_bits(x.real), _bits(x.imag)])
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return x
    return lax.bitcast_convert_type(x, f"uint{8 * x.dtype.itemsize}")


def _codes(leaves: Sequence[Array]) -> Int8[Array, " n"]:
    return jnp.stack([array_code(x) for x in leaves] or [jnp.int8(0)])


def _counts(length: int, every: int) -> list[int]:
    """Return the lengths of the chunks; none is 1, as XLA would compile that without a loop."""
    near = [n for n in range(max(2, every // 2), 2 * every + 1) if length % n == 0]
    every = min(near, key=lambda n: abs(n - every), default=every)
    counts = [every] * (length // every)
    if length % every > 1 or not counts:
        return [*counts, length % every]
    counts[-1] += length % every
    return counts


def _counted(verdict: Verdict, iteration: int) -> Verdict:
    """Return a verdict on one iteration with the iteration's number in the whole scan."""
    placed_before: dict[int, Any] = {}  # the origin stays the same object as the culprit

    def placed(site: Site | None) -> Any:
        if site is None or not site.iterations:
            return site
        own = replace(site, iterations=(iteration, *site.iterations[1:]))
        return placed_before.setdefault(id(site), own)

    chain, benign = tuple(map(placed, verdict.chain)), tuple(map(placed, verdict.benign))
    origin, culprit = placed(verdict.origin), placed(verdict.culprit)
    return replace(verdict, origin=origin, culprit=culprit, chain=chain, benign=benign)
