"""Concrete runs against abstract ones: whether any value lies outside of its abstraction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nanlab.backend import jaxpr as _jax
from nanlab.blame.program.program import Program, flatten
from nanlab.linting.abstract import INPUT, NEVER, Abstract, May, interval
from nanlab.linting.analysis import Parts, RangeAnalysis

FLOATS = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float16": jnp.float16}


class Escape(NamedTuple):
    """A concrete value outside of its abstraction."""

    primitive: str
    element: tuple[int, ...]
    value: float
    lo: float
    hi: float
    operands: tuple[float, ...]


def corners(dtype: Any) -> np.ndarray:
    """Numbers at which rules change: limits of the type and of functions, of both signs."""
    info = jnp.finfo(dtype)
    most, tiny, eps = float(info.max), float(info.smallest_normal), float(info.eps)
    log = float(np.log(most))
    some = [0, tiny, 2 * tiny, tiny / 2, float(info.smallest_subnormal), most, most / 2, eps,
            1e-4, 0.5, 1, 1 - eps / 2, 1 + eps, 2, 3, 4.5, 10, log, log * 1.001, log / 2, most**0.5,
            most**-0.5, 1e4, 1 / eps, np.pi / 2]  # fmt: skip
    rounded = np.asarray(some).astype(dtype).astype(np.float64)
    finite = rounded[np.isfinite(rounded)]
    return np.unique(np.concatenate([-finite, finite]))


def argument(
    rng: np.random.Generator, shape: tuple[int, ...], dtype: Any, *, bad: float
) -> Abstract:
    """An interval for each element, from one corner to another; infs and NaN with chance `bad`."""
    at = corners(dtype)
    ends = np.sort(rng.choice(at, (2, *shape)), axis=0)
    if rng.random() < 0.3:  # a single number
        ends[1] = ends[0]

    def standing() -> May:
        where = rng.random(shape) < bad
        return May(where, frozenset({INPUT})) if where.any() else NEVER

    mays = {name: standing() for name in ("posinf", "neginf", "nan")}
    # Under a guard an element may be bad and nothing else.
    is_bad = mays["posinf"].where | mays["neginf"].where | mays["nan"].where
    only = (rng.random(shape) < 0.5) & is_bad
    lo, hi = np.where(only, np.inf, ends[0]), np.where(only, -np.inf, ends[1])
    return interval(shape, dtype, lo, hi, **mays)


def sample(rng: np.random.Generator, value: Abstract, *, subnormals: bool = True) -> Any:
    """An array inside its abstraction: ends, numbers between them, infs and NaN."""
    empty = np.broadcast_to(value.empty, value.shape)
    lo, hi = (np.where(empty, 0, end) for end in (value.lo, value.hi))
    share = rng.random(value.shape)
    kind = rng.integers(0, 6, value.shape)
    small = np.sign(hi + lo) * np.exp(rng.uniform(-80, 2, value.shape))
    chosen = np.select(
        [kind == 0, kind == 1, kind == 2, kind == 3],
        [lo, hi, lo + share * (hi - lo), np.clip(small, lo, hi)],
        np.clip(rng.normal(size=value.shape) * 3, lo, hi),
    )
    chosen = np.clip(np.where(np.isfinite(chosen), chosen, lo), lo, hi)
    chosen = np.clip(chosen.astype(value.dtype).astype(np.float64), lo, hi)
    if not subnormals:
        chosen = np.where(abs(chosen) < float(jnp.finfo(value.dtype).smallest_normal), 0, chosen)
    for may, bad in ((value.posinf, np.inf), (value.neginf, -np.inf), (value.nan, np.nan)):
        is_left = empty & np.isfinite(chosen)
        chosen = np.where(may.where & (is_left | (rng.random(value.shape) < 0.3)), bad, chosen)
    return jnp.asarray(chosen.astype(value.dtype))


def escapes(
    function: Callable[..., Any], arguments: Sequence[Abstract], samples: Sequence[Sequence[Any]]
) -> list[Escape]:
    """Run a function on abstract and on concrete arguments, one equation at a time."""
    shapes = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in arguments]
    program = flatten(function, *shapes)
    analysis = RangeAnalysis(program, Parts(growth=True))
    analysis.run(arguments)
    found: list[Escape] = []
    for arrays in samples:
        found += _compare(program, analysis, arrays)
    return found


def _compare(program: Program, analysis: RangeAnalysis, arrays: Sequence[Any]) -> list[Escape]:
    top, found = program.frames[0], []
    env: dict[int, Any] = dict(zip(top.arguments, arrays, strict=True))

    def read(value: int) -> Any:
        return env[value] if value in env else program.values[value].constant

    for index in top.equations:
        equation = program.equations[index]
        operands = [read(value) for value in equation.operands]
        env.update(zip(equation.results, _jax.bind(equation.eqn, operands), strict=True))
        for value in equation.results:
            element = _outside(analysis.of(value), env[value])
            if element is not None:
                found.append(
                    _escape(equation.primitive, analysis.of(value), env[value], operands, element)
                )
    return found


def _numbers(array: Any) -> np.ndarray:
    return np.asarray(array).astype(np.float64)


def _outside(value: Abstract, array: Any) -> tuple[int, ...] | None:
    if _jax.is_key(array) or array.dtype.kind == "c":
        return None
    numbers = _numbers(array)
    # XLA flushes subnormals to zero in some operations and not in others: they count as zero.
    is_float = jnp.issubdtype(array.dtype, jnp.floating)
    tiny = float(jnp.finfo(array.dtype).smallest_normal) if is_float else 0.0
    is_zero = (abs(numbers) < tiny) & (value.lo <= 0) & (value.hi >= 0)
    inside = (
        ((numbers >= value.lo) & (numbers <= value.hi) & np.isfinite(numbers))
        | is_zero
        | (np.isposinf(numbers) & value.posinf.where)
        | (np.isneginf(numbers) & value.neginf.where)
        | (np.isnan(numbers) & value.nan.where)
    )
    inside = np.broadcast_to(inside, numbers.shape)
    if inside.all():
        return None
    return tuple(int(i) for i in np.argwhere(~inside)[0])


def _escape(
    primitive: str, value: Abstract, array: Any, operands: Sequence[Any], element: tuple[int, ...]
) -> Escape:
    lo, hi = (np.broadcast_to(end, value.shape)[element] for end in (value.lo, value.hi))
    there = tuple(
        float(_numbers(operand)[element] if np.shape(operand) == np.shape(array) else np.nan)
        for operand in operands
        if not _jax.is_key(operand)
    )
    return Escape(primitive, element, float(_numbers(array)[element]), float(lo), float(hi), there)
