#!/usr/bin/env bash
# What slurm_train.sh and slurm_test.sh share: slurm_run.sh PARTITION JOB_NAME COMMAND...
set -euo pipefail

GPUS=${GPUS:-8}
GPUS_PER_NODE=${GPUS_PER_NODE:-8}
# A node cannot run more tasks than there are, and a CPU job has all on one.
TASKS_PER_NODE=$((GPUS_PER_NODE == 0 || GPUS_PER_NODE > GPUS ? GPUS : GPUS_PER_NODE))
# The same for all processes of this job, and another one for another job.
export MASTER_PORT="${MASTER_PORT:-$((20000 + (${SLURM_JOB_ID:-$RANDOM} % 10000)))}"

gres=()
if [ "$GPUS_PER_NODE" -gt 0 ]; then
    gres=("--gres=gpu:$TASKS_PER_NODE")
fi

# Split at its spaces, as in OpenMMLab's scripts.
# shellcheck disable=SC2086
exec srun -p "$1" \
    --job-name="$2" \
    ${gres[@]+"${gres[@]}"} \
    --ntasks="$GPUS" \
    --ntasks-per-node="$TASKS_PER_NODE" \
    --cpus-per-task="${CPUS_PER_TASK:-5}" \
    --kill-on-bad-exit=1 \
    ${SRUN_ARGS:-} \
    "${PYTHON:-python}" -u "${@:3}"
