#!/usr/bin/env bash
# On a Slurm cluster: slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [ARGUMENTS of train.py]
# GPUS (in all), GPUS_PER_NODE, CPUS_PER_TASK and SRUN_ARGS as in OpenMMLab's scripts;
# GPUS_PER_NODE=0 asks for no GPUs and runs GPUS processes on gloo. A job that Slurm
# requeues goes on from its newest checkpoint.
set -euo pipefail

if [ $# -lt 4 ]; then
    echo "usage: $0 PARTITION JOB_NAME CONFIG WORK_DIR [ARGUMENTS of train.py]" >&2
    exit 2
fi

exec "$(dirname "$0")/slurm_run.sh" "$1" "$2" \
    "$(dirname "$0")/train.py" "$3" --work-dir "$4" --launcher slurm "${@:5}"
