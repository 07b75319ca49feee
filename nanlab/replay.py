"""Bring a failed run of a study back to its failing step: `python -m nanlab.replay DIR RUN_ID`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from nanlab.study.replay import At, Replay, ReplayError, replay_run

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Bring a failed run of a study back to its failing step, and say what happens there."""

    results: Annotated[Path, tyro.conf.Positional]
    """the study's folder, for example results/quickstart"""
    run_id: Annotated[str, tyro.conf.Positional]
    """the run, or the beginning of its id, as in runs.csv and blames.csv"""
    at: At = "fault"
    """go back to the first fault, or to the first NaN"""
    save: Path | None = None
    """write the state before the step, its leaves by name, to this .npz file"""


def main(argv: list[str] | None = None) -> int:
    """Run the command; the exit status: 0 done, 2 there is no such failing run."""
    arguments = tyro.cli(Arguments, prog="python -m nanlab.replay", args=argv)
    try:
        replay = replay_run(arguments.results, arguments.run_id, at=arguments.at)
    except ReplayError as error:
        print(error, file=sys.stderr)
        return 2
    _tell(replay)
    if arguments.save is None:
        return 0
    try:
        _save(replay, arguments.save)
    except OSError as error:
        print(
            f"cannot write {arguments.save}: {(error.strerror or str(error)).lower()}",
            file=sys.stderr,
        )
        return 2
    print(f"saved to {arguments.save}")
    return 0


def _tell(replay: Replay) -> None:
    import jax

    from nanlab.grid.parameters import PARAMETERS
    from nanlab.results.blame_text import blame_sentence
    from nanlab.results.frames import site_columns

    parameters = {k: v for k, v in replay.parameters.items() if v != PARAMETERS[k].default}
    print(f"run {replay.run_id}: " + ", ".join(f"{k} = {v}" for k, v in parameters.items()))
    for role in ("origin", "culprit"):
        site = getattr(replay.blame, role)
        if site is not None:
            print(f"  {role:8}{blame_sentence(site_columns(role, site), role, line=False)}")
            print(f"          {site.source} in {site.function}")
    if replay.step < 0:
        print("the initial state itself is at fault:")
    else:
        print(f"the state before step {replay.step}, and what the step makes of it:")
    after, metrics = (None, None) if replay.step < 0 else replay.step_function(replay.state)
    leaves = jax.tree_util.tree_leaves_with_path(replay.state)
    made = [None] * len(leaves) if after is None else jax.tree.leaves(after)
    for (path, leaf), new in zip(leaves, made, strict=True):
        print(f"  {jax.tree_util.keystr(path):44}{_range(leaf):30}{_range(new)}")
    if metrics is not None:
        print(f"  {'loss':44}{'':30}{_range(metrics.loss)}")


def _range(leaf: Any) -> str:
    if leaf is None:
        return ""
    import numpy as np

    values = np.asarray(leaf, np.float64)
    bad = [f"{n} {word}" for n, word in _bad_counts(values)]
    finite = values[np.isfinite(values)]
    span = f"{finite.min():.3g} .. {finite.max():.3g}" if finite.size else ""
    return "; ".join(part for part in (span, *bad) if part)


def _bad_counts(values: np.ndarray) -> list[tuple[int, str]]:
    import numpy as np

    counts = [(int(np.isnan(values).sum()), "NaN"), (int(np.isinf(values).sum()), "inf")]
    return [(count, word) for count, word in counts if count]


def _save(replay: Replay, path: Path) -> None:
    import jax
    import numpy as np

    leaves = jax.tree_util.tree_leaves_with_path(replay.state)
    # An object that np.load cannot read back without pickle is none: bfloat16 goes as float32.
    arrays = {jax.tree_util.keystr(p): np.asarray(x) for p, x in leaves}
    plain = {k: x if x.dtype.kind in "fiub" else x.astype(np.float32) for k, x in arrays.items()}
    # An open file: to a bare name savez would add .npz, and say so to nobody.
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **plain)


if __name__ == "__main__":
    sys.exit(main())
