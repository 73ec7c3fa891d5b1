#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Test on several GPUs, or in several CPU processes where there is no GPU, of one or more machines.
# Usage: dist_test.sh CONFIG CHECKPOINT PROCESSES_PER_MACHINE [options of test.py]
# Environment: NNODES (1), NODE_RANK (0), MASTER_ADDR (127.0.0.1), PORT (29500), PYTHON (python)
set -euo pipefail

if [ $# -lt 3 ]; then
    sed -n '3,5s/^# //p' "$0" >&2
    exit 2
fi
config=$1
checkpoint=$2
processes=$3
tools=$(cd "$(dirname "$0")" && pwd)

exec "${PYTHON:-python}" -m torch.distributed.run \
    --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${PORT:-29500}" \
    --nproc_per_node="$processes" \
    "$tools/test.py" "$config" "$checkpoint" --launcher pytorch "${@:4}"
