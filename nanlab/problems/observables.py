"""Gradient, update, activations -> numbers to watch: what may tell of a fault before it comes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from nanlab.backend.finiteness import largest_magnitude
from nanlab.problems.metrics import gradient_norm
from nanlab.problems.problem import OBSERVABLES

SATURATED = 0.01
"""An entry is saturated where the activation's slope is smaller than this."""

ObservedValues = dict[tuple[str, str], Array]
"""(observable, layer) -> float64 scalar; the layer is "" where it is of all of them."""


def of_arrays(params: Any, gradient: Any, update: Any) -> ObservedValues:
    """Norms, shares and ratios of each array of parameters, and of all together.

    Args:
        params, gradient, update: pytrees of the same structure.
    """
    seen: ObservedValues = {}
    trees = [jax.tree_util.tree_leaves_with_path(tree) for tree in (params, gradient, update)]
    rows = [(_layer(path), p, g, u) for (path, p), (_, g), (_, u) in zip(*trees, strict=True)]
    for layer, p, g, u in [*((n, [p], [g], [u]) for n, p, g, u in rows), _together(rows)]:
        norm, moved = gradient_norm(p), gradient_norm(u)
        seen["parameter_norm", layer] = norm
        seen["gradient_norm", layer] = gradient_norm(g)
        # Parameters that are all 0 have no ratio: NaN, which the table shows as nothing.
        seen["update_ratio", layer] = jnp.where(
            norm > 0, moved / jnp.where(norm > 0, norm, 1.0), jnp.nan
        )
        zeros = jnp.asarray(sum(jnp.sum(leaf == 0) for leaf in g))
        seen["zero_gradients", layer] = zeros / sum(leaf.size for leaf in g)
    return seen


def _together(rows: list[Any]) -> tuple[str, list[Array], list[Array], list[Array]]:
    return "", [row[1] for row in rows], [row[2] for row in rows], [row[3] for row in rows]


def _layer(path: tuple[Any, ...]) -> str:
    """`Dense_0/kernel`, from a path in Linen's parameters."""
    parts = [str(getattr(part, "key", getattr(part, "name", part))) for part in path]
    return "/".join(part for part in parts if part != "params")


def of_units(
    sown: Mapping[str, Any], activation: Callable[[Array], Array] | None
) -> ObservedValues:
    """Largest activations, and the shares of units that are dead and of entries saturated.

    A unit is dead where the activation's slope is exactly 0 on every example of the batch.

    Args:
        sown: what the model sowed, Linen's collections.
        activation: None where it is not elementwise, and has no slope of a unit.
    """
    seen: ObservedValues = {}
    for number, x in enumerate(_hidden(sown, "activations")):
        seen["largest_activation", f"hidden_{number}"] = largest_magnitude(x)
    for number, x in enumerate(_hidden(sown, "attention_logits")):
        seen["largest_activation", f"attention_logits_{number}"] = largest_magnitude(x)
    if activation is None:
        return seen
    for number, z in enumerate(_hidden(sown, "preactivations")):
        _, slope = jax.jvp(activation, (z,), (jnp.ones_like(z),))
        examples = tuple(range(max(slope.ndim - 1, 1)))
        dead = jnp.all(slope == 0, axis=examples)
        seen["dead_units", f"hidden_{number}"] = jnp.mean(dead.astype(jnp.float64))
        flat = jnp.abs(slope) < SATURATED
        seen["saturated_units", f"hidden_{number}"] = jnp.mean(flat.astype(jnp.float64))
    return seen


def _hidden(sown: Mapping[str, Any], collection: str) -> Iterator[Array]:
    """The arrays of one collection: sown by the model, or by a module of each hidden layer."""
    tree = sown.get(collection, {})
    modules = [tree[name] for number in range(len(tree)) if (name := f"hidden_{number}") in tree]
    return chain.from_iterable(each.get("hidden", ()) for each in (tree, *modules))


def headroom(trees: Any, dtype: Any) -> Array:
    """log10 of the dtype's maximum over the largest magnitude of all these arrays, float64."""
    leaves = [leaf for leaf in jax.tree.leaves(trees) if leaf.size]
    largest = [largest_magnitude(leaf).astype(jnp.float64) for leaf in leaves]
    most = jnp.max(jnp.stack(largest))
    return jnp.where(most > 0, jnp.log10(float(jnp.finfo(dtype).max)) - jnp.log10(most), jnp.nan)


def as_float64(seen: ObservedValues) -> ObservedValues:
    """The same, in one type; each observable is one that the data dictionary knows."""
    unknown = {name for name, _ in seen} - set(OBSERVABLES)
    assert not unknown, f"problem.OBSERVABLES does not tell of {sorted(unknown)}"
    return {key: jnp.asarray(value).astype(jnp.float64) for key, value in seen.items()}
