"""Replay the failing step of a run: `python -m nanlab.replay DIR RUN_ID`.

Of a folder of `nanlab.Recorder`, `python -m nanlab.replay run.nan` shows the last fault; `--cure`
looks for what mends it.

Exit status: 0 done, 2 there is no such failing run, or the state cannot be written.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from nanlab.cli.exit_status import DONE, WRONG
from nanlab.cli.streams import allow_closed_output
from nanlab.recorder.bundle import Bundle, BundleError, is_recording, read_bundle
from nanlab.results.errors import reason_of
from nanlab.study.replay import At, Replay, ReplayError, replay_run
from nanlab.study.trust import (
    ForeignCodeError,
    check_modules_lie_here,
    is_allowed,
    is_confirmed,
)

FURTHER = 20
"""The number of steps after the failing one that a cure has to take."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Reconstruct the state of a failed run before its failing step, and show the step."""

    results: Annotated[Path, tyro.conf.Positional]
    """the study's folder, for example results/quickstart"""
    run_id: Annotated[str, tyro.conf.Positional]
    """the run's id, or its beginning, as in runs.csv and blames.csv"""
    at: At = "fault"
    """the step to replay: the first fault, or the first NaN"""
    trust: bool = False
    """run code that the folder names, even if no grid of this project names it"""
    cure: bool = False
    """look for rewrites of the step's lines, and for settings, that mend the run"""
    save: Path | None = None
    """write the state before the step, its leaves by name, to this .npz file"""


@dataclass(frozen=True, kw_only=True)
class RecordingArguments:
    """Show the last fault of a folder that nanlab.Recorder wrote."""

    folder: Annotated[Path, tyro.conf.Positional]
    """the recorder's folder, for example run.nan, or one of its bundles"""
    cure: bool = False
    """look for rewrites of the step's lines that mend the faulty call"""
    function: str | None = None
    """the step as module:name; by default where it was defined"""
    trust: bool = False
    """import what the bundle names, even if it does not lie in the working directory"""


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    words = sys.argv[1:] if argv is None else argv
    if words and not words[0].startswith("-") and is_recording(Path(words[0])):
        return _show_recording(
            tyro.cli(
                RecordingArguments,
                prog="python -m nanlab.replay",
                args=words,
                config=(tyro.conf.FlagCreatePairsOff,),
            )
        )
    arguments = tyro.cli(
        Arguments, prog="python -m nanlab.replay", args=argv, config=(tyro.conf.FlagCreatePairsOff,)
    )
    try:
        replay = _replayed(arguments)
    except ReplayError as error:
        if not isinstance(error.__cause__, ForeignCodeError):
            print(error, file=sys.stderr)
        return WRONG
    _show(replay)
    if arguments.cure:
        _show_cures(replay)
    else:
        print("--cure looks for what mends it.", file=sys.stderr)
    if arguments.save is None:
        return DONE
    try:
        _save(replay, arguments.save)
    except OSError as error:
        print(f"cannot write {arguments.save}: {reason_of(error)}", file=sys.stderr)
        return WRONG
    print(f"saved to {arguments.save}")
    return DONE


def _replayed(arguments: Arguments) -> Replay:
    trust = arguments.trust
    while True:
        try:
            return replay_run(arguments.results, arguments.run_id, at=arguments.at, trust=trust)
        except ReplayError as error:
            cause = error.__cause__
            if not (isinstance(cause, ForeignCodeError) and is_confirmed(cause)):
                raise
            trust = True


def _show_recording(arguments: RecordingArguments) -> int:
    try:
        bundle = read_bundle(arguments.folder)
    except BundleError as error:
        print(error, file=sys.stderr)
        return WRONG
    print(bundle)
    return _cure_recording(bundle, arguments) if arguments.cure else DONE


def _cure_recording(bundle: Bundle, arguments: RecordingArguments) -> int:
    import nanlab
    from nanlab.recorder.bundle_cures import call_in, function_of, modules_of
    from nanlab.recorder.structure import NotDescribed

    try:
        name = function_of(bundle, arguments.function)
        modules = modules_of(bundle, name)
        if arguments.function is not None:  # what the user names needs no question
            modules.discard(name.partition(":")[0])
        if not arguments.trust and not is_allowed(
            lambda: check_modules_lie_here(modules, arguments.folder)
        ):
            return WRONG
        function, args, kwargs = call_in(bundle, name)
    except NotDescribed as error:
        print(f"no cures: {error}", file=sys.stderr)
        return WRONG
    print(f"\nRewrites of the step, as by nanlab.cure({name.partition(':')[2]}, *arguments):")
    print(nanlab.cure(function, *args, **kwargs))
    return DONE


def _show(replay: Replay) -> None:
    import jax

    from nanlab.grid.defaults import is_default
    from nanlab.results.blame_text import blame_sentence
    from nanlab.results.frames import site_columns

    parameters = {k: v for k, v in replay.parameters.items() if not is_default(k, v)}
    print(f"run {replay.run_id}: " + ", ".join(f"{k} = {v}" for k, v in parameters.items()))
    for role in ("origin", "culprit"):
        site = getattr(replay.blame, role)
        if site is not None:
            print(f"  {role:8}{blame_sentence(site_columns(role, site), role, line=False)}")
            print(f"          {site.source} in {site.function}")
            if site.code:
                print(f"              {site.code}")
    if replay.step < 0:
        print("the initial state itself has the fault:")
    else:
        print(f"the state before step {replay.step}, and after it:")
    after, metrics = (None, None) if replay.step < 0 else replay.step_function(replay.state)
    leaves = jax.tree_util.tree_leaves_with_path(replay.state)
    results = [None] * len(leaves) if after is None else jax.tree.leaves(after)
    for (path, leaf), new in zip(leaves, results, strict=True):
        print(f"  {jax.tree_util.keystr(path):44}{_range(leaf):30}{_range(new)}")
    if metrics is not None:
        print(f"  {'loss':44}{'':30}{_range(metrics.loss)}")


def _show_cures(replay: Replay) -> None:
    import nanlab
    from nanlab.blame.source_path import is_nanlab
    from nanlab.curing.settings import cure_settings

    sites = (replay.blame.origin, replay.blame.culprit)
    # The lab's own parts fail because of how the study sets them.
    if replay.step >= 0 and any(site and site.file and not is_nanlab(site.file) for site in sites):
        cures = nanlab.cure(replay.step_function, replay.state)
        print(f"\nRewrites of the step, as by nanlab.cure(step, state):\n{cures}")
    steps = max(replay.step, 0) + FURTHER
    settings = cure_settings(replay.start, replay.step_with, replay.knobs, steps=steps)
    print(f"\nSettings, in {steps} steps from the start:\n{settings}")


def _range(leaf: Any) -> str:
    if leaf is None:
        return ""
    import numpy as np

    values = np.asarray(leaf, np.float64)
    counts = {"NaN": np.isnan(values).sum(), "inf": np.isinf(values).sum()}
    finite = values[np.isfinite(values)]
    span = f"{finite.min():.3g} .. {finite.max():.3g}" if finite.size else ""
    return "; ".join(filter(None, (span, *(f"{n} {word}" for word, n in counts.items() if n))))


def _save(replay: Replay, path: Path) -> None:
    import jax
    import numpy as np

    leaves = jax.tree_util.tree_leaves_with_path(replay.state)
    # np.load cannot read bfloat16 without pickle, so it is saved as float32.
    arrays = {jax.tree_util.keystr(p): np.asarray(x) for p, x in leaves}
    plain = {k: x if x.dtype.kind in "fiub" else x.astype(np.float32) for k, x in arrays.items()}
    # An open file, because savez would append .npz to a name.
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **plain)


if __name__ == "__main__":
    allow_closed_output()
    sys.exit(main())
