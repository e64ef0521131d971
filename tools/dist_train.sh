#!/usr/bin/env bash
# Several processes on one node, or on several: dist_train.sh CONFIG PROCESSES [ARGUMENTS]
# With GPUs one process a GPU (nccl), without them gloo. NNODES, NODE_RANK,
# MASTER_ADDR and PORT as in OpenMMLab's scripts. MAX_RESTARTS=3 starts all of them
# again, up to three times, when one dies; they go on from the newest checkpoint.
set -euo pipefail

if [ $# -lt 2 ]; then
    echo "usage: $0 CONFIG PROCESSES [ARGUMENTS of train.py]" >&2
    exit 2
fi

# A restart resumes what this start has written, not what an older one left there.
KD_PLUGINS_STARTED="$(date +%s)" exec "${PYTHON:-python}" -m torch.distributed.run \
    --nnodes="${NNODES:-1}" \
    --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" \
    --master_port="${PORT:-29500}" \
    --nproc_per_node="$2" \
    --max_restarts="${MAX_RESTARTS:-0}" \
    "$(dirname "$0")/train.py" "$1" --launcher pytorch "${@:3}"
