"""Claims, studies' tables -> ledger: every claim that has a study, with one correction for all."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from nanlab.ledger.claim import Claim, rule_hash
from nanlab.ledger.rules import ClaimVerdict, StratumResult, finding, rule, verdict
from nanlab.ledger.strata import strata_of
from nanlab.results.statistics import holm


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A claim with its verdict and what it rests on.

    Attributes:
        claim: the claim.
        verdict: the verdict.
        findings: of each stratum (of a cure: and placebo).
        adjusted: their p values, adjusted over the ledger.
        manifest: of its study.
        rule_hash: of the rule as it stands in the file.
    """

    claim: Claim
    verdict: ClaimVerdict
    findings: tuple[StratumResult, ...]
    adjusted: tuple[float | None, ...]
    manifest: Mapping[str, Any]
    rule_hash: str

    @property
    def rule_changed(self) -> bool:
        """Whether the rule was another one when a result of it was there already."""
        told = self.manifest.get("rules", {}).get(self.claim.id, [])
        return bool(self.claim.corrected) or set(told) - {self.rule_hash} != set()


def rules_of(claim: Claim, folder: Path) -> list[str]:
    """What a study's manifest keeps of a claim's rule: its hash, and those of earlier results.

    Args:
        claim: the claim.
        folder: of the study's results, if it has some.
    """
    path = folder / "manifest.json"
    there = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    return list(dict.fromkeys([rule_hash(claim), *there.get("rules", {}).get(claim.id, [])]))


def judge(claims: Sequence[Claim], studies: Mapping[str, Path]) -> list[Judged]:
    """The verdicts of all claims whose study is there.

    Args:
        claims: the claims.
        studies: stem of a study -> the folder of its results.

    Raises:
        LedgerError: a study has no runs for its claim.
    """
    there = [claim for claim in claims if claim.reason or claim.study_stem in studies]
    found = [
        []
        if claim.reason
        else [finding(claim, f) for f in strata_of(claim, runs_of(studies[claim.study_stem]))]
        for claim in there
    ]
    tested = [each.p for findings in found for each in findings if each.p is not None]
    adjusted = iter(holm(tested))
    judged: list[Judged] = []
    for claim, findings in zip(there, found, strict=True):
        ps = [None if each.p is None else next(adjusted) for each in findings]
        manifest = {} if claim.reason else manifest_of(studies[claim.study_stem])
        judged.append(
            Judged(
                claim=claim, verdict=verdict(claim, findings, ps), findings=tuple(findings),
                adjusted=tuple(ps), manifest=manifest, rule_hash=rule_hash(claim),
            )
        )  # fmt: skip
    return judged


def manifest_of(folder: Path) -> Mapping[str, Any]:
    """The manifest of a finished study."""
    return json.loads((folder / "manifest.json").read_text("utf-8"))


def runs_of(folder: Path) -> pl.DataFrame:
    """The table of runs of a finished study."""
    return pl.read_parquet(folder / "runs.parquet")


def ledger_frame(judged: Sequence[Judged]) -> pl.DataFrame:
    """A row for each claim.  The effect told is that of the stratum where it is weakest."""
    return pl.DataFrame([_row(each) for each in judged], infer_schema_length=None)


def weakest(judged: Judged) -> int:
    """Which finding lies furthest from what the claim says, of those that have an effect."""
    claim = judged.claim
    turned = claim.contrast is not None and claim.contrast.at_least < 0

    def strength(i: int) -> float:
        effect = judged.findings[i].effect
        if effect is None:
            return np.inf
        return -abs(effect) if claim.within is not None else -effect if turned else effect

    return min(range(len(judged.findings)), key=strength)


def reverses(judged: Judged) -> bool:
    """Whether the opposite of an effect claim is what was measured, in every stratum."""
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
    """What a claim's row tells of its study: MEASURED and the code's hash."""
    i = weakest(judged)
    told = judged.findings[i]
    return {
        "effect": rounded(told.effect),
        "low": rounded(told.low),
        "high": rounded(told.high),
        "adjusted_p": None if (p := judged.adjusted[i]) is None else float(f"{p:.3g}"),
        "stratum": told.stratum.name,
        "seeds": len(told.stratum.values),
        "runs_with": sum(f.stratum.runs_with for f in judged.findings),
        "runs_without": sum(f.stratum.runs_without for f in judged.findings),
        "code_sha256": str(judged.manifest["environment"]["code_sha256"])[:16],
    }


def strata_frame(judged: Sequence[Judged]) -> pl.DataFrame:
    """A row for each claim and stratum, and for each placebo of a cure."""
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
    """To six digits: what a seed's mean is told to, alike on every machine."""
    return None if number is None else round(number, 6) + 0.0
