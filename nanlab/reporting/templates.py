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

AUTHORS = "The authors of this study"
"""Placeholder in CITATION.cff until the user enters names."""
LIBRARIES = ("jax", "jaxlib", "flax", "optax", "numpy")


def context_of(analysis: Analysis) -> dict[str, Any]:
    """Return what the templates of a report show."""
    results, runs, manifest = analysis.results, analysis.runs, analysis.results.manifest
    environment, figures = manifest.get("environment", {}), figures_of(analysis)
    return {
        "a": analysis,
        "r": results,
        "manifest": manifest,
        "env": environment,
        "git": {"commit": "", "dirty": False, **manifest.get("git", {})},
        "wall": {"runs": 0.0, "all": 0.0, **manifest.get("wall_s", {})},
        "title": results.title,
        **{name: caption(analysis, name) for name in ("study", "placed", "definition")},
        "notes": [*([caption(analysis, "missing")] if results.missing else []), *results.notes],
        "answer": answer_of(analysis),
        "headings": headings_of(analysis),
        "figures": figures,
        "captions": {name: caption(analysis, name) for name in figures},
        "outcomes": [(o, n, Outcome(o).meaning) for o, n in analysis.outcomes().items()],
        "sheets": sheets_of(analysis),
        "authors": AUTHORS,
        "folder": portable_path(results.folder),
        "libraries": [name for name in LIBRARIES if name in environment],
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
