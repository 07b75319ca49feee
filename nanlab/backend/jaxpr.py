"""JAX's internals -> the few things that nanlab needs of them; the only file that knows them.

Two lines of JAX are supported: 0.10 (Python 3.11) and 0.12 (Python 3.12 and later).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array
from jax._src import pjit as _pjit
from jax._src.core import trace_state_clean  # pyright: ignore[reportUnknownVariableType]

# Private: the public convert_element_type makes weak types of the default width only.
from jax._src.lax.lax import (
    _convert_element_type,  # pyright: ignore[reportPrivateUsage, reportUnknownVariableType]
)
from jax._src.lib import (
    _jax,  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
)
from jax._src.source_info_util import current_name_stack as current_name_stack
from jax.core import Tracer
from jax.extend.core import Jaxpr, JaxprEqn, Literal, Var
from jax.extend.core import jaxpr_as_fun as jaxpr_as_fun

Aval = Any
JaxValue = Any
Device: TypeAlias = Any  # jax.Device is a variable to a type checker

DISPATCH: Any = _pjit
"""JAX's module that runs programs: `nanlab.backend.dispatch` hooks three of its functions."""


def weak(x: Array, dtype: Any) -> Array:
    """`x` as a weakly typed scalar: it promotes beside arrays as a Python float would.

    A traced learning rate is then rounded to bfloat16 where a person's `0.1` would be, and beta2
    is not (a strong bfloat16 0.999 is 1, and Adam's bias correction 0/0).
    """
    converted: Any = _convert_element_type(x, jnp.dtype(dtype), weak_type=True)
    return converted


def is_small_float(dtype: Any) -> bool:
    """Whether it is a float type that NumPy does not have itself: bfloat16, float8."""
    return bool(jnp.issubdtype(dtype, jnp.floating)) and dtype.kind != "f"


def is_key(array: Any) -> bool:
    """Whether it holds typed random keys."""
    return bool(jnp.issubdtype(array.dtype, jax.dtypes.prng_key))


def holds_tracer(tree: Any) -> bool:
    """Whether something is being traced: a leaf of the tree stands for an array."""
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(tree))


def is_traced(leaves: Sequence[Any]) -> bool:
    """Return whether a call of these leaves is traced or transformed, not computed."""
    return not trace_state_clean() or any(isinstance(leaf, Tracer) for leaf in leaves)


def clear_fast_paths() -> None:
    """Make every jitted function go through Python in its next call; nothing is retraced."""
    _jax.PjitFunctionCache.clear_all()


PUBLIC_PRIMITIVES = "from jax.extend.core import primitives"
"""What a script writes to have primitives by `public_name`."""


class Opened(NamedTuple):
    """The programs inside an equation, and how its operands feed them.

    Attributes:
        kind: "call" (runs once), "scan", "while", "cond" or "shard_map".
        bodies: (jaxpr, constants) of each program: the callee, the loop's body, the branches.
        operands: for each body, which of the equation's operands are its arguments.
        consts, carry: how many of the body's arguments stay the same in every iteration, and how
            many are carried from one to the next; the rest are sliced (scan).
        condition: a while loop's condition and which operands are its constants.
    """

    kind: str
    bodies: tuple[tuple[Jaxpr, Sequence[JaxValue]], ...]
    operands: tuple[tuple[int, ...], ...]
    consts: int = 0
    carry: int = 0
    condition: tuple[tuple[Jaxpr, Sequence[JaxValue]], int] | None = None


_CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_closed_call": "call_jaxpr",
    "remat2": "jaxpr",
    "checkpoint": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "custom_vjp_call_jaxpr": "call_jaxpr",
    "eval_jaxpr": "call_jaxpr",
}


def public_name(primitive: Any) -> str | None:
    """The primitive's name in `jax.extend.core.primitives`; None if it is not there."""
    from jax.extend.core import primitives

    return next((name for name, p in vars(primitives).items() if p is primitive), None)


def names_axes(eqn: JaxprEqn) -> bool:
    """Whether an equation names an axis of a mesh (or of a vmap) that is around it."""
    return any(type(effect).__name__ == "NamedAxisEffect" for effect in eqn.effects)


def split_constants(closed: Any) -> tuple[Jaxpr, Sequence[JaxValue]]:
    """A jaxpr, open or closed, as (jaxpr, values of its constants)."""
    # JAX 0.12 has one class for both; its `jaxpr` attribute is itself without the constants.
    return (closed.jaxpr, closed.consts) if hasattr(closed, "consts") else (closed, ())


def argument_variables(jaxpr: Jaxpr) -> tuple[Var, ...]:
    """A jaxpr's variables for constants, then those for arguments."""
    return (*jaxpr.constvars, *jaxpr.invars)


def open_equation(eqn: JaxprEqn) -> Opened | None:
    """What is inside `eqn`; None if it is to be bound whole and blamed as itself."""
    name, params, count = eqn.primitive.name, eqn.params, len(eqn.invars)
    everything = tuple(range(count))
    if name in _CALLS and _CALLS[name] in params:
        return Opened("call", (split_constants(params[_CALLS[name]]),), (everything,))
    if name == "custom_linear_solve":
        # Only the solve runs forward; the transposed one is for derivatives.
        lengths = params["const_lengths"]
        first = lengths.matvec + lengths.vecmat
        own = tuple(range(first, first + lengths.solve))
        right_side = tuple(range(sum(lengths), count))
        return Opened("call", (split_constants(params["jaxprs"].solve),), (own + right_side,))
    if name == "call_hi_primitive":
        expanded = _expanded(eqn)
        return None if expanded is None else Opened("call", (expanded,), (everything,))
    if name == "scan":
        consts, carry = _scan_counts(params)
        body = split_constants(params["jaxpr"])
        return Opened("scan", (body,), (everything,), consts, carry)
    if name == "while":
        before, consts = params["cond_nconsts"], params["body_nconsts"]
        condition = (split_constants(params["cond_jaxpr"]), before)
        body = split_constants(params["body_jaxpr"])
        carry = count - before - consts
        return Opened("while", (body,), (everything[before:],), consts, carry, condition)
    if name == "shard_map":
        return Opened("shard_map", (split_constants(params["jaxpr"]),), (everything,))
    if name == "cond":
        branches = tuple(split_constants(branch) for branch in params["branches"])
        return Opened("cond", branches, (everything[1:],) * len(branches))
    return None


def _expanded(eqn: JaxprEqn) -> tuple[Jaxpr, Sequence[JaxValue]] | None:
    # JAX 0.12 has custom_root as such a primitive, which says itself what it stands for.
    primitive = eqn.params["_prim"]
    avals: list[Aval] = [v.aval for v in eqn.invars]
    shapes = [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in avals]
    try:
        arguments = jax.tree.unflatten(primitive.in_tree, shapes)
        jaxpr, constants, _ = trace(primitive.expand, *arguments)
    except (AttributeError, TypeError, ValueError):
        return None
    return jaxpr, constants


def _scan_counts(params: dict[str, Any]) -> tuple[int, int]:
    # JAX < 0.12 counts in two parameters; since then a tree of three tells. Delete when the
    # floor is 0.12.
    if "num_consts" in params:
        return params["num_consts"], params["num_carry"]
    consts, carry, _ = params["ft_in"].unpack()
    return len(consts), len(carry)


def bind(eqn: JaxprEqn, operands: Sequence[JaxValue], **changed: Any) -> Sequence[JaxValue]:
    """Run one equation on `operands`, some parameters changed; the results as a sequence."""
    parameters = eqn.primitive.get_bind_params({**eqn.params, **changed})
    with eqn.ctx.manager:
        results = eqn.primitive.bind(*operands, **parameters)
    return list(results) if eqn.primitive.multiple_results else [results]


def run_sharded(
    eqn: JaxprEqn, shard: Callable[..., tuple[Any, Any]], operands: Sequence[JaxValue]
) -> tuple[list[JaxValue], Any]:
    """Run `shard` in place of a `shard_map` equation's own program.

    Args:
        eqn: the equation.
        shard: of one device's operands; returns (results, records), any tree of arrays.
        operands: of the equation.

    Returns:
        The equation's results, and the records of all devices, stacked in a new first axis.
    """
    params = eqn.params
    axes = params["newly_manual_axes"]

    def with_axis(*arguments: JaxValue) -> tuple[tuple[JaxValue, ...], Any]:
        results, records = shard(*arguments)
        return tuple(results), jax.tree.map(lambda x: jnp.asarray(x)[None], records)

    everywhere = jax.sharding.PartitionSpec(
        tuple(a for a in params["mesh"].axis_names if a in axes)
    )
    with eqn.ctx.manager:
        results, records = jax.shard_map(
            with_axis,
            mesh=params["mesh"],
            in_specs=tuple(params["in_specs"]),
            out_specs=(tuple(params["out_specs"]), everywhere),
            axis_names=axes,
            check_vma=params["check_vma"],
        )(*operands)
    return list(results), records


def bind_loop(
    eqn: JaxprEqn, body: Callable[..., Sequence[JaxValue]], operands: Sequence[JaxValue]
) -> Sequence[JaxValue]:
    """Run a scan or a while loop with another program of the same types in its body's place."""
    name = {"scan": "jaxpr", "while": "body_jaxpr"}[eqn.primitive.name]
    avals: list[Aval] = eqn.params[name].in_avals
    shapes = [jax.ShapeDtypeStruct(a.shape, a.dtype, weak_type=a.weak_type) for a in avals]
    return bind(eqn, operands, **{name: jax.make_jaxpr(body)(*shapes)})


def run_jaxpr(
    jaxpr: Jaxpr,
    constants: Sequence[JaxValue],
    arguments: Sequence[JaxValue],
    bind: Callable[[JaxprEqn, Sequence[JaxValue]], Sequence[JaxValue]] = bind,
) -> list[JaxValue]:
    """Run a jaxpr equation by equation, each by `bind`, in the enclosing trace."""
    env: dict[Var, JaxValue] = dict(
        zip(argument_variables(jaxpr), (*constants, *arguments), strict=True)
    )

    def read(atom: Any) -> JaxValue:
        return atom.val if isinstance(atom, Literal) else env[atom]

    for eqn in jaxpr.eqns:
        results = bind(eqn, [read(v) for v in eqn.invars])
        env.update(zip(eqn.outvars, results, strict=True))
    return [read(v) for v in jaxpr.outvars]


def trace(function: Callable[..., Any], *arguments: Any) -> tuple[Jaxpr, Sequence[JaxValue], Any]:
    """`function` as (jaxpr, values of its constants, tree of its output's shapes).

    Arguments may be arrays or `jax.ShapeDtypeStruct`s, in any pytree.
    """
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(*arguments)
    return (*split_constants(closed), shapes)


def constant_outputs(function: Callable[..., Any], *arguments: Any) -> list[bool]:
    """For each output leaf of `function`: does it depend on none of the arguments?"""
    jaxpr, _, _ = trace(function, *arguments)
    dependent = set(jaxpr.invars)
    for eqn in jaxpr.eqns:
        if any(not isinstance(v, Literal) and v in dependent for v in eqn.invars):
            dependent.update(eqn.outvars)
    return [isinstance(v, Literal) or v not in dependent for v in jaxpr.outvars]


class CodeFrame(NamedTuple):
    """One line of a Python stack: file as Python knows it, function's qualified name, line."""

    file: str
    function: str
    line: int


def equation_frames(eqn: JaxprEqn) -> list[CodeFrame]:
    """The Python frames that made an equation, innermost first; empty if it was made inside JAX.

    The frames of an equation inside a jitted function end where that function was traced: those
    of the calling equation go on from there.
    """
    traceback = eqn.source_info.traceback
    if traceback is None:
        return []
    return [CodeFrame(f.file_name, f.function_name, f.line_num) for f in traceback.frames]


def equation_scopes(eqn: JaxprEqn) -> str:
    """The named scopes and transformations around an equation, relative to its jaxpr."""
    return str(eqn.source_info.name_stack)
