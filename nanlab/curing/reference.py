"""Jaxpr -> the same program in float64, whatever types it names: what its formulas mean."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

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


BACKWARD = "transpose("
"""Part of the scope of what a backward pass consists of."""

# The operand that must not be 0: there a derivative, or the result, has a pole.
_POLES = {"sqrt": 0, "rsqrt": 0, "log": 0, "div": 1, "pow": 0, "cbrt": 0, "integer_pow": 0}
_EDGES = {"acos": 1, "asin": 1, "atanh": 1, "erf_inv": 1, "acosh": 1, "log1p": -1}
"""Functions with a pole at another number: where it is, up to its sign."""


class NoReference(Exception):
    """The program has a part that does not run in float64."""


class Found(NamedTuple):
    """What a program computes in float64.

    Attributes:
        outputs: its outputs.
        steepest: the largest number that an optimizer makes something of.
        masks: for each selection the number of the selected case, times 2, and 1 more where what
            is selected is infinite, and the same for conditions that are used as numbers.
    """

    outputs: list[Any]
    steepest: Any = 0.0
    masks: Sequence[Any] = ()


Reference = Callable[[Sequence[Any], float], Found]


class _Wide:
    """A program in float64; x64 has to be on.

    Args:
        shift: what is put in place of 0 where a pole is.
    """

    def __init__(self, shift: Any) -> None:
        self._shift = shift
        self.steepest: Any = jnp.float64(0)
        self.masks: list[Any] = []
        self._backward: set[int] = set()
        self._depth = 0

    def run(self, jaxpr: Any, constants: Sequence[Any], arguments: Sequence[Any]) -> list[Any]:
        """Run a jaxpr."""
        leaves = [_wide(c) for c in constants], [_wide(a) for a in arguments]
        return [_wide(x) for x in _jax.run_jaxpr(jaxpr, *leaves, self._bind)]

    def _inside(self, jaxpr: Any, constants: Sequence[Any], arguments: Sequence[Any]) -> list[Any]:
        """Run the body of a loop, or a branch."""
        self._depth += 1
        try:
            return self.run(jaxpr, constants, arguments)
        finally:
            self._depth -= 1

    def _bind(self, eqn: Any, operands: Sequence[Any]) -> Sequence[Any]:
        operands = [_wide(x) for x in operands]
        opened = _jax.open_equation(eqn)
        if opened is None:
            results = _bound(eqn, self._moved(eqn, operands))
            if not self._depth:
                self._note(eqn, operands, results)
            return results
        runs: dict[str, Callable[..., Any]] = {
            "scan": self._scan, "while": self._while, "cond": self._cond,
        }  # fmt: skip
        if opened.kind == "call":
            (jaxpr, constants), (indices,) = opened.bodies[0], opened.operands
            return self.run(jaxpr, constants, [operands[i] for i in indices])
        if opened.kind not in runs:
            raise NoReference(eqn.primitive.name)
        return runs[opened.kind](eqn, opened, operands)

    def _moved(self, eqn: Any, operands: list[Any]) -> list[Any]:
        """Return operands that are not at a pole."""
        name = eqn.primitive.name
        if name in _EDGES:
            edge, x = _EDGES[name], operands[0]
            inside = x * (1 + self._shift if name == "acosh" else 1 - self._shift)
            at = x == edge if name in ("acosh", "log1p") else abs(x) == edge
            return [jnp.where(at, inside, x)]
        if name not in _POLES or not _is_float(operands[_POLES[name]].dtype):
            return operands
        index = _POLES[name]
        if name == "integer_pow" and eqn.params["y"] > 0:
            return operands
        safe = jnp.where(operands[index] == 0, self._shift, operands[index])
        return [*operands[:index], safe, *operands[index + 1 :]]

    def _note(self, eqn: Any, operands: Sequence[Any], results: Sequence[Any]) -> None:
        if eqn.primitive.name == "add_any" or BACKWARD in str(eqn.source_info.name_stack):
            self._backward |= {id(v) for v in eqn.outvars}
        else:  # of an optimizer
            for x in (
                x for v, x in zip(eqn.invars, operands, strict=True) if id(v) in self._backward
            ):
                if _is_float(x.dtype) and x.size:
                    most = jnp.max(jnp.where(jnp.isfinite(x), jnp.abs(x), 0))
                    self.steepest = jnp.maximum(self.steepest, most)
        if eqn.primitive.name == "select_n" and _is_float(results[0].dtype):
            which = jnp.asarray(operands[0], jnp.int32)
            self.masks.append(2 * which + jnp.isinf(results[0]))
        if eqn.primitive.name == "convert_element_type" and operands[0].dtype == bool:
            self.masks.append(2 * jnp.asarray(results[0], jnp.int32) + 1)  # what counts

    def _scan(self, eqn: Any, opened: Any, operands: Sequence[Any]) -> Sequence[Any]:
        (jaxpr, constants), split = opened.bodies[0], opened.consts + opened.carry
        fixed = list(operands[: opened.consts])

        def body(carry: Any, xs: Any) -> Any:
            results = self._inside(jaxpr, constants, [*fixed, *carry, *xs])
            return _as(results[: opened.carry], carry), results[opened.carry :]

        first = list(operands[opened.consts : split])
        carry, ys = lax.scan(body, first, list(operands[split:]), length=eqn.params["length"],
                             reverse=eqn.params["reverse"])  # fmt: skip
        return [*carry, *ys]

    def _while(self, eqn: Any, opened: Any, operands: Sequence[Any]) -> Sequence[Any]:
        (condition, known), before = opened.condition
        (jaxpr, constants), split = opened.bodies[0], before + opened.consts

        def is_running(carry: Any) -> Any:
            return self._inside(condition, known, [*operands[:before], *carry])[0]

        def body(carry: Any) -> Any:
            return _as(self._inside(jaxpr, constants, [*operands[before:split], *carry]), carry)

        return lax.while_loop(is_running, body, list(operands[split:]))

    def _cond(self, eqn: Any, opened: Any, operands: Sequence[Any]) -> Sequence[Any]:
        index, *rest = operands

        def branch(jaxpr: Any, constants: Any) -> Any:
            return lambda *arguments: self._inside(jaxpr, constants, arguments)

        branches = [branch(jaxpr, constants) for jaxpr, constants in opened.bodies]
        return lax.switch(lax.convert_element_type(index, jnp.int32), branches, *rest)


def _bound(eqn: Any, operands: Sequence[Any]) -> Sequence[Any]:
    name = eqn.primitive.name
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


def _is_float(dtype: Any) -> bool:
    return bool(jnp.issubdtype(dtype, jnp.floating))


def _wide(x: Any) -> Any:
    dtype = getattr(x, "dtype", None)
    if dtype is None:
        x = jnp.asarray(x)
        dtype = x.dtype
    return lax.convert_element_type(x, _WIDE) if _is_float(dtype) else x


def _is_float_type(value: Any) -> bool:
    return isinstance(value, np.dtype) and _is_float(value)


def _as(results: Sequence[Any], like: Sequence[Any]) -> list[Any]:
    def cast(x: Any, y: Any) -> Any:
        return x if _jax.is_key(y) else lax.convert_element_type(x, y.dtype)

    return [cast(x, y) for x, y in zip(results, like, strict=True)]


def compiled_reference(
    jaxpr: Any, constants: Sequence[Any], leaves: Sequence[Any]
) -> Reference | None:
    """Return a compiled function of a program's leaves, in float64, or None."""

    def found(shift: Any, *arguments: Any) -> Found:
        wide = _Wide(shift)
        outputs = wide.run(jaxpr, constants, arguments)
        return Found(outputs, wide.steepest, wide.masks)

    try:
        with jax.enable_x64(True):
            wide = [_wide(x) for x in leaves]
            compiled = jax.jit(found).lower(jnp.float64(0), *wide).compile(QUICK)
    except Exception:  # a primitive without a float64 kernel, a type that is spelled out
        return None

    def run(arguments: Sequence[Any], shift: float) -> Found:
        with jax.enable_x64(True):
            wide = [_wide(jnp.asarray(x) if not hasattr(x, "dtype") else x) for x in arguments]
            return compiled(jnp.float64(shift), *wide)

    return run
