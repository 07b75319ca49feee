"""Runs and blames -> causes: which arithmetic made the inf and the NaN, and where."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import polars as pl

from nanlab.blame.vocabulary import Phase

SiteRole = Literal["origin", "culprit"]

ROLES: tuple[SiteRole, SiteRole] = ("origin", "culprit")
SAID: Mapping[SiteRole, str] = {"origin": "first inf or NaN", "culprit": "first NaN"}


@dataclass(frozen=True, kw_only=True)
class Cause:
    """Runs whose first inf or NaN, or first NaN, was made alike.

    Attributes:
        role: `origin` or `culprit`.
        mechanism, primitive: the arithmetic, and the operation.
        phases: phase -> runs.
        module: where most of them made it.
        runs: how many.
    """

    role: SiteRole
    mechanism: str
    primitive: str
    phases: dict[str, int]
    module: str
    runs: int

    @property
    def what(self) -> str:
        """`overflow in square`."""
        return f"{self.mechanism} in {self.primitive}" if self.primitive else self.mechanism


def causes_of(runs: pl.DataFrame, role: SiteRole) -> list[Cause]:
    """By mechanism and primitive, most frequent first; runs without such a site are left out."""
    told = runs.filter(pl.col(f"{role}_mechanism").is_not_null())
    causes: list[Cause] = []
    by = [f"{role}_mechanism", f"{role}_primitive"]
    for (mechanism, primitive), frame in told.group_by(by, maintain_order=True):
        phases = dict(_counted(frame, f"{role}_phase"))
        causes.append(
            Cause(
                role=role, mechanism=str(mechanism), primitive=str(primitive or ""),
                phases={p: phases[p] for p in (*Phase, "") if p in phases},
                module=str(_counted(frame, f"{role}_module")[0][0] or ""), runs=frame.height,
            )
        )  # fmt: skip
    return sorted(causes, key=lambda c: (-c.runs, c.what))


def _counted(frame: pl.DataFrame, name: str) -> list[tuple[str, int]]:
    column = frame[name].fill_null("")
    rows = column.value_counts(name="n").rows()
    return sorted(rows, key=lambda row: (-row[1], row[0]))


def shares(runs: pl.DataFrame, name: str) -> list[tuple[str, int]]:
    """(value, runs) of a column, most frequent first, nulls left out."""
    return _counted(runs.filter(pl.col(name).is_not_null()), name)


def blame_sentence(row: Mapping[str, Any], role: SiteRole, *, line: bool = True) -> str:
    """`overflow in square, forward, MLP/Dense_1, at nanlab/parts/losses.py:122`."""
    if row[f"{role}_mechanism"] is None:
        return "no NaN" if role == "culprit" else "not found"
    what = str(row[f"{role}_mechanism"])
    if row[f"{role}_primitive"]:
        what += f" in {row[f'{role}_primitive']}"
    parts = [what, row[f"{role}_phase"], row[f"{role}_module"]]
    source = row[f"{role}_source"] if line else None
    return ", ".join(p for p in (*parts, f"at {source}" if source else "") if p)
