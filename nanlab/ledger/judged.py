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
from nanlab.ledger.pairs import strata_of
from nanlab.ledger.rules import Finding, Verdict, finding, rule, verdict
from nanlab.ledger.statistics import holm


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
    verdict: Verdict
    findings: tuple[Finding, ...]
    adjusted: tuple[float | None, ...]
    manifest: Mapping[str, Any]
    rule_hash: str

    @property
    def rule_changed(self) -> bool:
        """Whether the rule is another than when the study was run."""
        return self.manifest.get("rules", {}).get(self.claim.id, self.rule_hash) != self.rule_hash


def judge(
    claims: Sequence[tuple[Claim, Mapping[str, Any]]], studies: Mapping[str, Path]
) -> list[Judged]:
    """The verdicts of all claims whose study is there.

    Args:
        claims: each with the table that it was read from.
        studies: stem of a study -> the folder of its results.

    Raises:
        LedgerError: a study has no runs for its claim.
    """
    there = [(c, t) for c, t in claims if c.reason or c.study_stem in studies]
    found = [
        [finding(claim, each) for each in strata_of(claim, runs_of(studies[claim.study_stem]))]
        if not claim.reason
        else []
        for claim, _ in there
    ]
    tested = [each.p for findings in found for each in findings if each.p is not None]
    adjusted = iter(holm(tested))
    judged: list[Judged] = []
    for (claim, table), findings in zip(there, found, strict=True):
        ps = [None if each.p is None else next(adjusted) for each in findings]
        manifest = {} if claim.reason else manifest_of(studies[claim.study_stem])
        judged.append(
            Judged(
                claim=claim, verdict=verdict(claim, findings, ps), findings=tuple(findings),
                adjusted=tuple(ps), manifest=manifest, rule_hash=rule_hash(table),
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


def _weakest(judged: Judged) -> int:
    claim = judged.claim
    effects = np.array([each.effect for each in judged.findings])
    if claim.within is not None:
        return int(np.argmax(np.abs(effects)))
    turned = claim.contrast is not None and claim.contrast.at_least < 0
    return int(np.argmax(effects) if turned else np.argmin(effects))


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
    i = _weakest(judged)
    weakest = judged.findings[i]
    return {
        "effect": rounded(weakest.effect),
        "low": rounded(weakest.low),
        "high": rounded(weakest.high),
        "adjusted_p": None if (p := judged.adjusted[i]) is None else float(f"{p:.3g}"),
        "stratum": weakest.stratum.name,
        "seeds": len(weakest.stratum.values),
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
            "without": None if f.stratum.without is None else rounded(f.stratum.without),
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


def rounded(number: float) -> float:
    """To six digits: what a seed's mean is told to, alike on every machine."""
    return round(number, 6) + 0.0
