"""A chunk's outcome -> rows of RESULT."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from nanlab.engine.group_runner import Attribution, ChunkOutcome
from nanlab.engine.lanes import NEVER, Lanes
from nanlab.engine.outcomes import outcomes
from nanlab.plan.plan import Plan
from nanlab.problems.problem import Problem
from nanlab.results.frames import result_frame, site_columns
from nanlab.results.schema import ENDING


def rows_of(plan: Plan, problem: Problem, lanes: Lanes, outcome: ChunkOutcome) -> pl.DataFrame:
    """Return the rows of RESULT for a chunk, whose runs are the plan's."""
    endings, columns = outcome.endings, plan.columns
    baselines = problem.baseline_losses
    words = outcomes(
        endings,
        baseline_losses=None if baselines is None else baselines(lanes.knobs),
        trained_margin=columns["trained_margin"].astype(np.float64),
        diverged_factor=columns["diverged_factor"].astype(np.float64),
    )
    rows: dict[str, Any] = {k: v for k, v in endings._asdict().items() if k in ENDING}
    for name in ("fault_step", "nan_step"):
        rows[name] = [None if step == NEVER else int(step) for step in rows[name]]
    # A million failing runs have few distinct blames.
    distinct: dict[Attribution | None, int] = {}
    blames = map(outcome.attributions.get, range(len(plan)))
    index = [distinct.setdefault(blame, len(distinct)) for blame in blames]
    described = [_columns(blame) for blame in distinct]
    rows |= {name: [described[i][name] for i in index] for name in described[0]}
    rows |= {"run_id": plan.run_ids.tolist(), "outcome": words.tolist()}
    return result_frame(rows)


def _columns(blame: Attribution | None) -> dict[str, str | None]:
    return {
        **site_columns("origin", blame.origin if blame else None),
        **site_columns("culprit", blame.culprit if blame else None),
        "blame_status": blame.status if blame else None,
    }
