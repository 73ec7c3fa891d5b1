# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels of ops/cuda compiled for the CPU: see cuda_emulator/emulator.h."""

import ctypes
import hashlib
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / 'ops'))

from build_cuda import made_once  # noqa: E402

from tests.ops.native_cases import DTYPES, GUARD  # noqa: E402

FOLDER = Path(__file__).parent / 'cuda_emulator'
COMPILER = shutil.which('g++')
FLAGS = [
    *('-std=c++17', '-O1', '-fPIC', '-DCARAFE_EMULATED', '-U_FORTIFY_SOURCE', f'-I{FOLDER}'),
    *('-fsanitize=undefined', '-fno-sanitize-recover=undefined', '-Wall', '-Wno-unknown-pragmas'),
]


class TensorView(ctypes.Structure):
    _fields_ = [('data', ctypes.c_void_p), ('dtype', ctypes.c_int32), ('stride', ctypes.c_int64 * 4)]

    @classmethod
    def of(cls, tensor):
        return cls(tensor.data_ptr(), DTYPES.index(tensor.dtype), (ctypes.c_int64 * 4)(*tensor.stride()))


def build() -> Path:
    """Compile, once for each state of the sources."""
    cuda = ROOT / 'ops' / 'cuda'
    sources = sorted([*cuda.glob('*.cu'), cuda / 'select.cpp', *FOLDER.glob('*.cpp')])
    digest = hashlib.sha256(repr(FLAGS).encode())
    headers = [*cuda.glob('*.cuh'), *cuda.glob('*.h'), *FOLDER.glob('*.h'), *(ROOT / 'ops').glob('*.h')]
    for path in sorted([*sources, *headers]):
        digest.update(path.read_bytes())
    with made_once(f'emulator-{digest.hexdigest()[:16]}.so') as (library, fresh):
        if fresh is None:
            return library

        def compile_one(source):
            target = fresh.parent / f'{source.name}.o'
            command = [COMPILER, *FLAGS, '-c', '-x', 'c++', str(source), '-o', str(target)]
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            return str(target)

        with ThreadPoolExecutor(2) as pool:
            objects = list(pool.map(compile_one, sources))
        subprocess.run([COMPILER, '-shared', '-fsanitize=undefined', *objects, '-o', str(fresh)], check=True)
    return library


def guards(result):
    flat = result.as_strided((result.numel() + 2 * GUARD,), (1,), 0)
    return torch.cat([flat[:GUARD], flat[-GUARD:]])


class Emulator:
    """Runs an operator; ``order`` is that of the threads, ``multiprocessors`` those of the device."""

    def __init__(self, path):
        self.library = ctypes.CDLL(str(path))
        self.library.emulator_run.restype = ctypes.c_char_p
        self.library.emulator_error.restype = ctypes.c_char_p

    def run(
        self,
        name,
        tensors,  # features, output, masks, grad_masks; None where the operator has none
        result,
        sizes,  # k, G, s, down
        softmax=False,
        order=0,
        multiprocessors=2,
    ):
        features, _, *masks = tensors
        wide = any(x is not None and x.dtype == torch.float64 for x in tensors)
        self.library.emulator_reset(ctypes.c_uint(order))
        stats = torch.full(
            (64 + 16 * (masks[0].numel() if masks[0] is not None else 0),), -1, dtype=torch.int8
        )
        for x in (*tensors, stats):
            if x is not None:
                last = sum((n - 1) * stride for n, stride in zip(x.shape, x.stride(), strict=True))
                size = ctypes.c_size_t((last + 1) * x.element_size())
                self.library.emulator_tensor(ctypes.c_void_p(x.data_ptr()), size)
        views = [None if x is None else ctypes.byref(TensorView.of(x)) for x in tensors]
        numbers = (*features.shape, *sizes, softmax, wide, multiprocessors)
        kernel = self.library.emulator_run(
            name.encode(),
            *views,
            (ctypes.c_int64 * len(numbers))(*map(int, numbers)),
            ctypes.c_void_p(stats.data_ptr()),
        ).decode()
        error = self.library.emulator_error().decode()
        assert not error, f'{kernel}: {error}'
        assert guards(result).isnan().all(), f'{kernel} wrote beside its result'
        return kernel
