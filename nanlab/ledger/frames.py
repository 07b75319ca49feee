"""Judged claims -> claims.csv and strata.csv."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

from nanlab.ledger.judge import Answer, Judged, RangeJudged
from nanlab.ledger.rules import HOLDS, StratumResult, rule

MEASURED = (
    "effect", "low", "high", "adjusted_p", "stratum", "seeds", "runs_with", "runs_without",
)  # fmt: skip


def ledger_frame(judged: Sequence[Judged]) -> pl.DataFrame:
    """Return a row for each claim."""
    return pl.DataFrame([_row(each) for each in judged], infer_schema_length=None)


def weakest(answer: Answer, claim_range: RangeJudged) -> StratumResult:
    """Return the result that deviates most from the claim, of the strata that decide."""
    claim = claim_range.claim
    is_negative = claim.contrast is not None and claim.contrast.at_least < 0

    def strength(found: StratumResult) -> float:
        if found.effect is None:
            return float("inf")
        if claim.within is not None:
            return -abs(found.effect)
        return -found.effect if is_negative else found.effect

    return min([f for f in answer.findings if f.stratum.decides] or answer.findings, key=strength)


def _row(judged: Judged) -> dict[str, Any]:
    from nanlab.ledger.findings import finding_text
    from nanlab.ledger.sentences import breaks_text, conditions_text

    claim, headline = judged.claim, judged.headline
    measured = _measured(headline) if headline else {}
    stems = [stem for each in judged.ranges for stem in each.claim.study_stems]
    row: dict[str, Any] = {
        "id": claim.id,
        "claim": claim.says,
        "source": claim.source,
        "kind": claim.kind,
        "asks": claim.asks,
        "verdict": judged.word,
        "condition": conditions_text(headline.primary.verdict) if headline else claim.reason,
    }
    counts = headline.primary.verdict.counts if headline else {}
    row |= {"conditions": sum(counts.values()), "conditions_met": counts.get(HOLDS, 0)}
    for name in ("usual", "stress"):
        each = judged.range(name)
        row[name] = each.primary.verdict.word if each else None
        for question in ("faults", "trains"):
            answer = each.answer(question) if each else None
            row[f"{name}_{question}"] = answer.verdict.word if answer else None
    return row | {
        "finding": finding_text(judged),
        "what_breaks_it": breaks_text(judged),
        **{name: measured.get(name) for name in MEASURED},
        "rule": rule(headline.claim if headline else claim),
        "because": claim.because,
        "rule_changed": judged.rule_changed,
        "usual_range": claim.usual.range or claim.usual.none if claim.usual else "",
        "stress_range": claim.range,
        "remark": claim.remark,
        "rule_corrected": claim.corrected,
        "studies": " ".join(f"sweeps/claims/{stem}.toml" for stem in stems),
        "tables": " ".join(f"results/claims/{stem}/runs.parquet" for stem in stems) or None,
        "code_sha256": measured.get("code_sha256"),
        "rule_sha256": judged.seal,
    }


def _measured(judged: RangeJudged) -> dict[str, Any]:
    """Return the measured columns of a claim's row: MEASURED and the code's hash."""
    result, findings = weakest(judged.primary, judged), judged.primary.findings
    return {
        "effect": six_digits(result.effect),
        "low": six_digits(result.low),
        "high": six_digits(result.high),
        "adjusted_p": significant(result.adjusted),
        "stratum": result.stratum.name,
        "seeds": len(result.stratum.values),
        "runs_with": sum(f.stratum.runs_with for f in findings),
        "runs_without": sum(f.stratum.runs_without for f in findings),
        "code_sha256": str(judged.manifests[0]["environment"]["code_sha256"])[:16],
    }


def strata_frame(judged: Sequence[Judged]) -> pl.DataFrame:
    """Return a row for each claim, range, question and stratum, and each placebo of a cure."""
    rows = [
        {
            "id": each.claim.id,
            "range": range_.name,
            "question": answer.question,
            "stratum": f.stratum.name,
            "decides": f.stratum.decides,
            "placebo": f.stratum.placebo or None,
            "answer": f.answer,
            "with": six_digits(f.stratum.with_),
            "without": six_digits(f.stratum.without),
            "effect": six_digits(f.effect),
            "low": six_digits(f.low),
            "high": six_digits(f.high),
            "adjusted_p": significant(f.adjusted),
            "detectable": None if f.detectable is None else round(f.detectable, 2),
            "seeds": len(f.stratum.values),
            "cells": f.stratum.cells,
            "runs_with": f.stratum.runs_with,
            "runs_without": f.stratum.runs_without,
        }
        for each in judged
        for range_ in each.ranges
        for answer in range_.answers
        for f in answer.findings
    ]
    return pl.DataFrame(rows, infer_schema_length=None)


def six_digits(number: float | None) -> float | None:
    """Return a number rounded to six digits, to be the same on every machine."""
    return None if number is None else round(number, 6) + 0.0


def significant(number: float | None) -> float | None:
    """Return a number rounded to three significant digits."""
    return None if number is None else float(f"{number:.3g}")
