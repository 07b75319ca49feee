"""Claims, tables of their studies -> verdicts, with one correction for multiple tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from nanlab.ledger.claim import Claim, rule_hash
from nanlab.ledger.rules import ClaimVerdict, StratumResult, finding, rule, verdict
from nanlab.ledger.strata import strata_of
from nanlab.results.manifest import MANIFEST, read_manifest
from nanlab.results.snapshot import Snapshot, snapshot, when_still
from nanlab.results.statistics import holm

RUNS = "runs.parquet"


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A claim with its verdict and the evidence.

    Attributes:
        claim: claim.
        verdict: verdict.
        findings: results of each stratum, or of each stratum and placebo of a cure.
        adjusted: p values of the findings, adjusted over the ledger.
        manifest: manifest of the study.
        rule_hash: hash of the rule in the claim's file.
    """

    claim: Claim
    verdict: ClaimVerdict
    findings: tuple[StratumResult, ...]
    adjusted: tuple[float | None, ...]
    manifest: Mapping[str, Any]
    rule_hash: str

    @property
    def rule_changed(self) -> bool:
        """Whether the rule was changed after a result existed."""
        recorded = set(self.manifest.get("rules", {}).get(self.claim.id, []))
        return bool(self.claim.corrected) or bool(recorded - {self.rule_hash})


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
    settled = [claim for claim in claims if claim.reason or claim.study_stem in studies]
    found = [
        []
        if claim.reason
        else [finding(claim, f) for f in strata_of(claim, read[claim.study_stem].table(RUNS))]
        for claim in settled
    ]
    tested = [each.p for findings in found for each in findings if each.p is not None]
    adjusted = iter(holm(tested))
    judged: list[Judged] = []
    for claim, findings in zip(settled, found, strict=True):
        ps = [None if each.p is None else next(adjusted) for each in findings]
        manifest = {} if claim.reason else read[claim.study_stem].manifest
        judged.append(
            Judged(
                claim=claim, verdict=verdict(claim, findings, ps), findings=tuple(findings),
                adjusted=tuple(ps), manifest=manifest, rule_hash=rule_hash(claim),
            )
        )  # fmt: skip
    return judged


def study_of(folder: Path) -> Snapshot:
    """Return the manifest and the table of runs of a finished study.

    Raises:
        ReportError: it is damaged.
    """
    return when_still(folder, lambda: snapshot(folder, [RUNS]))


def ledger_frame(judged: Sequence[Judged]) -> pl.DataFrame:
    """Return a row for each claim; its effect is that of the weakest stratum."""
    return pl.DataFrame([_row(each) for each in judged], infer_schema_length=None)


def weakest(judged: Judged) -> int:
    """Return the index of the finding that deviates most from the claim."""
    claim = judged.claim
    is_negative = claim.contrast is not None and claim.contrast.at_least < 0

    def strength(i: int) -> float:
        effect = judged.findings[i].effect
        if effect is None:
            return np.inf
        return -abs(effect) if claim.within is not None else -effect if is_negative else effect

    return min(range(len(judged.findings)), key=strength)


def reverses(judged: Judged) -> bool:
    """Return whether every stratum shows the opposite of an effect claim."""
    contrast = judged.claim.contrast
    if contrast is None or judged.claim.kind != "effect":
        return False
    sign = 1.0 if contrast.at_least >= 0.0 else -1.0
    ends = [(f.low, f.high) for f in judged.findings if f.low is not None and f.high is not None]
    return bool(ends) and all(max(sign * low, sign * high) < 0.0 for low, high in ends)


def _row(judged: Judged) -> dict[str, Any]:
    claim = judged.claim
    measured = _measured(judged) if judged.findings else {}
    return {
        "id": claim.id,
        "claim": claim.says,
        "source": claim.source,
        "verdict": judged.verdict.word,
        "kind": claim.kind,
        "condition": judged.verdict.condition,
        **{name: measured.get(name) for name in MEASURED},
        "rule": rule(claim),
        "rule_changed": judged.rule_changed,
        "range": claim.range,
        "remark": claim.remark,
        "rule_corrected": claim.corrected,
        "study": f"sweeps/claims/{claim.study_stem}.toml",
        "table": f"results/claims/{claim.study_stem}/runs.parquet" if measured else None,
        "code_sha256": measured.get("code_sha256"),
        "rule_sha256": judged.rule_hash,
    }


MEASURED = (
    "effect", "low", "high", "adjusted_p", "stratum", "seeds", "runs_with", "runs_without",
)  # fmt: skip


def _measured(judged: Judged) -> dict[str, Any]:
    """Return the measured columns of a claim's row: MEASURED and the code's hash."""
    i = weakest(judged)
    result = judged.findings[i]
    return {
        "effect": rounded(result.effect),
        "low": rounded(result.low),
        "high": rounded(result.high),
        "adjusted_p": None if (p := judged.adjusted[i]) is None else float(f"{p:.3g}"),
        "stratum": result.stratum.name,
        "seeds": len(result.stratum.values),
        "runs_with": sum(f.stratum.runs_with for f in judged.findings),
        "runs_without": sum(f.stratum.runs_without for f in judged.findings),
        "code_sha256": str(judged.manifest["environment"]["code_sha256"])[:16],
    }


def strata_frame(judged: Sequence[Judged]) -> pl.DataFrame:
    """Return a row for each claim and stratum, and for each placebo of a cure."""
    rows = [
        {
            "id": each.claim.id,
            "stratum": f.stratum.name,
            "placebo": f.stratum.placebo or None,
            "answer": word,
            "with": rounded(f.stratum.with_),
            "without": rounded(f.stratum.without),
            "finite_with": rounded(f.stratum.finite_with),
            "finite_without": rounded(f.stratum.finite_without),
            "effect": rounded(f.effect),
            "low": rounded(f.low),
            "high": rounded(f.high),
            "adjusted_p": None if p is None else float(f"{p:.3g}"),
            "seeds": len(f.stratum.values),
            "runs_with": f.stratum.runs_with,
            "runs_without": f.stratum.runs_without,
        }
        for each in judged
        for f, p, word in zip(each.findings, each.adjusted, each.verdict.answers, strict=True)
    ]
    return pl.DataFrame(rows, infer_schema_length=None)


def rounded(number: float | None) -> float | None:
    """Return a number rounded to six digits, to be the same on every machine."""
    return None if number is None else round(number, 6) + 0.0
