"""Function, arguments -> emissions: a program run one equation at a time, every result looked at.

The plain oracle for the detective: nothing is compiled together, nothing is clever, and it shares
no code with `nanlab.blame`. Each value carries the emissions that its bad contents came from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal

from nanlab.backend import jaxpr as _jax

INPUT, CONSTANT = -1, -2
"""Where bad contents came from if no equation made them; else an emission's number."""

_CALLS = ("jaxpr", "call_jaxpr")
_TRIPS_AT_MOST = 20_000


class Seen(NamedTuple):
    """A value; where its NaNs came from; where whatever in it is not finite came from."""

    array: Any
    nans: frozenset[int]
    bads: frozenset[int]


@dataclass(frozen=True, kw_only=True)
class Emission:
    """An equation that made a NaN of NaN-free operands, or an inf of finite ones.

    Attributes:
        number: emissions count in the order in which they came.
        primitive: its name.
        is_nan: whether it made a NaN of NaN-free operands.
        iterations: iterations of the enclosing loops, outermost first.
        lines: "file:line" of its Python frames, innermost first, through the calls around it.
        infs: where the infs in its operands came from.
    """

    number: int
    primitive: str
    is_nan: bool
    iterations: tuple[int, ...]
    lines: tuple[str, ...]
    infs: frozenset[int]


@dataclass(frozen=True, kw_only=True)
class Account:
    """What a run showed.

    Attributes:
        outputs: the function's leaves.
        emissions: all, in time.
        culprits: the numbers of the NaN emissions that reach an output (or INPUT, CONSTANT).
        bads: the same for whatever is not finite.
    """

    outputs: list[Any]
    emissions: list[Emission]
    culprits: frozenset[int]
    bads: frozenset[int]

    def first(self, *, nan: bool) -> Emission | None:
        """The first emission in time, harmless or not."""
        return next((e for e in self.emissions if e.is_nan == nan), None)

    @property
    def culprit(self) -> Emission | None:
        """The first to make a NaN that reaches an output."""
        made = [number for number in self.culprits if number >= 0]
        return self.emissions[min(made)] if made else None

    @property
    def origin(self) -> int:
        """Number of the emission that made the culprit's inf, or else what reached the outputs."""
        if self.culprit is None:
            return _earliest(self.bads)
        return _earliest(self.culprit.infs) if self.culprit.infs else self.culprit.number


def _earliest(numbers: Iterable[int]) -> int:
    made = [number for number in numbers if number >= 0]
    return min(made) if made else max(numbers)


def run(function: Callable[..., Any], *arguments: Any) -> Account:
    """Run `function` equation by equation."""
    jaxpr, constants, _ = _jax.trace(function, *arguments)
    interpreter = _Interpreter()
    inputs = [_known(x, INPUT) for x in jax.tree.leaves(arguments)]
    outputs = interpreter.run((jaxpr, constants), inputs)
    return Account(
        outputs=[seen.array for seen in outputs],
        emissions=interpreter.emissions,
        culprits=frozenset[int]().union(*(seen.nans for seen in outputs)),
        bads=frozenset[int]().union(*(seen.bads for seen in outputs)),
    )


def holds(array: Any, *, nan: bool) -> bool:
    """Whether an array holds a NaN; with `nan` false, an inf or a NaN."""
    dtype = getattr(array, "dtype", None) or np.asarray(array).dtype
    if not jnp.issubdtype(dtype, jnp.inexact):
        return False
    host = np.asarray(array)
    host = host.astype(np.float32) if host.dtype.kind not in "fc" else host
    return bool(np.isnan(host).any() if nan else (~np.isfinite(host)).any())


def _known(array: Any, source: int) -> Seen:
    nans = frozenset([source]) if holds(array, nan=True) else frozenset[int]()
    bads = frozenset([source]) if holds(array, nan=False) else frozenset[int]()
    return Seen(array, nans, bads)


def _restricted(array: Any, nans: frozenset[int], bads: frozenset[int]) -> Seen:
    """A value with only those sources that its contents can have."""
    return Seen(
        array,
        nans if holds(array, nan=True) else frozenset(),
        bads if holds(array, nan=False) else frozenset(),
    )


def _chosen(going: Any, new: Seen, old: Seen) -> Seen:
    if not going.ndim:
        return new
    chosen = going.reshape(going.shape + (1,) * (new.array.ndim - going.ndim))
    array = jnp.where(chosen, new.array, old.array)
    return _restricted(array, new.nans | old.nans, new.bads | old.bads)


@dataclass
class _Interpreter:
    emissions: list[Emission] = field(default_factory=list[Emission])
    _around: list[Any] = field(default_factory=list[Any])
    _iterations: list[int] = field(default_factory=list[int])

    def run(self, program: tuple[Any, Sequence[Any]], inputs: Sequence[Seen]) -> list[Seen]:
        jaxpr, constants = program
        names = _jax.argument_variables(jaxpr)
        held = [_known(c, CONSTANT) for c in constants]
        env = dict(zip(names, [*held, *inputs], strict=True))

        def read(atom: Any) -> Seen:
            return _known(atom.val, CONSTANT) if isinstance(atom, Literal) else env[atom]

        for eqn in jaxpr.eqns:
            results = self._equation(eqn, [read(v) for v in eqn.invars])
            env.update(zip(eqn.outvars, results, strict=True))
        return [read(v) for v in jaxpr.outvars]

    def _equation(self, eqn: Any, operands: list[Seen]) -> list[Seen]:
        inside = getattr(self, f"_{eqn.primitive.name}", None)
        if inside is None and any(name in eqn.params for name in _CALLS):
            inside = self._call
        if inside is None:
            return self._leaf(eqn, operands)
        self._around.append(eqn)
        results = inside(eqn.params, operands)
        self._around.pop()
        return results

    def _leaf(self, eqn: Any, operands: list[Seen]) -> list[Seen]:
        arrays = _jax.bind(eqn, [seen.array for seen in operands])
        nans = frozenset[int]().union(*(seen.nans for seen in operands))
        bads = frozenset[int]().union(*(seen.bads for seen in operands))
        makes_nan = not nans and any(holds(array, nan=True) for array in arrays)
        makes_bad = not bads and any(holds(array, nan=False) for array in arrays)
        if makes_nan or makes_bad:
            number = self._emit(eqn, operands, is_nan=makes_nan)
            nans = frozenset([number]) if makes_nan else nans
            bads = frozenset([number]) if makes_bad else bads
        return [_restricted(array, nans, bads) for array in arrays]

    def _emit(self, eqn: Any, operands: list[Seen], *, is_nan: bool) -> int:
        around = [eqn, *reversed(self._around)]
        frames = [frame for each in around for frame in _jax.equation_frames(each)]
        emission = Emission(
            number=len(self.emissions),
            primitive=eqn.primitive.name,
            is_nan=is_nan,
            iterations=tuple(self._iterations),
            lines=tuple(f"{frame.file}:{frame.line}" for frame in frames),
            infs=frozenset[int]().union(*(seen.bads for seen in operands)),
        )
        self.emissions.append(emission)
        return emission.number

    def _call(self, params: Any, operands: list[Seen]) -> list[Seen]:
        (name,) = [name for name in _CALLS if name in params]
        return self.run(_jax.split_constants(params[name]), operands)

    def _custom_linear_solve(self, params: Any, operands: list[Seen]) -> list[Seen]:
        lengths = params["const_lengths"]
        before = lengths.matvec + lengths.vecmat
        own = operands[before : before + lengths.solve]
        right_side = operands[sum(lengths) :]
        return self.run(_jax.split_constants(params["jaxprs"].solve), [*own, *right_side])

    def _shard_map(self, params: Any, operands: list[Seen]) -> list[Seen]:
        assert params["mesh"].size == 1, "on one device the body is the whole program"
        return self.run(_jax.split_constants(params["jaxpr"]), operands)

    def _same(self, params: Any, operands: list[Seen]) -> list[Seen]:
        return operands

    # Collectives over an axis of one device.
    _psum = _psum2 = _psum_invariant = _pvary = _pbroadcast = _pcast = _same

    def _cond(self, params: Any, operands: list[Seen]) -> list[Seen]:
        branches = params["branches"]
        chosen = min(max(int(operands[0].array), 0), len(branches) - 1)
        return self.run(_jax.split_constants(branches[chosen]), operands[1:])

    def _while(self, params: Any, operands: list[Seen]) -> list[Seen]:
        first, second = params["cond_nconsts"], params["body_nconsts"]
        condition = _jax.split_constants(params["cond_jaxpr"])
        body = _jax.split_constants(params["body_jaxpr"])
        carry = operands[first + second :]
        self._iterations.append(0)
        while (going := self.run(condition, [*operands[:first], *carry])[0].array).any():
            results = self.run(body, [*operands[first : first + second], *carry])
            # Under vmap there is a condition for each element; those that are done keep theirs.
            carry = [_chosen(going, *pair) for pair in zip(results, carry, strict=True)]
            self._iterations[-1] += 1
            assert self._iterations[-1] < _TRIPS_AT_MOST, "the while loop runs away"
        self._iterations.pop()
        return carry

    def _scan(self, params: Any, operands: list[Seen]) -> list[Seen]:
        body = _jax.split_constants(params["jaxpr"])
        slices = len(body[0].invars)
        if "num_consts" in params:
            consts, carried = params["num_consts"], params["num_carry"]
        else:  # JAX 0.12
            consts, carried = (len(part) for part in params["ft_in"].unpack()[:2])
        fixed, carry = operands[:consts], operands[consts : consts + carried]
        sliced = operands[consts + carried : slices]
        order = range(params["length"])
        stacks: list[list[Seen]] = []
        self._iterations.append(0)
        for i in order[::-1] if params["reverse"] else order:
            self._iterations[-1] = i
            here = [_restricted(x.array[i], x.nans, x.bads) for x in sliced]
            results = self.run(body, [*fixed, *carry, *here])
            carry = results[:carried]
            stacks.append(results[carried:])
        self._iterations.pop()
        ordered = stacks[::-1] if params["reverse"] else stacks
        return [*carry, *(self._stacked(column) for column in zip(*ordered, strict=True))]

    def _stacked(self, column: Sequence[Seen]) -> Seen:
        return Seen(
            jnp.stack([seen.array for seen in column]),
            frozenset[int]().union(*(seen.nans for seen in column)),
            frozenset[int]().union(*(seen.bads for seen in column)),
        )
