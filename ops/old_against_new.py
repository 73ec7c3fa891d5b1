# SPDX-License-Identifier: Apache-2.0
"""``python ops/old_against_new.py REVISION``: the CPU library of this tree beside that of another revision.

Both are loaded into one process, the other one under another name, and called in turn, so that what else the
machine does meets both alike. Prints the ratio of their times for the operator cases of docs/benchmark.md.
"""

import argparse
import io
import os
import random
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from statistics import median

import torch

ROOT = Path(__file__).resolve().parent.parent
CALL = (5, 1, 2)  # kernel_size, group_size, scale_factor
SIZES = dict(p5=(1, 256, 25, 42), p4=(1, 256, 50, 84), p3=(1, 256, 100, 168), roi2=(2, 256, 14, 14))
BUILD = """
import sys
from setuptools import setup
sys.path.insert(0, 'ops')
from build_native import native_build
setup(name='old', packages=[], script_args=['-q', 'build_ext', '--build-lib', 'built'], **native_build())
"""


def build(revision: str, folder: Path) -> Path:
    """The CPU library of a revision, its operators in the namespace ``carafe_old``."""
    archive = subprocess.run(
        ['git', 'archive', revision, 'ops'], cwd=ROOT, check=True, capture_output=True
    ).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        opened.extractall(folder, filter='data')
    binding = folder / 'ops' / 'binding.h'
    binding.write_text(binding.read_text().replace('(carafe_plugin', '(carafe_old'))
    switches = dict(CARAFE_NATIVE='1', CARAFE_CUDA='0', CARAFE_OPENVINO='0')
    subprocess.run([sys.executable, '-c', BUILD], cwd=folder, check=True, env=os.environ | switches)
    return next((folder / 'built').rglob('_C_cpu*.so'))


def make_calls(shape: tuple, dtype: torch.dtype, layout: torch.memory_format) -> dict:
    """Each operator as a function of its namespace."""
    n, c, h, w = shape
    generator = torch.Generator().manual_seed(0)
    k, _, s = CALL
    shapes = (shape, (n, k * k, s * h, s * w), (n, k * k * s * s, h, w), (n, c, s * h, s * w))
    x, masks, logits, output = (
        torch.randn(size, generator=generator).to(dtype).contiguous(memory_format=layout) for size in shapes
    )
    return {
        'reassemble': lambda ops: ops.reassemble(x, masks, *CALL),
        'correlate': lambda ops: ops.correlate(output, x, *CALL),
        'scatter': lambda ops: ops.scatter(output, masks, h, w, *CALL),
        'softmax': lambda ops: ops.reassemble_softmax(x, logits, *CALL),
        'softmax backward': lambda ops: ops.reassemble_softmax_backward(output, x, logits, *CALL),
    }


def compare(call, old, new, seconds: float) -> tuple[float, float]:
    """Milliseconds of the old one and new / old, by medians of calls in random turn."""
    # Of one thread its own time: what else runs here does not count, but for the caches it takes.
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    times = {old: [], new: []}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[new]) < 5:
        for ops in random.sample((old, new), 2):
            call(ops)  # its memory is fresh, and the caches hold what it needs
            start = clock()
            call(ops)
            times[ops].append(clock() - start)
    before, after = (median(times[ops]) for ops in (old, new))
    return 1e3 * before, after / before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('revision', help='what git calls the other one')
    parser.add_argument('--sets', default='avx512_bf16,avx2', help='instruction sets (CARAFE_CPU_ISA)')
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--seconds', type=float, default=2, help='for each case')
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        torch.ops.load_library(build(args.revision, Path(folder)))
    torch.ops.load_library(next((ROOT / 'carafe_plugin').glob('_C_cpu*.so')))
    old, new = torch.ops.carafe_old, torch.ops.carafe_plugin
    kinds = {
        'float32': (torch.float32, torch.contiguous_format),
        'bfloat16': (torch.bfloat16, torch.contiguous_format),
        'channels_last': (torch.float32, torch.channels_last),
    }
    for isa in args.sets.split(','):
        os.environ['CARAFE_CPU_ISA'] = isa
        print(f'\n{new.cpu_capability()}, {args.threads} thread(s): new / old (old, ms)\n')
        print(f'| case | {" | ".join(SIZES)} |\n|---|{"---|" * len(SIZES)}')
        for kind, (dtype, layout) in kinds.items():
            calls = [make_calls(shape, dtype, layout) for shape in SIZES.values()]
            for name in calls[0]:
                cells = [compare(of_size[name], old, new, args.seconds) for of_size in calls]
                row = ' | '.join(f'{ratio:.3f} ({before:.2f})' for before, ratio in cells)
                print(f'| {name}, {kind} | {row} |', flush=True)


if __name__ == '__main__':
    main()
