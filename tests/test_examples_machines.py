"""The examples for Slurm and Kubernetes: their commands are parsed, and Slurm's are run."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pages
import polars as pl
import pytest
import tyro
import yaml

from nanlab import sweep, worker
from nanlab.grid import load_grid, split_arguments
from nanlab.plan.plan import make_plan
from nanlab.study.shared_folder import pieces_of

ROOT = Path(__file__).resolve().parents[1]
GRID = """\
[run]
problem = "quadratic"
steps = 150

[axes]
lr = { logspace = [0.1, 1e38], num = 40 }

[exec]
chunk_runs = 10
witnesses = 1
"""

# Arguments that a shell would split or expand.
SETS = ["--set", "exec.chunk_runs=8", "--set", 'title="a $b; c"']

# A stand-in for Slurm's sbatch: it runs each array task at once and logs the output.
SBATCH = """\
#!/usr/bin/env bash
echo "$@" >> sbatch.log
for last; do :; done
for flag; do
  case $flag in
    --array=0-*) for task in $(seq 0 "${flag#--array=0-}"); do
      SLURM_ARRAY_TASK_ID=$task sh -c "$last" >> jobs.log 2>&1 || exit 1; done; echo 42; exit;;
  esac
done
sh -c "$last" >> jobs.log 2>&1
"""


def test_slurms_script_is_one_that_bash_understands():
    subprocess.run(["bash", "-n", ROOT / "examples/slurm.sh"], check=True)


@pytest.mark.slow
def test_slurms_script_prepares_runs_and_writes_a_study(own_folder):
    (own_folder / "bin").mkdir()
    (own_folder / "bin/sbatch").write_text(SBATCH)
    (own_folder / "bin/sbatch").chmod(0o755)
    (own_folder / "many.toml").write_text(GRID)
    path = f"{own_folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", ROOT / "examples/slurm.sh", "many.toml", "3", *SETS], timeout=300,
        capture_output=True, text=True, env=os.environ | {"PATH": path, "PYTHON": sys.executable},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "results/many is prepared: 40 runs in 5 chunks" in done.stdout
    submitted = Path("sbatch.log").read_text().splitlines()
    assert "--array=0-2" in submitted[0] and "--cpus-per-task=4" in submitted[0]
    assert "--dependency=afterany:42" in submitted[1]
    log = Path("jobs.log").read_text()
    assert [f"shard {n}/3 of results/many" in log for n in range(3)] == [True] * 3
    assert pl.read_parquet("results/many/runs.parquet").height == 40
    assert load_grid("results/many/grid.resolved.toml").title == "a $b; c"


@pytest.fixture(scope="module")
def jobs():
    text = (ROOT / "examples/kubernetes.yaml").read_text()
    return {job["metadata"]["labels"]["step"]: job for job in yaml.safe_load_all(text)}


def command_of(job):
    """Return the module and the arguments that a Job's container runs, for one index."""
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["command"] == ["sh", "-c"]
    (line,) = container["args"]
    command = ["sh", "-c", f"printf '%s\\n' {line}"]
    environment = {"JOB_COMPLETION_INDEX": "3", "PATH": os.environ["PATH"]}
    words = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    python, flag, module, *arguments = words.stdout.splitlines()
    assert (python, flag) == ("python", "-m")
    return module, arguments


def test_the_jobs_of_kubernetes_are_those_that_its_first_lines_name(jobs):
    assert list(jobs) == ["prepare", "workers", "tables"]
    for step, job in jobs.items():
        assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
        assert job["metadata"]["name"] == f"nanlab-{step}"
        pod = job["spec"]["template"]["spec"]
        assert pod["restartPolicy"] == "Never"
        (container,) = pod["containers"]
        mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert mounted == {pod["volumes"][0]["name"]: container["workingDir"]}


def test_the_workers_of_kubernetes_have_a_shard_each(jobs):
    spec = jobs["workers"]["spec"]
    assert spec["completionMode"] == "Indexed"
    module, arguments = command_of(jobs["workers"])
    assert module == "nanlab.worker"
    parsed = tyro.cli(worker.Arguments, args=arguments)
    assert worker._shard(parsed.shard) == (3, spec["completions"])


@pytest.mark.parametrize("step", ["prepare", "tables"])
def test_both_sweeps_of_kubernetes_ask_the_same_of_a_grid_that_is_there(step, jobs):
    assert command_of(jobs[step]) == command_of(jobs["prepare"])
    module, arguments = command_of(jobs[step])
    assert module == "nanlab.sweep"
    rest, overrides = split_arguments(arguments)
    parsed = tyro.cli(sweep.Arguments, args=rest, config=(tyro.conf.FlagCreatePairsOff,))
    assert (parsed.set, overrides) == (['exec.engine="files"', "exec.chunk_runs=64"], [])
    assert (ROOT / parsed.grid).is_file()
    _, arguments = command_of(jobs["workers"])
    assert tyro.cli(worker.Arguments, args=arguments).results == Path("results") / parsed.grid.stem
    assert n_chunks(parsed) >= jobs["workers"]["spec"]["completions"]


def n_chunks(parsed):
    """Return the number of chunks that a sweep has for its workers."""
    grid = load_grid(ROOT / parsed.grid, sets=parsed.set)
    return len(pieces_of(make_plan(grid), grid.exec.chunk_runs))


def words_of_slurm():
    lines = (ROOT / "examples/slurm.sh").read_text().splitlines()
    return next(line for line in lines if line.startswith("#     bash ")).removeprefix("#").strip()


def test_the_first_lines_of_slurms_script_run_it_as_it_wants_to_be_run():
    bash, script, grid, n_workers, *rest = shlex.split(words_of_slurm())
    assert (bash, script, int(n_workers)) == ("bash", "examples/slurm.sh", 8)
    assert (ROOT / script).is_file() and (ROOT / grid).is_file()
    flags = (tyro.conf.FlagCreatePairsOff,)
    assert n_chunks(tyro.cli(sweep.Arguments, args=[grid, *rest], config=flags)) >= int(n_workers)


def test_pages_show_the_commands_that_the_examples_first_lines_do():
    blocks = pages.blocks_of(ROOT / "docs/how-to/many-machines.md")
    shown = [block.text.rstrip("\n") for block in blocks if "examples/" in block.text]
    lines = (ROOT / "examples/kubernetes.yaml").read_text().splitlines()
    top = [line.removeprefix("#     ") for line in lines if line.startswith("#     ")]
    assert shown == [words_of_slurm(), "\n".join(top)]
