#!/usr/bin/env bash
# On a Slurm cluster: slurm_test.sh PARTITION JOB_NAME CONFIG CHECKPOINT|--teacher [ARGUMENTS of test.py]
# GPUS (in all), GPUS_PER_NODE, CPUS_PER_TASK and SRUN_ARGS as in OpenMMLab's scripts.
set -euo pipefail

if [ $# -lt 4 ]; then
    echo "usage: $0 PARTITION JOB_NAME CONFIG CHECKPOINT|--teacher [ARGUMENTS of test.py]" >&2
    exit 2
fi

exec "$(dirname "$0")/slurm_run.sh" "$1" "$2" \
    "$(dirname "$0")/test.py" "$3" "$4" --launcher slurm "${@:5}"
