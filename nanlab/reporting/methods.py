"""Methods paragraph, reproducibility checklist, definitions, and REPRODUCE.md of a study."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nanlab.blame.vocabulary import Mechanism
from nanlab.reporting.analysis import Analysis
from nanlab.reporting.layout import parameters_of
from nanlab.reporting.words import count, exact, listed
from nanlab.results.text_tables import markdown_table

DEFINITIONS = {
    "fault": "a step after which the loss, or a part of the state that was finite at the start, "
    "is not finite; a NaN anywhere in the state always counts. Steps count from 0; -1 is the "
    "initial state",
    "first inf or NaN": "the origin: the first operation on the causal chain whose output has an "
    "inf or a NaN and whose inputs are finite",
    "first NaN": "the culprit: the first operation on that chain whose output has a NaN and whose "
    "inputs have none",
    "mechanism": "the arithmetic of an operation: "
    + ", ".join(f"{mechanism} ({mechanism.meaning})" for mechanism in Mechanism),
    "phase": "the part of a step: initial state, data, forward pass, backward pass or update",
    "stable": "finite at every step, with a loss below diverged_factor times its first value: "
    "trained or stalled",
    "witness": "JAX's debug_nans and debug_infs, run on one example of each blame",
}


def methods_paragraph(analysis: Analysis) -> str:
    """Return the methods paragraph for a paper."""
    results, runs = analysis.results, analysis.runs
    n = results.seeds
    sentences = [
        f"Study {results.study_id} consists of {count(runs.height, 'run')} of up to "
        f"{runs['steps'].to_numpy().max():,} optimization steps ({runs['steps'].sum():,} steps in "
        f"all), in {count(runs['group_id'].n_unique(), 'compiled program')}.",
        "Each point of the grid was run once."
        if n == 1
        else f"Each point of the grid was run with {n:,} seeds, which determine the initial "
        "weights, the order of the data and every other random number; runs with the same seed "
        "are paired.",
        f"{results.missing:,} of {results.planned:,} runs are still missing."
        if results.missing
        else "All runs of the grid are reported; none was selected by its result.",
        "Runs are executed side by side, and the numbers of a run depend only on its own "
        "parameters and seed. A run that fails is frozen at its last finite state, and the "
        "failing step is repeated in an instrumented program, which locates the operation at "
        "fault.",
        _statistics(analysis),
        _compute(results.manifest),
    ]
    return " ".join(filter(None, sentences))


def _statistics(analysis: Analysis) -> str:
    sentences = {
        "Intervals of critical values are 95 % percentile bootstrap intervals over seeds (10,000 "
        "resamples), with the seed as the unit, and include the grid's spacing.":
            analysis.criticals and analysis.results.seeds > 1,
        "Survival curves are Kaplan-Meier estimates over the grid's runs, censored at the last "
        "step, with 95 % log-log intervals.": analysis.survivals,
    }  # fmt: skip
    return " ".join(sentence for sentence, holds in sentences.items() if holds)


def _compute(manifest: Mapping[str, Any]) -> str:
    environment, wall_s = manifest.get("environment", {}), manifest.get("wall_s", {})
    if not environment:
        return ""
    time = f"took {_time(wall_s['all'])} of wall time" if "all" in wall_s else "was run"
    return (
        f"The study {time} on {_device(environment)}, with nanlab "
        f"{environment['nanlab']}, JAX {environment['jax']} and Python {environment['python']}."
    )


def _device(environment: Mapping[str, Any]) -> str:
    n, kind = environment.get("devices", 1), environment.get("device_kind", "?")
    if environment.get("platform") == "cpu":
        cpu = environment.get("processor") or environment.get("system", "")
        return f"{count(n, 'CPU device')} ({cpu})"
    bits = environment.get("product_bits") or 24
    rounded = f", float32 products rounded to {bits} of 24 bits by default" if bits < 24 else ""
    return f"{n} x {kind} ({environment.get('platform')}){rounded}"


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"


def checklist(analysis: Analysis) -> list[tuple[str, str]]:
    """Return the items of large conferences' reproducibility checklists, with their answers."""
    results, runs = analysis.results, analysis.runs
    manifest = results.manifest
    environment, wall_s = manifest.get("environment", {}), manifest.get("wall_s", {})
    git = manifest.get("git", {})
    varied = [n for n in parameters_of(runs) if runs[n].n_unique() > 1]
    own = [str(v) for n in ("task", "model", "problem") if n in runs.columns
           for v in runs[n].drop_nulls().unique() if ":" in str(v) or "." in str(v)]  # fmt: skip
    compute = "Not recorded."
    if wall_s.get("runs") and wall_s.get("all"):
        compute = (
            f"{1000 * wall_s['runs'] / runs.height:.3g} ms of wall time per run (many at once), "
            f"{_time(wall_s['all'])} in all, without earlier attempts."
        )
    code = "REPRODUCE.md has the commands."
    if git.get("commit"):
        changed = " with changes" if git.get("dirty") else ""
        code = f"nanlab {environment.get('nanlab')}, commit {git['commit']}{changed}; {code}"
    return [
        ("Settings", "grid.resolved.toml, and a column of runs.parquet for each that some run "
         f"uses. Varied: {listed(varied) or 'none'}."),
        ("Selection", "Every point of the grid was run; none was tuned."),
        ("Runs and seeds", f"{count(runs.height, 'run')}, {count(results.seeds, 'seed')}, "
         f"{count(runs['group_id'].n_unique(), 'compiled program')}."),
        ("Error bars", _statistics(analysis) or "None: no quantity here is an estimate."),
        ("Data splits", "None: losses are those of training batches; nothing is claimed about "
         "generalization."),
        ("Data and license", f"The study's own code: {listed(own)}." if own else "Bundled with "
         "scikit-learn or generated by nanlab; no download."),
        ("Hardware", f"{_device(environment)}." if environment else "Not recorded yet."),
        ("Compute", compute),
        ("Determinism", "To the byte on the same kind of CPU with the same versions; elsewhere by "
         "outcome and blame."),
        ("Code", code),
    ]  # fmt: skip


REPRODUCE = """\
# Reproducing {study}

In a clone of nanlab's repository:

```sh
{checkout}python3 -m venv .venv
.venv/bin/pip install -c constraints.txt -e .
.venv/bin/{command}
```

To rebuild the report from the tables, with this version of nanlab or a later one:

```sh
.venv/bin/python -m nanlab.report {folder}
```

{dirty}It took {time} on {device}. If the command lacks paths, the grid is in grid.resolved.toml.

{versions}

On the same kind of processor with these versions the tables are identical to the byte; elsewhere \
outcomes and blames are, except for runs at the stability boundary. SHA-256:

{hashes}

To replay a run: `python -m nanlab.replay {folder} RUN_ID`. The study ended {finished}, with \
{outcomes}.
"""


def reproduce(analysis: Analysis) -> str:
    """Return the text of REPRODUCE.md."""
    results, manifest = analysis.results, analysis.results.manifest
    if not manifest:
        return (
            f"# Reproducing {results.study_id}\n\nThe study is not finished: "
            f"{results.missing:,} of {results.planned:,} runs are missing. To resume it, repeat "
            "the command that started it.\n"
        )
    environment, git = manifest["environment"], manifest.get("git", {})
    versions: list[tuple[str, str]] = []
    for name, value in environment.items():
        # A user's own files have one hash per file.
        items = value.items() if isinstance(value, dict) else [("", value)]
        versions += [(f"{name} of {file}" if file else name, exact(item))
                     for file, item in items if item != ""]  # fmt: skip
    hashes = [(name, f"`{digest}`") for name, digest in manifest.get("files", {}).items()]
    dirty = "The code had uncommitted changes when this was run.\n\n" if git.get("dirty") else ""
    return REPRODUCE.format(
        study=results.study_id,
        checkout=f"git checkout {git['commit']}\n" if git.get("commit") else "",
        command=manifest["command"],
        folder=portable_path(results.folder),
        dirty=dirty,
        time=_time(manifest["wall_s"]["all"]),
        device=_device(environment),
        versions=markdown_table(["what", "version"], versions),
        hashes=markdown_table(["file", "SHA-256"], hashes),
        finished=manifest.get("finished", "at an unknown time"),
        outcomes=listed([f"{n:,} {o}" for o, n in manifest.get("outcomes", {}).items()]),
    )


def portable_path(folder: Path) -> str:
    """Return a results folder as a command names it, without a path of this machine."""
    return folder.as_posix() if not folder.is_absolute() else f"results/{folder.name}"
