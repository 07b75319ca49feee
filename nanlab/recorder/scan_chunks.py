"""A training in one call -> the same training, its longest scan run from the host in chunks.

Nothing is added to the body, so the results are those of the whole program, to the bit. Between
chunks the host sees progress and Ctrl-C. After each chunk its carry is checked by a program of its
own, and the flag is read one chunk later. On a fault that chunk runs again, iteration by iteration,
from the carry at its start, which gives the carry before the first faulty iteration.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Int8

from nanlab.backend.finiteness import array_code
from nanlab.blame.explain.verdict import Verdict
from nanlab.blame.pinpoint import pinpoint_call
from nanlab.blame.program.call import Call
from nanlab.blame.program.interpreter import bind_equation
from nanlab.blame.program.program import Program, flatten_closed
from nanlab.blame.program.scan_split import ScanSplit, Start
from nanlab.blame.site import Site


class Progress(NamedTuple):
    """The state between two chunks.

    Attributes:
        done: number of iterations that have been started.
        length: number of all.
        carry: leaves of the carry after them.
        outputs: leaves of what the last chunk's iterations returned, stacked.
    """

    done: int
    length: int
    carry: Sequence[Array]
    outputs: Sequence[Array]


class IterationFault(FloatingPointError):
    """An iteration of a scan made an inf or a NaN that went into its carry.

    Attributes:
        iteration: its number, from 0, in the order of execution.
        length: number of iterations of the scan.
        consts: arrays that every iteration reads.
        carry: leaves of the carry before the iteration.
        slices: leaves of the scanned arrays that it reads.
        verdict: what `nanlab.pinpoint` finds in this iteration; its sites count iterations of the
            whole scan.
    """

    def __init__(
        self, iteration: int, length: int, operands: Sequence[Sequence[Array]], verdict: Verdict
    ) -> None:
        self.iteration, self.length, self.verdict = iteration, length, verdict
        self.consts, self.carry, self.slices = operands
        super().__init__(f"Iteration {iteration} of {length} is not finite.\n{verdict}")


class ChunkedFunction:
    """A function whose longest scan runs in chunks; `run_in_chunks` returns it.

    Attributes:
        reason: why the last call was not run in chunks; "" if it was.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        every: int,
        is_strict: bool,
        on_chunk: Callable[[Progress], Any] | None,
    ) -> None:
        self._function, self._every, self._is_strict = function, every, is_strict
        self._on_chunk, self.reason = on_chunk, ""
        self._chunks: dict[Any, _Chunks | None] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function; raises `IterationFault` if an iteration is at fault."""
        bound = _bound(self._function, args, kwargs)
        flat, tree = jax.tree_util.tree_flatten_with_path(bound.arguments)
        leaves = [leaf for _, leaf in flat]
        key = tree, tuple(map(_signature, leaves))
        if key not in self._chunks:
            names = [path[0].key + jax.tree_util.keystr(path[1:]) for path, _ in flat]
            self._chunks[key] = self._chunked(bound, leaves, tree, names)
        chunks = self._chunks[key]
        if chunks is None:
            return self._function(*args, **kwargs)
        self.reason = ""
        return chunks.run(leaves, self._on_chunk)

    def _chunked(
        self, bound: inspect.BoundArguments, leaves: list[Any], tree: Any, names: list[str]
    ) -> _Chunks | None:
        traced, indices = _traced(self._function, bound, leaves, tree)
        program = flatten_closed(traced.jaxpr, traced.out_info)
        try:
            split = ScanSplit(program)
        except LookupError:
            self.reason = "it has no scan at its top level"
            if any(frame.kind == "while" for frame in program.frames):
                self.reason += " but a while loop, whose iterations cannot be divided"
            warnings.warn(f"a call runs as a whole: {self.reason}", UserWarning, stacklevel=3)
            return None
        inputs, results = [names[i] for i in indices], jax.tree.structure(traced.out_info)
        call = _Traced(program, split, indices, inputs, results)
        return _Chunks(call, self._every, self._is_strict)


def run_in_chunks(
    function: Callable[..., Any],
    every: int = 20,
    *,
    strict: bool = False,
    on_chunk: Callable[[Progress], Any] | None = None,
) -> ChunkedFunction:
    """Return a function that runs its longest scan from the host, and checks it.

    The scan has to be at the top level, inside calls, `vmap` or derivatives at most. Arguments are
    not donated. The stacked outputs are concatenated at the end, which takes their memory twice.

    Args:
        function: a training in one call, jitted or not.
        every: number of iterations in a chunk, at least 2; a divisor of the scan's length near it
            is preferred, as a chunk of another length compiles again.
        strict: whether an inf or a NaN in the stacked outputs is a fault, too. It always is in a
            scan whose carry cannot hold one.
        on_chunk: called after each chunk is started, with the progress.

    Returns:
        The function. It raises `IterationFault` where a NaN came into the carry, or an inf into a
        leaf of it that was finite when the scan began.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> def train(w):
        ...     return jax.lax.scan(lambda w, rate: (w - rate * w, w), w, jnp.full(100, 0.1))
        >>> run_in_chunks(train)(jnp.float32(1))[0] == jax.jit(train)(jnp.float32(1))[0]
        Array(True, dtype=bool)
    """
    return ChunkedFunction(function, max(2, every), strict, on_chunk)


def _bound(function: Any, args: Any, kwargs: Any) -> inspect.BoundArguments:
    try:
        return inspect.signature(function).bind(*args, **kwargs)
    except ValueError:  # it has none
        return inspect.signature(lambda *args, **kwargs: None).bind(*args, **kwargs)  # pyright: ignore[reportUnknownArgumentType]


def _signature(leaf: Any) -> Any:
    if not hasattr(leaf, "dtype"):
        # Numbers are traced unless they decide a shape or a branch, so their value may matter.
        return type(leaf), leaf
    return leaf.shape, leaf.dtype, getattr(leaf, "weak_type", False)


def _traced(
    function: Callable[..., Any], bound: inspect.BoundArguments, leaves: list[Any], tree: Any
) -> tuple[Any, list[int]]:
    """Trace a call in its arrays and numbers: (traced, their indices among the leaves)."""
    arrays = [i for i, x in enumerate(leaves) if hasattr(x, "dtype")]
    floats = [i for i, x in enumerate(leaves) if isinstance(x, float | complex)]
    whole = [i for i, x in enumerate(leaves) if isinstance(x, int)]
    error = None
    # Numbers that decide a shape or a branch cannot be traced.
    for indices in map(sorted, ([*arrays, *floats, *whole], [*arrays, *floats], arrays)):

        def of_leaves(indices: list[int], *traced: Any) -> Any:
            filled = list(leaves)
            for index, leaf in zip(indices, traced, strict=True):
                filled[index] = leaf
            arguments = jax.tree.unflatten(tree, filled)
            own = inspect.BoundArguments(bound.signature, arguments)
            return function(*own.args, **own.kwargs)

        try:
            traced = jax.jit(partial(of_leaves, indices)).trace(*(leaves[i] for i in indices))
            return traced, indices
        except Exception as raised:
            error = error or raised
    raise error or AssertionError


class _Traced(NamedTuple):
    """A traced call: its program, its leaves that are traced and their names, its result's tree."""

    program: Program
    split: ScanSplit
    indices: list[int]
    names: list[str]
    tree: Any


class _Chunks:
    """The compiled parts of one program."""

    def __init__(self, call: _Traced, every: int, is_strict: bool) -> None:
        self._call, self._split = call, call.split
        split, values = call.split, call.program.values
        self._counts = _counts(split.length, every)
        opened = split.equation.opened
        carried = split.equation.results[: opened.carry if opened else 0]
        self._is_strict = is_strict or not any(values[v].can_be_bad for v in carried)
        self._before, self._after = jax.jit(split.before), jax.jit(split.after)
        self._iterations = jax.jit(split.iterations, static_argnames="count")
        self._codes, self._is_bad = jax.jit(_codes), jax.jit(self._is_bad_after)
        self._first_bad = jax.jit(self._search)

    def run(self, leaves: Sequence[Any], on_chunk: Callable[[Progress], Any] | None) -> Any:
        """Run the program on its arguments' leaves."""
        split = self._split
        start = self._before(*(leaves[i] for i in self._call.indices))
        carry, first, parts, checked = start.carry, 0, list[Sequence[Array]](), None
        codes = self._codes(carry)
        for count in self._counts:
            before, (carry, stacked) = (
                carry,
                self._iterations(start, carry, first=first, count=count),
            )
            flag = self._is_bad(carry, stacked, codes)
            self._check(start, codes, checked)
            checked = flag, before, first, count
            parts.append(stacked)
            first += count
            if on_chunk is not None:
                on_chunk(Progress(first, split.length, carry, stacked))
        self._check(start, codes, checked)
        return jax.tree.unflatten(self._call.tree, self._after(start, carry, split.joined(parts)))

    def _is_bad_after(
        self, carry: Sequence[Array], stacked: Sequence[Array], codes: Int8[Array, " n"]
    ) -> Bool[Array, ""]:
        bad = jnp.any(_codes(carry) > codes)
        return bad | jnp.any(_codes(stacked) > 0) if self._is_strict else bad

    def _search(
        self, start: Start, carry: Sequence[Array], codes: Any, first: Any, count: Any
    ) -> tuple[Any, Sequence[Array], Bool[Array, ""]]:
        """Return the first faulty iteration after `first`, the carry before it, and its flag."""

        def body(state: Any) -> Any:
            i, _, carry, _ = state
            after, stacked = self._split.iterations(start, carry, first=first + i, count=1)
            return i + 1, carry, after, self._is_bad_after(after, stacked, codes)

        state = jnp.int32(0), list(carry), list(carry), jnp.bool_(False)
        i, before, _, bad = lax.while_loop(lambda s: (s[0] < count) & ~s[3], body, state)
        return i - 1, before, bad

    def _check(self, start: Start, codes: Any, checked: Any) -> None:
        if checked is None or not bool(checked[0]):
            return
        _, before, first, count = checked
        offset, carry, is_found = self._first_bad(start, before, codes, first, count)
        if bool(is_found):
            iteration = first + int(offset)
            operands = start.consts, carry, self._split.slices(start, iteration)
            verdict = self._verdict(iteration, *operands)
            raise IterationFault(iteration, self._split.length, operands, verdict)

    def _verdict(
        self, iteration: int, consts: Sequence[Any], carry: Sequence[Any], slices: Sequence[Any]
    ) -> Verdict:
        equation, n_carried = self._split.equation, len(carry)

        def run(*operands: Any) -> Any:
            return bind_equation(equation, operands, length=1)

        operands = [*consts, *carry, *(x[None] for x in slices)]
        run = jax.named_scope(equation.scopes)(run)
        known = dict(zip(self._call.program.frames[0].arguments, self._call.names, strict=True))
        parts = (("constant", consts), ("carry", carry), ("slice", slices))
        names = [f"{part}[{i}]" for part, arrays in parts for i in range(len(arrays))]
        names = [known.get(v, name) for v, name in zip(equation.operands, names, strict=True)]
        outputs = [f"{name} after the iteration" for name in names[len(consts) :][:n_carried]]
        outputs += [f"output[{i}]" for i in range(len(equation.results) - n_carried)]
        traced = jax.jit(run).trace(*operands)
        call = Call(traced=traced, arrays=operands, names=names, numbers={}, outputs=outputs)
        return _counted(pinpoint_call(call), iteration)


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

    def placed(site: Site | None) -> Any:
        if site is None or not site.iterations:
            return site
        return replace(site, iterations=(iteration, *site.iterations[1:]))

    chain, benign = tuple(map(placed, verdict.chain)), tuple(map(placed, verdict.benign))
    origin, culprit = placed(verdict.origin), placed(verdict.culprit)
    return replace(verdict, origin=origin, culprit=culprit, chain=chain, benign=benign)
