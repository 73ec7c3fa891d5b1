# SPDX-License-Identifier: Apache-2.0
"""The CPU kernels without torch, by compilers and for processors other than this torch's.

``kernel_driver.cpp`` and the kernels become a program, run by QEMU where it is for another processor.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / 'ops'))

from build_cuda import made_once  # noqa: E402
from build_native import COMMON, INSTRUCTION_SETS, KERNEL  # noqa: E402

from tests.ops.native_cases import DTYPES  # noqa: E402

DRIVER = Path(__file__).with_name('kernel_driver.cpp')
OPERATORS = ['reassemble', 'correlate', 'scatter']
ARM64 = dict(needs=['aarch64-linux-gnu-g++', 'qemu-aarch64'], run=['qemu-aarch64'], sets={'baseline': []})
TARGETS = {
    'gcc-arm64': dict(compiler=['aarch64-linux-gnu-g++', '-static'], **ARM64),
    # With the headers and libraries of the other.
    'clang-arm64': dict(compiler=['clang++', '--target=aarch64-linux-gnu', '-static'], **ARM64),
    'clang': dict(compiler=['clang++'], needs=[], run=[], sets=INSTRUCTION_SETS),
}


def missing(target: str) -> list[str]:
    """Programs that the target needs and this machine lacks."""
    needs = [TARGETS[target]['compiler'][0], *TARGETS[target]['needs']]
    return [name for name in dict.fromkeys(needs) if shutil.which(name) is None]


def build(target: str) -> Path:
    """Compile, once for each state of the sources, with the flags of ops/build_native.py."""
    compiler, sets = TARGETS[target]['compiler'], TARGETS[target]['sets']
    kernels, select = ROOT / 'ops/cpu/kernels.cpp', ROOT / 'ops/cpu/select.cpp'
    commands = {
        source.stem: [*compiler, *COMMON, '-O2', '-c', str(source), '-o'] for source in (select, DRIVER)
    }
    for isa, flags in sets.items():
        commands[isa] = [*compiler, *COMMON, *KERNEL, *flags, f'-DCARAFE_ISA={isa}', '-c', str(kernels), '-o']
    version = subprocess.run([compiler[0], '--version'], capture_output=True, check=True).stdout
    digest = hashlib.sha256(repr(commands).encode() + version)
    for path in sorted([kernels, select, DRIVER, *(ROOT / 'ops').glob('*.h'), *kernels.parent.glob('*.h')]):
        digest.update(path.read_bytes())
    with made_once(f'{target}-{digest.hexdigest()[:16]}') as (program, fresh):
        if fresh is None:
            return program

        def compile_one(name):
            made = str(fresh.with_name(f'{name}.o'))
            done = subprocess.run([*commands[name], made], capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            return made

        with ThreadPoolExecutor(2) as pool:
            objects = list(pool.map(compile_one, commands))
        subprocess.run([*compiler, *objects, '-o', str(fresh)], check=True)
    return program


class Driver:
    """A running program; it ends with its first fault, of which the call that met it tells."""

    def __init__(self, target, isa):
        self.target = target
        self.process = subprocess.Popen(
            [*TARGETS[target]['run'], str(build(target))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, 'CARAFE_CPU_ISA': isa},
        )
        self.isa = self.process.stdout.readline().decode().strip()

    def close(self):
        self.process.communicate()

    def run(
        self,
        name,
        tensors,  # features, output, masks, grad_masks; None where the operator has none
        result,
        sizes,  # k, G, s, down
        softmax=False,
        threads=1,  # what the plan is made for
        pieces=1,  # in how many runs, the last items first
    ):
        k, groups, s, down = sizes
        n, c, h, w = tensors[0].shape
        wide = any(x is not None and x.dtype == torch.float64 for x in tensors)
        numbers = [OPERATORS.index(name), softmax, wide, n, c, h, w, k, groups, s, down, threads, pieces]
        data = []
        for x in tensors:
            if x is None:
                numbers += [0] * 6
                continue
            last = sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))
            numbers += [(last + 1) * x.element_size(), DTYPES.index(x.dtype), *x.stride()]
            if x is not result:
                data.append(x.as_strided((last + 1,), (1,)))
        label = f'{name}{"_softmax" * softmax} by {self.target} {self.isa}'
        flat = result.as_strided((result.numel(),), (1,)).view(torch.uint8)
        try:
            self.process.stdin.write(torch.tensor(numbers).numpy().tobytes())
            for x in data:
                self.process.stdin.write(x.view(torch.uint8).numpy().tobytes())
            self.process.stdin.flush()
            answer = self.process.stdout.read(flat.numel())
        except BrokenPipeError:
            answer = b''
        if len(answer) < flat.numel():
            error = self.process.communicate()[1].decode()
            raise AssertionError(f'{label}, {sizes}: ended with {self.process.returncode} {error}')
        flat.copy_(torch.frombuffer(bytearray(answer), dtype=torch.uint8))
        return label
