"""Run a study again and check that it reproduces: `python -m nanlab.verify results/X`.

On the processor and versions of the study all numbers must be equal to the bit. Elsewhere, and on
a GPU, outcomes and blames must agree in a given share of the runs of all studies together.

Exit status: 0 it reproduces, 2 there is no such study or it cannot be run here, 3 it does not
reproduce, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import sys
import tempfile
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import polars as pl
import tyro

from nanlab.cli.exit_status import DIFFERS, DONE, STOPPED, WRONG
from nanlab.cli.streams import allow_closed_output
from nanlab.grid import Grid, GridError
from nanlab.plan.plan import Plan, plan_subset
from nanlab.results.compare import RunComparison, compare_runs, failing
from nanlab.results.errors import ReportError
from nanlab.results.read import finished_study
from nanlab.results.snapshot import changed_files
from nanlab.study.trust import check_is_ours, is_allowed

BITS_DEPEND_ON = (
    "jax", "jaxlib", "flax", "optax", "numpy", "system", "processor", "platform", "device_kind",
    "threads", "block", "block_bytes", "x64", "flushes_subnormals", "product_bits", "xla_flags",
    "own_code_sha256",
)  # fmt: skip
"""Entries of the environment that a run's bits depend on."""
SHOWN = 5
"""Maximum number of differing runs to print."""
COMPARED = (
    "outcome",
    "fault_step",
    "nan_step",
    "final_loss",
    "origin_mechanism",
    "culprit_mechanism",
)
"""The columns to print of them."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Run studies again, complete or a sample, and report what reproduces."""

    results: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """folders of the studies, for example results/quickstart"""
    sample: int | None = None
    """approximate number of runs of each study to repeat, from as few groups as possible"""
    trust: bool = False
    """run code that a folder names, even if no grid of this project names it"""
    agree: float = 0.95
    """share of runs whose outcome must be the same, on another processor or other versions"""
    agree_blames: float = 0.5
    """the same for the origins and culprits of failing runs. Which product of a diverging run
    overflows first depends on rounding: between two generations of one vendor's processors, 66 %
    of the blames and 99.9 % of the outcomes agreed"""


@dataclass(frozen=True, kw_only=True)
class Tally:
    """Number of runs that agree, of those that need not agree to the bit."""

    runs: int = 0
    same_outcome: int = 0
    failed: int = 0
    same_blame: int = 0

    def plus(self, other: Tally) -> Tally:
        """Return the sum of both."""
        return Tally(
            runs=self.runs + other.runs,
            same_outcome=self.same_outcome + other.same_outcome,
            failed=self.failed + other.failed,
            same_blame=self.same_blame + other.same_blame,
        )


class VerifyError(Exception):
    """A study cannot be verified; the message is a sentence for the user."""


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    arguments = tyro.cli(
        Arguments, prog="python -m nanlab.verify", args=argv, config=(tyro.conf.FlagCreatePairsOff,)
    )
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
            holds = _judge(judged, arguments)
            worst = worst if holds else DIFFERS
    except (VerifyError, ReportError, GridError) as error:
        print(error, file=sys.stderr)
        return WRONG
    except KeyboardInterrupt:
        print("\nstopped; the results printed so far are valid", file=sys.stderr)
        return STOPPED
    return worst


def _verify(folder: Path, arguments: Arguments) -> tuple[int, Tally]:
    """Verify one study; return its status, and what is left to judge with the other studies."""
    if changes := changed_files(folder):
        print("\n".join(f"{folder}: {sentence}" for sentence in changes))
        return DIFFERS, Tally()
    study = finished_study(folder, sets=["exec.witnesses=0"])  # their answers are not compared
    if not (arguments.trust or is_allowed(lambda: check_is_ours(study, folder))):
        return WRONG, Tally()
    grid, plan, before = study.grid, study.plan, study.runs
    absent = set(before.get_column("run_id").to_list()) ^ set(plan.run_ids.tolist())
    if absent:
        raise VerifyError(
            f"{folder}: runs.parquet and the grid disagree on {len(absent):,} runs: this study was "
            "written by an incompatible version of nanlab"
        )
    chosen = plan if arguments.sample is None else _sample(plan, before, arguments.sample)
    now, environment = _run_again(grid, chosen)
    repeated = before.filter(pl.col("run_id").is_in(chosen.run_ids.tolist()))
    found = compare_runs(repeated, now, on=["run_id"])
    # Studies whose manifests lack it had a thread for each device.
    original = {
        "threads": study.manifest["environment"].get("devices"),
        **study.manifest["environment"],
    }
    differences = [
        f"{k} {original.get(k)} -> {environment.get(k)}"
        for k in BITS_DEPEND_ON
        if original.get(k) != environment.get(k)
    ]
    print(f"{folder}: {chosen.run_ids.size:,} of {len(plan):,} runs run again")
    tally = _tally(found)
    if differences or environment["platform"] != "cpu":
        # A GPU sums in the order its threads finish, and selects its kernels by timing them.
        unclaimed = (
            f"  made on a {environment['platform']}, whose numbers to the bit are not claimed"
        )
        print(
            f"  made elsewhere: {', '.join(differences)}"
            if differences
            else f"{unclaimed}: judged by outcome and blame"
        )
        _print_runs(found.differing("outcome"))
        return DONE, tally
    different = found.differing("outcome", "numbers", "blame")
    _print_runs(different)
    print("  it does NOT reproduce" if different.height else "  it reproduces")
    return (DIFFERS if different.height else DONE), Tally()


def _sample(plan: Plan, runs: pl.DataFrame, n_runs: int) -> Plan:
    """Draw about `n_runs` runs from random groups, half of them failing ones if there are enough.

    Args:
        plan: the plan of the study; its first run id is the seed, so the sample is reproducible.
        runs: the table of runs.
        n_runs: approximate number of runs.

    Returns:
        The plan of the sample.
    """
    import numpy as np

    rng = np.random.Generator(np.random.PCG64(int(str(plan.run_ids[0]), 16)))
    failed = runs.select("run_id", "fault_step").drop_nulls().get_column("run_id").to_list()
    fails = plan.is_among(failed)
    groups = [plan.groups[i] for i in rng.permutation(len(plan.groups))]
    taken: list[int] = []
    for group in groups:
        left = n_runs - len(taken)
        if left <= 0:
            break
        bad, good = group.runs[fails[group.runs]], group.runs[~fails[group.runs]]
        n_bad = min(len(bad), max(-(-left // 2), left - len(good)))
        taken += rng.permutation(bad)[:n_bad].tolist()
        taken += rng.permutation(good)[: left - n_bad].tolist()
    return plan_subset(plan, np.sort(np.array(taken, np.int64)))


def _run_again(grid: Grid, plan: Plan) -> tuple[pl.DataFrame, dict[str, Any]]:
    from nanlab.backend.config import configure_lab

    # JAX starts once, although studies may request different numbers of devices: the bits do not
    # depend on it.
    configure_lab()
    import jax

    from nanlab.cli.interrupt import run_interruptibly
    from nanlab.cli.progress import ProgressBar
    from nanlab.problems.user_code import UserCodeError
    from nanlab.results.errors import StoreError
    from nanlab.study.chunk_runner import NotRepeatableError
    from nanlab.study.study import Study

    with _scratch() as scratch, ProgressBar() as progress:
        devices = list(jax.devices()[: grid.exec.devices])
        try:
            study = Study(
                # The plan already has the runs of all rounds.
                grid=grid.without_rounds(), plan=plan, folder=Path(scratch) / "study",
                devices=devices, listener=progress, engine="local",
            )  # fmt: skip
            with closing(study):
                result = run_interruptibly(study, progress, force=False)
        except (MemoryError, NotRepeatableError, StoreError, UserCodeError) as error:
            raise VerifyError(f"{grid.path}: {error}") from error
        return pl.read_parquet(study.folder / "runs.parquet"), result.manifest["environment"]


def _scratch() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="nanlab-verify-", ignore_cleanup_errors=True)


def _tally(found: RunComparison) -> Tally:
    """Print and return how many runs agree."""
    n_runs, failed = found.pairs.height, failing(found.pairs)
    same_blames = int(failed.get_column("same_blame").sum())
    print(f"  {found.same('outcome'):,} of {n_runs:,} runs have the same outcome")
    print(f"  {found.same('numbers'):,} of {n_runs:,} the same numbers, to the bit")
    print(
        f"  {same_blames:,} of {failed.height:,} that fail the same origin and culprit (primitive, "
        "phase, module, mechanism, function)"
    )
    if moved := n_runs - found.same("lines"):
        print(f"  {moved:,} name another line or file, which does not count")
    return Tally(
        runs=n_runs,
        same_outcome=found.same("outcome"),
        failed=failed.height,
        same_blame=same_blames,
    )


def _judge(tally: Tally, arguments: Arguments) -> bool:
    """Print and return whether enough outcomes and blames agree."""
    print(
        f"judged by outcome and blame: {tally.same_outcome:,} of {tally.runs:,} outcomes and "
        f"{tally.same_blame:,} of {tally.failed:,} blames agree; {arguments.agree:.0%} and "
        f"{arguments.agree_blames:.0%} are required, and no bits"
    )
    holds = (
        tally.same_outcome >= arguments.agree * tally.runs
        and tally.same_blame >= arguments.agree_blames * tally.failed
    )
    print("it reproduces" if holds else "it does NOT reproduce")
    return holds


def _print_runs(different: pl.DataFrame) -> None:
    for row in different.head(SHOWN).iter_rows(named=True):
        changes = [
            f"{name} {row[name]} -> {row[f'{name}_now']}"
            for name in COMPARED
            if row[name] != row[f"{name}_now"]
        ]
        print(f"  {row['run_id']}: {', '.join(changes)}")
    if different.height > SHOWN:
        print(f"  and {different.height - SHOWN:,} more")


if __name__ == "__main__":
    allow_closed_output()
    sys.exit(main())
