"""Check the blames of example runs with JAX's own NaN and inf checks, and with chex."""

from __future__ import annotations

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool

from nanlab.backend.finiteness import INF, NAN
from nanlab.blame.diagnosis.jax_debug import compare_with_blame, sighting
from nanlab.blame.site import Site
from nanlab.blame.vocabulary import Mechanism, WitnessAnswer
from nanlab.engine.group_runner import GroupRunner
from nanlab.engine.lanes import Lanes
from nanlab.engine.placement import Frozen
from nanlab.results.manifest import Testimony

NAN_MAKING = (
    Mechanism.INF_MINUS_INF, Mechanism.ZERO_TIMES_INF, Mechanism.ZERO_OVER_ZERO,
    Mechanism.INF_OVER_INF, Mechanism.DOMAIN, Mechanism.FILL,
)  # fmt: skip


def ask(runner: GroupRunner, lanes: Lanes) -> list[Testimony]:
    """Run these failing runs again and check their blames.

    Args:
        runner: runner of the runs' group.
        lanes: the runs, at most as many as a launch of the runner holds.

    Returns:
        One testimony a run.
    """
    outcome = runner.run(lanes)
    after = runner.step_once(lanes, outcome.at_fault)
    nans = {int(row): index for index, row in enumerate(outcome.at_nan.rows)}
    testimonies: list[Testimony] = []
    for index, row in enumerate(outcome.at_fault.rows.tolist()):
        blame = outcome.attributions[row]
        origin = _answer(runner, lanes, outcome.at_fault, index, blame.origin)
        culprit = None
        if row in nans:
            culprit = _answer(runner, lanes, outcome.at_nan, nans[row], blame.culprit, NAN)
        is_init = outcome.at_fault.step[index] < 0
        before = _row(outcome.at_fault.state, index)
        is_before = None if is_init else _all_finite(before, runner.watched)
        state, loss = (before, None) if is_init else _row(after, index)
        is_after = _all_finite(state, runner.watched) and (loss is None or _all_finite(loss))
        testimonies.append(Testimony(origin, culprit, is_before, not is_after))
    return testimonies


def _answer(
    runner: GroupRunner,
    lanes: Lanes,
    frozen: Frozen,
    index: int,
    site: Site | None,
    worst: int | None = None,
) -> WitnessAnswer | None:
    """Compare JAX's check of one frozen lane with the site that nanlab blames."""
    if site is None:
        return None
    if worst is None:
        worst = NAN if site.mechanism in NAN_MAKING else INF
    row, is_init = frozen.rows[index], bool(frozen.step[index] < 0)
    arguments: tuple[Any, ...] = ({k: v[row] for k, v in lanes.knobs.items()}, lanes.seed[row])
    if not is_init:
        arguments = (_row(frozen.state, index), *arguments, frozen.step[index])
    probe = runner.forensics.probe(is_init=is_init)
    on_device = jax.tree.map(jnp.asarray, arguments)
    seen = sighting(probe.function, on_device, worst)
    (reading,), _ = probe.read(*jax.tree.map(lambda x: x[None], arguments))
    return compare_with_blame(seen, site, reading, lambda: probe.read_op_by_op(*on_device), worst)


def _row(tree: Any, index: int) -> Any:
    return jax.tree.map(lambda x: x[index], tree)


def _all_finite(tree: Any, watched: Bool[np.ndarray, " leaves"] | None = None) -> bool:
    """Return whether chex finds the (watched) leaves finite."""
    leaves = jax.tree.leaves(tree)
    if watched is not None:
        leaves = [leaf for leaf, is_watched in zip(leaves, watched, strict=True) if is_watched]
    try:
        chex.assert_tree_all_finite(leaves)
    except AssertionError:
        return False
    return True
