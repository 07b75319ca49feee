"""Loss, optimizer -> changes of the training that stop it from growing: `nanlab.cure_training`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nanlab.backend.config import without_checks
from nanlab.curing.moves import Loss, Move, Optimizer, Setup, moves_of
from nanlab.curing.report import Cures

N_DIRECTIONS = 2
MARGIN = 0.01
"""A cure's loss has to be lower than each placebo's by this share."""


@dataclass(frozen=True, kw_only=True)
class TrainingCure:
    """A change of a training after which it is finite and learns. `print` it to read it.

    Attributes:
        name: what it is called.
        code: how it is written.
        steps: the number of steps that were taken.
        losses: mean loss over the batches before the first step and after the last.
        placebos: the same loss after the last step with each placebo; inf if it was not finite.

    Example:
        >>> import jax.numpy as jnp
        >>> import nanlab
        >>> import optax
        >>> loss = lambda w, x: jnp.mean((x @ w - 1.0) ** 2)
        >>> x = jnp.linspace(1.0, 30.0, 12).reshape(6, 2)
        >>> cures = nanlab.cure_training(loss, optax.sgd(1.0), jnp.zeros(2), [x])
        >>> cures[0].code
        'optimizer = optax.chain(optimizer, optax.scale(0.001))'
    """

    name: str
    code: str
    steps: int
    losses: tuple[float, float]
    placebos: dict[str, float]
    move: Move = field(repr=False)

    def apply(self, loss: Loss, optimizer: Optimizer) -> tuple[Loss, Optimizer]:
        """Return the loss and the optimizer to go on with; start from a new optimizer state."""
        setup = self.move.change(Setup(loss=loss, optimizer=optimizer), None)
        return setup.loss, setup.optimizer

    def __str__(self) -> str:
        before, after = self.losses
        placebos = ", ".join(f"{name} {_shown(x)}" for name, x in self.placebos.items())
        return (
            f"{self.name}\n  {self.code}\n"
            f"  The loss goes from {before:.3g} to {after:.3g} in {self.steps} steps.\n"
            f"  Placebos end at: {placebos}.\n"
        )


def _shown(loss: float) -> str:
    return f"{loss:.3g}" if math.isfinite(loss) else "no finite loss"


def cure_training(
    loss: Loss, optimizer: Optimizer, params: Any, batches: Sequence[Any], *, steps: int = 20
) -> Cures[TrainingCure]:
    """Find changes of a training that grows from step to step until it is not finite.

    Clipping, a lower learning rate, a warm-up, a larger eps, other types, loss scaling, skipped
    updates and limits on queries and keys are each tried for some steps, through wrappers of
    optax. A change is a cure if the training stays finite, lowers the loss, and ends lower than
    its placebos do: the same change for one array of the parameters only, and steps of the same
    length in a random direction, which are finite and learn nothing.

    Args:
        loss: function of the parameters and a batch.
        optimizer: the optax optimizer.
        params: parameters with which the training fails within `steps` steps.
        batches: batches, used in turn.
        steps: the number of steps to try.

    Returns:
        The cures, the lowest loss first; empty if there are none, and `reason` says why.

    Raises:
        ValueError: there is no batch, or fewer than one step.
        Exception: whatever the loss or the optimizer raises.

    Example:
        >>> import jax.numpy as jnp
        >>> import nanlab
        >>> import optax
        >>> loss = lambda w, x: jnp.mean((x @ w - 1.0) ** 2)
        >>> x = jnp.linspace(1.0, 30.0, 12).reshape(6, 2)
        >>> cures = nanlab.cure_training(loss, optax.sgd(1.0), jnp.zeros(2), [x])
        >>> mended_loss, mended_optimizer = cures[0].apply(loss, optax.sgd(1.0))
    """
    if not batches or steps < 1:
        raise ValueError(
            f"nanlab.cure_training needs a batch and a step, and got {len(batches)} batches and "
            f"steps={steps}: pass batches=[batch] and steps=20"
        )
    with without_checks():
        return _Trials(loss, optimizer, params, batches, steps).cures()


class _Trials:
    """The runs of one training, with changes and placebos."""

    def __init__(
        self, loss: Loss, optimizer: Optimizer, params: Any, batches: Sequence[Any], steps: int
    ) -> None:
        self._setup = Setup(loss=loss, optimizer=optimizer)
        self._params, self._batches, self._steps = params, batches, steps

    def cures(self) -> Cures[TrainingCure]:
        """Return the cures."""
        before = self._mean_loss(self._params, self._setup.loss)
        after = self._end(self._setup)
        if math.isfinite(after) and after <= 2 * abs(before):
            return Cures((), reason=(
                f"The training is finite for {self._steps} steps, and its loss does not grow: pass "
                "the parameters of a few steps before it fails, or more steps."
            ))  # fmt: skip
        found: list[TrainingCure] = []
        moves = list(moves_of(self._setup, self._params, self._batches[0], self._steps))
        refused: dict[str, str] = {}
        for move in moves:
            end = self._end(move.change(self._setup, None))
            if not (math.isfinite(end) and end < before):
                is_finite = math.isfinite(end)
                refused[move.name] = "does not lower the loss" if is_finite else "is not finite"
                continue
            placebos = {name: self._end(setup) for name, setup in self._placebos(move)}
            if any(end > (1 - MARGIN) * placebo for placebo in placebos.values()):
                refused[move.name] = "is no better than a placebo"
                continue
            found.append(TrainingCure(
                name=move.name, code=move.code, steps=self._steps, losses=(before, end),
                placebos=placebos, move=move,
            ))  # fmt: skip
        found.sort(key=lambda cure: float(f"{cure.losses[1]:.2g}"))
        why = ", ".join(f"{name} {reason}" for name, reason in refused.items())
        reason = "" if found else f"No change of the training mends it: {why}."
        return Cures(found, reason=reason, n_tried=len(moves))

    def _placebos(self, move: Move) -> Iterator[tuple[str, Setup]]:
        changed = move.change(self._setup, None)
        for seed in range(N_DIRECTIONS):
            wandering = optax.chain(changed.optimizer, random_direction(seed))
            yield f"random direction {seed}", Setup(loss=changed.loss, optimizer=wandering)
        leaves, tree = jax.tree.flatten(self._params)
        if len(leaves) > 1:
            one = np.random.default_rng(0).integers(len(leaves))
            mask = jax.tree.unflatten(tree, [i == one for i in range(len(leaves))])
            if move.is_per_array:
                yield "one array only", move.change(self._setup, mask)

    def _end(self, setup: Setup) -> float:
        """Train and return the mean loss of the end; inf if it is not finite on the way."""
        optimizer = setup.optimizer

        @jax.jit
        def step(params: Any, state: Any, batch: Any) -> Any:
            value, gradient = jax.value_and_grad(setup.loss)(params, batch)
            updates, state = optimizer.update(gradient, state, params)
            return optax.apply_updates(params, updates), state, value

        params, state = self._params, optimizer.init(self._params)
        for batch in islice(cycle(self._batches), self._steps):
            params, state, value = step(params, state, batch)
            if not math.isfinite(float(value)):
                return math.inf
        return self._mean_loss(params, self._setup.loss)

    def _mean_loss(self, params: Any, loss: Loss) -> float:
        run = jax.jit(loss)
        mean = float(np.mean([float(run(params, batch)) for batch in self._batches]))
        return mean if math.isfinite(mean) else math.inf


def random_direction(seed: int = 0) -> Optimizer:
    """Return a wrapper that replaces an update by one of the same length in a random direction."""

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        del params
        leaves, tree = jax.tree.flatten(updates)
        keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), state), len(leaves))
        drawn = [
            jax.random.normal(k, x.shape, jnp.float32) for k, x in zip(keys, leaves, strict=True)
        ]
        scale = _norm(leaves) / _norm(drawn)
        moved = [(scale * d).astype(x.dtype) for d, x in zip(drawn, leaves, strict=True)]
        return jax.tree.unflatten(tree, moved), state + 1

    def init(params: Any) -> Any:
        del params
        return jnp.zeros((), jnp.int32)

    return optax.GradientTransformation(init, update)


def _norm(leaves: Sequence[Any]) -> Any:
    return jnp.sqrt(sum(jnp.sum(jnp.square(x.astype(jnp.float32))) for x in leaves))
