"""A training -> changes of it that may stop it from growing, each through wrappers of optax."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import optax

Loss = Callable[[Any, Any], Any]
Optimizer = optax.GradientTransformation

_QUERY_OR_KEY = re.compile(r"\b(query|key|[qk]_proj|[qk]|w_?[qk])\b", re.IGNORECASE)
_LIMIT = (
    "params = optax.apply_updates(params, updates)\n"
    "  params = jax.tree_util.tree_map_with_path(  # norms: of the initial parameters\n"
    "      lambda path, w: optax.projections.projection_l2_ball(w, norms[path])\n"
    "      if path in norms else w, params)  # for the weights of queries and keys"
)
_IN_FLOAT32 = "optax.stateless(lambda g, p: jax.tree.map(lambda x: x.astype('float32'), g))"


@dataclass(frozen=True, kw_only=True)
class Setup:
    """A loss and the optimizer that lowers it."""

    loss: Loss
    optimizer: Optimizer


@dataclass(frozen=True, kw_only=True)
class Move:
    """A change of a training.

    Attributes:
        name: what it is called.
        code: how it is written.
        change: returns the changed setup; a function of the setup and of the mask of the arrays
            that it is to be restricted to (None for all).
        is_per_array: whether it can be restricted.
    """

    name: str
    code: str
    change: Callable[[Setup, Any], Setup]
    is_per_array: bool = True


def moves_of(setup: Setup, params: Any, batch: Any, steps: int) -> Iterator[Move]:
    """Yield the changes to try.

    Args:
        setup: the loss and the optimizer.
        params: parameters.
        batch: a batch.
        steps: the number of steps that are tried.

    Yields:
        The changes that apply to these.
    """
    for norm in (1.0, 0.01):
        yield _before(
            f"clip the gradient's norm at {norm:g}",
            f"optax.clip_by_global_norm({norm:g})",
            optax.clip_by_global_norm(norm),
        )
    for factor in (0.1, 0.001):
        yield _after(f"learning rate / {1 / factor:.0f}", f"optax.scale({factor:g})",
                     optax.scale(factor))  # fmt: skip
    schedule = optax.linear_schedule(1.0 / steps, 1.0, steps)
    yield _after(
        "warm-up",
        f"optax.scale_by_schedule(optax.linear_schedule({1.0 / steps:g}, 1.0, {steps}))",
        optax.scale_by_schedule(schedule),
    )
    yield _after("clip the update", "optax.clip(0.01)", optax.clip(0.01))
    yield _skipping()
    if any(_is_query_or_key(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)):
        yield replace(_after("limit the norms of queries and keys", "", limited()), code=_LIMIT)
    if "eps" in getattr(setup.optimizer.init(params), "hyperparams", {}):
        yield from map(_with_eps, (1e-6, 1e-3))
    leaves = jax.tree.leaves((params, batch))
    types = {getattr(x, "dtype", None) for x in leaves}
    if jnp.dtype(jnp.float16) in types:
        for name in ("bfloat16", "float32"):
            yield _in_type(name)
        yield _scaled(2.0**-10)
    if types & {jnp.dtype(jnp.float16), jnp.dtype(jnp.bfloat16)}:
        yield _before("the optimizer in float32", _IN_FLOAT32, in_float32())


def _restricted(wrapper: Optimizer, mask: Any) -> Optimizer:
    return wrapper if mask is None else optax.masked(wrapper, mask)


def _before(name: str, code: str, wrapper: Optimizer) -> Move:
    def change(setup: Setup, mask: Any) -> Setup:
        chained = optax.chain(_restricted(wrapper, mask), setup.optimizer)
        return Setup(loss=setup.loss, optimizer=chained)

    return Move(name=name, code=f"optimizer = optax.chain({code}, optimizer)", change=change)


def _after(name: str, code: str, wrapper: Optimizer) -> Move:
    def change(setup: Setup, mask: Any) -> Setup:
        chained = optax.chain(setup.optimizer, _restricted(wrapper, mask))
        return Setup(loss=setup.loss, optimizer=chained)

    return Move(name=name, code=f"optimizer = optax.chain(optimizer, {code})", change=change)


def _in_type(name: str) -> Move:
    """Return the change to another type wherever float16 is passed in."""

    def cast(x: Any) -> Any:
        return x.astype(name) if getattr(x, "dtype", None) == jnp.float16 else x

    def change(setup: Setup, mask: Any) -> Setup:
        def loss(params: Any, batch: Any) -> Any:
            if mask is not None:
                params = jax.tree.map(lambda x, here: cast(x) if here else x, params, mask)
                return setup.loss(params, batch)
            return setup.loss(*jax.tree.map(cast, (params, batch)))

        return Setup(loss=loss, optimizer=setup.optimizer)

    code = f"params, batch = jax.tree.map(lambda x: x.astype('{name}'), (params, batch))"
    return Move(name=f"{name} in place of float16", code=code, change=change)


def _skipping() -> Move:
    """Return the change that leaves out updates which are not finite."""

    def change(setup: Setup, mask: Any) -> Setup:
        del mask
        return replace(setup, optimizer=optax.apply_if_finite(setup.optimizer, 10))

    code = "optimizer = optax.apply_if_finite(optimizer, 10)"
    return Move(
        name="skip updates that are not finite", code=code, change=change, is_per_array=False
    )


def _with_eps(eps: float) -> Move:
    """Return the change of the eps of an optimizer of `optax.inject_hyperparams`."""

    def change(setup: Setup, mask: Any) -> Setup:
        del mask
        plain = setup.optimizer

        def init(params: Any) -> Any:
            state: Any = plain.init(params)
            number = jnp.asarray(eps, state.hyperparams["eps"].dtype)
            return state._replace(hyperparams={**state.hyperparams, "eps": number})

        return replace(setup, optimizer=optax.GradientTransformation(init, plain.update))

    code = f'state.hyperparams["eps"] = {eps:g}'
    return Move(name=f"eps = {eps:g}", code=code, change=change, is_per_array=False)


def _scaled(scale: float) -> Move:
    """Return the change that scales the loss, and the gradient back in float32."""

    def change(setup: Setup, mask: Any) -> Setup:
        def loss(params: Any, batch: Any) -> Any:
            value = setup.loss(params, batch)
            return value * jnp.asarray(scale, value.dtype)

        back = optax.chain(in_float32(), optax.scale(1 / scale))
        return Setup(loss=loss, optimizer=optax.chain(_restricted(back, mask), setup.optimizer))

    code = (
        f"loss = loss / {1 / scale:g}\n"
        f"  optimizer = optax.chain({_IN_FLOAT32}, optax.scale({1 / scale:g}), optimizer)"
    )
    return Move(name=f"loss scale 1/{1 / scale:g}", code=code, change=change)


def in_float32() -> Optimizer:
    """Return a transformation of gradients to float32, so that moments and eps are."""
    return optax.stateless(lambda g, _: jax.tree.map(lambda x: x.astype(jnp.float32), g))


def _is_query_or_key(path: Any) -> bool:
    return bool(_QUERY_OR_KEY.search(jax.tree_util.keystr(path).replace("_kernel", "")))


def limited() -> Optimizer:
    """Return a transformation after which queries' and keys' weights do not exceed their norms."""

    def norms(params: Any) -> Any:
        return jax.tree.map(lambda w: jnp.linalg.norm(w.astype(jnp.float32).ravel()), params)

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        def limit(path: Any, step: Any, w: Any, norm: Any) -> Any:
            if not _is_query_or_key(path):
                return step
            moved = (w + step).astype(jnp.float32)
            return (optax.projections.projection_l2_ball(moved, norm) - w).astype(step.dtype)

        return jax.tree_util.tree_map_with_path(limit, updates, params, state), state

    return optax.GradientTransformation(norms, update)
