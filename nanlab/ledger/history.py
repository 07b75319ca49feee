"""sweeps/claims/history.md, first_edition.csv -> what was changed after a first result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from nanlab.ledger.judge import Judged
from nanlab.ledger.rules import CONDITIONAL, FAILS, HOLDS, OPEN
from nanlab.ledger.sentences import conditions_text, open_text


@dataclass(frozen=True, kw_only=True)
class History:
    """Changes of rules, grids and deciding code since the first result.

    Attributes:
        changes: table of the changes, in Markdown; "" if there is none.
        first: verdict of the first edition of each claim, by id.
    """

    changes: str = ""
    first: Mapping[str, str] = field(default_factory=dict[str, str])

    def moved(self, judged: Sequence[Judged]) -> list[tuple[str, str, str, str]]:
        """Return a row (claim, first verdict, present verdict, why) for each claim."""
        return [
            (
                f"[{each.claim.id}](#{each.claim.id.lower()})", self.first[each.claim.id],
                each.word, _why(each, self.first[each.claim.id]),
            )
            for each in judged
            if each.claim.id in self.first
        ]  # fmt: skip


def read_history(folder: Path) -> History:
    """Read the history of the claims in a folder; empty where it has none."""
    changes, first = folder / "history.md", folder / "first_edition.csv"
    verdicts: dict[str, str] = {}
    if first.is_file():
        verdicts = dict(pl.read_csv(first).select("id", "verdict").iter_rows())
    text = changes.read_text("utf-8").strip() if changes.is_file() else ""
    return History(changes=text, first=verdicts)


def _why(each: Judged, old: str) -> str:
    """Return why a verdict differs from the first edition's, from what decides it now."""
    headline = each.headline
    if headline is None or each.word == old:
        return "unchanged"
    stress = each.range("stress")
    reasons: list[str] = []
    if headline.name == "usual" and stress is not None and stress.primary.verdict.word != each.word:
        reasons.append(f"judged in the usual range; in the stress range it is "
                       f"{stress.primary.verdict.word}")  # fmt: skip
    contrast = headline.claim.contrast
    if contrast is not None and contrast.of_failed and headline.primary.question == "faults":
        reasons.append("asks whether the NaN goes away, and no longer whether the run trains")
    if each.word == OPEN:
        reasons.append(open_text(headline.claim, headline.primary))
    elif each.word == CONDITIONAL:
        reasons.append(conditions_text(headline.primary.verdict))
    else:
        answers = {f.answer for f in headline.primary.findings if f.stratum.decides}
        words = {frozenset({HOLDS}): "holds under every condition",
                 frozenset({FAILS}): "fails under every condition"}  # fmt: skip
        reasons.append(words.get(frozenset(answers), "by the changes of its rule above"))
    return "; ".join(reasons)
