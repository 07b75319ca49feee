"""Ledger -> figures/A01.svg ...: the effects and intervals of the strata of some claims."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from nanlab.ledger.conditions import short_name
from nanlab.ledger.judge import Judged, reverses
from nanlab.ledger.rules import FAILS, HOLDS, OPEN, StratumResult

FIGURES = "figures"
MAX_FIGURES = 10
"""Number of claims with a figure."""
MAX_PER_STUDY = 3
"""Figures of one study at most, so that they differ."""
ROWS = 24
"""Rows of a figure at most; of more strata, a sample evenly spaced by rank of the effect."""

# Okabe and Ito's colors, safe for color-blind readers; the shapes differ too.
MARKS = {HOLDS: ("#0072B2", "o"), FAILS: ("#D55E00", "s"), OPEN: ("#6E6E6E", "D")}


def figure_name(judged: Judged) -> str:
    """Return the file name of a claim's figure."""
    return f"{judged.claim.stem}.svg"


def most_telling(judged: Sequence[Judged]) -> list[Judged]:
    """Return the claims whose results deviate most from the claim, or differ most between strata.

    Claims whose opposite was measured come first, then those with the largest distance: between
    the rule's smallest effect and the measured one, or the range of effects over strata if larger.
    Deterministic examples are left out, as they have no interval.

    Returns:
        Up to MAX_FIGURES claims.
    """
    drawn = [each for each in judged if each.findings and not each.claim.deterministic]
    drawn.sort(key=lambda each: (not reverses(each), -_distance(each), each.claim.id))
    of_study: Counter[str] = Counter()
    chosen: list[Judged] = []
    for each in drawn:
        of_study[each.claim.study_stem] += 1
        if of_study[each.claim.study_stem] <= MAX_PER_STUDY:
            chosen.append(each)
    return chosen[:MAX_FIGURES]


def _distance(judged: Judged) -> float:
    claim = judged.claim
    effects = [f.effect for f in judged.findings if f.effect is not None]
    if not effects:
        return 0.0
    if claim.within is not None:
        return max(map(abs, effects)) - claim.within
    least = claim.contrast.at_least if claim.contrast else claim.share_at_least
    assert least is not None
    sign = -1.0 if least < 0.0 else 1.0
    return max(sign * least - min(sign * e for e in effects), max(effects) - min(effects))


def write_ledger_figures(folder: Path, judged: Sequence[Judged]) -> None:
    """Draw the figures of the most telling claims, and delete all others."""
    import matplotlib

    (folder / FIGURES).mkdir(parents=True, exist_ok=True)
    chosen = most_telling(judged)
    wanted = {figure_name(each) for each in chosen}
    for path in (folder / FIGURES).glob("*.svg"):
        if path.name not in wanted:
            path.unlink()
    # Reproducible bytes: no date, and ids from a fixed salt.
    with matplotlib.rc_context({"svg.hashsalt": "nanlab", "font.size": 8.0}):
        for each in chosen:
            _draw(each, folder / FIGURES / figure_name(each))


def _draw(judged: Judged, path: Path) -> None:
    from matplotlib.figure import Figure

    rows = _rows(judged)
    # The axes fill the figure; bbox_inches="tight" adds room for labels and title.
    figure = Figure(figsize=(3.6, 0.2 + 0.21 * len(rows)))
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    for at, (finding, word) in enumerate(rows):
        color, shape = MARKS[word]
        assert finding.effect is not None and finding.low is not None and finding.high is not None
        axes.plot([finding.low, finding.high], [at, at], color=color, linewidth=1.4)
        axes.plot(finding.effect, at, marker=shape, color=color, markersize=4.5, linestyle="")
    claim = judged.claim
    least = claim.contrast.at_least if claim.contrast else claim.share_at_least
    if claim.within is not None:
        axes.axvspan(-claim.within, claim.within, color="#0072B2", alpha=0.12, linewidth=0)
    elif least is not None:
        axes.axvline(least, color="#333333", linewidth=0.9, linestyle="--")
        axes.annotate(
            f"required: {least:+g}" if claim.contrast else f"required: {least:g}",
            (least, 1.0), xycoords=("data", "axes fraction"), xytext=(2, 2),
            textcoords="offset points", fontsize=7, color="#333333",
        )  # fmt: skip
    axes.axvline(0.0, color="#999999", linewidth=0.8)
    axes.set_yticks(range(len(rows)), _labels(judged, rows))
    axes.set_ylim(len(rows) - 0.4, -0.6)
    label = "difference in the share of runs" if claim.contrast else "share of runs"
    strata = len({finding.stratum.name for finding in judged.findings})
    shown = f"\n{len(rows)} of {strata} strata" if len(rows) < strata else ""
    axes.set_xlabel(f"{label}, mean over seeds with its 95 % interval{shown}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.06)
    title = "\n".join(textwrap.wrap(f"{claim.id} ({judged.verdict.word})  {claim.says}", 66))
    axes.set_title(title, fontsize=9, loc="right", pad=16)
    figure.savefig(path, format="svg", metadata={"Date": None}, bbox_inches="tight")


def _rows(judged: Judged) -> list[tuple[StratumResult, str]]:
    """Return each stratum's result and answer; of a cure, that of the strongest placebo."""
    worst: dict[str, tuple[StratumResult, str]] = {}
    for finding, word in zip(judged.findings, judged.verdict.answers, strict=True):
        name = finding.stratum.name
        if finding.effect is None:
            continue
        if name not in worst or abs(finding.effect) < abs(worst[name][0].effect or 0.0):
            worst[name] = (finding, word)
    rows = list(worst.values())
    if len(rows) <= ROWS:
        return rows
    rows.sort(key=lambda row: row[0].effect or 0.0)
    return [rows[round(i * (len(rows) - 1) / (ROWS - 1))] for i in range(ROWS)]


def _labels(judged: Judged, rows: Sequence[tuple[StratumResult, str]]) -> list[str]:
    """Return the strata as text, without the parameters that all of them share."""
    keys = [finding.stratum.key for finding in judged.findings]
    varying = [name for name in keys[0] if len({key[name] for key in keys}) > 1]
    return [
        ", ".join(f"{short_name(name)} {f.stratum.key[name]}" for name in varying) or f.stratum.name
        for f, _ in rows
    ]
