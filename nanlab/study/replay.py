"""results/X, run -> the state before its failing step, in a person's hands.

`python -m nanlab.replay results/X RUN_ID` says what happens there; `nanlab.replay_run` returns the
state, the batch and the step function, to go on with.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from nanlab.grid import GridError, load_grid
from nanlab.plan.plan import Group, Plan, make_plan

if TYPE_CHECKING:
    import numpy as np

    from nanlab.engine.group_runner import Attribution, ChunkOutcome, GroupWorker
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
    from nanlab.backend.jaxpr import configure_lab

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


def _run_again(plan: Plan, group: Group, number: int) -> tuple[GroupWorker, Lanes, ChunkOutcome]:
    import numpy as np

    from nanlab.engine.group_runner import GroupWorker
    from nanlab.engine.placement import lanes_of
    from nanlab.problems.user_code import OwnCodeError

    try:
        worker = GroupWorker(group.statics)
        lanes = lanes_of(plan, worker.problem, np.array([number]))
        return worker, lanes, worker.run(lanes)
    except OwnCodeError as error:
        raise ReplayError(str(error)) from error


def _replay(
    worker: GroupWorker,
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
        if grid.asked.finer is None:
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


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Bring a failed run of a study back to its failing step, and say what happens there."""

    results: Annotated[Path, tyro.conf.Positional]
    """the study's folder, for example results/quickstart"""
    run_id: Annotated[str, tyro.conf.Positional]
    """the run, or the beginning of its id, as in runs.csv and blames.csv"""
    at: At = "fault"
    """go back to the first fault, or to the first NaN"""
    save: Path | None = None
    """write the state before the step, its leaves by name, to this .npz file"""


def main(argv: list[str] | None = None) -> int:
    """Run the command; the exit status: 0 done, 2 there is no such failing run."""
    arguments = tyro.cli(Arguments, prog="python -m nanlab.replay", args=argv)
    try:
        replay = replay_run(arguments.results, arguments.run_id, at=arguments.at)
    except ReplayError as error:
        print(error, file=sys.stderr)
        return 2
    _tell(replay)
    if arguments.save is None:
        return 0
    try:
        _save(replay, arguments.save)
    except OSError as error:
        print(
            f"cannot write {arguments.save}: {(error.strerror or str(error)).lower()}",
            file=sys.stderr,
        )
        return 2
    print(f"saved to {arguments.save}")
    return 0


def _tell(replay: Replay) -> None:
    import jax

    from nanlab.grid.parameters import PARAMETERS

    asked = {k: v for k, v in replay.parameters.items() if v != PARAMETERS[k].default}
    print(f"run {replay.run_id}: " + ", ".join(f"{k} = {v}" for k, v in asked.items()))
    for role in ("origin", "culprit"):
        finding = getattr(replay.blame, role)
        if finding is not None:
            place = " ".join(part for part in (finding.phase, finding.module) if part)
            print(f"  {role:8}{finding.mechanism} in {finding.primitive}, {place}")
            print(f"          {finding.source} in {finding.function}")
    if replay.step < 0:
        print("the initial state itself is at fault:")
    else:
        print(f"the state before step {replay.step}, and what the step makes of it:")
    after, metrics = (None, None) if replay.step < 0 else replay.step_function(replay.state)
    leaves = jax.tree_util.tree_leaves_with_path(replay.state)
    made = [None] * len(leaves) if after is None else jax.tree.leaves(after)
    for (path, leaf), new in zip(leaves, made, strict=True):
        print(f"  {jax.tree_util.keystr(path):44}{_range(leaf):30}{_range(new)}")
    if metrics is not None:
        print(f"  {'loss':44}{'':30}{_range(metrics.loss)}")


def _range(leaf: Any) -> str:
    if leaf is None:
        return ""
    import numpy as np

    values = np.asarray(leaf, np.float64)
    bad = [f"{n} {word}" for n, word in _bad_counts(values)]
    finite = values[np.isfinite(values)]
    span = f"{finite.min():.3g} .. {finite.max():.3g}" if finite.size else ""
    return "; ".join(part for part in (span, *bad) if part)


def _bad_counts(values: np.ndarray) -> list[tuple[int, str]]:
    import numpy as np

    counts = [(int(np.isnan(values).sum()), "NaN"), (int(np.isinf(values).sum()), "inf")]
    return [(count, word) for count, word in counts if count]


def _save(replay: Replay, path: Path) -> None:
    import jax
    import numpy as np

    leaves = jax.tree_util.tree_leaves_with_path(replay.state)
    # An object that np.load cannot read back without pickle is none: bfloat16 goes as float32.
    arrays = {jax.tree_util.keystr(p): np.asarray(x) for p, x in leaves}
    plain = {k: x if x.dtype.kind in "fiub" else x.astype(np.float32) for k, x in arrays.items()}
    # An open file: to a bare name savez would add .npz, and say so to nobody.
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **plain)


if __name__ == "__main__":
    sys.exit(main())
