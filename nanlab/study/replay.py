"""Reconstruct the state of a failed run before its failing step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nanlab.grid import GridError
from nanlab.plan.plan import Group, Plan
from nanlab.results.errors import ReportError
from nanlab.results.read import finished_study
from nanlab.study.trust import ForeignCodeError, check_is_ours

if TYPE_CHECKING:
    from nanlab.engine.group_runner import Attribution, ChunkOutcome, GroupRunner
    from nanlab.engine.lanes import Lanes

At = Literal["fault", "nan"]


class ReplayError(Exception):
    """The run cannot be replayed; the message is a sentence for the user."""


@dataclass(frozen=True, kw_only=True)
class Replay:
    """A run at the state before a step.

    Attributes:
        run_id: id of the run.
        parameters: parameters of the run, by name.
        at: "fault" or "nan".
        step: number of the failing step; -1 if the initial state itself has the fault, and then
            `state` is that state.
        state: state before the step, as the problem's `init` and `step` use it.
        batch: batch of the step, None if the problem has no batches.
        step_function: state -> (state, metrics): the step, not jitted, to run under
            `jax.debug_nans`, in parts, or modified.
        blame: origin, culprit and status, as in the tables.
        knobs: what the run's program traces, by name.
        start: knobs -> the first state.
        step_with: (state, knobs, number of the step) -> (state, metrics).
    """

    run_id: str
    parameters: dict[str, Any]
    at: At
    step: int
    state: Any
    batch: Any
    step_function: Callable[[Any], tuple[Any, Any]]
    blame: Attribution
    knobs: dict[str, Any]
    start: Callable[[Mapping[str, Any]], Any]
    step_with: Callable[[Any, Mapping[str, Any], Any], tuple[Any, Any]]


def replay_run(
    results: str | Path, run_id: str, *, at: At = "fault", trust: bool = False
) -> Replay:
    """Reconstruct the state of a failed run before its failing step.

    The run is computed again from its start, to the same bits as in the sweep on the same device
    and versions. This enables 64-bit types for the rest of the process.

    Args:
        results: the folder of a finished study, `results/X`.
        run_id: the run's id, or its beginning.
        at: "fault" for the state before the first fault, "nan" for that before the first NaN.
        trust: whether to run code that the folder names and no grid of the current project does.

    Returns:
        The run at that state.

    Raises:
        ReplayError: no such study or run; the run did not fail, or had no NaN; or the folder names
            code from elsewhere.
    """
    plan = _plan_of(Path(results), trust=trust)
    number = _number_of(plan, run_id, Path(results))
    group = next(group for group in plan.groups if number in group.runs)
    from nanlab.backend.config import configure_lab

    # JAX may be in use in this process already, which fixes its number of devices.
    configure_lab(keep_programs=False)
    runner, lanes, outcome = _run_again(plan, group, number)
    frozen = outcome.at_fault if at == "fault" else outcome.at_nan
    name = str(plan.run_ids[number])
    if 0 not in outcome.attributions:
        raise ReplayError(f"run {name} did not fail: there is no step to go back to")
    if not len(frozen.rows):
        raise ReplayError(f"run {name} had no NaN; --at fault goes back to its first inf")
    return _replay(runner, lanes, outcome, at, name, plan.point(number))


def _run_again(plan: Plan, group: Group, number: int) -> tuple[GroupRunner, Lanes, ChunkOutcome]:
    import numpy as np

    from nanlab.engine.group_runner import GroupRunner
    from nanlab.engine.placement import lanes_of
    from nanlab.problems.user_code import UserCodeError

    try:
        runner = GroupRunner(group.statics)
        lanes = lanes_of(plan, runner.problem, np.array([number]))
        return runner, lanes, runner.run(lanes)
    except UserCodeError as error:
        raise ReplayError(str(error)) from error


def _replay(
    runner: GroupRunner,
    lanes: Lanes,
    outcome: ChunkOutcome,
    at: At,
    run_id: str,
    parameters: dict[str, Any],
) -> Replay:
    import jax
    import jax.numpy as jnp

    from nanlab.backend import keys
    from nanlab.backend.keys import init_key, step_key

    frozen = outcome.at_fault if at == "fault" else outcome.at_nan
    step = int(frozen.step[0])
    knobs = {name: jnp.asarray(values[0]) for name, values in lanes.knobs.items()}
    seed = jnp.asarray(lanes.seed[0])
    key = keys.for_step(step_key(seed), max(step, 0))
    problem = runner.problem
    state = jax.tree.map(lambda x: jnp.asarray(x[0]), frozen.state)

    def step_function(state: Any) -> tuple[Any, Any]:
        return problem.step(state, knobs, key)

    return Replay(
        run_id=run_id,
        parameters=parameters,
        at=at,
        step=step,
        state=state,
        batch=None if problem.batch is None else problem.batch(state, knobs, key),
        step_function=step_function,
        blame=outcome.attributions[0],
        knobs=knobs,
        start=lambda knobs: problem.init(knobs, init_key(seed)),
        step_with=lambda state, knobs, number: problem.step(
            state, knobs, keys.for_step(step_key(seed), number)
        ),
    )


def _plan_of(results: Path, *, trust: bool) -> Plan:
    try:
        study = finished_study(results)
        if not trust:
            check_is_ours(study, results)
    except (ForeignCodeError, ReportError) as error:
        raise ReplayError(str(error)) from error
    except GridError as error:
        raise ReplayError(
            f"{results} was written by an incompatible version of nanlab:\n{error}"
        ) from error
    return study.plan


def _number_of(plan: Plan, run_id: str, results: Path) -> int:
    found = [i for i, each in enumerate(plan.run_ids.tolist()) if each.startswith(run_id)]
    if not found:
        raise ReplayError(f"{results} has no run {run_id!r}; see run_id in its runs.parquet")
    if len(found) > 1:
        raise ReplayError(
            f"{len(found):,} runs of {results} begin with {run_id!r}; give more digits"
        )
    return found[0]
