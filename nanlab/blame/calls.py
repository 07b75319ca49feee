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
import numpy as np

from nanlab import _jax
from nanlab.blame import scopes

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
    pure, arguments = _without_objects(function, tuple(args), dict(kwargs))
    flat, tree = jax.tree_util.tree_flatten_with_path(arguments)
    names = _argument_names(function, [path for path, _ in flat])
    leaves = [leaf for _, leaf in flat]
    for name, leaf in zip(names, leaves, strict=True):
        if isinstance(leaf, jax.Array) and leaf.is_deleted():
            raise ValueError(
                f"{name} has been deleted: it was donated to an earlier call. Pass a copy that was "
                "made before that call, or call it without donate_argnums"
            )
    try:
        return _traced(pure, leaves, tree, names, is_traced=_is_array)
    except Exception as error:
        # An integer that decides a shape or a branch cannot be traced: leave those as they are.
        if not any(_is_whole_number(leaf) for leaf in leaves):
            raise
        try:
            return _traced(
                pure,
                leaves,
                tree,
                names,
                is_traced=lambda x: _is_array(x) and not _is_whole_number(x),
            )
        except Exception:
            raise error from None


def _traced(
    pure: Callable[..., Any], leaves: list[Any], tree: Any, names: list[str], *,
    is_traced: Callable[[Any], bool],
) -> Call:  # fmt: skip
    places = [place for place, leaf in enumerate(leaves) if is_traced(leaf)]

    def of_arrays(*arrays: Any) -> Any:
        filled = list(leaves)
        for place, array in zip(places, arrays, strict=True):
            filled[place] = array
        with scopes.modules_named():
            return pure(jax.tree_util.tree_unflatten(tree, filled))

    arrays = [leaves[place] for place in places]
    traced = jax.jit(of_arrays).trace(*arrays)
    outputs = [
        OUTPUT + jax.tree_util.keystr(path)
        for path, _ in jax.tree_util.tree_flatten_with_path(traced.out_info)[0]
    ]
    numbers = {n: x for n, x in zip(names, leaves, strict=True) if isinstance(x, float | complex)}
    return Call(
        traced=traced,
        arrays=arrays,
        names=[names[place] for place in places],
        numbers=numbers,
        outputs=outputs,
    )


def _is_array(leaf: Any) -> bool:
    if isinstance(leaf, np.ndarray | np.generic):
        return leaf.dtype.kind in "fciub" or _jax.is_small_float(leaf.dtype)
    return isinstance(leaf, jax.Array)


def _is_whole_number(leaf: Any) -> bool:
    return _is_array(leaf) and np.ndim(leaf) == 0 and np.dtype(_kind(leaf)).kind in "iub"


def _kind(leaf: Any) -> Any:
    # A typed key's dtype is none of NumPy's.
    return leaf.dtype if isinstance(leaf.dtype, np.dtype) else np.float32


def _argument_names(function: Callable[..., Any], paths: list[Any]) -> list[str]:
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
        return start + jax.tree_util.keystr(tuple(further))

    return [name(path) for path in paths]


def _key(entry: Any) -> Any:
    return entry.idx if hasattr(entry, "idx") else entry.key


def _without_objects(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Callable[[Any], Any], Any]:
    """A pure function of one tree, and that tree: (args, kwargs), NNX objects taken apart."""
    nnx: Any = sys.modules.get("flax.nnx")
    if nnx is None or not _holds_objects(nnx, (args, kwargs)):
        return lambda tree: function(*tree[0], **tree[1]), (args, kwargs)
    graph, state = nnx.split((args, kwargs))

    def pure(state: Any) -> Any:
        own_args, own_kwargs = nnx.merge(graph, state)
        result = function(*own_args, **own_kwargs)
        _, after = nnx.split((own_args, own_kwargs))
        return result, after

    return pure, state


def _holds_objects(nnx: Any, tree: Any) -> bool:
    def is_object(x: Any) -> bool:
        return isinstance(x, nnx.Module | nnx.Optimizer)

    return any(map(is_object, jax.tree_util.tree_leaves(tree, is_leaf=is_object)))
