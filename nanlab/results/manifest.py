"""A finished study -> manifest.json: what made it, what came out, and the hashes of its files."""

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
from nanlab.results.files import write_atomically
from nanlab.results.provenance import file_hash, fingerprint, git_state


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
    """Write `grid.resolved.toml`, then `manifest.json`, which makes a study finished.

    Args:
        folder: of the results.
        about: title, rules, search, command, groups, witness_cap and wall_s.
        environment: as `provenance.environment` has it.
        environments: of all whose rows were taken, by fingerprint.
        resolved: what was asked, as TOML.
        runs, blames: the tables.
        said: what the witnesses said, by blame_id.
        files: the tables' names, to be hashed.
    """
    path = folder / "grid.resolved.toml"
    write_atomically(path, lambda p: p.write_text(resolved, encoding="utf-8"))
    manifest = {
        "title": about["title"],
        "command": about["command"],
        **({"rules": about["rules"]} if about["rules"] else {}),
        "grid_sha256": hashlib.sha256(resolved.encode()).hexdigest(),
        "fingerprint": fingerprint(environment),
        "environment": environment,
        **({"environments": environments} if len(environments) > 1 else {}),
        "git": git_state(),
        "runs": _rows(runs),
        **about["search"],
        "groups": about["groups"],
        **_ends(runs),
        "distinct_blames": blames.height,
        "witnesses": {"cap": about["witness_cap"], **_heard(blames, list(said.values()))},
        "files": {name: file_hash(folder / name) for name in sorted(files)},
        "wall_s": about["wall_s"],
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    text = json.dumps(manifest, indent=1) + "\n"
    write_atomically(folder / "manifest.json", lambda p: p.write_text(text, encoding="utf-8"))
    return manifest


def _rows(table: pl.LazyFrame) -> int:
    return table.select(pl.len()).collect().item()


def _ends(runs: pl.LazyFrame) -> dict[str, Any]:
    outcomes = _counts(runs, "outcome")
    return {
        "outcomes": outcomes,
        "crashed": outcomes.get("crashed", 0),
        "blame_status": _counts(runs, "blame_status"),
    }


def _heard(blames: pl.DataFrame, testimonies: Sequence[Testimony]) -> dict[str, Any]:
    return {
        "asked": len(testimonies),
        "said": _counts(blames.lazy(), "witness"),
        "finite_before": sum(t.finite_before is True for t in testimonies),
        "before_asked": sum(t.finite_before is not None for t in testimonies),
        "bad_after": sum(t.bad_after for t in testimonies),
    }


def command_line(arguments: Sequence[str]) -> str:
    """The command that was given, without a path of this machine."""
    return shlex.join(["python", "-m", "nanlab.sweep", *map(_without_folders, arguments)])


def _without_folders(argument: str) -> str:
    path = Path(argument)
    if not path.is_absolute():
        return argument
    here = Path.cwd()
    return (path.relative_to(here) if path.is_relative_to(here) else Path(path.name)).as_posix()


def _counts(table: pl.LazyFrame, name: str) -> dict[str, int]:
    """How often each value of a column comes, the most frequent first; never all rows at once."""
    counted = table.select(name).drop_nulls().group_by(name).len("n").collect(engine="streaming")
    return dict(sorted(counted.rows(), key=lambda row: (-row[1], row[0])))


class Testimony(NamedTuple):
    """What was said of one run's blame.

    Attributes:
        origin, culprit: the answers; None where there is nothing to ask.
        finite_before: chex finds the watched state finite before the fault step; None at step -1.
        bad_after: chex finds it, or the loss, not finite after.
    """

    origin: WitnessAnswer | None
    culprit: WitnessAnswer | None
    finite_before: bool | None
    bad_after: bool

    @property
    def word(self) -> WitnessAnswer:
        """The worse of the two words."""
        return max((w for w in (self.origin, self.culprit) if w), key=lambda answer: answer.rank)
