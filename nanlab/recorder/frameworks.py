"""A framework's function -> the jitted function in it, and the user's own arguments.

`nnx.jit` and `eqx.filter_jit` hand a jitted function pure trees, which is what the tape records.
The verdict is of the user's function and modules, so that it has their names.
"""

from __future__ import annotations

import copy
import functools
import sys
import threading
from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax

from nanlab.blame.program.call import AFTER, OUTPUT
from nanlab.recorder.arrays import is_array

UserCall = Callable[[Sequence[Any]], tuple[Any, Any, Any]]

_INNER = ("jitted_fn", "_cached")  # of nnx.jit, of eqx.filter_jit
_HERE = threading.local()


def inner_attribute(function: Any) -> str | None:
    """Return the attribute of a framework's function that holds its jitted function."""
    if isinstance(function, jax.stages.Compiled):
        return None
    return next((name for name in _INNER if hasattr(function, name)), None)


class Outer:
    """A framework's function that calls another jitted function.

    Args:
        function: the framework's function, which is not changed.
        attribute: where it has its jitted function.
        jitted: what to call in its place.
    """

    def __init__(self, function: Any, attribute: str, jitted: Any) -> None:
        self._function, self._inside = function, copy.copy(function)
        if attribute == "jitted_fn":
            self._inside.__class__ = _twin(function)
        object.__setattr__(self._inside, attribute, jitted)
        functools.update_wrapper(self, function, updated=())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the framework's function."""
        __tracebackhide__ = True
        before = getattr(_HERE, "call", None)
        _HERE.call = (self._function, args, kwargs)
        try:
            return self._inside(*args, **kwargs)
        finally:
            _HERE.call = before

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self if instance is None else functools.partial(self, instance)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._function, name)


def _twin(function: Any) -> type:
    """Return a class whose instances equal a function of `nnx.jit`, which is a key for NNX."""
    kind: Any = type(function)

    class Twin(kind):
        def __eq__(self, other: object) -> bool:
            return other is self or other is function

        def __hash__(self) -> int:
            return hash(function)

    return Twin


def user_call(leaves: Sequence[Any]) -> UserCall | None:
    """Return what rebuilds the user's (function, args, kwargs) from leaves like these.

    None if no framework is in between, or it has made other arrays of the user's.
    """
    call = getattr(_HERE, "call", None)
    if call is None:
        return None
    function, args, kwargs = call
    tree, merge = _as_arrays((args, kwargs))
    own, structure = jax.tree.flatten(tree)
    places = {id(x): place for place, x in enumerate(leaves)}
    found = [places.get(id(x)) for x in own]
    if any(is_array(x) and place is None for x, place in zip(own, found, strict=True)):
        return None
    fixed = [x if place is None else None for x, place in zip(own, found, strict=True)]

    def rebuild(leaves: Sequence[Any]) -> tuple[Any, Any, Any]:
        filled = [x if p is None else leaves[p] for x, p in zip(fixed, found, strict=True)]
        args, kwargs = merge(jax.tree.unflatten(structure, filled))
        return function, args, kwargs

    return rebuild


def _as_arrays(tree: Any) -> tuple[Any, Callable[[Any], Any]]:
    """Return a tree of arrays for one that may hold NNX objects, and the way back."""
    nnx: Any = sys.modules.get("flax.nnx")
    if nnx is None:
        return tree, lambda tree: tree

    def is_object(x: Any) -> bool:
        return isinstance(x, nnx.Pytree | nnx.Variable)

    leaves, structure = jax.tree.flatten(tree, is_leaf=is_object)
    places = [place for place, x in enumerate(leaves) if is_object(x)]
    if not places:
        return tree, lambda tree: tree
    # All at once, as they may share variables; without numbers, which a split takes for static.
    graph, state = nnx.split([leaves[place] for place in places])
    others = [None if place in places else x for place, x in enumerate(leaves)]

    def merged(pair: Any) -> Any:
        state, leaves = pair
        for place, x in zip(places, nnx.merge(graph, state), strict=True):
            leaves[place] = x
        return jax.tree.unflatten(structure, leaves)

    return (state, others), merged


def judged_outputs(
    names: Sequence[str], outputs: Collection[str], *, is_inner: bool
) -> Collection[int] | None:
    """Return which outputs of a traced call are those that the recorded function returned.

    What a framework's function returns is a part of what its jitted function returns, next to the
    new state of its arguments or a mark.

    Args:
        names: of the traced call's outputs.
        outputs: names of the recorded function's outputs.
        is_inner: whether the recorded function is the jitted function of a framework's.

    Returns:
        Indices into `names`; None if none of them is found.
    """
    paths = ["" if name == OUTPUT else name for name in outputs]
    own = {OUTPUT + (path.partition("]")[2] if is_inner else path) for path in paths}
    found = {index for index, name in enumerate(names) if name in own}
    if len(found) < len(own):  # the rest are arguments' new states
        found |= {index for index, name in enumerate(names) if name.endswith(AFTER)}
    return found or None
