# SPDX-License-Identifier: Apache-2.0
"""The native kernels against the float64 oracle, on every instruction set that this machine has."""

import os
import shutil
import subprocess
import sys

import pytest
import torch

from carafe_plugin.ops import _native
from tests.ops.native_cases import DTYPES, LAYOUTS, expected, halfway, make_inputs, needs_cuda, on_devices
from tests.tolerances import OPERATOR, within
from tests.torch_versions import needs_stable_abi

pytestmark = pytest.mark.skipif(
    'cpu' not in _native.loaded, reason=f'no native library: {_native.why_not("cpu")}'
)

ops = torch.ops.carafe_plugin


@pytest.fixture(params=['baseline', 'avx2', 'avx512', 'avx512_bf16', pytest.param('cuda', marks=needs_cuda)])
def device(request, monkeypatch):
    """Each instruction set of the CPU, and the GPU."""
    if request.param == 'cuda':
        return 'cuda'
    monkeypatch.setenv('CARAFE_CPU_ISA', request.param)
    if ops.cpu_capability() != request.param:
        pytest.skip(f'this machine or library has no {request.param}')
    return 'cpu'


def computed(features, masks, logits, grad, k, groups, s, down):
    sizes, size = (k, groups, s, down), features.shape[2:]
    return [
        ops.reassemble(features, masks, *sizes),
        ops.correlate(grad, features, *sizes),
        ops.scatter(grad, masks, *size, *sizes),
        ops.reassemble_softmax(features, logits, *sizes),
        *ops.reassemble_softmax_backward(grad, features, logits, *sizes),
    ]


def compare(inputs, sizes, tolerance):
    for result, exact in zip(computed(*inputs, *sizes), expected(*inputs, *sizes), strict=True):
        exact = torch.from_numpy(exact)
        assert result.dtype == inputs[0].dtype and result.shape == exact.shape
        torch.testing.assert_close(result.double().cpu(), exact, **within(tolerance, exact))


@pytest.mark.parametrize('down', [False, True], ids=['up', 'down'])
@pytest.mark.parametrize('scale_factor', [1, 2, 3, 4])
@pytest.mark.parametrize('kernel_size', [1, 3, 5, 7, 9])
def test_sizes(device, kernel_size, scale_factor, down):
    for shape, groups in (
        ((1, 4, 1, 1), 4),
        ((2, 6, 3, 5), 1),
        ((1, 16, 2, 18), 16),
        ((1, 10, 7, 1), 2),
        ((1, 4, 4, 33), 1),
    ):
        sizes = (kernel_size, groups, scale_factor, down)
        compare(make_inputs(shape, *sizes, device=device), sizes, OPERATOR[torch.float64])
        compare(make_inputs(shape, *sizes, torch.float32, device=device), sizes, OPERATOR[torch.float32])


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('dtype', DTYPES, ids=lambda dtype: str(dtype)[6:])
def test_dtypes_and_layouts(device, dtype, layout):
    for shape, sizes in (
        ((2, 12, 5, 19), (5, 1, 2, False)),
        ((1, 24, 3, 18), (5, 1, 2, False)),
        ((1, 5, 3, 13), (5, 1, 2, False)),
        ((1, 9, 4, 3), (3, 1, 1, False)),
        ((2, 12, 4, 7), (3, 4, 3, False)),
        ((2, 7, 6, 37), (5, 1, 2, True)),
    ):
        compare(make_inputs(shape, *sizes, dtype, layout, device=device), sizes, OPERATOR[dtype])


def test_many_channels_and_tiles(device):
    """More channels than a block, more columns than a tile, more rows than a chunk."""
    for shape, sizes in (
        ((1, 70, 9, 40), (5, 1, 2, False)),
        ((1, 6, 3, 1700), (5, 2, 2, False)),
        ((1, 2, 12, 130), (9, 1, 4, False)),
        ((1, 3, 20, 600), (3, 1, 2, True)),
    ):
        for dtype in (torch.float32, torch.bfloat16):
            compare(make_inputs(shape, *sizes, dtype, device=device), sizes, OPERATOR[dtype])


@on_devices
@pytest.mark.parametrize('a', DTYPES, ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize('b', DTYPES, ids=lambda dtype: str(dtype)[6:])
def test_any_two_dtypes(device, a, b):
    """The result has the dtype of the features; masks' gradients have the masks'."""
    sizes = (5, 2, 2, False)
    features, masks, logits, grad = make_inputs((2, 4, 3, 19), *sizes, device=device)
    inputs = features.to(a), masks.to(b), logits.to(b), grad.to(a)
    wanted = [a, a, a, a, a, b]
    for result, exact, dtype in zip(
        computed(*inputs, *sizes), expected(*inputs, *sizes), wanted, strict=True
    ):
        assert result.dtype == dtype
        exact = torch.from_numpy(exact)
        torch.testing.assert_close(result.double().cpu(), exact, **within(OPERATOR[dtype], exact))
    leaves = [x.clone().requires_grad_() for x in inputs[:2]]
    ops.reassemble(*leaves, *sizes).sum().backward()
    assert [x.grad.dtype for x in leaves] == [a, b]


def test_results_do_not_depend_on_threads(device):
    """Bit for bit, and from run to run: no sum is split over items, and there are no atomics."""
    before = torch.get_num_threads()
    try:
        for shape, sizes in (
            ((2, 96, 14, 14), (5, 1, 2, False)),
            ((1, 8, 37, 41), (3, 4, 2, False)),
            ((1, 64, 30, 9), (5, 1, 3, True)),
        ):
            for dtype in (torch.float32, torch.bfloat16):
                inputs = make_inputs(shape, *sizes, dtype, device=device)
                results = []
                for threads in (1, 2, 3, 5):
                    torch.set_num_threads(threads)
                    results.append(computed(*inputs, *sizes))
                for other in results[1:]:
                    assert all(torch.equal(x, y) for x, y in zip(results[0], other, strict=True))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
def test_16_bit_conversions_are_exact(device, dtype):
    """Every value passes through float32 and back unchanged; float32 rounds to nearest even as torch does."""
    values = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype)
    values = values[~values.isnan()].reshape(1, 1, 1, -1).to(device)
    one = torch.ones(1, 1, 1, values.shape[3], dtype=dtype, device=device)
    assert torch.equal(ops.reassemble(values, one, 1, 1, 1).view(torch.int16), (values + 0).view(torch.int16))
    wide = torch.randn(1, 1, 200, 100) * torch.logspace(-9, 6, 200)[:, None]
    wide[0, 0, 0, :4] = torch.tensor([torch.inf, -torch.inf, 65519.9, 65520.0])
    wide = wide.to(device)
    for x in (wide, halfway(dtype).to(device)):
        assert torch.equal(ops.correlate(x, torch.ones_like(x), 1, 1, 1, dtype=dtype), x.to(dtype))
    assert ops.correlate(wide * torch.nan, wide, 1, 1, 1, dtype=dtype).isnan().all()


def test_softmax_of_extreme_logits(device):
    features = torch.ones(1, 1, 3, 3)
    logits = torch.zeros(1, 9, 3, 3)
    logits[0, :, 0, 0] = torch.tensor([-torch.inf, 1e30, -1e30, 3.4e38, 0, -88, -104, -87, 1])
    logits[0, :, 1, 1] = torch.tensor([-100.0, 0, -100, -100, -100, -100, -100, -100, -100])
    logits[0, 3, 1, 2] = torch.nan
    logits[0, 3, 2, 2] = torch.inf
    logits[0, :, 2, 0] = -torch.inf
    out = ops.reassemble_softmax(features.to(device), logits.to(device), 3, 1, 1)[0, 0].cpu()
    from carafe_plugin.ops.reference import carafe_softmax

    torch.testing.assert_close(out, carafe_softmax(features, logits, 3, 1, 1)[0, 0], equal_nan=True)
    assert out[1, 1] == 1 and out[1, 2].isnan() and out[2, 2].isnan() and out[2, 0].isnan()


def test_nan_weight_times_zero_border_is_nan(device):
    for sizes, shape in (((3, 1, 2, False), (1, 5, 2, 20)), ((5, 1, 2, True), (1, 5, 4, 40))):
        features, masks, _, _ = make_inputs(shape, *sizes, torch.float32, device=device)
        masks[0, 0, 0, 0] = torch.nan
        nan = ops.reassemble(features, masks, *sizes).isnan().nonzero()[:, 2:]
        assert nan.tolist() == [[0, 0]] * 5


@pytest.mark.parametrize('dtype', DTYPES, ids=lambda dtype: str(dtype)[6:])
def test_non_finite_features_reach_their_window_alone(device, dtype):
    """No lane, register or word that also holds an infinity multiplies it by a zero of its own."""
    features, masks = torch.zeros(1, 5, 7, 21, dtype=dtype), torch.ones(1, 25, 14, 42, dtype=dtype)
    features[0, :, 3, 9], features[0, :, 3, 20] = torch.inf, torch.nan
    out = ops.reassemble(features.to(device), masks.to(device), 5, 1, 2).cpu()
    expected = torch.zeros(14, 42, dtype=dtype)
    expected[2:12, 14:24], expected[2:12, 36:] = torch.inf, torch.nan
    torch.testing.assert_close(out, expected.expand(1, 5, 14, 42), equal_nan=True)


@on_devices
def test_output_layout_follows_the_features(device):
    features, masks, logits, grad = make_inputs(
        (2, 8, 3, 5), 3, 1, 2, False, torch.float32, 'channels_last', device=device
    )
    results = computed(features, masks, logits, grad, 3, 1, 2, False)
    assert all(x.is_contiguous(memory_format=torch.channels_last) for x in results)
    results = computed(*(x.contiguous() for x in (features, masks, logits, grad)), 3, 1, 2, False)
    assert all(x.is_contiguous() for x in results)


@on_devices
def test_empty(device):
    for shape in ((0, 4, 3, 5), (2, 4, 0, 5), (2, 0, 3, 5)):
        inputs = make_inputs(shape, 3, 1, 2, False, device=device)
        for result, like in zip(computed(*inputs, 3, 1, 2, False), (3, 1, 0, 3, 0, 2), strict=True):
            assert result.shape == inputs[like].shape and not result.any()


@pytest.mark.slow
@on_devices
def test_more_than_2_31_output_elements(device):
    values = torch.arange(3.0, dtype=torch.bfloat16, device=device)
    features = values.reshape(1, 3, 1, 1).expand(1, 3, 16384, 16400)
    masks = torch.ones(1, 1, 1, 1, dtype=torch.bfloat16, device=device).expand(1, 1, 32768, 32800)
    out = ops.reassemble(features, masks, 1, 1, 2)
    assert out.numel() > 2**31
    assert [out[0, c, -1].unique().tolist() for c in range(3)] == [[0.0], [1.0], [2.0]]


@pytest.mark.skipif(shutil.which('readelf') is None, reason='needs readelf')
def test_library_brings_no_threads_of_its_own():
    listing = subprocess.run(['readelf', '-d', _native.loaded['cpu']], capture_output=True, text=True).stdout
    assert 'libtorch_cpu' in listing
    assert 'omp' not in listing


@needs_stable_abi
@pytest.mark.skipif(shutil.which('nm') is None, reason='needs nm')
def test_library_uses_the_stable_abi_alone():
    listing = subprocess.run(
        ['nm', '-DC', '--undefined-only', _native.loaded['cpu']], capture_output=True, text=True
    )
    symbols = listing.stdout.splitlines()
    assert any('torch_parallel_for' in symbol for symbol in symbols)
    assert not [symbol for symbol in symbols if 'at::' in symbol or 'c10::' in symbol]


def test_an_instruction_set_that_is_none_is_said():
    environment = os.environ | {'CARAFE_CPU_ISA': 'AVX2'}
    command = [sys.executable, '-c', 'import carafe_plugin.ops']
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stderr
    assert 'CARAFE_CPU_ISA=AVX2 is no instruction set of this processor and library; baseline serves' in said
