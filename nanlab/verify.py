"""results/X -> does it reproduce?  `python -m nanlab.verify results/X` runs it again and says.

On the processor and versions that made the study every number must come out to the bit; elsewhere,
and on a GPU, outcomes and blames must agree in a stated share of the runs, of several studies in
all together.

Exit status: 0 it reproduces, 2 there is no such study or it cannot be run here, 3 it does not
reproduce, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from nanlab.cli.interrupt import STOPPED
from nanlab.grid import Grid, GridError, load_grid
from nanlab.plan.plan import Plan, plan_subset

if TYPE_CHECKING:
    import polars as pl

    from nanlab.results.compare import RunComparison

DONE, WRONG, DIFFERS = 0, 2, 3
BITS_DEPEND_ON = (
    "jax", "jaxlib", "flax", "optax", "numpy", "system", "processor", "platform", "device_kind",
    "threads", "block", "block_bytes", "x64", "flushes_subnormals", "product_bits", "xla_flags",
    "own_code_sha256",
)  # fmt: skip
"""What must be the same for a run's bits to be: entries of a manifest's environment."""
SHOWN = 5
"""How many differing runs are told."""
TOLD = ("outcome", "fault_step", "nan_step", "final_loss", "origin_mechanism", "culprit_mechanism")
"""What is told of them."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Run studies again, whole or a sample of each, and say what reproduces."""

    results: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """the studies' folders, for example results/quickstart"""
    sample: int | None = None
    """run about so many of a study's runs again, out of as few groups as hold them"""
    agree: float = 0.95
    """elsewhere than on the processor and versions of the study: the share of runs whose outcome
    must be the same"""
    agree_blames: float = 0.5
    """the same of the failing runs' origins and culprits. Which product of a diverging run
    overflows first hangs on rounding: between two generations of one maker's processors 66 %
    were measured to agree, and 99.9 % of the outcomes"""


@dataclass(frozen=True, kw_only=True)
class Tally:
    """Of the runs whose bits are not claimed: how many agree, in what."""

    runs: int = 0
    same_outcome: int = 0
    failed: int = 0
    same_blame: int = 0

    def plus(self, other: Tally) -> Tally:
        """Both together."""
        return Tally(
            runs=self.runs + other.runs,
            same_outcome=self.same_outcome + other.same_outcome,
            failed=self.failed + other.failed,
            same_blame=self.same_blame + other.same_blame,
        )


class VerifyError(Exception):
    """A study cannot be verified; the message is a sentence for a person."""


def main(argv: list[str] | None = None) -> int:
    """Run the command; the exit status."""
    arguments = tyro.cli(Arguments, prog="python -m nanlab.verify", args=argv)
    worst, judged = DONE, Tally()
    if arguments.sample is not None and arguments.sample < 1:
        print(f"--sample {arguments.sample}: must be 1 or more", file=sys.stderr)
        return WRONG
    for flag, share in (("agree", arguments.agree), ("agree-blames", arguments.agree_blames)):
        if not 0.0 <= share <= 1.0:
            print(f"--{flag} {share:g}: must be a share, from 0 to 1", file=sys.stderr)
            return WRONG
    try:
        for folder in arguments.results:
            status, tally = _verify(folder, arguments)
            worst, judged = max(worst, status), judged.plus(tally)
        if judged.runs:
            holds = _tell_shares(judged, arguments)
            worst = worst if holds else DIFFERS
    except (VerifyError, GridError) as error:
        print(error, file=sys.stderr)
        return WRONG
    except KeyboardInterrupt:
        print("\nstopped; what was told stands", file=sys.stderr)
        return STOPPED
    return worst


def _verify(folder: Path, arguments: Arguments) -> tuple[int, Tally]:
    """The status of one study, and what is left to be judged with the other studies."""
    grid, manifest = _study_of(folder)
    if untrue := _untrue(folder, manifest):
        print("\n".join(f"{folder}: {sentence}" for sentence in untrue))
        return DIFFERS, Tally()
    import polars as pl

    from nanlab.plan.rounds import finished_plan

    before = pl.read_parquet(folder / "runs.parquet")
    plan = finished_plan(grid, before)
    absent = set(before.get_column("run_id").to_list()) ^ set(plan.run_ids.tolist())
    if absent:
        raise VerifyError(
            f"{folder}: {len(absent):,} runs are in its table or in its grid alone; it was written "
            "by a version of nanlab that lists runs otherwise"
        )
    chosen = plan if arguments.sample is None else _sample(plan, before, arguments.sample)
    now, environment = _run_again(grid, chosen)
    asked = before.filter(pl.col("run_id").is_in(chosen.run_ids.tolist()))
    from nanlab.results.compare import compare_runs

    found = compare_runs(asked, now, on=["run_id"])
    # Manifests without it are of studies that had a thread for each of their devices.
    made = {"threads": manifest["environment"].get("devices"), **manifest["environment"]}
    elsewhere = [
        f"{k} {made.get(k)} -> {environment.get(k)}"
        for k in BITS_DEPEND_ON
        if made.get(k) != environment.get(k)
    ]
    print(f"{folder}: {chosen.run_ids.size:,} of {len(plan):,} runs run again")
    tally = _tell(found)
    if elsewhere or environment["platform"] != "cpu":
        # A GPU adds in whatever order its threads come, and chooses its kernels by their speed.
        platform = environment["platform"]
        why = ", ".join(elsewhere) or f"on a {platform}, whose numbers to the bit are not claimed"
        print(
            f"  made elsewhere: {why}"
            if elsewhere
            else f"  made {why}: judged by outcome and blame"
        )
        _tell_runs(found.differing("outcome"))
        return DONE, tally
    different = found.differing("outcome", "numbers", "blame")
    _tell_runs(different)
    print("  it does NOT reproduce" if different.height else "  it reproduces")
    return (DIFFERS if different.height else DONE), Tally()


def _study_of(folder: Path) -> tuple[Grid, dict[str, Any]]:
    import json

    if not (folder / "manifest.json").is_file():
        raise VerifyError(f"{folder} holds no finished study: there is no manifest.json in it")
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    # The witnesses speak of blames, which are compared without them.
    return load_grid(folder / "grid.resolved.toml", sets=["exec.witnesses=0"]), manifest


def _untrue(folder: Path, manifest: dict[str, Any]) -> list[str]:
    """What of a study's files is not as its manifest says."""
    from nanlab.results.provenance import file_hash

    told: list[str] = []
    for name, was in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            told.append(f"{name} is not there; the manifest tells of it")
        elif file_hash(path) != was:
            told.append(f"{name} was changed after the study: its hash is not the manifest's")
    return told


def _sample(plan: Plan, runs: pl.DataFrame, many: int) -> Plan:
    """About `many` runs: of groups drawn by lot, half of them failing ones where there are some.

    The lot is the study's: the same runs each time.
    """
    import numpy as np

    rng = np.random.Generator(np.random.PCG64(int(str(plan.run_ids[0]), 16)))
    failed = runs.select("run_id", "fault_step").drop_nulls().get_column("run_id").to_list()
    fails = plan.is_among(failed)
    groups = [plan.groups[i] for i in rng.permutation(len(plan.groups))]
    taken: list[int] = []
    for group in groups:
        left = many - len(taken)
        if left <= 0:
            break
        bad, good = group.runs[fails[group.runs]], group.runs[~fails[group.runs]]
        n_bad = min(len(bad), max(-(-left // 2), left - len(good)))
        taken += rng.permutation(bad)[:n_bad].tolist()
        taken += rng.permutation(good)[: left - n_bad].tolist()
    return plan_subset(plan, np.sort(np.array(taken, np.int64)))


def _run_again(grid: Grid, plan: Plan) -> tuple[pl.DataFrame, dict[str, Any]]:
    from nanlab.backend.config import configure_lab

    # JAX starts once, and studies may ask for other numbers of devices: any gives the same bits.
    configure_lab()
    import jax
    import polars as pl

    from nanlab.cli.interrupt import run_interruptibly
    from nanlab.cli.progress import ProgressBar
    from nanlab.study.study import Study

    with tempfile.TemporaryDirectory(prefix="nanlab-verify-") as scratch, ProgressBar() as watcher:
        devices = list(jax.devices()[: grid.exec.devices])
        study = Study(
            # The plan is what is run, with all the rounds that there were.
            grid=grid.without_rounds(),
            plan=plan,
            folder=Path(scratch) / "study",
            devices=devices,
            listener=watcher,
            engine="local",
        )
        result = run_interruptibly(study, watcher, force=False)
        return pl.read_parquet(study.folder / "runs.parquet"), result.manifest["environment"]


def _tell(found: RunComparison) -> Tally:
    """Say what reproduced."""
    from nanlab.results.compare import failing

    many, failed = found.pairs.height, failing(found.pairs)
    same_blames = int(failed.get_column("same_blame").sum())
    print(f"  {found.same('outcome'):,} of {many:,} runs have the same outcome")
    print(f"  {found.same('numbers'):,} of {many:,} the same numbers, to the bit")
    print(
        f"  {same_blames:,} of {failed.height:,} that fail the same origin and culprit (primitive, "
        "phase, module, mechanism, function)"
    )
    if moved := many - found.same("lines"):
        print(f"  {moved:,} name another line or file, which does not count")
    return Tally(
        runs=many, same_outcome=found.same("outcome"), failed=failed.height, same_blame=same_blames
    )


def _tell_shares(tally: Tally, arguments: Arguments) -> bool:
    """Say whether enough reproduced of what is not asked for its bits."""
    print(
        f"judged by outcome and blame: {tally.same_outcome:,} of {tally.runs:,} outcomes and "
        f"{tally.same_blame:,} of {tally.failed:,} blames agree; {arguments.agree:.0%} and "
        f"{arguments.agree_blames:.0%} must, and no bits"
    )
    holds = (
        tally.same_outcome >= arguments.agree * tally.runs
        and tally.same_blame >= arguments.agree_blames * tally.failed
    )
    print("it reproduces" if holds else "it does NOT reproduce")
    return holds


def _tell_runs(different: pl.DataFrame) -> None:
    for row in different.head(SHOWN).iter_rows(named=True):
        changes = [
            f"{name} {row[name]} -> {row[f'{name}_now']}"
            for name in TOLD
            if row[name] != row[f"{name}_now"]
        ]
        print(f"  {row['run_id']}: {', '.join(changes)}")
    if different.height > SHOWN:
        print(f"  and {different.height - SHOWN:,} more")


if __name__ == "__main__":
    sys.exit(main())
