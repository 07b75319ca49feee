#!/usr/bin/env bash
# Run a sweep on a Slurm cluster: an array job of workers, then a job that writes the tables.
#
#     bash examples/slurm.sh sweeps/quickstart.toml 8 --set exec.chunk_runs=64
#
# 8 is the number of workers; the arguments after it go to the sweep. Without them this grid has 2
# chunks, which is work for 2 workers.
#
# Run it on the login node, in a checkout that the compute nodes see too. Run again, it resumes:
# finished chunks are not recomputed. RESOURCES holds the sbatch options of each job, for example
# RESOURCES="--gpus-per-task=1 --cpus-per-task=4 --mem=16G --time=02:00:00" for a GPU each.
set -euo pipefail

grid=${1:?usage: bash examples/slurm.sh sweeps/quickstart.toml 8 --set exec.chunk_runs=64}
workers=${2:-8}
python=${PYTHON:-.venv/bin/python}
results=results/$(basename "$grid" .toml)
read -ra resources <<<"${RESOURCES:---cpus-per-task=4 --mem=8G --time=02:00:00}"
sweep="$python -m nanlab.sweep $grid --set exec.engine='\"files\"'"
[ $# -le 2 ] || sweep+=$(printf ' %q' "${@:3}")

# Exit status 0: prepared, or already finished. 1: prepared earlier, and chunks are missing.
bash -c "$sweep" || [ $? -eq 1 ]

array=$(sbatch --parsable "${resources[@]}" --requeue --array="0-$((workers - 1))" \
  --wrap "$python -m nanlab.worker $results --shard \$SLURM_ARRAY_TASK_ID/$workers")
# The same resources, because the witnesses run here. afterany: a crashed chunk is a result too.
sbatch "${resources[@]}" --dependency="afterany:$array" --wrap "$sweep"
