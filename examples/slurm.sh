#!/usr/bin/env bash
# grid.toml -> results on a Slurm cluster: an array job of workers, then a job that writes the tables.
#
#     bash examples/slurm.sh sweeps/quickstart.toml 8 --set exec.chunk_runs=64
#
# 8 is the number of workers; what follows goes to the sweep. Without it this grid has 2 chunks, and
# work for 2 workers.
#
# Give it on the login node, in this checkout's folder, which the compute nodes must see too. It may
# be given again: what is done is not done twice. RESOURCES are what each job asks for; for a GPU
# each, say RESOURCES="--gpus-per-task=1 --cpus-per-task=4 --mem=16G --time=02:00:00".
set -euo pipefail

grid=${1:?which grid? bash examples/slurm.sh sweeps/quickstart.toml 8 --set exec.chunk_runs=64}
workers=${2:-8}
python=${PYTHON:-.venv/bin/python}
results=results/$(basename "$grid" .toml)
read -ra resources <<<"${RESOURCES:---cpus-per-task=4 --mem=8G --time=02:00:00}"
sweep="$python -m nanlab.sweep $grid --set exec.engine='\"files\"'"
[ $# -le 2 ] || sweep+=$(printf ' %q' "${@:3}")

# 0: prepared, or finished already. 1: prepared earlier, and chunks are missing.
bash -c "$sweep" || [ $? -eq 1 ]

array=$(sbatch --parsable "${resources[@]}" --requeue --array="0-$((workers - 1))" \
  --wrap "$python -m nanlab.worker $results --shard \$SLURM_ARRAY_TASK_ID/$workers")
# On a node like theirs: it asks the witnesses. afterany: crashed chunks are rows too.
sbatch "${resources[@]}" --dependency="afterany:$array" --wrap "$sweep"
