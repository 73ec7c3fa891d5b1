#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# tools/gpu_check.py under the interpreter that PYTHON names: bash tools/gpu_check.sh --help
exec "${PYTHON:-python3}" "$(dirname "$0")/gpu_check.py" "$@"
