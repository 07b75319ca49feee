"""A finished study <-> manifest.json: its provenance, a summary, and the hashes of its files."""

from __future__ import annotations

import hashlib
import json
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from nanlab.blame.vocabulary import WitnessAnswer
from nanlab.results.errors import ReportError, reason_of
from nanlab.results.files import sealed, unsealed, write_text
from nanlab.results.provenance import file_hash, fingerprint, git_state

MANIFEST = "manifest.json"

REPAIR = "the study's sweep command writes it again"
"""What to do about a damaged file."""

_FIELDS: Mapping[str, type] = {
    "title": str, "command": str, "grid_sha256": str, "fingerprint": str, "environment": dict,
    "git": dict, "runs": int, "groups": int, "outcomes": dict, "crashed": int,
    "blame_status": dict, "distinct_blames": int, "witnesses": dict, "files": dict, "wall_s": dict,
    "finished": str,
}  # fmt: skip
_SOMETIMES: Mapping[str, type] = {"rules": dict, "environments": dict, "search": dict}


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read the manifest of a finished study.

    Args:
        folder: the results folder.

    Returns:
        The manifest.

    Raises:
        ReportError: there is no manifest, or it is damaged.
    """
    path = folder / MANIFEST
    try:
        manifest = unsealed(path.read_bytes())
    except FileNotFoundError as error:
        raise ReportError(
            f"{folder} holds no finished study: there is no {MANIFEST} in it"
        ) from error
    except OSError as error:
        raise ReportError(f"{path}: it cannot be read: {reason_of(error)}; {REPAIR}") from error
    except ValueError as error:
        raise ReportError(f"{path}: it cannot be read: {error}; {REPAIR}") from error
    for name, kind in {**_FIELDS, **_SOMETIMES}.items():
        if not isinstance(manifest.get(name), kind) and (name in _FIELDS or name in manifest):
            raise ReportError(
                f"{path}: it is damaged: {name} is missing or of another type; {REPAIR}"
            )
    if unknown := manifest.keys() - _FIELDS.keys() - _SOMETIMES.keys():
        raise ReportError(f"{path}: it is damaged: {min(unknown)} is unknown; {REPAIR}")
    for name in manifest["files"]:
        if Path(name).name != name or not Path(name).suffix:
            raise ReportError(f"{path}: it lists {name!r}, which is no file of this folder")
    return manifest


def write_manifest(
    folder: Path,
    *,
    about: Mapping[str, Any],
    environment: dict[str, Any],
    environments: Mapping[str, Mapping[str, Any] | None],
    resolved: str,
    runs: pl.LazyFrame,
    blames: pl.DataFrame,
    said: Mapping[str, Testimony],
    files: Sequence[str],
) -> dict[str, Any]:
    """Write `grid.resolved.toml`, then `manifest.json`, which marks a study as finished.

    Args:
        folder: the results folder.
        about: title, rules, search, command, groups, witness_cap and wall_s.
        environment: the environment of this process.
        environments: the environments of all accepted rows, by fingerprint.
        resolved: the resolved grid, as TOML.
        runs: the table of runs.
        blames: the table of blames.
        said: the testimonies, by blame_id.
        files: names of the tables to hash.

    Returns:
        The manifest.
    """
    write_text(folder / "grid.resolved.toml", resolved)
    manifest = sealed({
        "title": about["title"],
        "command": about["command"],
        **({"rules": about["rules"]} if about["rules"] else {}),
        "grid_sha256": hashlib.sha256(resolved.encode()).hexdigest(),
        "fingerprint": fingerprint(environment),
        "environment": environment,
        **({"environments": environments} if len(environments) > 1 else {}),
        "git": git_state(),
        "runs": runs.select(pl.len()).collect().item(),
        **about["search"],
        "groups": about["groups"],
        **_endings(runs),
        "distinct_blames": blames.height,
        "witnesses": {"cap": about["witness_cap"], **_answers(blames, list(said.values()))},
        "files": {name: file_hash(folder / name) for name in sorted(files)},
        "wall_s": about["wall_s"],
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    })  # fmt: skip
    write_text(folder / MANIFEST, json.dumps(manifest, indent=1) + "\n")
    return manifest


def _endings(runs: pl.LazyFrame) -> dict[str, Any]:
    outcomes = _counts(runs, "outcome")
    crashed, status = outcomes.get("crashed", 0), _counts(runs, "blame_status")
    return {"outcomes": outcomes, "crashed": crashed, "blame_status": status}


def _answers(blames: pl.DataFrame, testimonies: Sequence[Testimony]) -> dict[str, Any]:
    return {
        "asked": len(testimonies),
        "said": _counts(blames.lazy(), "witness"),
        "finite_before": sum(t.finite_before is True for t in testimonies),
        "before_asked": sum(t.finite_before is not None for t in testimonies),
        "bad_after": sum(t.bad_after for t in testimonies),
    }


def command_line(arguments: Sequence[str]) -> str:
    """Return the sweep command with these arguments, without absolute paths."""
    return shlex.join(["python", "-m", "nanlab.sweep", *map(_without_folders, arguments)])


def _without_folders(argument: str) -> str:
    path = Path(argument)
    if not path.is_absolute():
        return argument
    here = Path.cwd()
    return (path.relative_to(here) if path.is_relative_to(here) else Path(path.name)).as_posix()


def _counts(table: pl.LazyFrame, name: str) -> dict[str, int]:
    """Return the number of rows of each value, most frequent first, without loading all rows."""
    counted = table.select(name).drop_nulls().group_by(name).len("n").collect(engine="streaming")
    return dict(sorted(counted.rows(), key=lambda row: (-row[1], row[0])))


class Testimony(NamedTuple):
    """The independent witnesses' answers about one run's blame.

    Attributes:
        origin: answer about the origin; None if there is no origin.
        culprit: answer about the culprit; None if there is no culprit.
        finite_before: whether chex finds the state finite before the fault step; None at step -1.
        bad_after: whether chex finds the state or the loss not finite after it.
    """

    origin: WitnessAnswer | None
    culprit: WitnessAnswer | None
    finite_before: bool | None
    bad_after: bool

    @property
    def word(self) -> WitnessAnswer:
        """The worse of the two answers."""
        return max((w for w in (self.origin, self.culprit) if w), key=lambda answer: answer.rank)
