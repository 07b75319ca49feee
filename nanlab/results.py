"""A chunk's outcome -> rows: what the engine saw, as the tables have it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from nanlab import tables
from nanlab.engines import ChunkOutcome
from nanlab.faults import outcomes
from nanlab.lanes import NEVER, Lanes
from nanlab.plan import Plan
from nanlab.problem import Problem


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
    rows: dict[str, Any] = {k: v for k, v in endings._asdict().items() if k in tables.ENDING}
    for name in ("fault_step", "nan_step"):
        rows[name] = [None if step == NEVER else int(step) for step in rows[name]]
    told: list[Mapping[str, Any]] = []
    for row in range(len(plan)):
        blame = outcome.attributions.get(row)
        told.append(
            {
                **tables.finding_columns("origin", blame.origin if blame else None),
                **tables.finding_columns("culprit", blame.culprit if blame else None),
                "blame_status": blame.status if blame else None,
            }
        )
    names = [*tables.BLAME, "blame_status"]
    rows |= {name: [row[name] for row in told] for name in names}
    rows |= {"run_id": plan.run_ids.tolist(), "outcome": words.tolist()}
    return tables.result_frame(rows)
