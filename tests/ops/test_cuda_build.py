# SPDX-License-Identifier: Apache-2.0
"""The CUDA library compiled for every target, with no GPU: registers, spills, symbols, switches."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.torch_versions import needs_stable_abi

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / 'ops'))

import build_cuda  # noqa: E402

needs_nvcc = pytest.mark.skipif(build_cuda.nvcc() is None, reason='needs nvcc')
TORCH_TARGET = '0x020a000000000000'


@pytest.fixture(scope='session')
def kernels():
    return build_cuda.compile_kernels()


@needs_nvcc
def test_specialised_kernels_do_not_spill_where_it_costs(kernels):
    """Before their loops, which run for every channel, some of (5, 2) do: ops/NOTES.md."""
    rows = build_cuda.report(kernels)
    targets = {flag.rpartition('_')[2] for flag in build_cuda.targets() if 'code=sm_' in flag}
    specialised = [row for row in rows if re.search('planar|last|tensor', row['kernel'])]
    # planar: 3 settings x 2 widths x 3 shapes of a tile x (reassemble, correlate in 1, 4 and 8 slices);
    # scatter: (2 settings x 4 shapes + 1 x 2) x 3 dtypes; last: 3 x 2 x 2
    # tensor: 2 shapes of a tile x 1 or 2 words a weight x 2 kinds of 16 bits
    assert len(specialised) == (3 * 2 * 3 * 4 + 10 * 3 + 12 + 8) * len(targets)
    assert len({(row['kernel'], row['arguments'], row['target']) for row in specialised}) == len(specialised)
    for row in specialised:
        kernel = f'{row["kernel"]}<{row["arguments"]}> {row["target"]}'
        before = 'scatter_planar_kernel<5, 2,' in kernel
        odd = re.fullmatch(r'correlate_planar_kernel<5, 2, .*, 8, 4, 1, 1> sm_1[02]0', kernel)
        assert row['spills'] <= (512 if before or odd else 0), kernel


@needs_nvcc
@needs_stable_abi
@pytest.mark.skipif(shutil.which('nm') is None, reason='needs nm')
def test_library_uses_the_stable_abi_alone(kernels, tmp_path):
    library = tmp_path / 'library.so'
    build_cuda.build(library, tmp_path / 'objects', Path(torch.__file__).parent, TORCH_TARGET)
    listing = subprocess.run(['nm', '-DC', '--undefined-only', library], capture_output=True, text=True)
    symbols = listing.stdout.splitlines()
    assert any('aoti_torch_get_current_cuda_stream' in symbol for symbol in symbols)
    assert not [symbol for symbol in symbols if re.search('at::|c10::|cudaLaunch', symbol)]
    defined = subprocess.run(['nm', '-DC', '--defined-only', library], capture_output=True, text=True)
    assert 'cudaMalloc' not in defined.stdout  # the runtime in it is nobody else's
    assert 'carafe_cuda_sources' in defined.stdout
    assert build_cuda.sources_hash().encode() in library.read_bytes()


@pytest.mark.parametrize(
    'wish, torch_cuda, found, reason',
    [
        (None, '13.0', True, None),
        (None, None, True, 'torch is a CPU build'),
        (None, '13.0', False, 'nvcc is not found'),
        ('0', '13.0', True, 'CARAFE_CUDA=0'),
        ('1', None, True, None),
    ],
)
def test_when_it_is_built(monkeypatch, wish, torch_cuda, found, reason):
    monkeypatch.setattr(build_cuda, 'nvcc', lambda: 'nvcc' if found else None)
    monkeypatch.delenv('CARAFE_CUDA', raising=False)
    if wish is not None:
        monkeypatch.setenv('CARAFE_CUDA', wish)
    why = build_cuda.why_not(torch_cuda)
    assert why is None if reason is None else why.startswith(reason)


@needs_nvcc
def test_arch_list_narrows_the_targets(monkeypatch):
    monkeypatch.setenv('TORCH_CUDA_ARCH_LIST', '8.0 9.0+PTX')
    assert [flag.rpartition('code=')[2] for flag in build_cuda.targets()] == ['sm_80', 'sm_90', 'compute_90']
    monkeypatch.setenv('TORCH_CUDA_ARCH_LIST', 'Hopper')
    with pytest.raises(ValueError, match="got 'Hopper'"):
        build_cuda.targets()


def test_cuda_library_is_not_loaded_beside_a_cpu_build():
    if torch.version.cuda is not None:
        pytest.skip('torch is built with CUDA')
    command = [sys.executable, '-m', 'carafe_plugin.env']
    report = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ}).stdout
    assert re.search(r'cuda operators: +plain PyTorch: torch is a CPU build\n', report)
