"""Analysis -> text files by their templates; each value is escaped for the file's format."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from nanlab.blame.vocabulary import Mechanism
from nanlab.grid.outcome import Outcome
from nanlab.reporting.analysis import Analysis
from nanlab.reporting.answer import answer_of
from nanlab.reporting.captions import caption, figures_of, headings_of
from nanlab.reporting.layout import parameters_of
from nanlab.reporting.sheets import sheets_of
from nanlab.reporting.words import exact, listed, percent

AUTHORS = "The authors of this study"
"""Placeholder in CITATION.cff until the user enters names."""
LIBRARIES = ("jax", "jaxlib", "flax", "optax", "numpy")


def context_of(analysis: Analysis) -> dict[str, Any]:
    """Return what the templates of a report show."""
    sheets, figures = sheets_of(analysis), figures_of(analysis)
    return {
        "title": analysis.results.title,
        "study": caption(analysis, "study"),
        "notes": notes_of(analysis),
        "answer": answer_of(analysis),
        "headings": headings_of(analysis),
        "figures": figures,
        "captions": {name: caption(analysis, name) for name in figures},
        "outcomes": outcome_rows(analysis),
        "sheets": sheets,
        "facts": facts_of(analysis),
        "authors": AUTHORS,
    }


def notes_of(analysis: Analysis) -> list[str]:
    """Return what the reader has to know first: missing runs, and what is amiss with the folder."""
    missing = [caption(analysis, "missing")] if analysis.results.missing else []
    return [*missing, *analysis.results.notes]


def outcome_rows(analysis: Analysis) -> list[tuple[str, str, str]]:
    """Return each outcome, its number of runs, its share in a plain grid, and its meaning."""
    total = analysis.runs.height
    shares = {o: "" if analysis.results.finer else f" ({percent(n, total)})"
              for o, n in analysis.outcomes().items()}  # fmt: skip
    return [
        (outcome, f"{n:,}{shares[outcome]}", Outcome(outcome).meaning)
        for outcome, n in analysis.outcomes().items()
    ]


def facts_of(analysis: Analysis) -> dict[str, Any]:
    """Return what methods, checklist and REPRODUCE.md say of a study."""
    results, runs, manifest = analysis.results, analysis.runs, analysis.results.manifest
    environment = manifest.get("environment", {})
    versions: list[tuple[str, str]] = []
    for name, value in environment.items():
        # A user's own files have one hash per file.
        items = value.items() if isinstance(value, dict) else [("", value)]
        versions += [(f"{name} of {file}" if file else name, exact(item))
                     for file, item in items if item != ""]  # fmt: skip
    return {
        "study_id": results.study_id,
        "folder": portable_path(results.folder),
        "manifest": manifest,
        "env": environment,
        "libraries": [name for name in LIBRARIES if name in environment],
        "versions": versions,
        "git": manifest.get("git", {}),
        "wall": manifest.get("wall_s", {}),
        "outcomes": listed([f"{n:,} {o}" for o, n in manifest.get("outcomes", {}).items()]),
        "runs": runs.height,
        "planned": results.planned,
        "missing": results.missing,
        "seeds": results.seeds,
        "groups": runs["group_id"].n_unique(),
        "longest": runs["steps"].to_numpy().max(),
        "steps": int(runs["steps"].sum()),
        "placed": caption(analysis, "placed"),
        "definition": caption(analysis, "definition"),
        "criticals": analysis.criticals,
        "survivals": analysis.survival,
        "varied": [n for n in parameters_of(runs) if runs[n].n_unique() > 1],
        "own": [str(v) for n in ("task", "model", "problem") if n in runs.columns
                for v in runs[n].drop_nulls().unique(maintain_order=True)
                if ":" in str(v) or "." in str(v)],
        "mechanisms": list(Mechanism),
    }  # fmt: skip


def portable_path(folder: Path) -> str:
    """Return a results folder as a shell takes it, without a path of this machine."""
    path = folder.as_posix() if not folder.is_absolute() else f"results/{folder.name}"
    return shlex.quote(path)
