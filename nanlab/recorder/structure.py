"""Pytree <-> JSON, so that a bundle's arguments can be handed to their function again.

Dicts, lists, tuples, `None`, named tuples and dataclasses are described; of the last two the class
is named, and it is looked up when they are built. Nothing is unpickled.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from importlib import import_module
from typing import Any

import jax

_REGISTRY: Any = jax.tree_util.default_registry
_PLAIN = (str, int, float, bool, type(None))


class NotDescribed(ValueError):
    """A pytree that JSON cannot hold, or that cannot be built; the message is a sentence."""


def described(tree: Any) -> Any:
    """Return a pytree's structure as JSON.

    Raises:
        NotDescribed: it holds a node of another kind.
    """
    count = iter(range(jax.tree.structure(tree).num_leaves))
    structure = _described(tree, count)
    if jax.tree.structure(built(structure, jax.tree.leaves(tree))) != jax.tree.structure(tree):
        raise NotDescribed("the arguments have a structure that JSON cannot hold")
    return structure


def _described(node: Any, count: Iterator[int]) -> Any:
    flat = None if node is None else _REGISTRY.flatten_one_level(node)
    if node is None:
        return None
    if flat is None:
        return {"leaf": next(count)}
    kind = type(node)
    if kind is dict and all(isinstance(key, _PLAIN) for key in node):
        return {"dict": [[key, _described(node[key], count)] for key in flat[1]]}
    if kind in (list, tuple):
        return {kind.__name__: [_described(child, count) for child in node]}
    name = f"{kind.__module__}:{kind.__qualname__}"
    if isinstance(node, tuple) and hasattr(kind, "_fields"):
        return {"class": name, "items": [_described(child, count) for child in node]}
    if dataclasses.is_dataclass(kind):
        children = {id(child) for child in flat[0]}
        fields: list[Any] = []
        for field in dataclasses.fields(kind):
            value = getattr(node, field.name)
            if id(value) in children and value is not None:
                fields.append([field.name, _described(value, count)])
            elif _is_plain(value):
                fields.append([field.name, {"value": value}])
            else:
                raise NotDescribed(f"{kind.__name__}.{field.name} is code, which JSON cannot hold")
        return {"class": name, "fields": fields}
    raise NotDescribed(f"a {kind.__name__} is a pytree node that JSON cannot hold")


def _is_plain(value: Any) -> bool:
    is_number = isinstance(value, float)
    return isinstance(value, _PLAIN) and (not is_number or math.isfinite(value))


def built(structure: Any, leaves: Sequence[Any]) -> Any:
    """Return the pytree of a structure with these leaves.

    Raises:
        NotDescribed: a class is not there any more, or is no node of a pytree.
    """
    match structure:
        case None:
            return None
        case {"leaf": index}:
            return leaves[index]
        case {"value": value}:
            return value
        case {"dict": items}:
            return {key: built(child, leaves) for key, child in items}
        case {"list": items}:
            return [built(child, leaves) for child in items]
        case {"tuple": items}:
            return tuple(built(child, leaves) for child in items)
        case {"class": name, "items": items}:
            kind = looked_up(name)
            if isinstance(kind, type) and issubclass(kind, tuple) and hasattr(kind, "_fields"):
                return tuple.__new__(kind, [built(child, leaves) for child in items])
        case {"class": name, "fields": fields}:
            kind = looked_up(name)
            if isinstance(kind, type) and dataclasses.is_dataclass(kind):
                node = object.__new__(kind)
                for field, child in fields:
                    object.__setattr__(node, field, built(child, leaves))
                return node
        case _:
            pass
    raise NotDescribed(f"{structure!r} does not describe a pytree")


def classes_in(structure: Any) -> set[str]:
    """Return the classes that a structure names, as "module:name"."""
    if isinstance(structure, list):
        return set[str]().union(*map(classes_in, structure))
    if not isinstance(structure, dict):
        return set()
    items: dict[str, Any] = structure
    own = {str(items["class"])} if "class" in items else set[str]()
    return own | classes_in([*items.values()])


def looked_up(name: str) -> Any:
    """Return the object that "module:name" names.

    Raises:
        NotDescribed: there is none.
    """
    module, _, path = name.partition(":")
    try:
        found: Any = import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise NotDescribed(f"{name} cannot be imported: {error}") from None
    return found


def restored(array: Any, kind: str, name: str) -> Any:
    """Return a leaf as it was, from what `.npz` holds of it.

    Args:
        array: what is stored.
        kind: its type by name, as `for_disk` says it.
        name: name of the argument.

    Raises:
        NotDescribed: it is an object of which only the text is stored.
    """
    if kind == "text":
        try:
            return ast.literal_eval(str(array))
        except (ValueError, SyntaxError):
            raise NotDescribed(f"{name} is {array}, of which only the text is stored") from None
    if kind.startswith("key<"):
        return jax.random.wrap_key_data(array, impl=kind[4:-1])
    dtype = jax.numpy.dtype(kind)
    return jax.numpy.asarray(array if array.dtype == dtype else array.view(dtype))


def only(function: Callable[..., Any], judged: Collection[int]) -> Callable[..., Any]:
    """Return a function that returns these leaves of what another one returns."""

    def judged_outputs(*args: Any, **kwargs: Any) -> list[Any]:
        leaves = jax.tree.leaves(function(*args, **kwargs))
        return [leaves[i] for i in judged if i < len(leaves)]

    return functools.update_wrapper(judged_outputs, function, updated=())
