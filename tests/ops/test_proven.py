# SPDX-License-Identifier: Apache-2.0
"""CUDA kernels serve where they are proven, or asked for; a made-up GPU and library, no CUDA."""

import re
import subprocess
import types

import pytest
import torch

from carafe_plugin import env
from carafe_plugin.ops import _native, _proven
from tests.ops.test_cuda_build import build_cuda

OTHER, THIS = ('8.0', 'aaaa'), ('9.0', 'aaaa')


@pytest.fixture
def gpu(monkeypatch):
    """A GPU of compute capability 9.0 beside a library built from the sources 'aaaa'."""
    monkeypatch.setitem(_native.loaded, 'cuda', 'library.so')
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda device: (9, 0))
    monkeypatch.setattr(_native, 'cuda_sources', lambda: 'aaaa')
    monkeypatch.setattr(_native, '_warned', set())
    monkeypatch.delenv('CARAFE_CUDA_KERNELS', raising=False)
    _native._why_unproven.cache_clear()
    yield types.SimpleNamespace(device=torch.device('cuda:0'), dtype=torch.float32)  # a tensor there
    _native._why_unproven.cache_clear()


@pytest.mark.parametrize(
    'entries, wish, opened',
    [
        ([], None, False),
        ([], '1', True),
        ([], '0', False),
        ([THIS], None, True),
        ([OTHER, THIS], None, True),
        ([OTHER], None, False),  # another GPU
        ([('9.0', 'bbbb')], None, False),  # other sources
    ],
)
def test_where_they_serve(gpu, monkeypatch, entries, wish, opened):
    monkeypatch.setattr(_proven, 'PROVEN', frozenset(entries))
    if wish is not None:
        monkeypatch.setenv('CARAFE_CUDA_KERNELS', wish)
    monkeypatch.setattr(torch.ops.carafe_plugin, 'reassemble', 'the native one', raising=False)
    if opened:
        assert _native.operator('reassemble', gpu, gpu) == 'the native one'
        assert _native.why_not('cuda') is None
        return
    with pytest.warns(RuntimeWarning, match='compute capability 9.0; CARAFE_CUDA_KERNELS=1'):
        assert _native.operator('reassemble', gpu, gpu) is None
    assert _native.operator('reassemble', gpu, gpu) is None  # a second warning would be an error here
    assert 'tools/gpu_check.sh' in _native.why_not('cuda')


def test_no_driver_is_a_reason(gpu, monkeypatch):
    """A torch with CUDA and the library, on a machine without a GPU."""

    def no_driver(device):
        raise RuntimeError('Found no NVIDIA driver on your system.\nPlease check.')

    monkeypatch.setattr(torch.cuda, 'get_device_capability', no_driver)
    assert _native.why_not('cuda') == 'torch finds no GPU: Found no NVIDIA driver on your system.'


def test_the_cpu_needs_no_proof(gpu):
    if 'cpu' not in _native.loaded:
        pytest.skip(f'no native library: {_native.why_not("cpu")}')
    assert _native.why_not('cpu') is None
    assert _native.operator('reassemble', torch.rand(1), torch.rand(1)) is not None


def test_env_tells(gpu, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda device: ((9, 0), (8, 0))[device])
    monkeypatch.setattr(_proven, 'PROVEN', frozenset([OTHER]))
    monkeypatch.setattr(env, '_mmcv', lambda: 'is asked')
    told = dict(env.describe())
    assert told['cuda:0 operators'].startswith('plain PyTorch: its CUDA kernels have not passed')
    assert told['cuda:1 operators'].startswith('native')
    assert told["mmcv's operator"] == 'is asked'


def test_a_library_tells_its_sources(monkeypatch, tmp_path):
    """As the build writes them in, and as the installed package reads them."""
    assert re.fullmatch('[0-9a-f]{16}', build_cuda.sources_hash())
    source, library = tmp_path / 'sources.cpp', tmp_path / 'library.so'
    source.write_text(build_cuda.stamp())
    command = ['c++', '-shared', '-fPIC', '-fvisibility=hidden', source, '-o', library]
    try:
        subprocess.run(command, check=True)
    except FileNotFoundError:
        pytest.skip('needs a C++ compiler')
    monkeypatch.setitem(_native.loaded, 'cuda', str(library))
    assert _native.cuda_sources() == build_cuda.sources_hash()


def test_any_change_of_a_source_is_another_hash(monkeypatch, tmp_path):
    """Of kernels, headers and hosts; not of what the CUDA library is not made of."""
    root = tmp_path / 'ops'
    for path in (*build_cuda.KERNELS, *build_cuda.HOST, *build_cuda.headers()):
        copy = root / path.relative_to(build_cuda.ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    (root / 'cpu').mkdir()
    original = build_cuda.sources_hash()
    for name in ('KERNELS', 'HOST'):
        moved = [root / path.relative_to(build_cuda.ROOT) for path in getattr(build_cuda, name)]
        monkeypatch.setattr(build_cuda, name, moved)
    monkeypatch.setattr(build_cuda, 'ROOT', root)
    assert build_cuda.sources_hash() == original
    (root / 'cpu' / 'vector.h').write_text('// another\n')
    assert build_cuda.sources_hash() == original
    for name in (
        'host.cpp',
        'host.h',
        'cuda/generic.cu',
        'cuda/planar.cuh',
        'cuda/device.h',
        'cuda/host.cpp',
    ):
        before = build_cuda.sources_hash()
        with (root / name).open('a') as file:
            file.write('// one more line\n')
        assert build_cuda.sources_hash() != before, name
