"""A step with settings, run that fails -> settings with which it is finite and learns."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from nanlab.backend.config import without_checks
from nanlab.curing.report import Cures
from nanlab.curing.training import MARGIN, N_DIRECTIONS

Start = Callable[[Mapping[str, Any]], Any]
Step = Callable[[Any, Mapping[str, Any], Any], tuple[Any, Any]]

FACTORS: dict[str, tuple[float, ...]] = {
    "lr": (0.1, 1e-3, 1e-6), "init_scale": (0.1, 0.001), "input_scale": (0.1,),
    "clip_at": (0.1, 1e-3),
    "attention_scale": (0.1,), "optimizer_epsilon": (1e2, 1e4), "norm_epsilon": (1e2, 1e4),
    "loss_epsilon": (1e2, 1e4), "clip_epsilon": (1e2,), "momentum": (0.5,),
}  # fmt: skip
"""Settings that keep numbers from growing or from a pole, and by what to multiply them."""


@dataclass(frozen=True, kw_only=True)
class SettingCure:
    """A setting with which a run is finite and learns. `print` it to read it.

    Attributes:
        name: name of the setting.
        before: its value in the run that fails.
        after: its value in the cure.
        steps: the number of steps that were taken.
        losses: the loss of the first step and of the last.
        placebos: the loss of the last step with each placebo; inf if it was not finite.
    """

    name: str
    before: float
    after: float
    steps: int
    losses: tuple[float, float]
    placebos: dict[str, float]

    def __str__(self) -> str:
        first, last = self.losses
        placebos = ", ".join(
            f"{name} {loss:.3g}" if math.isfinite(loss) else f"{name} no finite loss"
            for name, loss in self.placebos.items()
        )
        return (
            f"{self.name} = {self.after:g}\n"
            f"  in place of {self.before:g}\n"
            f"  The loss goes from {first:.3g} to {last:.3g} in {self.steps} steps.\n"
            f"  Placebos end at: {placebos}.\n"
        )


def cure_settings(
    start: Start, step: Step, settings: Mapping[str, Any], *, steps: int
) -> Cures[SettingCure]:
    """Find settings with which a run is finite and learns.

    A setting is a cure if the run stays finite, lowers its loss, and ends lower than its placebos
    do: steps of the same length in random directions, which are finite and learn nothing.

    Args:
        start: function of the settings; returns the first state.
        step: function of a state, the settings and the step's number; returns the next state, and
            metrics with a `loss`.
        settings: settings of the run that fails, by name.
        steps: the number of steps to take.

    Returns:
        The cures, the lowest loss first; empty if there are none, and `reason` says why.
    """
    with without_checks():
        return _Runs(start, step, settings, steps).cures()


class _Runs:
    """Runs with other settings, each from the start."""

    def __init__(self, start: Start, step: Step, settings: Mapping[str, Any], steps: int) -> None:
        self._settings, self._steps = settings, steps
        self._start, self._step = jax.jit(start), jax.jit(step)

        def wandering(seed: int) -> Step:
            def misled(state: Any, settings: Mapping[str, Any], number: Any) -> Any:
                after, metrics = step(state, settings, number)
                key = jax.random.fold_in(jax.random.key(seed), number)
                return _misled(state, after, key), metrics

            return jax.jit(misled)

        self._wandering = [wandering(seed) for seed in range(N_DIRECTIONS)]

    def cures(self) -> Cures[SettingCure]:
        """Return the cures."""
        found: list[SettingCure] = []
        refused: list[str] = []
        moves = list(self._moves())
        for name, factor in moves:
            first, last = self._losses(self._step, name, factor)
            if not (math.isfinite(last) and last < first):
                refused.append(f"{name} x {factor:g}")
                continue
            placebos = dict(self._placebos(name, factor))
            if any(last > (1 - MARGIN) * loss for loss in placebos.values()):
                refused.append(f"{name} x {factor:g}")
                continue
            before = float(self._settings[name])
            found.append(SettingCure(
                name=name, before=before, after=before * factor, steps=self._steps,
                losses=(first, last), placebos=placebos,
            ))  # fmt: skip
        found.sort(key=lambda cure: cure.losses[1])
        tried = ", ".join(refused) or "the run has none of those that could"
        reason = "" if found else f"No other setting mends it in {self._steps} steps: {tried}."
        return Cures(found, reason=reason, n_tried=len(moves))

    def _moves(self) -> Iterator[tuple[str, float]]:
        for name, factors in FACTORS.items():
            if name in self._settings and float(self._settings[name]) != 0:
                yield from ((name, factor) for factor in factors)

    def _placebos(self, name: str, factor: float) -> Iterator[tuple[str, float]]:
        for seed, step in enumerate(self._wandering):
            yield f"random direction {seed}", self._losses(step, name, factor)[1]

    def _losses(self, step: Any, name: str, factor: float) -> tuple[float, float]:
        """Return the loss of the first step and of the last; inf if one is not finite."""
        settings = dict(self._settings)
        settings[name] = settings[name] * factor
        state, losses = self._start(settings), list[float]()
        for number in range(self._steps):
            state, metrics = step(state, settings, jnp.int32(number))
            losses.append(float(metrics.loss))
            if not math.isfinite(losses[-1]):
                return math.inf, math.inf
        return losses[0], losses[-1]


def _misled(before: Any, after: Any, key: Any) -> Any:
    """Return a state whose parameters, or else floats, moved as far in a random direction."""
    has_params = hasattr(after, "params")
    pair = (before.params, after.params) if has_params else (before, after)
    (old, tree), new = jax.tree.flatten(pair[0]), jax.tree.leaves(pair[1])
    is_float = [jnp.issubdtype(x.dtype, jnp.floating) for x in old]
    keys = jax.random.split(key, len(old))
    drawn = [jax.random.normal(k, x.shape, jnp.float32) for k, x in zip(keys, old, strict=True)]
    steps = [y - x for x, y, ok in zip(old, new, is_float, strict=True) if ok]
    scale = _norm(steps) / _norm([d for d, ok in zip(drawn, is_float, strict=True) if ok])
    moved = [
        x + (scale * d).astype(x.dtype) if ok else y
        for x, y, d, ok in zip(old, new, drawn, is_float, strict=True)
    ]
    tree = jax.tree.unflatten(tree, moved)
    return after._replace(params=tree) if has_params else tree


def _norm(leaves: Any) -> Any:
    return jnp.sqrt(sum(jnp.sum(jnp.square(x.astype(jnp.float32))) for x in leaves))
