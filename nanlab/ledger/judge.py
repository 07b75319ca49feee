"""Claims, tables of their studies -> verdicts: for each range, and for each question."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import polars as pl

from nanlab.grid.parameters import PARAMETERS, is_user_defined
from nanlab.ledger.claim import Claim
from nanlab.ledger.measures import Question, is_measured, least_of, questions_of
from nanlab.ledger.pairs import FACTOR
from nanlab.ledger.rules import (
    NOT_TESTABLE,
    VERSIONS,
    ClaimVerdict,
    StratumResult,
    estimate,
    results_of,
    rule_hash,
    verdict,
)
from nanlab.ledger.strata import strata_of
from nanlab.results.compare import completed
from nanlab.results.manifest import MANIFEST, read_manifest
from nanlab.results.snapshot import Snapshot, snapshot, when_still

RUNS = "runs.parquet"
RangeName = Literal["usual", "stress"]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The answer to one question about a claim, in one range.

    Attributes:
        question: question.
        verdict: verdict.
        findings: results of each stratum, or of each stratum and placebo of a cure.
        overall: estimates over all strata that decide, of a cure one for each placebo. Where one of
            several factors is enough, those of the best one.
        factors: estimates of each named factor, of a cure against the placebo that does best.
    """

    question: Question
    verdict: ClaimVerdict
    findings: tuple[StratumResult, ...]
    overall: tuple[StratumResult, ...]
    factors: tuple[StratumResult, ...] = ()


@dataclass(frozen=True, kw_only=True)
class RangeJudged:
    """A claim's answers in one range.

    Attributes:
        name: "usual" or "stress".
        claim: claim as it is judged in this range.
        answers: answers, first that of the claim's sentence.
        manifests: manifests of the studies.
    """

    name: RangeName
    claim: Claim
    answers: tuple[Answer, ...]
    manifests: tuple[Mapping[str, Any], ...]

    @property
    def primary(self) -> Answer:
        """The answer to what the claim's sentence asks."""
        return self.answers[0]

    def answer(self, question: Question) -> Answer | None:
        """Return the answer to a question, None if it was not measured."""
        return next((each for each in self.answers if each.question == question), None)


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A claim with its verdicts and the evidence.

    Attributes:
        claim: claim.
        ranges: the judged ranges, the usual one first; empty if it is not testable here.
    """

    claim: Claim
    ranges: tuple[RangeJudged, ...]

    @property
    def headline(self) -> RangeJudged | None:
        """The usual range, or the stress range where there is no usual one."""
        return self.ranges[0] if self.ranges else None

    @property
    def word(self) -> str:
        """The verdict in the headline's range."""
        return self.ranges[0].primary.verdict.word if self.ranges else NOT_TESTABLE

    def range(self, name: RangeName) -> RangeJudged | None:
        """Return a range's judgment, or None."""
        return next((each for each in self.ranges if each.name == name), None)

    @property
    def rule_changed(self) -> bool:
        """Whether the rule was changed after the headline's result existed.

        A change of the deciding code concerns all claims and is listed for all.
        """
        recorded = {
            hash_
            for manifest in (self.headline.manifests if self.headline else ())
            for hash_ in manifest.get("rules", {}).get(self.claim.id, [])
        }
        return bool(self.claim.corrected) or bool(
            recorded - {rule_hash(self.claim, version) for version in VERSIONS}
        )

    @property
    def seal(self) -> str:
        """A hash of the rule, of the deciding code's version and of the grids that were run."""
        grids = [m.get("grid_sha256", "") for each in self.ranges for m in each.manifests]
        text = " ".join([rule_hash(self.claim), *map(str, grids)])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def rules_of(claim: Claim, folder: Path) -> list[str]:
    """Return the hash of a claim's rule, and those of earlier rules in the study's manifest."""
    manifest = read_manifest(folder) if (folder / MANIFEST).exists() else {}
    return list(dict.fromkeys([rule_hash(claim), *manifest.get("rules", {}).get(claim.id, [])]))


def judge(claims: Sequence[Claim], studies: Mapping[str, Path]) -> list[Judged]:
    """Judge all claims whose study has results.

    Args:
        claims: the claims.
        studies: name of a study -> its results folder.

    Returns:
        The judged claims, in their order.

    Raises:
        LedgerError: a study has no runs for its claim.
        ReportError: the results of a study are damaged.
    """
    read = {stem: study_of(folder) for stem, folder in studies.items()}
    judged: list[Judged] = []
    for claim in claims:
        if claim.reason:
            judged.append(Judged(claim=claim, ranges=()))
            continue
        usual = claim.in_usual_range()
        named: list[tuple[RangeName, Claim]] = [("usual", usual)] if usual else []
        named.append(("stress", claim))
        ranges = tuple(
            _judged(name, each, [read[stem] for stem in each.study_stems])
            for name, each in named
            if all(stem in read for stem in each.study_stems)
        )
        if ranges:
            judged.append(Judged(claim=claim, ranges=ranges))
    return judged


def _judged(name: RangeName, claim: Claim, studies: Sequence[Snapshot]) -> RangeJudged:
    runs = runs_of_studies([study.table(RUNS) for study in studies])
    answers: list[Answer] = []
    for question in questions_of(claim):
        if question != claim.asks and not is_measured(question, runs):
            continue
        strata, whole, parts = strata_of(claim, question, runs)
        findings = results_of(claim, question, strata)
        factors, best = factors_of(claim, question, [estimate(claim, part) for part in parts])
        if claim.any_of == (FACTOR,) and best:
            overall = best
        else:
            overall = [estimate(claim, stratum) for stratum in whole]
        answers.append(
            Answer(
                question=question, verdict=verdict(claim, findings), findings=tuple(findings),
                overall=tuple(overall), factors=tuple(factors),
            )
        )  # fmt: skip
    manifests = tuple(study.manifest for study in studies)
    return RangeJudged(name=name, claim=claim, answers=tuple(answers), manifests=manifests)


def factors_of(
    claim: Claim, question: Question, results: Sequence[StratumResult]
) -> tuple[list[StratumResult], list[StratumResult]]:
    """Return each factor's result against its best placebo; and all results of the best factor."""
    named: dict[str, list[StratumResult]] = {}
    for result in results:
        if result.effect is not None:
            named.setdefault(result.stratum.key[FACTOR], []).append(result)
    if claim.contrast is None:
        return [], []
    sign = -1.0 if least_of(claim, question) < 0.0 else 1.0
    found = {
        name: min(each, key=lambda one: sign * (one.effect or 0.0)) for name, each in named.items()
    }
    found = {name: found[name] for name in claim.contrast.names if name in found}
    best = max(found, key=lambda name: sign * (found[name].effect or 0.0), default="")
    return list(found.values()), named.get(best, [])


def runs_of_studies(tables: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Return the runs of several studies as one table, each run once.

    A parameter that a study does not have gets its default.
    """
    if len(tables) == 1:
        return tables[0]
    names = dict.fromkeys(
        name
        for table in tables
        for name in table.columns
        if name in PARAMETERS and not is_user_defined(name)
    )
    whole = pl.concat([completed(table, names) for table in tables], how="diagonal_relaxed")
    return whole.unique("run_id", keep="first", maintain_order=True)


def study_of(folder: Path) -> Snapshot:
    """Return the manifest and the table of runs of a finished study.

    Raises:
        ReportError: it is damaged.
    """
    return when_still(folder, lambda: snapshot(folder, [RUNS]))
