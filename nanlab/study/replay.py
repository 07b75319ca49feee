"""Bring a failed run of a finished study back to the state before its failing step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nanlab.grid import GridError, load_grid
from nanlab.plan.plan import Group, Plan, make_plan

if TYPE_CHECKING:
    from nanlab.engine.group_runner import Attribution, ChunkOutcome, GroupRunner
    from nanlab.engine.lanes import Lanes

At = Literal["fault", "nan"]


class ReplayError(Exception):
    """The run cannot be replayed; the message is a sentence for a person."""


@dataclass(frozen=True, kw_only=True)
class Replay:
    """One run, brought back to the state before a step.

    Attributes:
        run_id: the run.
        parameters: what was asked of it, by name.
        at: "fault" or "nan".
        step: the number of the step that fails; -1 if the initial state itself is at fault, and
            then `state` is that state.
        state: what the step starts from, as the problem's `init` and `step` have it.
        batch: what the step trains on, or None where the problem has no batches.
        step_function: state -> (state, metrics), the step itself, not jitted: to run under
            `jax.debug_nans`, in pieces, or changed.
        blame: origin, culprit and status, as the tables tell them.
    """

    run_id: str
    parameters: dict[str, Any]
    at: At
    step: int
    state: Any
    batch: Any
    step_function: Callable[[Any], tuple[Any, Any]]
    blame: Attribution


def replay_run(results: str | Path, run_id: str, *, at: At = "fault") -> Replay:
    """Bring a failed run of a study whose tables are written back to its failing step.

    The run is computed again from its start, to the same bits as in the sweep on the same device
    and versions. That takes 64-bit types, so this process has them switched on from here on.

    Args:
        results: the study's folder, `results/X`.
        run_id: the run, or the beginning of its id.
        at: "fault" for the state before the first fault, "nan" for that before the first NaN.

    Raises:
        ReplayError: no such study or run; the run did not fail, or no NaN came.
    """
    plan = _plan_of(Path(results))
    number = _number_of(plan, run_id, Path(results))
    group = next(group for group in plan.groups if number in group.runs)
    from nanlab.backend.config import configure_lab

    # A person's JAX has long begun, and keeps its own number of devices.
    configure_lab(keep_programs=False)
    worker, lanes, outcome = _run_again(plan, group, number)
    frozen = outcome.at_fault if at == "fault" else outcome.at_nan
    name = str(plan.run_ids[number])
    if 0 not in outcome.attributions:
        raise ReplayError(f"run {name} did not fail: there is no step to go back to")
    if not len(frozen.rows):
        raise ReplayError(f"no NaN came in run {name}; --at fault goes back to its first inf")
    return _replay(worker, lanes, outcome, at, name, plan.point(number))


def _run_again(plan: Plan, group: Group, number: int) -> tuple[GroupRunner, Lanes, ChunkOutcome]:
    import numpy as np

    from nanlab.engine.group_runner import GroupRunner
    from nanlab.engine.placement import lanes_of
    from nanlab.problems.user_code import UserCodeError

    try:
        worker = GroupRunner(group.statics)
        lanes = lanes_of(plan, worker.problem, np.array([number]))
        return worker, lanes, worker.run(lanes)
    except UserCodeError as error:
        raise ReplayError(str(error)) from error


def _replay(
    worker: GroupRunner,
    lanes: Lanes,
    outcome: ChunkOutcome,
    at: At,
    run_id: str,
    parameters: dict[str, Any],
) -> Replay:
    import jax
    import jax.numpy as jnp

    from nanlab.backend import keys
    from nanlab.backend.keys import step_key

    frozen = outcome.at_fault if at == "fault" else outcome.at_nan
    step = int(frozen.step[0])
    knobs = {name: jnp.asarray(values[0]) for name, values in lanes.knobs.items()}
    key = keys.for_step(step_key(jnp.asarray(lanes.seed[0])), max(step, 0))
    problem = worker.problem
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
    )


def _plan_of(results: Path) -> Plan:
    path = results / "grid.resolved.toml"
    if not path.is_file():
        raise ReplayError(f"{results} holds no study: there is no {path.name} in it")
    try:
        grid = load_grid(path)
        if grid.document.refinement is None:
            return make_plan(grid)
        import polars as pl

        from nanlab.plan.rounds import finished_plan

        return finished_plan(grid, pl.read_parquet(results / "runs.parquet"))
    except GridError as error:
        raise ReplayError(f"{path} was written by another version of nanlab:\n{error}") from error


def _number_of(plan: Plan, run_id: str, results: Path) -> int:
    found: list[int] = [
        i for i, each in enumerate(plan.run_ids.tolist()) if each.startswith(run_id)
    ]
    if not found:
        raise ReplayError(
            f"no run of {results} is called {run_id!r}; see run_id in its runs.parquet"
        )
    if len(found) > 1:
        raise ReplayError(
            f"{len(found):,} runs of {results} begin with {run_id!r}; give more of it"
        )
    return found[0]
