# SPDX-License-Identifier: Apache-2.0
"""The logic of the CUDA kernels, run on the CPU against the float64 oracle.

What this cannot show: speed, and what only a GPU's memory model breaks. That is for the tests on ``cuda``.
"""

import pytest
import torch

from carafe_plugin.ops import reference
from tests.ops import emulated
from tests.ops.native_cases import LAYOUTS, TOLERANCE, expected, make_inputs

pytestmark = pytest.mark.skipif(emulated.COMPILER is None, reason='needs g++')


@pytest.fixture(scope='session')
def emulator():
    return emulated.Emulator(emulated.build())


def computed(emulator, inputs, sizes, family='', **kwargs):
    """The six results of an operator family and the kernels that ran."""
    features, masks, logits, grad = inputs
    name = f'{{}}_{family}' if family else '{}'
    results, kernels = [], []
    for operator, softmax in (
        ('reassemble', False),
        ('correlate', False),
        ('scatter', False),
        ('reassemble', True),
        ('scatter', True),
        ('correlate', True),
    ):
        weights = logits if softmax else masks
        if operator == 'reassemble':
            result = emulated.like(grad.shape, features)
            tensors = [features, result, weights, None]
        elif operator == 'correlate':
            result = emulated.like(weights.shape, logits if softmax else grad, weights.dtype)
            tensors = [features, grad, logits if softmax else None, result]
        else:
            result = emulated.like(features.shape, grad)
            tensors = [result, grad, weights, None]
        kernels.append(emulator.run(name.format(operator), tensors, result, sizes, softmax, **kwargs))
        results.append(result)
    return results, kernels


def compare(emulator, inputs, sizes, tolerance, family='', **kwargs):
    results, kernels = computed(emulator, inputs, sizes, family, **kwargs)
    for result, exact, kernel in zip(results, expected(*inputs, *sizes), kernels, strict=True):
        exact = torch.from_numpy(exact)
        atol = tolerance * max(1, exact.abs().max())
        torch.testing.assert_close(
            result.double(), exact, rtol=0, atol=atol, msg=lambda m, k=kernel: f'{k}: {m}'
        )
    return set(kernels)


@pytest.mark.parametrize('down', [False, True], ids=['up', 'down'])
def test_generic(emulator, down):
    for kernel_size, groups, scale_factor, shape in (
        (1, 4, 1, (1, 4, 1, 1)),
        (3, 1, 2, (2, 9, 3, 5)),
        (5, 2, 3, (1, 10, 2, 7)),
        (7, 1, 2, (1, 3, 2, 3)),
    ):
        sizes = (kernel_size, groups, scale_factor, down)
        for dtype in (torch.float64, torch.float32):
            inputs = make_inputs(shape, *sizes, dtype)
            kernels = compare(emulator, inputs, sizes, TOLERANCE[dtype], 'generic')
            assert kernels == {'reassemble_generic', 'correlate_generic', 'scatter_generic'}


PLANAR = {'reassemble_planar', 'correlate_planar', 'scatter_planar'}


@pytest.mark.parametrize('k_s', [(5, 2), (3, 2), (5, 1)], ids=str)
@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_planar(emulator, k_s, dtype):
    """Maps narrower and wider than a warp, odd and even, 1 x 1, several tiles, few and many channels."""
    for shape, groups, order in (
        ((1, 1, 1, 1), 1, 0),
        ((2, 6, 3, 5), 2, 1),
        ((1, 4, 14, 14), 4, 2),
        ((1, 2, 7, 44), 1, 3),
        ((1, 1, 17, 35), 1, 4),
        ((1, 2, 40, 2), 1, 5),
    ):
        sizes = (k_s[0], groups, k_s[1], False)
        inputs = make_inputs(shape, *sizes, dtype)
        kernels = compare(emulator, inputs, sizes, TOLERANCE[dtype], 'planar', order=order, multiprocessors=1)
        assert kernels <= PLANAR | {'correlate_planar_sliced'} and len(kernels) == 3


LAST = {'reassemble_last', 'correlate_last', 'scatter_last'}


@pytest.mark.parametrize('down', [False, True], ids=['up', 'down'])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_channels_last(emulator, dtype, down):
    for kernel_size, groups, scale_factor, shape, order in (
        (1, 1, 1, (1, 4, 1, 1), 0),
        (3, 2, 2, (2, 8, 3, 5), 1),
        (5, 1, 2, (1, 136, 2, 3), 2),
        (5, 1, 3, (1, 4, 5, 9), 3),
        (7, 1, 2, (1, 8, 2, 3), 4),
    ):
        sizes = (kernel_size, groups, scale_factor, down)
        inputs = make_inputs(shape, *sizes, dtype, 'channels_last')
        kernels = compare(emulator, inputs, sizes, TOLERANCE[dtype], 'last', order=order)
        assert kernels == LAST


def test_small_maps_are_cut_finer(emulator):
    """With many multiprocessors to fill: channels split over blocks and over the warps of one."""
    sizes = (5, 1, 2, False)
    for channels, layout, expected_kernels in (
        (20, 'contiguous', {'reassemble_planar', 'correlate_planar_sliced', 'scatter_planar'}),
        (132, 'contiguous', {'reassemble_planar', 'correlate_planar_sliced_8', 'scatter_planar'}),
        (132, 'channels_last', LAST),
    ):
        inputs = make_inputs((1, channels, 3, 5), *sizes, torch.float32, layout)
        kernels = compare(emulator, inputs, sizes, TOLERANCE[torch.float32], order=6, multiprocessors=132)
        assert kernels == expected_kernels


def test_tiny_and_narrow_maps(emulator):
    """The sums of a tiny tile reach into the ring of copies; a tall one fills the shared memory."""
    sizes = (5, 1, 2, False)
    for shape, orders in (((1, 16, 1, 3), (0, 1, 6, 8)), ((1, 16, 40, 1), (2,))):
        for dtype in (torch.float32, torch.bfloat16):
            for order in orders:
                inputs = make_inputs(shape, *sizes, dtype)
                kernels = compare(
                    emulator, inputs, sizes, TOLERANCE[dtype], 'planar', order=order, multiprocessors=132
                )
                assert 'correlate_planar_sliced' in kernels


@pytest.mark.parametrize('layout', LAYOUTS)
def test_any_strides(emulator, layout):
    """The kernel that is chosen suits the layout; slices are neither aligned nor dense."""
    chosen = dict(contiguous='planar', channels_last='last', sliced='planar', transposed='planar')
    for dtype in (torch.float32, torch.bfloat16):
        sizes = (3, 1, 2, False)
        inputs = make_inputs((2, 4, 5, 11), *sizes, dtype, layout)
        kernels = compare(emulator, inputs, sizes, TOLERANCE[dtype], order=7)
        if layout in chosen:
            assert f'reassemble_{chosen[layout]}' in kernels


def test_strides_alone_do_not_lead_to_the_generic_kernels(emulator):
    """The gradient of a sum, two layouts, channels_last with odd channels: copies of them are served."""
    last = LAYOUTS['channels_last']
    for channels, of_features, of_grad in (
        (4, lambda x: x, lambda x: torch.ones((), dtype=x.dtype).expand(x.shape)),
        (4, lambda x: x, last),
        (4, last, lambda x: x),
        (6, last, last),
    ):
        for dtype in (torch.float32, torch.bfloat16):
            sizes = (3, 1, 2, False)
            features, masks, logits, grad = make_inputs((2, channels, 3, 5), *sizes, dtype)
            inputs = of_features(features), masks, logits, of_grad(grad)
            kernels = compare(emulator, inputs, sizes, TOLERANCE[dtype], order=9)
            assert not [kernel for kernel in kernels if 'generic' in kernel]


def test_any_two_dtypes(emulator):
    """16-bit features with float32 weights is autocast's normal case; float64 takes the generic kernels."""
    for layout in ('contiguous', 'channels_last'):
        for a in TOLERANCE:
            for b in TOLERANCE:
                sizes = (3, 1, 2, False)
                features, masks, logits, grad = make_inputs((1, 4, 2, 3), *sizes, torch.float64, layout)
                inputs = features.to(a), masks.to(b), logits.to(b), grad.to(a)
                kernels = compare(emulator, inputs, sizes, max(TOLERANCE[a], TOLERANCE[b]))
                wide = torch.float64 in (a, b)
                assert any('generic' in kernel for kernel in kernels) == wide


@pytest.mark.parametrize('family', ['generic', 'planar', 'last'])
def test_nan_weight_times_zero_border_is_nan(emulator, family):
    layout = 'channels_last' if family == 'last' else 'contiguous'
    features, masks, _, _ = make_inputs((1, 4, 2, 5), 3, 1, 2, False, torch.float32, layout)
    masks[0, 0, 0, 0] = torch.nan  # its tap lies outside the map
    result = emulated.like((1, 4, 4, 10), features)
    emulator.run(f'reassemble_{family}', [features, result, masks, None], result, (3, 1, 2, False))
    assert result.isnan().nonzero()[:, 2:].tolist() == [[0, 0]] * 4


@pytest.mark.parametrize('family', ['generic', 'planar', 'last'])
def test_softmax_of_extreme_logits(emulator, family):
    layout = 'channels_last' if family == 'last' else 'contiguous'
    features, _, logits, _ = make_inputs((1, 4, 2, 2), 3, 1, 2, False, torch.float32, layout)
    logits[0, ::4, 0, 0] = torch.tensor([-torch.inf, 1e30, -1e30, 3.4e38, 0, -88, -104, -87, 1])
    logits[0, 8, 0, 1] = torch.nan
    logits[0, 8, 1, 0] = torch.inf
    logits[0, ::4, 1, 1] = -torch.inf
    result = emulated.like((1, 4, 4, 4), features)
    emulator.run(f'reassemble_{family}', [features, result, logits, None], result, (3, 1, 2, False), True)
    torch.testing.assert_close(result, reference.carafe_softmax(features, logits, 3, 1, 2), equal_nan=True)


@pytest.mark.parametrize('layout, shape', [('contiguous', (1, 6, 13, 33)), ('channels_last', (1, 68, 5, 9))])
def test_results_do_not_depend_on_the_order_of_threads(emulator, layout, shape):
    """Bit for bit, in ascending, descending and permuted order: every barrier that is needed is there."""
    sizes = (5, 1, 2, False)
    inputs = make_inputs(shape, *sizes, torch.float32, layout)
    first, *others = (computed(emulator, inputs, sizes, order=order)[0] for order in (0, 1, 11))
    for other in others:
        assert all(torch.equal(x, y) for x, y in zip(first, other, strict=True))


def test_no_channels(emulator):
    """Sums of nothing are zeros, which have to be written."""
    sizes = (3, 1, 2, False)
    inputs = make_inputs((1, 0, 2, 3), *sizes, torch.float32)
    for softmax, weights in ((False, inputs[1]), (True, inputs[2])):
        result = emulated.like(weights.shape, weights)
        tensors = [inputs[0], inputs[3], weights if softmax else None, result]
        emulator.run('correlate', tensors, result, sizes, softmax)
        assert not result.any()


@pytest.mark.slow
@pytest.mark.parametrize('down', [False, True], ids=['up', 'down'])
@pytest.mark.parametrize('scale_factor', [1, 2, 3, 4])
@pytest.mark.parametrize('kernel_size', [1, 3, 5, 7, 9])
def test_every_size(emulator, kernel_size, scale_factor, down):
    for shape, groups in (
        ((1, 4, 1, 1), 4),
        ((2, 24, 3, 5), 2),
        ((1, 16, 2, 18), 16),
        ((1, 10, 7, 1), 2),
        ((1, 8, 6, 37), 1),
        ((2, 4, 14, 14), 1),
    ):
        sizes = (kernel_size, groups, scale_factor, down)
        for dtype in (torch.float64, torch.float32, torch.bfloat16):
            for layout in ('contiguous', 'channels_last', 'sliced'):
                inputs = make_inputs(shape, *sizes, dtype, layout)
                compare(emulator, inputs, sizes, TOLERANCE[dtype], order=scale_factor)
