"""JAX's internals: the only file that knows them.

Two lines of JAX are supported: 0.10 (Python 3.11) and 0.12 (Python 3.12 and later).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array
from jax._src import config as _config
from jax._src import pjit as _pjit
from jax._src import source_info_util as _source_info_util
from jax._src.core import trace_state_clean  # pyright: ignore[reportUnknownVariableType]

# Private: the public convert_element_type makes weak types of the default width only.
from jax._src.lax.lax import (
    _convert_element_type,  # pyright: ignore[reportPrivateUsage, reportUnknownVariableType]
)
from jax._src.lib import (
    _jax,  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
)
from jax.core import Tracer
from jax.extend.core import Jaxpr, JaxprEqn, Literal, Var
from jax.extend.core import jaxpr_as_fun as jaxpr_as_fun

Aval = Any
JaxValue = Any
Device: TypeAlias = Any  # jax.Device is a variable to a type checker

DISPATCH: Any = _pjit
"""JAX's module that runs programs: `nanlab.backend.dispatch` hooks three of its functions."""

SOURCES: Any = _source_info_util
"""JAX's module that records where equations come from: `rules_located` hooks two of its names."""

RETRACED: Any = _config.hlo_source_file_canonicalization_regex
"""A setting, part of the key of every cached trace, on which nothing that is traced depends."""


def require_jax(minor: int, what: str) -> None:
    """Exit with a sentence if JAX is older than 0.`minor`, which `what` needs."""
    if jax.__version_info__ < (0, minor):
        raise SystemExit(
            f"{what} needs JAX 0.{minor} or newer, and this is {jax.__version__}; "
            "nanlab.pinpoint works from JAX 0.7 on"
        )


def weak(x: Array, dtype: Any) -> Array:
    """Return `x` as a weakly typed scalar, which promotes as a Python float does."""
    # A traced learning rate is rounded to bfloat16 where the number 0.1 would be, and beta2 is not
    # (a strong bfloat16 0.999 is 1, and Adam's bias correction 0/0).
    converted: Any = _convert_element_type(x, jnp.dtype(dtype), weak_type=True)
    return converted


def is_small_float(dtype: Any) -> bool:
    """Return whether a dtype is a float that NumPy itself lacks: bfloat16, float8."""
    return bool(jnp.issubdtype(dtype, jnp.floating)) and dtype.kind != "f"


def is_key(array: Any) -> bool:
    """Return whether an array holds typed random keys."""
    return bool(jnp.issubdtype(array.dtype, jax.dtypes.prng_key))


def holds_tracer(tree: Any) -> bool:
    """Return whether a leaf of the tree is a tracer."""
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(tree))


def is_traced(leaves: Sequence[Any]) -> bool:
    """Return whether a call of these leaves is traced or transformed, not computed."""
    return not trace_state_clean() or any(isinstance(leaf, Tracer) for leaf in leaves)


def clear_fast_paths() -> None:
    """Make every jitted function go through Python in its next call; nothing is retraced."""
    _jax.PjitFunctionCache.clear_all()


PUBLIC_PRIMITIVES = "from jax.extend.core import primitives"
"""The import with which a script reaches primitives by `public_name`."""


class Opened(NamedTuple):
    """The programs inside an equation, and how its operands feed them.

    Attributes:
        kind: "call" (runs once), "scan", "while", "cond" or "shard_map".
        bodies: (jaxpr, constants) of each program: the callee, the loop's body, the branches.
        operands: for each body, the indices of the equation's operands that are its arguments.
        consts: number of the body's arguments that are the same in every iteration.
        carry: number of those that are carried on; a scan's other arguments are sliced.
        condition: a while loop's condition, and the number of operands that are its constants.
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
    """Return the primitive's name in `jax.extend.core.primitives`; None if it has none."""
    from jax.extend.core import primitives

    return next((name for name, p in vars(primitives).items() if p is primitive), None)


def names_axes(eqn: JaxprEqn) -> bool:
    """Return whether an equation names an axis of an enclosing mesh or vmap."""
    return any(type(effect).__name__ == "NamedAxisEffect" for effect in eqn.effects)


def split_constants(closed: Any) -> tuple[Jaxpr, Sequence[JaxValue]]:
    """Split a jaxpr, open or closed, into (jaxpr, values of its constants)."""
    # JAX 0.12 has one class for both; its `jaxpr` attribute is itself without the constants.
    return (closed.jaxpr, closed.consts) if hasattr(closed, "consts") else (closed, ())


def argument_variables(jaxpr: Jaxpr) -> tuple[Var, ...]:
    """Return a jaxpr's variables for constants, then those for arguments."""
    return (*jaxpr.constvars, *jaxpr.invars)


def open_equation(eqn: JaxprEqn) -> Opened | None:
    """Return the programs inside `eqn`; None if it is bound whole and blamed as itself."""
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
    # In JAX 0.12 custom_root is such a primitive, which can expand itself.
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
    # JAX < 0.12 has two parameters, later versions a tree of three. Delete when the floor is 0.12.
    if "num_consts" in params:
        return params["num_consts"], params["num_carry"]
    consts, carry, _ = params["ft_in"].unpack()
    return len(consts), len(carry)


def bind(eqn: JaxprEqn, operands: Sequence[JaxValue], **changed: Any) -> Sequence[JaxValue]:
    """Run one equation on `operands`, with some parameters changed, and return its results."""
    parameters = eqn.primitive.get_bind_params({**eqn.params, **changed})
    # JAX < 0.10: functions to bind with come apart from the parameters.
    functions, parameters = parameters if isinstance(parameters, tuple) else ((), parameters)
    with eqn.ctx.manager:
        results = eqn.primitive.bind(*functions, *operands, **parameters)
    return list(results) if eqn.primitive.multiple_results else [results]


def run_sharded(
    eqn: JaxprEqn, shard: Callable[..., tuple[Any, Any]], operands: Sequence[JaxValue]
) -> tuple[list[JaxValue], Any]:
    """Run `shard` in place of a `shard_map` equation's program.

    Args:
        eqn: the equation.
        shard: function of one device's operands; it returns (results, a pytree of records).
        operands: operands of the equation.

    Returns:
        The equation's results, and the records of all devices, stacked in a new first axis.
    """
    params = eqn.params
    # JAX < 0.9 calls them manual_axes.
    axes = params["newly_manual_axes"] if "newly_manual_axes" in params else params["manual_axes"]

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
    """Run a scan or a while loop with another body of the same types."""
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
    """Run a jaxpr in the enclosing trace, each equation by `bind`."""
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
    """Trace to (jaxpr, values of its constants, pytree of output shapes), from arrays or shapes."""
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(*arguments)
    return (*split_constants(closed), shapes)


def constant_outputs(function: Callable[..., Any], *arguments: Any) -> list[bool]:
    """Return, for each output leaf of `function`, whether it depends on none of the arguments."""
    jaxpr, _, _ = trace(function, *arguments)
    dependent = set(jaxpr.invars)
    for eqn in jaxpr.eqns:
        if any(not isinstance(v, Literal) and v in dependent for v in eqn.invars):
            dependent.update(eqn.outvars)
    return [isinstance(v, Literal) or v not in dependent for v in jaxpr.outvars]


class CodeFrame(NamedTuple):
    """A line of a Python stack: its file, the qualified name of its function, its number."""

    file: str
    function: str
    line: int


def equation_frames(eqn: JaxprEqn) -> list[CodeFrame]:
    """Return the Python frames that traced an equation, innermost first; empty if JAX's own."""
    # The frames of an equation inside a jitted function end where that function was traced; those
    # of the calling equation continue from there.
    traceback = eqn.source_info.traceback
    if traceback is None:
        return []
    return [CodeFrame(f.file_name, f.function_name, f.line_num) for f in traceback.frames]


def equation_codes(eqn: JaxprEqn) -> list[tuple[Any, int]]:
    """Return the code objects of those frames, each with its last instruction."""
    traceback = eqn.source_info.traceback
    return [] if traceback is None else list(zip(*traceback.raw_frames(), strict=True))


def equation_scopes(eqn: JaxprEqn) -> str:
    """Return the named scopes and transformations around an equation, relative to its jaxpr."""
    return str(eqn.source_info.name_stack)
