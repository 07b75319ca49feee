"""Function, arguments -> Call: a pure function of flat arrays, and their names.

Arrays are traced; Python numbers stay Python numbers, as in a plain call. Flax NNX objects are
split into arrays, and their state after the call counts as output.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.stages import Traced

from nanlab.backend import jaxpr as _jax
from nanlab.blame.program import module_scopes as scopes
from nanlab.blame.program.rule_lines import rules_located

OUTPUT = "output"
"""Name of a function's return value."""
AFTER = " after the call"
"""End of the name of an argument's state that is an output."""

Arguments: TypeAlias = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and keyword arguments."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """One traced call.

    Attributes:
        traced: JAX's traced function of the arrays, one argument each.
        arrays: leaves of the arguments that are arrays.
        names: names of these arrays, such as "params['w']".
        numbers: Python numbers among the arguments, by name.
        outputs: names of the leaves of the result.
        judged: indices of the outputs whose fault is looked for; None for all of them.
        restored: builds the positional and keyword arguments, with other arrays in the place of
            these; None if the call was not traced from arguments.
    """

    traced: Traced
    arrays: list[jax.Array]
    names: list[str]
    numbers: dict[str, Any]
    outputs: list[str]
    judged: Collection[int] | None = None
    restored: Callable[[Sequence[Any]], Arguments] | None = None

    @property
    def closed(self) -> Any:
        """Jaxpr, with its constants."""
        return self.traced.jaxpr


def call_of(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Call:
    """Trace a call without computing anything.

    Returns:
        The traced call.

    Raises:
        ValueError: an argument was donated to an earlier call and deleted.
    """
    pure, arguments, merged = _without_objects(function, tuple(args), dict(kwargs))
    flat, tree = jax.tree_util.tree_flatten_with_path(arguments)
    name_of = _names_of_arguments(function)
    names = [name_of(path) for path, _ in flat]
    # NumPy arrays as JAX converts them: float64 to float32 unless x64 is on.
    leaves = [jnp.asarray(leaf) if _is_numpy_array(leaf) else leaf for _, leaf in flat]
    for name, leaf in zip(names, leaves, strict=True):
        if isinstance(leaf, jax.Array) and leaf.is_deleted():
            raise ValueError(
                f"{name} has been deleted: it was donated to an earlier call. Pass a copy made "
                "before that call, or jit that function without donate_argnums"
            )
    arrays = [i for i, leaf in enumerate(leaves) if isinstance(leaf, jax.Array)]
    try:
        traced = _trace(pure, leaves, tree, arrays)
    except Exception as error:
        # Integers that decide a shape or a branch cannot be traced: make all integers static.
        integers = [i for i in arrays if _is_integer_scalar(leaves[i])]
        if not integers:
            raise
        arrays = [i for i in arrays if i not in integers]
        numbers = [np.asarray(x)[()] if i in integers else x for i, x in enumerate(leaves)]
        try:
            traced = _trace(pure, numbers, tree, arrays)
        except Exception:
            raise error from None
    outputs = jax.tree_util.tree_flatten_with_path(traced.out_info)[0]
    has_objects = merged is not None
    return Call(
        traced=traced,
        arrays=[leaves[i] for i in arrays],
        names=[names[i] for i in arrays],
        numbers={
            name: leaf
            for name, leaf in zip(names, leaves, strict=True)
            if isinstance(leaf, float | complex)
        },
        outputs=[_output_name(path, name_of, has_objects=has_objects) for path, _ in outputs],
        restored=_restorer([leaf for _, leaf in flat], leaves, tree, arrays, merged),
    )


def _restorer(
    originals: list[Any], leaves: list[Any], tree: Any, indices: list[int],
    merged: Callable[[Any], Any] | None,
) -> Callable[[Sequence[Any]], Arguments]:  # fmt: skip
    """Return a function that builds the arguments from arrays in the place of these leaves."""

    def restored(arrays: Sequence[Any]) -> Arguments:
        filled = list(originals)
        for index, array in zip(indices, arrays, strict=True):
            original = originals[index]
            if array is leaves[index]:
                continue
            is_numpy = isinstance(array, jax.Array) and _is_numpy_array(original)
            filled[index] = np.asarray(array).astype(original.dtype) if is_numpy else array
        arguments = jax.tree_util.tree_unflatten(tree, filled)
        return arguments if merged is None else merged(arguments)

    return restored


def _trace(
    pure: Callable[..., Any], leaves: list[Any], tree: Any, traced: list[int]
) -> jax.stages.Traced:
    """Trace a function of one pytree in the leaves at these indices."""

    def of_arrays(*arrays: Any) -> Any:
        filled = list(leaves)
        for index, array in zip(traced, arrays, strict=True):
            filled[index] = array
        with scopes.modules_named():
            return _without_functions(pure(jax.tree_util.tree_unflatten(tree, filled)))

    with rules_located():
        return jax.jit(of_arrays).trace(*(leaves[index] for index in traced))


def _without_functions(outputs: Any) -> Any:
    """Return outputs without the functions among them, as an Equinox module holds."""
    is_function = [callable(leaf) for leaf in jax.tree.leaves(outputs)]
    if all(is_function) or not any(is_function):
        return outputs
    return jax.tree.map(lambda leaf: None if callable(leaf) else leaf, outputs)


def _output_name(path: Any, name_of: Callable[[Any], str], *, has_objects: bool) -> str:
    if not has_objects:
        return OUTPUT + jax.tree_util.keystr(path)
    side, *rest = path
    if _key(side) == 0:
        return OUTPUT + jax.tree_util.keystr(tuple(rest))
    return f"{name_of(tuple(rest))}{AFTER}"


def _is_numpy_array(leaf: Any) -> bool:
    if not isinstance(leaf, np.ndarray | np.generic):
        return False
    return leaf.dtype.kind in "fciub" or _jax.is_small_float(leaf.dtype)


def _is_integer_scalar(array: jax.Array) -> bool:
    return array.ndim == 0 and not _jax.is_key(array) and np.dtype(array.dtype).kind in "iub"


def _names_of_arguments(function: Callable[..., Any]) -> Callable[[Any], str]:
    """Return a function that names a leaf by its path in (args, kwargs)."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    positional = [p.name for p in parameters if p.kind in kinds]
    rest = next((p.name for p in parameters if p.kind == p.VAR_POSITIONAL), "args")

    def name(path: Any) -> str:
        (side, first), further = map(_key, path[:2]), path[2:]
        if side == 1:
            start = first
        elif first < len(positional):
            start = positional[first]
        else:
            start = f"{rest}[{first - len(positional)}]"
        return start + jax.tree_util.keystr(tuple(further)).removesuffix(".value")

    return name


def _key(entry: Any) -> Any:
    return entry.idx if hasattr(entry, "idx") else entry.key


def _without_objects(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Callable[[Any], Any], Any, Callable[[Any], Any] | None]:
    """Return a pure function of one pytree, that pytree, and what makes NNX objects of it."""
    nnx: Any = sys.modules.get("flax.nnx")
    if nnx is None or not _contains_objects(nnx, (args, kwargs)):
        return lambda tree: function(*tree[0], **tree[1]), (args, kwargs), None
    graph, state = nnx.split((args, kwargs))

    def pure(state: Any) -> Any:
        merged_args, merged_kwargs = nnx.merge(graph, state)
        result = function(*merged_args, **merged_kwargs)
        _, after = nnx.split((merged_args, merged_kwargs))
        return result, after

    return pure, state, partial(nnx.merge, graph)


def _contains_objects(nnx: Any, tree: Any) -> bool:
    def is_object(x: Any) -> bool:
        return isinstance(x, nnx.Module | nnx.Optimizer)

    return any(map(is_object, jax.tree_util.tree_leaves(tree, is_leaf=is_object)))
