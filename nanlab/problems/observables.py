"""Gradient, update and activations of a step -> the observables of the curves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float64

from nanlab.backend.finiteness import largest_magnitude
from nanlab.problems.metrics import gradient_norm
from nanlab.problems.problem import OBSERVABLES

SATURATED = 0.01
"""An entry is saturated where the activation's slope is smaller than this."""

ObservedValues = dict[tuple[str, str], Array]
"""(observable, layer) -> scalar; the layer is "" for the whole network."""


def of_arrays(params: Any, gradient: Any, update: Any) -> ObservedValues:
    """Compute norms, shares and ratios of each array of parameters, and of all together.

    Args:
        params: parameters of the model, a pytree.
        gradient: gradient of the loss, with the same structure.
        update: update of the parameters, with the same structure.

    Returns:
        parameter_norm, gradient_norm, update_ratio and zero_gradients.
    """
    values: ObservedValues = {}
    trees = [jax.tree_util.tree_leaves_with_path(tree) for tree in (params, gradient, update)]
    rows = [(_layer(path), p, g, u) for (path, p), (_, g), (_, u) in zip(*trees, strict=True)]
    for layer, p, g, u in [*((n, [p], [g], [u]) for n, p, g, u in rows), _together(rows)]:
        norm, moved = gradient_norm(p), gradient_norm(u)
        values["parameter_norm", layer] = norm
        values["gradient_norm", layer] = gradient_norm(g)
        # Parameters that are all 0 have no ratio: NaN, null in the table.
        values["update_ratio", layer] = jnp.where(
            norm > 0, moved / jnp.where(norm > 0, norm, 1.0), jnp.nan
        )
        zeros = jnp.asarray(sum(jnp.sum(leaf == 0) for leaf in g))
        values["zero_gradients", layer] = zeros / sum(leaf.size for leaf in g)
    return values


def _together(rows: list[Any]) -> tuple[str, list[Array], list[Array], list[Array]]:
    return "", [row[1] for row in rows], [row[2] for row in rows], [row[3] for row in rows]


def _layer(path: tuple[Any, ...]) -> str:
    """Return a layer's name, such as "Dense_0/kernel", from a path in Linen's parameters."""
    parts = [str(getattr(part, "key", getattr(part, "name", part))) for part in path]
    return "/".join(part for part in parts if part != "params")


def of_units(
    sown: Mapping[str, Any], activation: Callable[[Array], Array] | None
) -> ObservedValues:
    """Compute the largest activations and the shares of dead units and of saturated entries.

    Args:
        sown: Linen's collections that the model sowed.
        activation: the activation; None if it is not elementwise and units have no slope.

    Returns:
        largest_activation, dead_units (slope 0 on every example of the batch), saturated_units.
    """
    values: ObservedValues = {}
    for number, x in enumerate(_hidden(sown, "activations")):
        values["largest_activation", f"hidden_{number}"] = largest_magnitude(x)
    for number, x in enumerate(_hidden(sown, "attention_logits")):
        values["largest_activation", f"attention_logits_{number}"] = largest_magnitude(x)
    if activation is None:
        return values
    for number, z in enumerate(_hidden(sown, "preactivations")):
        _, slope = jax.jvp(activation, (z,), (jnp.ones_like(z),))
        examples = tuple(range(max(slope.ndim - 1, 1)))
        dead = jnp.all(slope == 0, axis=examples)
        values["dead_units", f"hidden_{number}"] = jnp.mean(dead.astype(jnp.float64))
        flat = jnp.abs(slope) < SATURATED
        values["saturated_units", f"hidden_{number}"] = jnp.mean(flat.astype(jnp.float64))
    return values


def _hidden(sown: Mapping[str, Any], collection: str) -> Iterator[Array]:
    """Return the arrays of a collection, sown by the model or by a module of each hidden layer."""
    tree = sown.get(collection, {})
    modules = [tree[name] for number in range(len(tree)) if (name := f"hidden_{number}") in tree]
    return chain.from_iterable(module.get("hidden", ()) for module in (tree, *modules))


def headroom(trees: Any, dtype: Any) -> Float64[Array, ""]:
    """Return log10 of the dtype's maximum over the largest magnitude of all these arrays."""
    leaves = [leaf for leaf in jax.tree.leaves(trees) if leaf.size]
    largest = [largest_magnitude(leaf).astype(jnp.float64) for leaf in leaves]
    most = jnp.max(jnp.stack(largest))
    return jnp.where(most > 0, jnp.log10(float(jnp.finfo(dtype).max)) - jnp.log10(most), jnp.nan)


def as_float64(values: ObservedValues) -> ObservedValues:
    """Return the values as float64; each observable must be in the data dictionary."""
    unknown = {name for name, _ in values} - set(OBSERVABLES)
    assert not unknown, f"problem.OBSERVABLES lacks {sorted(unknown)}"
    return {key: jnp.asarray(value).astype(jnp.float64) for key, value in values.items()}
