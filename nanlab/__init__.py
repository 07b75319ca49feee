"""The public verbs, imported lazily: importing nanlab does not import JAX."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nanlab.blame.explain.verdict import Verdict
    from nanlab.blame.pinpoint import pinpoint
    from nanlab.blame.site import Site
    from nanlab.blame.watch.log import log_verdict
    from nanlab.curing.cure import cure
    from nanlab.curing.report import Cure, Cures
    from nanlab.curing.training import TrainingCure, cure_training
    from nanlab.hunting.found import Found
    from nanlab.hunting.hunt import hunt
    from nanlab.linting.lint import lint
    from nanlab.linting.report import Finding, Report
    from nanlab.problems.problem import Metrics, Problem
    from nanlab.recorder.fault import Fault
    from nanlab.recorder.recorder import Recorder, watch
    from nanlab.results.load import LoadError, load
    from nanlab.study.replay import replay_run

__all__ = [
    "Cure", "Cures", "Fault", "Finding", "Found", "LoadError", "Metrics", "Problem", "Recorder",
    "Report", "Site", "TrainingCure", "Verdict", "__version__", "cure", "cure_training", "hunt",
    "lint", "load", "log_verdict", "pinpoint", "replay_run", "watch",
]  # fmt: skip
__version__ = "0.1.0"

_HOME = {
    "Cure": "nanlab.curing.report",
    "Cures": "nanlab.curing.report",
    "Fault": "nanlab.recorder.fault",
    "Finding": "nanlab.linting.report",
    "Found": "nanlab.hunting.found",
    "LoadError": "nanlab.results.load",
    "Metrics": "nanlab.problems.problem",
    "Problem": "nanlab.problems.problem",
    "Recorder": "nanlab.recorder.recorder",
    "Report": "nanlab.linting.report",
    "Site": "nanlab.blame.site",
    "TrainingCure": "nanlab.curing.training",
    "Verdict": "nanlab.blame.explain.verdict",
    "cure": "nanlab.curing.cure",
    "cure_training": "nanlab.curing.training",
    "hunt": "nanlab.hunting.hunt",
    "lint": "nanlab.linting.lint",
    "load": "nanlab.results.load",
    "log_verdict": "nanlab.blame.watch.log",
    "pinpoint": "nanlab.blame.pinpoint",
    "replay_run": "nanlab.study.replay",
    "watch": "nanlab.recorder.recorder",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'nanlab' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


def load_ipython_extension(shell: Any) -> None:
    """Add the cell magic `%%nanlab` to a notebook: `%load_ext nanlab`."""
    from nanlab.cli.notebook import register

    register(shell)
