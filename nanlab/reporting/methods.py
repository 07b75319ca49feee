"""Results -> methods: what a paper's methods section and its checklist ask; how to do it again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nanlab.reporting.analysis import Analysis
from nanlab.reporting.layout import parameters_of
from nanlab.reporting.words import count, exact, listed

GLOSSARY = {
    "fault": "a step after which the loss, or a part of the state that was finite at the start, "
    "is not finite; a NaN anywhere in the state always counts. Steps count from 0, and -1 is the "
    "initial state",
    "first inf or NaN": "the origin: the first operation on the causal chain that makes an inf or "
    "a NaN from finite inputs",
    "first NaN": "the culprit: the first operation on that chain that makes a NaN from inputs "
    "without one",
    "mechanism": "the arithmetic of an operation: overflow, pole (1/0, log 0), inf-inf, 0*inf, "
    "0/0, inf/inf, domain (log or square root of a negative number), opaque (inside a "
    "linear-algebra kernel), input (it came with the data)",
    "phase": "where in a step: the initial state, the data, the forward pass, the backward pass, "
    "the update",
    "stable": "finite all along, and the loss has not grown beyond diverged_factor times its first "
    "value: trained or stalled",
    "witness": "JAX's own debug_nans and debug_infs, asked about an example of each blame",
}


def methods_paragraph(analysis: Analysis) -> str:
    """The paragraph for a paper."""
    results, runs = analysis.results, analysis.runs
    manifest = results.manifest
    seeds = _seeds(analysis)
    groups = runs["group_id"].n_unique()
    steps = int(runs["steps"].sum())
    sentences = [
        f"Study {results.study_id} consists of {count(runs.height, 'run')} of up to "
        f"{int(runs['steps'].to_numpy().max()):,} optimization steps ({steps:,} steps in all), "
        f"in {count(groups, 'compiled program')}.",
        seeds,
        "All runs that were asked for are reported, and none was chosen by its result."
        if not results.missing
        else f"{results.missing:,} of {results.planned:,} runs are still missing.",
        "Runs are executed side by side; a run's numbers depend on its own parameters and seed "
        "only. A run that fails is kept at its last good state, and the failing step is repeated "
        "in an instrumented program, which names the operation at fault.",
        _statistics(analysis),
        _compute(manifest),
    ]
    return " ".join(s for s in sentences if s)


def _seeds(analysis: Analysis) -> str:
    n = analysis.results.seeds
    if n == 1:
        return "Each point of the grid was run once."
    return (
        f"Each point of the grid was run with {n:,} seeds, which address the initial weights, the "
        "order of the data and every other random number; runs with the same seed are paired."
    )


def _statistics(analysis: Analysis) -> str:
    told: list[str] = []
    if analysis.criticals and analysis.results.seeds > 1:
        told.append(
            "Intervals of critical values are 95 % percentile bootstrap intervals over seeds "
            "(10,000 resamples), the seed being the unit, and include the grid's spacing."
        )
    if analysis.survivals:
        told.append(
            "Survival curves are Kaplan-Meier estimates, censored at the last step, with 95 % "
            "log-log intervals; these are over the grid's runs."
        )
    return " ".join(told)


def _compute(manifest: Mapping[str, Any]) -> str:
    environment = manifest.get("environment", {})
    wall = manifest.get("wall_s", {})
    if not environment:
        return ""
    time = f"took {_time(wall['all'])} of wall time" if "all" in wall else "was run"
    training = f", {_time(wall['runs'])} of it for the runs themselves" if "runs" in wall else ""
    return (
        f"The study {time}{training}, on {_device(environment)}, with nanlab "
        f"{environment['nanlab']}, JAX {environment['jax']} and Python {environment['python']}."
    )


def _device(environment: Mapping[str, Any]) -> str:
    n, kind = environment.get("devices", 1), environment.get("device_kind", "?")
    if environment.get("platform") == "cpu":
        cpu = environment.get("processor") or environment.get("system", "")
        return f"{count(n, 'CPU device')} ({cpu})"
    bits = environment.get("product_bits") or 24
    kept = f", whose products keep {bits} of a float32's 24 bits by default" if bits < 24 else ""
    return f"{n} x {kind} ({environment.get('platform')}){kept}"


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"


def checklist(analysis: Analysis) -> list[tuple[str, str]]:
    """What the reproducibility checklists of large conferences ask -> the answer of this study."""
    results, runs = analysis.results, analysis.runs
    manifest = results.manifest
    environment, wall = manifest.get("environment", {}), manifest.get("wall_s", {})
    varied = [n for n in parameters_of(runs) if runs[n].n_unique() > 1]
    own = [str(v) for n in ("task", "model", "problem") if n in runs.columns
           for v in runs[n].drop_nulls().unique() if ":" in str(v) or "." in str(v)]  # fmt: skip
    data = (
        f"the study's own code: {listed(own)}" if own else "bundled with scikit-learn, or made by "
        "nanlab; offline"
    )  # fmt: skip
    per_run = (
        f"{1000 * wall['runs'] / runs.height:.3g} ms of wall time a run (many at once), "
        f"{_time(wall['all'])} in all" if wall.get("runs") and wall.get("all") else "not recorded"
    )  # fmt: skip
    commit = manifest.get("git", {}).get("commit")
    changed = " with changes" if manifest.get("git", {}).get("dirty") else ""
    return [
        ("Are all settings told?",
         "Yes: grid.resolved.toml, and a column of runs.parquet for each that some run uses. "
         f"Varied: {listed(varied) or 'none'}."),
        ("How were they chosen?", "By the grid: each of its points was run, and none was tuned."),
        ("How many runs and seeds?",
         f"{count(runs.height, 'run')}, {count(results.seeds, 'seed')}, "
         f"{count(runs['group_id'].n_unique(), 'compiled program')}."),
        ("What do error bars show?", _bars(analysis)),
        ("How are data divided?",
         "They are not: losses are of training batches, and nothing is claimed about "
         "generalization."),
        ("Which data, under which terms?", f"{data[:1].upper()}{data[1:]}."),
        ("Which hardware?", f"{_device(environment)}." if environment else "Not recorded yet."),
        ("How much compute?", f"{per_run}. Earlier attempts, if any, are not counted."),
        ("Is it deterministic?",
         "To the byte on the same kind of CPU with the same versions; elsewhere by outcome and "
         "blame."),
        ("Is the code there?",
         (f"nanlab {environment.get('nanlab')}, commit {commit}{changed}; " if commit else "")
         + "REPRODUCE.md has the commands."),
    ]  # fmt: skip


def _bars(analysis: Analysis) -> str:
    return _statistics(analysis) or "There are none: no quantity here is an estimate."


def reproduce(analysis: Analysis) -> str:
    """REPRODUCE.md."""
    results = analysis.results
    manifest = results.manifest
    if not manifest:
        return (
            f"# How to make {results.study_id}\n\nThe study is not finished: "
            f"{results.missing:,} of {results.planned:,} runs are missing. The command that was "
            "started goes on from there when it is given again.\n"
        )
    environment = manifest["environment"]
    commit = manifest.get("git", {}).get("commit")
    checkout = [f"git checkout {commit}"] if commit else []
    dirty = manifest.get("git", {}).get("dirty")
    lines = [
        f"# How to make {results.study_id} again",
        "",
        "In a clone of nanlab's repository:",
        "",
        "```sh",
        *checkout,
        "python3 -m venv .venv",
        ".venv/bin/pip install -c constraints.txt -e '.[report]'",
        f".venv/bin/{manifest['command']}",
        "```",
        "",
        "The report is made from the tables, by this version of nanlab or a later one:",
        "",
        "```sh",
        f".venv/bin/python -m nanlab.report {_where(results.folder)}",
        "```",
        "",
        *(["The code had changes that are in no commit when this was run.", ""] if dirty else []),
        f"It took {_time(manifest['wall_s']['all'])} on {_device(environment)}. "
        "Where paths are missing from the command, the grid is in grid.resolved.toml.",
        "",
        *_made_with(manifest),
        "",
        f"A run: `python -m nanlab.replay {_where(results.folder)} RUN_ID`. The study ended "
        f"{manifest.get('finished', 'at an unknown time')}, with "
        f"{listed([f'{n:,} {o}' for o, n in manifest.get('outcomes', {}).items()])}.",
    ]
    return "\n".join(lines) + "\n"


def _made_with(manifest: Mapping[str, Any]) -> list[str]:
    rows: list[tuple[str, Any]] = []
    for name, value in manifest["environment"].items():
        # A person's own files have a hash each.
        each = value.items() if isinstance(value, dict) else [("", value)]
        rows += [(f"{name} of {file}" if file else name, told) for file, told in each]
    return [
        "| what | version |",
        "|---|---|",
        *(f"| {name} | {exact(value)} |" for name, value in rows if value != ""),
        "",
        "On the same kind of processor with these versions the tables come out the same to the "
        "byte; elsewhere outcomes and blames do, but for runs on the edge. SHA-256:",
        "",
        "| file | SHA-256 |",
        "|---|---|",
        *(f"| {name} | `{digest}` |" for name, digest in manifest.get("files", {}).items()),
    ]


def _where(folder: Any) -> str:
    """The folder without a path of this machine."""
    return folder.as_posix() if not folder.is_absolute() else f"results/{folder.name}"


def where(analysis: Analysis) -> str:
    """The results' folder as a command names it."""
    return _where(analysis.results.folder)
