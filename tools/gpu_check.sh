#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Prove and measure the CUDA operators on this machine: build, tests, sanitizers, benchmarks.
# Needs a GPU, nvcc, and a Python with torch, numpy, pytest and setuptools: PYTHON=... tools/gpu_check.sh [--dry-run] [STEP...]
# Results: benchmarks/<name of the GPU>/, check.json and check.md beside what tools/benchmark.py writes.
# TORCH_CUDA_ARCH_LIST chooses other targets than this GPU's own. Steps (all, unless some are named):
# build environment load tests memcheck racecheck synccheck benchmark-op benchmark-module
set -u
cd "$(dirname "$0")/.." || exit 1

dry=0
if [ "${1:-}" = --dry-run ]; then
    dry=1
    shift
fi
known=$(sed -n '7s/^# //p' tools/gpu_check.sh)
wanted=${*:-$known}
for title in $wanted; do
    case " $known " in
    *" $title "*) ;;
    *)
        sed -n '3,7s/^# //p' tools/gpu_check.sh >&2
        exit 2
        ;;
    esac
done

python=${PYTHON:-python3}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" CARAFE_NATIVE=1 CARAFE_CUDA=1

ask() { # one line about the GPU; nothing where there is none
    "$python" -c "import torch; p = torch.cuda.get_device_properties(0); print($1)" 2>/dev/null
}
name=$(ask 'p.name')
if [ -z "$name" ]; then
    echo 'gpu_check: torch sees no GPU here' >&2
    [ "$dry" = 1 ] || exit 1
    name='no GPU'
fi
: "${TORCH_CUDA_ARCH_LIST:=$(ask 'f"{p.major}.{p.minor}"')}"
if [ -n "$TORCH_CUDA_ARCH_LIST" ]; then export TORCH_CUDA_ARCH_LIST; else unset TORCH_CUDA_ARCH_LIST; fi
out="benchmarks/$(printf %s "$name" | tr -cs 'A-Za-z0-9.\n' '-')"
logs=$(mktemp -d) || exit 1
trap 'rm -rf "$logs"' EXIT
rows=()
failed=0

step() { # step NAME COMMAND...: run it, note how it went
    local title=$1 start=$SECONDS result=passed
    shift
    case " $wanted " in *" $title "*) ;; *) return ;; esac
    echo "== $title: $*"
    if [ "$dry" = 1 ]; then return; fi
    "$@" 2>&1 | tee "$logs/$title.log"
    if [ "${PIPESTATUS[0]}" != 0 ]; then
        result=failed
        failed=1
    fi
    note "$title" "$result" "$((SECONDS - start))" "$(grep -v '^\s*$' "$logs/$title.log" | tail -1)"
}

note() { # note NAME RESULT SECONDS LAST_LINE
    rows+=("$1" "$2" "$3" "$4")
}

step build "$python" setup.py build_ext --inplace
step environment "$python" -m carafe_plugin.env
# Where the library does not load the tests below would all be skipped, and pass.
step load "$python" -c 'from carafe_plugin.ops import _native as n; assert "cuda" in n.loaded, n.why_not("cuda")'
tests=(tests/ops/test_native.py tests/ops/test_registrations.py tests/ops/test_cuda.py)
step tests "$python" -m pytest "${tests[@]}" -k cuda -p no:cacheprovider
# Every family of kernels, small: the sanitizers slow them down a hundredfold.
small=(tests/ops/test_native.py -k 'cuda and (dtypes_and_layouts or nan_weight)' -p no:cacheprovider)
for tool in memcheck racecheck synccheck; do
    if [ "$dry" = 1 ] || ! [[ " $wanted " = *" $tool "* ]] || command -v compute-sanitizer >/dev/null; then
        step "$tool" compute-sanitizer --tool "$tool" --error-exitcode 9 "$python" -m pytest "${small[@]}"
    else
        note "$tool" 'not run' 0 'compute-sanitizer is not found'
    fi
done
for subject in op module; do
    step "benchmark-$subject" "$python" tools/benchmark.py "$subject" --device cuda --out "$out"
done
[ "$dry" = 1 ] && exit 0

mkdir -p "$out"
"$python" - "$out" "${rows[@]}" <<'PYTHON'
import json, pathlib, subprocess, sys, torch

out, *cells = sys.argv[1:]
steps = [dict(zip(('step', 'result', 'seconds', 'last_line'), cells[i : i + 4])) for i in range(0, len(cells), 4)]
git = subprocess.run(['git', 'rev-parse', '--short', 'HEAD'], capture_output=True, text=True)
facts = {
    'gpu': torch.cuda.get_device_name(0),
    'capability': '{}.{}'.format(*torch.cuda.get_device_capability(0)),
    'torch': torch.__version__,
    'CUDA of torch': torch.version.cuda,
    'commit': git.stdout.strip() or 'unknown',
}
folder = pathlib.Path(out)
kept = json.loads((folder / 'check.json').read_text()) if (folder / 'check.json').exists() else {}
if {**kept, 'steps': None} == {**facts, 'steps': None}:  # steps of an earlier run, not done again in this one
    steps = [s for s in kept['steps'] if s['step'] not in [new['step'] for new in steps]] + steps
(folder / 'check.json').write_text(json.dumps({**facts, 'steps': steps}, indent=1) + '\n')
lines = ['# tools/gpu_check.sh', '', *(f'- {key}: {value}' for key, value in facts.items()), '']
lines += ['| step | result | seconds | last line |', '|---|---|---|---|']
lines += ['| {step} | {result} | {seconds} | {last_line} |'.format(**s).replace('\n', ' ') for s in steps]
(folder / 'check.md').write_text('\n'.join(lines) + '\n')
print((folder / 'check.md').read_text())
PYTHON
exit "$failed"
