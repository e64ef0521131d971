#!/usr/bin/env bash
# Several processes on one node, or on several: dist_test.sh CONFIG CHECKPOINT PROCESSES [ARGUMENTS]
# With GPUs one process a GPU (nccl), without them gloo. NNODES, NODE_RANK,
# MASTER_ADDR and PORT as in OpenMMLab's scripts.
set -euo pipefail

if [ $# -lt 3 ]; then
    echo "usage: $0 CONFIG CHECKPOINT|--teacher PROCESSES [ARGUMENTS of test.py]" >&2
    exit 2
fi

"${PYTHON:-python}" -m torch.distributed.run \
    --nnodes="${NNODES:-1}" \
    --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" \
    --master_port="${PORT:-29500}" \
    --nproc_per_node="$3" \
    "$(dirname "$0")/test.py" "$1" "$2" --launcher pytorch "${@:4}"
