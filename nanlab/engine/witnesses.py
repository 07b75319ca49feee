"""Example runs of a group -> what JAX's own checks and chex say of their blames."""

from __future__ import annotations

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

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


def ask(worker: GroupRunner, lanes: Lanes) -> list[Testimony]:
    """Run these failing runs again and ask the witnesses; one testimony a run.

    Args:
        worker: of the runs' group.
        lanes: the runs, at most as many as a launch of the worker holds.
    """
    outcome = worker.run(lanes)
    after = worker.step_once(lanes, outcome.at_fault)
    faults = {int(row): i for i, row in enumerate(outcome.at_fault.rows)}
    nans = {int(row): i for i, row in enumerate(outcome.at_nan.rows)}
    testimonies: list[Testimony] = []
    for row, place in faults.items():
        blame = outcome.attributions[row]
        origin = _word(worker, lanes, outcome.at_fault, place, blame.origin)
        culprit = None
        if row in nans:
            culprit = _word(worker, lanes, outcome.at_nan, nans[row], blame.culprit, NAN)
        is_init = outcome.at_fault.step[place] < 0
        before = _lane(outcome.at_fault.state, place)
        is_before = None if is_init else _all_finite(before, worker.watched)
        state, loss = (before, None) if is_init else _lane(after, place)
        is_after = _all_finite(state, worker.watched) and (loss is None or _all_finite(loss))
        testimonies.append(Testimony(origin, culprit, is_before, not is_after))
    return testimonies


def _word(
    worker: GroupRunner,
    lanes: Lanes,
    frozen: Frozen,
    place: int,
    site: Site | None,
    worst: int | None = None,
) -> WitnessAnswer | None:
    """What JAX's check says of one site at one frozen lane."""
    if site is None:
        return None
    if worst is None:
        worst = NAN if site.mechanism in NAN_MAKING else INF
    row = frozen.rows[place]
    knobs, seed = {k: v[row] for k, v in lanes.knobs.items()}, lanes.seed[row]
    asked: tuple[Any, ...] = (knobs, seed)
    if frozen.step[place] >= 0:
        asked = (_lane(frozen.state, place), *asked, frozen.step[place])
    probe = worker.forensics.probe(is_init=bool(frozen.step[place] < 0))
    arguments = jax.tree.map(jnp.asarray, asked)
    seen = sighting(probe.function, arguments, worst)
    (reading,), _ = probe.read(*jax.tree.map(lambda x: x[None], asked))
    return compare_with_blame(seen, site, reading, lambda: probe.read_op_by_op(*arguments), worst)


def _lane(tree: Any, place: int) -> Any:
    return jax.tree.map(lambda x: x[place], tree)


def _all_finite(tree: Any, watched: np.ndarray | None = None) -> bool:
    """Whether chex finds the (watched) leaves finite."""
    leaves = jax.tree.leaves(tree)
    if watched is not None:
        leaves = [leaf for leaf, is_watched in zip(leaves, watched, strict=True) if is_watched]
    try:
        chex.assert_tree_all_finite(leaves)
    except AssertionError:
        return False
    return True
