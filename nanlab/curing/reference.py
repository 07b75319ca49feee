"""Jaxpr -> the same program in float64, whatever types it names: what its formulas mean."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from nanlab.backend import jaxpr as _jax

QUICK: dict[str, Any] = {"xla_backend_optimization_level": "0"}
"""Options with which to compile what runs a few times."""

_WIDE = jnp.float64
# What reads or draws the bits of a type runs in this type.
_NARROW = ("bitcast_convert_type", "random_gamma", "random_gamma_grad", "nextafter")

# Their equations hold a computation in the original type.
_SCATTERS: dict[str, Callable[..., Any]] = {
    "scatter-add": lax.scatter_add, "scatter-sub": lax.scatter_sub, "scatter-mul": lax.scatter_mul,
    "scatter-min": lax.scatter_min, "scatter-max": lax.scatter_max,
}  # fmt: skip


class NoReference(Exception):
    """The program has a part that does not run in float64."""


def widened(jaxpr: Any, constants: Sequence[Any], arguments: Sequence[Any]) -> list[Any]:
    """Run a jaxpr with every floating-point number in float64; x64 has to be on."""
    return [_wide(x) for x in _run(jaxpr, constants, arguments)]


def _run(jaxpr: Any, constants: Sequence[Any], arguments: Sequence[Any]) -> list[Any]:
    return _jax.run_jaxpr(
        jaxpr, [_wide(c) for c in constants], [_wide(a) for a in arguments], _bind
    )


def _is_float(dtype: Any) -> bool:
    return bool(jnp.issubdtype(dtype, jnp.floating))


def _wide(x: Any) -> Any:
    dtype = getattr(x, "dtype", None)
    if dtype is None:
        x = jnp.asarray(x)
        dtype = x.dtype
    return lax.convert_element_type(x, _WIDE) if _is_float(dtype) else x


def _bind(eqn: Any, operands: Sequence[Any]) -> Sequence[Any]:
    operands = [_wide(x) for x in operands]
    opened, name = _jax.open_equation(eqn), eqn.primitive.name
    if opened is not None:
        runs: dict[str, Callable[..., Any]] = {"scan": _scan, "while": _while, "cond": _cond}
        if opened.kind == "call":
            (jaxpr, constants), (indices,) = opened.bodies[0], opened.operands
            return _run(jaxpr, constants, [operands[i] for i in indices])
        if opened.kind not in runs:
            raise NoReference(name)
        return runs[opened.kind](eqn, opened, operands)
    if name == "reduce_precision":
        return operands
    if name == "integer_pow" and eqn.params["y"] < 0:
        # 1 / y**2 in a quotient's derivative is 0 from y = 1e162 on, and x / y is not: unknown.
        (x,), (power,) = operands, _jax.bind(eqn, operands)
        return [jnp.where((power == 0) & jnp.isfinite(x), jnp.nan, power)]
    if name in _SCATTERS:
        options = ("dimension_numbers", "indices_are_sorted", "unique_indices", "mode")
        return [_SCATTERS[name](*operands, **{key: eqn.params[key] for key in options})]
    if name in _NARROW:
        types = [v.aval.dtype for v in eqn.invars]
        narrow = [lax.convert_element_type(x, t) if _is_float(t) else x
                  for x, t in zip(operands, types, strict=True)]  # fmt: skip
        return [_wide(x) for x in _jax.bind(eqn, narrow)]
    changed = {key: jnp.dtype(_WIDE) for key, value in eqn.params.items() if _is_float_type(value)}
    return _jax.bind(eqn, operands, **changed)


def _is_float_type(value: Any) -> bool:
    return isinstance(value, np.dtype) and _is_float(value)


def _scan(eqn: Any, opened: Any, operands: Sequence[Any]) -> Sequence[Any]:
    (jaxpr, constants), split = opened.bodies[0], opened.consts + opened.carry
    fixed = list(operands[: opened.consts])

    def body(carry: Any, xs: Any) -> Any:
        results = _run(jaxpr, constants, [*fixed, *carry, *xs])
        after = _as(results[: opened.carry], carry)
        return after, [_wide(x) for x in results[opened.carry :]]

    first = list(operands[opened.consts : split])
    carry, ys = lax.scan(body, first, list(operands[split:]), length=eqn.params["length"],
                         reverse=eqn.params["reverse"])  # fmt: skip
    return [*carry, *ys]


def _as(results: Sequence[Any], like: Sequence[Any]) -> list[Any]:
    def cast(x: Any, y: Any) -> Any:
        return x if _jax.is_key(y) else lax.convert_element_type(x, y.dtype)

    return [cast(x, y) for x, y in zip(results, like, strict=True)]


def _while(eqn: Any, opened: Any, operands: Sequence[Any]) -> Sequence[Any]:
    (condition, known), before = opened.condition
    (jaxpr, constants), split = opened.bodies[0], before + opened.consts

    def is_running(carry: Any) -> Any:
        return _run(condition, known, [*operands[:before], *carry])[0]

    def body(carry: Any) -> Any:
        return _as(_run(jaxpr, constants, [*operands[before:split], *carry]), carry)

    return lax.while_loop(is_running, body, list(operands[split:]))


def _cond(eqn: Any, opened: Any, operands: Sequence[Any]) -> Sequence[Any]:
    index, *rest = operands

    def branch(jaxpr: Any, constants: Any) -> Any:
        return lambda *arguments: [_wide(x) for x in _run(jaxpr, constants, arguments)]

    branches = [branch(jaxpr, constants) for jaxpr, constants in opened.bodies]
    return lax.switch(lax.convert_element_type(index, jnp.int32), branches, *rest)


def compiled_reference(
    jaxpr: Any, constants: Sequence[Any], leaves: Sequence[Any]
) -> Callable[[Sequence[Any]], list[Any]] | None:
    """Return a compiled function of a program's leaves, in float64; None if there is none."""
    try:
        with jax.enable_x64(True):
            wide = [_wide(x) for x in leaves]
            compiled = (
                jax.jit(lambda *xs: widened(jaxpr, constants, xs)).lower(*wide).compile(QUICK)
            )
    except Exception:  # a primitive without a float64 kernel, a type that is spelled out
        return None

    def run(arguments: Sequence[Any]) -> list[Any]:
        with jax.enable_x64(True):
            return compiled(*[_wide(jnp.asarray(x) if not hasattr(x, "dtype") else x)
                              for x in arguments])  # fmt: skip

    return run
