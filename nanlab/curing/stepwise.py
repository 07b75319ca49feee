"""Jaxpr, arrays -> results, operation by operation: each kind of operation is compiled once.

A search runs many programs that differ in a line. Compiling each whole takes far longer than
running it; run by operation, all but the first find their operations compiled.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax

from nanlab.backend import jaxpr as _jax

LONGEST = 32
"""The largest number of iterations of a scan that is run so."""


def run_stepwise(jaxpr: Any, constants: Sequence[Any], arguments: Sequence[Any]) -> list[Any]:
    """Run a jaxpr on arrays; while loops, and long scans, are compiled."""
    return _jax.run_jaxpr(jaxpr, constants, arguments, _bind)


def _bind(eqn: Any, operands: Sequence[Any]) -> Sequence[Any]:
    opened = _jax.open_equation(eqn)
    kind = "" if opened is None else opened.kind
    if opened is not None and kind == "call":
        (body, constants), (indices,) = opened.bodies[0], opened.operands
        return run_stepwise(body, constants, [operands[i] for i in indices])
    if opened is not None and kind == "cond":
        chosen = min(max(int(operands[0]), 0), len(opened.bodies) - 1)
        return run_stepwise(*opened.bodies[chosen], operands[1:])
    if opened is not None and kind == "scan" and 0 < eqn.params["length"] <= LONGEST:
        return _scan(eqn, opened, operands)
    return _jax.bind(eqn, operands)


def _scan(eqn: Any, opened: Any, operands: Sequence[Any]) -> Sequence[Any]:
    (body, constants), split = opened.bodies[0], opened.consts + opened.carry
    fixed, carry, scanned = operands[: opened.consts], operands[opened.consts : split], operands
    length, rows = eqn.params["length"], list[Sequence[Any]]()
    order = range(length)[::-1] if eqn.params["reverse"] else range(length)
    for i in order:
        at = jnp.int32(i)
        xs = [lax.dynamic_index_in_dim(x, at, keepdims=False) for x in scanned[split:]]
        results = run_stepwise(body, constants, [*fixed, *carry, *xs])
        carry = results[: opened.carry]
        rows.append(results[opened.carry :])
    rows = rows[::-1] if eqn.params["reverse"] else rows
    return [*carry, *(jnp.stack(column) for column in zip(*rows, strict=True))]
