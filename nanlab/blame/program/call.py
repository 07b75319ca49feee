"""Function, arguments -> Call: a pure function of flat arrays, and what each of them is called.

A Python number stays what it is, as when the function is called; arrays are traced. Flax NNX
objects are taken apart, and what the call leaves in them counts as output.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nanlab.backend import jaxpr as _jax
from nanlab.blame.program import module_scopes as scopes

OUTPUT = "output"
"""What a function returns is called."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call, traced.

    Attributes:
        traced: of the arrays, one argument each.
        arrays: the arguments' leaves that are arrays.
        names: what each is called: "params['w']".
        numbers: the Python numbers among the arguments, by what they are called.
        outputs: what each leaf of the result is called.
    """

    traced: Any
    arrays: list[Any]
    names: list[str]
    numbers: dict[str, Any]
    outputs: list[str]

    @property
    def closed(self) -> Any:
        """The jaxpr, with its constants."""
        return self.traced.jaxpr


def call_of(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Call:
    """Trace a call; nothing is computed.

    Raises:
        ValueError: an argument has been deleted (donated to an earlier call).
    """
    pure, arguments, has_objects = _without_objects(function, tuple(args), dict(kwargs))
    flat, tree = jax.tree_util.tree_flatten_with_path(arguments)
    name_of = _names_of_arguments(function)
    names = [name_of(path) for path, _ in flat]
    # NumPy's arrays as JAX takes them: float64 is float32 where x64 is off.
    leaves = [jnp.asarray(leaf) if _is_numpys(leaf) else leaf for _, leaf in flat]
    for name, leaf in zip(names, leaves, strict=True):
        if isinstance(leaf, jax.Array) and leaf.is_deleted():
            raise ValueError(
                f"{name} has been deleted: it was donated to an earlier call. Pass a copy that was "
                "made before that call, or call it without donate_argnums"
            )
    arrays = [place for place, leaf in enumerate(leaves) if isinstance(leaf, jax.Array)]
    try:
        traced = _trace(pure, leaves, tree, arrays)
    except Exception as error:
        # An integer that decides a shape or a branch cannot be traced: leave those as they are.
        whole = [place for place in arrays if _is_whole_number(leaves[place])]
        if not whole:
            raise
        arrays = [place for place in arrays if place not in whole]
        numbers = [
            np.asarray(leaf)[()] if place in whole else leaf for place, leaf in enumerate(leaves)
        ]
        try:
            traced = _trace(pure, numbers, tree, arrays)
        except Exception:
            raise error from None
    outputs = jax.tree_util.tree_flatten_with_path(traced.out_info)[0]
    return Call(
        traced=traced,
        arrays=[leaves[place] for place in arrays],
        names=[names[place] for place in arrays],
        numbers={
            name: leaf
            for name, leaf in zip(names, leaves, strict=True)
            if isinstance(leaf, float | complex)
        },
        outputs=[_output_name(path, name_of, has_objects=has_objects) for path, _ in outputs],
    )


def _trace(pure: Callable[..., Any], leaves: list[Any], tree: Any, places: list[int]) -> Any:
    """Trace a function of one tree, in which the leaves at these places are arrays."""

    def of_arrays(*arrays: Any) -> Any:
        filled = list(leaves)
        for place, array in zip(places, arrays, strict=True):
            filled[place] = array
        with scopes.modules_named():
            return pure(jax.tree_util.tree_unflatten(tree, filled))

    return jax.jit(of_arrays).trace(*(leaves[place] for place in places))


def _output_name(path: Any, name_of: Callable[[Any], str], *, has_objects: bool) -> str:
    if not has_objects:
        return OUTPUT + jax.tree_util.keystr(path)
    which, *rest = path
    if _key(which) == 0:
        return OUTPUT + jax.tree_util.keystr(tuple(rest))
    return f"{name_of(tuple(rest))} after the call"


def _is_numpys(leaf: Any) -> bool:
    if not isinstance(leaf, np.ndarray | np.generic):
        return False
    return leaf.dtype.kind in "fciub" or _jax.is_small_float(leaf.dtype)


def _is_whole_number(array: jax.Array) -> bool:
    return array.ndim == 0 and not _jax.is_key(array) and np.dtype(array.dtype).kind in "iub"


def _names_of_arguments(function: Callable[..., Any]) -> Callable[[Any], str]:
    """What an argument's leaf is called, by its path in (args, kwargs)."""
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
) -> tuple[Callable[[Any], Any], Any, bool]:
    """A pure function of one tree; that tree, (args, kwargs); whether NNX objects are in it."""
    nnx: Any = sys.modules.get("flax.nnx")
    if nnx is None or not _holds_objects(nnx, (args, kwargs)):
        return lambda tree: function(*tree[0], **tree[1]), (args, kwargs), False
    graph, state = nnx.split((args, kwargs))

    def pure(state: Any) -> Any:
        own_args, own_kwargs = nnx.merge(graph, state)
        result = function(*own_args, **own_kwargs)
        _, after = nnx.split((own_args, own_kwargs))
        return result, after

    return pure, state, True


def _holds_objects(nnx: Any, tree: Any) -> bool:
    def is_object(x: Any) -> bool:
        return isinstance(x, nnx.Module | nnx.Optimizer)

    return any(map(is_object, jax.tree_util.tree_leaves(tree, is_leaf=is_object)))
