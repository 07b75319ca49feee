"""sweeps/theory/X.toml -> Law; its study's runs -> what the lab measures next to the prediction."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

import numpy as np
import polars as pl
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from nanlab.grid.errors import Complaint, GridError
from nanlab.ledger.claim import LedgerError, complaint_of
from nanlab.ledger.contrast import Measure
from nanlab.ledger.measures import measured
from nanlab.ledger.strata import matching
from nanlab.results.compare import completed
from nanlab.results.statistics import mean_interval


class Agreement(StrEnum):
    """How a measurement compares with its prediction."""

    AGREES = "agrees"
    DIFFERS = "differs"
    BORDERLINE = "borderline"


class Relation(StrEnum):
    """How a measurement has to stand to its prediction."""

    EQUALS = "equals"
    AT_LEAST = "at least"
    AT_MOST = "at most"


class Law(BaseModel):
    """A published law and how the lab measures it, written before its study is run.

    Attributes:
        says: the law, in a sentence.
        source: authors and year.
        quantity: what is measured, with its unit.
        formula: the prediction as readers write it.
        predicted: the prediction as a SQL expression over the columns in `by`.
        by: parameters; one prediction for each combination of their values.
        where: parameters and values of the runs that it is about.
        column: the measured number of a run, as a SQL expression over the columns of `runs`.
        boundary: axis along which `measure` changes its answer; the number is where it last does.
        measure: the condition that changes along `boundary`.
        over: parameters and values of other runs; the number is divided by theirs, seed by seed,
            and the mean of these ratios is geometric.
        slope: axis; the number becomes the slope of its logarithm over the axis's logarithm.
        relation: whether the number equals the prediction, or is at least or at most that.
        within: largest relative difference that counts as agreement, absolute if the law says 0.
        remark: what readers need to know, such as why the lab disagrees.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    says: str
    source: str
    quantity: str
    formula: str
    predicted: str
    by: tuple[str, ...] = ()
    where: dict[str, Any] = {}
    column: str = "final_loss"
    boundary: str = ""
    measure: Measure = Measure()
    over: dict[str, Any] = {}
    slope: str = ""
    relation: Relation = Relation.EQUALS
    within: float
    remark: str = ""

    @model_validator(mode="after")
    def _names_its_condition(self) -> Self:
        if bool(self.boundary) != ("measure" in self.model_fields_set):
            raise ValueError("a boundary has a measure, and nothing else has one")
        return self


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One prediction and what the lab measures.

    Attributes:
        law: law.
        stem: name of the law's file and study.
        key: parameters and values that it is about, as text.
        predicted: predicted value.
        value: mean over seeds, None if no run has the number.
        low: lower end of its 95 % interval; of a boundary, of the bracket with one seed.
        high: upper end.
        seeds: number of seeds.
        runs: number of runs.
    """

    law: Law
    stem: str
    key: Mapping[str, str]
    predicted: float
    value: float | None
    low: float | None
    high: float | None
    seeds: int
    runs: int

    @property
    def answer(self) -> Agreement:
        """Whether the whole interval lies within the law's tolerance, none of it, or a part."""
        if self.low is None or self.high is None:
            return Agreement.BORDERLINE
        room = self.law.within * (abs(self.predicted) or 1.0)
        least, most = self.predicted - room, self.predicted + room
        if self.law.relation is Relation.AT_LEAST:
            most = math.inf
        elif self.law.relation is Relation.AT_MOST:
            least = -math.inf
        if least <= self.low and self.high <= most:
            return Agreement.AGREES
        return Agreement.DIFFERS if self.low > most or self.high < least else Agreement.BORDERLINE


def read_laws(path: str, tables: object) -> list[Law]:
    """Read the laws of a grid file.

    Args:
        path: path of the file, for error messages.
        tables: its tables [[law]].

    Returns:
        The laws.

    Raises:
        GridError: there is none, or one is not valid.
    """
    if not isinstance(tables, list) or not tables:
        raise GridError(path, [Complaint(key="law", sentence="is missing")])
    laws: list[Law] = []
    complaints: list[Complaint] = []
    for number, table in enumerate(tables):
        try:
            laws.append(Law.model_validate(table))
        except ValidationError as invalid:
            for error in invalid.errors(include_url=False):
                complaints.append(complaint_of(f"law.{number}", dict(error)))
    if complaints:
        raise GridError(path, complaints)
    return laws


def measurements(stem: str, law: Law, runs: pl.DataFrame) -> list[Measurement]:
    """Measure a law.

    Args:
        stem: name of the law's file and study.
        law: the law.
        runs: the table of runs of its study.

    Returns:
        A measurement for each combination of the values of `law.by`, in their order.

    Raises:
        LedgerError: there are no such runs, or an expression does not fit them.
    """
    names = [*law.by, *law.over, *filter(None, (law.boundary, law.slope))]
    every = completed(runs, names).filter(pl.col("outcome") != "crashed")
    runs = matching(every, law.where)
    if not runs.height:
        raise LedgerError(f"law {stem}: its study has no such runs")
    try:
        runs, others = (
            each.with_columns(
                pl.sql_expr(law.column).cast(pl.Float64).alias("_number"),
                pl.sql_expr(law.predicted).cast(pl.Float64).alias("_predicted"),
                measured(law.measure).alias("_true"),
            )
            for each in (runs, matching(every, law.where | law.over))
        )
    except pl.exceptions.PolarsError as error:
        raise LedgerError(f"law {stem}: {str(error).splitlines()[0]}") from error
    parts = runs.partition_by(*law.by, maintain_order=True) if law.by else [runs]
    return [_measured(stem, law, part, others) for part in parts]


def _measured(stem: str, law: Law, runs: pl.DataFrame, others: pl.DataFrame) -> Measurement:
    numbers = _numbers(law, runs)
    if law.over:
        divisors = _numbers(law, others)
        numbers = {s: n / divisors[s] for s, n in numbers.items() if n and divisors.get(s)}
    values = np.array(list(numbers.values()))
    value, low, high = _interval(np.log(values) if law.over else values)
    if law.over and value is not None and low is not None and high is not None:
        value, low, high = math.exp(value), math.exp(low), math.exp(high)
    bracket = _bracket(law, runs) if law.boundary and not (law.slope or law.over) else 0.0
    return Measurement(
        law=law, stem=stem,
        key={name: _text(runs.get_column(name)[0]) for name in law.by},
        predicted=float(runs.get_column("_predicted")[0]),
        value=value,
        low=None if low is None else low - bracket, high=None if high is None else high + bracket,
        seeds=len(values), runs=runs.height,
    )  # fmt: skip


def _interval(
    values: Float[np.ndarray, " seeds"],
) -> tuple[float | None, float | None, float | None]:
    """Return the mean and its 95 % interval; of zeros and ones, Clopper and Pearson's (1934)."""
    if not len(values):
        return None, None, None
    mean = float(values.mean())
    if len(values) > 1 and set(values) <= {0.0, 1.0}:
        from scipy.stats import binomtest

        share = binomtest(int(values.sum()), len(values)).proportion_ci(0.95)
        return mean, float(share.low), float(share.high)
    return mean, *mean_interval(values)


def _numbers(law: Law, runs: pl.DataFrame) -> dict[int, float]:
    """Return the number of each seed that has one."""
    found = {
        int(seed[0]): _number_of(law, each)
        for seed, each in runs.group_by("seed", maintain_order=True)
    }
    return {seed: number for seed, number in found.items() if number is not None}


def _number_of(law: Law, runs: pl.DataFrame) -> float | None:
    """Return the number of one seed."""
    if not law.slope:
        return _level(law, runs)
    levels = {
        float(at[0]): _level(law, each)
        for at, each in runs.group_by(law.slope, maintain_order=True)
    }
    points = [(at, level) for at, level in levels.items() if level is not None and level > 0.0]
    if len(points) < 3:
        return None
    x, y = np.log(np.array(points)).T
    return float(np.polyfit(x, y, 1)[0])


def _level(law: Law, runs: pl.DataFrame) -> float | None:
    if law.boundary:
        crossing = _crossing(law, runs)
        return None if crossing is None else math.fsum(crossing) / 2.0
    mean = runs.get_column("_number").mean()
    return float(mean) if isinstance(mean, float) and math.isfinite(mean) else None


def _crossing(law: Law, runs: pl.DataFrame) -> tuple[float, float] | None:
    """Return the neighboring values of the axis between which the answer last changes."""
    ordered = runs.sort(law.boundary)
    changes = np.flatnonzero(np.diff(ordered.get_column("_true").to_numpy()))
    if not len(changes):
        return None
    axis: Float[np.ndarray, " runs"] = ordered.get_column(law.boundary).cast(pl.Float64).to_numpy()
    return float(axis[changes[-1]]), float(axis[changes[-1] + 1])


def _bracket(law: Law, runs: pl.DataFrame) -> float:
    """Return half the widest bracket of a seed's boundary: how precisely the axis resolves it."""
    crossings = [_crossing(law, each) for _, each in runs.group_by("seed")]
    return max((c[1] - c[0] for c in crossings if c is not None), default=0.0) / 2.0


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
