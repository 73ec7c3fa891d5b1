# SPDX-License-Identifier: Apache-2.0
"""Each native header compiles alone, and the objects of the instruction sets keep to themselves."""

import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from tests.torch_versions import needs_stable_abi

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / 'ops'))

from build_native import COMMON, INSTRUCTION_SETS, KERNEL, TORCH_TARGET  # noqa: E402

COMPILER = shutil.which('g++')
KERNELS = ROOT / 'ops' / 'cpu' / 'kernels.cpp'
WIDEST = list(INSTRUCTION_SETS)[-1]

pytestmark = pytest.mark.skipif(COMPILER is None, reason='needs g++')


def flags_of(isa: str) -> list[str]:
    return [*COMMON, *KERNEL, *INSTRUCTION_SETS[isa], f'-DCARAFE_ISA={isa}']


def complaints(header: Path, flags: list[str]) -> str:
    """What the compiler says of a source that holds this header alone, twice."""
    source = f'#include "{header}"\n' * 2
    command = [COMPILER, *flags, '-Werror', '-fsyntax-only', '-x', 'c++', '-']
    return subprocess.run(command, input=source, capture_output=True, text=True).stderr


def check(headers, flags):
    with ThreadPoolExecutor(2) as pool:
        found = [text for text in pool.map(lambda header: complaints(header, flags), headers) if text]
    assert not found, '\n'.join(found)


@pytest.mark.parametrize('isa', dict.fromkeys(['baseline', WIDEST]))
def test_cpu_headers(isa):
    headers = sorted((ROOT / 'ops' / 'cpu').glob('*.h'))
    assert headers
    check(headers, flags_of(isa))


def test_cuda_headers():
    """With the second version of the device, which needs no nvcc."""
    folder = ROOT / 'ops' / 'cuda'
    emulator = ROOT / 'tests' / 'ops' / 'cuda_emulator'
    headers = [path for path in sorted(folder.iterdir()) if path.suffix in ('.h', '.cuh')]
    assert headers
    check(headers, ['-std=c++17', '-Wall', '-Wno-unknown-pragmas', '-DCARAFE_EMULATED', f'-I{emulator}'])


@needs_stable_abi
def test_host_headers():
    torch_root = Path(torch.__file__).parent
    flags = [*COMMON, f'-DTORCH_TARGET_VERSION={TORCH_TARGET}', f'-isystem{torch_root / "include"}']
    check(sorted((ROOT / 'ops').glob('*.h')), flags)


def test_instruction_sets_include_neither_torch_nor_containers():
    command = [COMPILER, *flags_of(WIDEST), '-M', str(KERNELS)]
    included = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert any(path.endswith('/masks.h') for path in included)
    assert not [path for path in included if re.search(r'/torch/|/bits/(stl_|basic_string|alloc)', path)]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which('nm') is None, reason='needs nm')
def test_instruction_sets_define_nothing_that_another_could_take(tmp_path):
    target = tmp_path / 'kernels.o'
    subprocess.run([COMPILER, *flags_of(WIDEST), '-c', str(KERNELS), '-o', str(target)], check=True)
    listing = subprocess.run(
        ['nm', '-C', '--defined-only', '--extern-only', str(target)], capture_output=True, text=True
    )
    symbols = [line.split(maxsplit=2)[2] for line in listing.stdout.splitlines()]
    assert f'carafe::{WIDEST}::kernels' in symbols
    assert not [symbol for symbol in symbols if f'carafe::{WIDEST}::' not in symbol]
