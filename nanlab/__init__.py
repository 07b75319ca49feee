"""The public verbs, imported lazily: importing nanlab does not import JAX."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nanlab.blame.inquiry import pinpoint
    from nanlab.blame.verdict import Site, Verdict
    from nanlab.loading import LoadError, load
    from nanlab.problem import Metrics, Problem
    from nanlab.replay import replay_run

__all__ = [
    "LoadError", "Metrics", "Problem", "Site", "Verdict", "__version__", "load", "pinpoint",
    "replay_run",
]  # fmt: skip
__version__ = "0.1.0"

_HOME = {
    "LoadError": "nanlab.loading",
    "Metrics": "nanlab.problem",
    "Problem": "nanlab.problem",
    "Site": "nanlab.blame.verdict",
    "Verdict": "nanlab.blame.verdict",
    "load": "nanlab.loading",
    "pinpoint": "nanlab.blame.inquiry",
    "replay_run": "nanlab.replay",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'nanlab' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
