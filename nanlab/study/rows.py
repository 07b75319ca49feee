"""A chunk's outcome -> rows: what the engine saw, as the tables have it."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from nanlab.engine.group_runner import Attribution, ChunkOutcome
from nanlab.engine.lanes import NEVER, Lanes
from nanlab.engine.outcomes import outcomes
from nanlab.plan.plan import Plan
from nanlab.problems.problem import Problem
from nanlab.results import frames as tables
from nanlab.results.schema import ENDING


def rows_of(plan: Plan, problem: Problem, lanes: Lanes, outcome: ChunkOutcome) -> pl.DataFrame:
    """Rows of RESULT.

    Args:
        plan: of the chunk's runs alone.
        problem: theirs.
        lanes: what was asked of them.
        outcome: what came of it.
    """
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
    # Of a million failing runs few have a blame of their own.
    distinct: dict[Attribution | None, int] = {}
    blames = map(outcome.attributions.get, range(len(plan)))
    which = [distinct.setdefault(blame, len(distinct)) for blame in blames]
    told = [_told(blame) for blame in distinct]
    rows |= {name: [told[place][name] for place in which] for name in told[0]}
    rows |= {"run_id": plan.run_ids.tolist(), "outcome": words.tolist()}
    return tables.result_frame(rows)


def _told(blame: Attribution | None) -> dict[str, str | None]:
    """An attribution as columns."""
    return {
        **tables.site_columns("origin", blame.origin if blame else None),
        **tables.site_columns("culprit", blame.culprit if blame else None),
        "blame_status": blame.status if blame else None,
    }
