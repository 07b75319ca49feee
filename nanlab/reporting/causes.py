"""Runs -> causes: the arithmetic that made the first inf and the first NaN, and where."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import polars as pl

from nanlab.blame.vocabulary import Phase
from nanlab.results.blame_text import operation_text

SiteRole = Literal["origin", "culprit"]

ROLES: tuple[SiteRole, SiteRole] = ("origin", "culprit")
SITE_NAMES: Mapping[SiteRole, str] = {"origin": "first inf or NaN", "culprit": "first NaN"}


@dataclass(frozen=True, kw_only=True)
class Cause:
    """Runs whose first inf or NaN, or first NaN, has the same mechanism and primitive.

    Attributes:
        mechanism: the arithmetic.
        primitive: the operation.
        phases: number of runs by phase.
        module: the most frequent module.
        runs: number of runs.
    """

    mechanism: str
    primitive: str
    phases: dict[str, int]
    module: str
    runs: int

    @property
    def what(self) -> str:
        """The mechanism and the primitive: `overflow in square`."""
        return operation_text(self.mechanism, self.primitive)


def causes_of(runs: pl.DataFrame, role: SiteRole) -> list[Cause]:
    """Return the causes, most frequent first; runs without such a site are left out."""
    known = runs.filter(pl.col(f"{role}_mechanism").is_not_null())
    causes: list[Cause] = []
    names = [f"{role}_mechanism", f"{role}_primitive"]
    for (mechanism, primitive), frame in known.group_by(names, maintain_order=True):
        phases = dict(_counts(frame, f"{role}_phase"))
        causes.append(
            Cause(
                mechanism=str(mechanism), primitive=str(primitive or ""),
                phases={p: phases[p] for p in (*Phase, "") if p in phases},
                module=_counts(frame, f"{role}_module")[0][0], runs=frame.height,
            )
        )  # fmt: skip
    return sorted(causes, key=lambda c: (-c.runs, c.what))


def _counts(frame: pl.DataFrame, name: str) -> list[tuple[str, int]]:
    rows = frame[name].fill_null("").value_counts(name="n").rows()
    return sorted(rows, key=lambda row: (-row[1], row[0]))
