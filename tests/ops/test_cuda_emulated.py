# SPDX-License-Identifier: Apache-2.0
"""The logic of the CUDA kernels, run on the CPU against the float64 oracle.

What this cannot show: speed, and what only a GPU's memory model breaks. That is for the tests on ``cuda``.
"""

import pytest
import torch

from carafe_plugin.ops import reference
from tests.ops import emulated
from tests.ops.native_cases import DTYPES, LAYOUTS, compare, computed, expected, like, make_inputs
from tests.tolerances import OPERATOR, within

pytestmark = pytest.mark.skipif(emulated.COMPILER is None, reason='needs g++')


@pytest.fixture(scope='session')
def emulator():
    return emulated.Emulator(emulated.build())


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
            kernels = compare(emulator, inputs, sizes, OPERATOR[dtype], 'generic')
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
        kernels = compare(emulator, inputs, sizes, OPERATOR[dtype], 'planar', order=order, multiprocessors=1)
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
        kernels = compare(emulator, inputs, sizes, OPERATOR[dtype], 'last', order=order)
        assert kernels == LAST


def run_chosen(emulator, features, weights, grad, softmax, order=0):
    """Reassembly of 5 x 5 by 2 by the kernel that is chosen, one group."""
    result = like(grad.shape, features)
    sizes = (5, 1, 2, False)
    tensors = [features, result, weights, None]
    return result, emulator.run('reassemble', tensors, result, sizes, softmax, order)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
def test_tensor_cores(emulator, dtype):
    """Tiles of both shapes, several and partial ones, channels past a multiple of 16, groups, splits."""
    for shape, groups, multiprocessors, order in (
        ((1, 16, 1, 2), 1, 1, 0),
        ((2, 40, 5, 14), 2, 1, 1),
        ((1, 33, 9, 36), 1, 1, 5),
        ((1, 130, 3, 4), 1, 132, 6),
    ):
        sizes = (5, groups, 2, False)
        inputs = make_inputs(shape, *sizes, dtype)
        features, masks, logits, grad = inputs
        exact = expected(*inputs, *sizes)
        for softmax, weights, result_exact in ((False, masks, exact[0]), (True, logits, exact[3])):
            result = like(grad.shape, features)
            tensors = [features, result, weights, None]
            kernel = emulator.run(
                'reassemble', tensors, result, sizes, softmax, order, multiprocessors=multiprocessors
            )
            assert kernel == 'reassemble_tensor'
            result_exact = torch.from_numpy(result_exact)
            torch.testing.assert_close(result.double(), result_exact, **within(OPERATOR[dtype], result_exact))


def test_tensor_cores_lose_nothing_of_the_weights(emulator):
    """Weights of float32, and a softmax's, count to their last bit: halves of features cancel."""
    sizes = (5, 1, 2, False)
    for dtype, weights_dtype in (
        (torch.bfloat16, torch.float32),
        (torch.bfloat16, torch.float16),
        (torch.float16, torch.float32),
    ):
        features, masks, logits, grad = make_inputs((1, 16, 3, 6), *sizes, torch.float32)
        signs = (-1.0) ** (torch.arange(3)[:, None] + torch.arange(6))
        features = (64 * signs).expand(1, 16, 3, 6).to(dtype).contiguous()
        for softmax, weights in ((False, masks / 1024), (True, logits / 8)):
            weights = weights.to(weights_dtype)
            result, kernel = run_chosen(emulator, features, weights, grad, softmax)
            chosen = softmax or dtype == torch.bfloat16  # float16 masks could overflow, or vanish
            assert kernel == f'reassemble_{"tensor" if chosen else "planar"}'
            if softmax:
                exact = reference.carafe_softmax(features.double(), weights.double(), *sizes[:3])
            else:
                exact = reference.carafe(features.double(), weights.double(), *sizes[:3])
            half_an_ulp = 2.0 ** (-8 if dtype == torch.bfloat16 else -11)
            torch.testing.assert_close(result.double(), exact, rtol=1.01 * half_an_ulp, atol=1e-4)


@pytest.mark.parametrize('softmax', [False, True], ids=['masks', 'logits'])
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
def test_tensor_cores_keep_what_is_not_finite_to_its_pixels(emulator, dtype, softmax):
    """Two cells share a window: what one of them alone reads must not become NaN in the other."""
    features, masks, logits, grad = make_inputs((1, 20, 7, 18), 5, 1, 2, False, dtype)
    features[0, 3, 2, 4] = torch.inf
    features[0, 3, 6, 17] = -torch.inf
    features[0, 17, 4, 9] = torch.nan
    weights = logits if softmax else masks
    weights[0, 0, 0, 0] = torch.nan  # its tap lies outside the map
    weights[0, 12, 5, 7] = torch.inf
    form = reference.carafe_softmax if softmax else reference.carafe
    result, kernel = run_chosen(emulator, features, weights, grad, softmax, order=3)
    assert kernel == 'reassemble_tensor'
    exact = form(features.double(), weights.double(), 5, 1, 2)
    assert torch.equal(result.isnan(), exact.isnan()) and torch.equal(result.isinf(), exact.isinf())
    finite = exact.isfinite()
    exact = exact[finite]
    torch.testing.assert_close(result[finite].double(), exact, **within(OPERATOR[dtype], exact))


def test_where_tensor_cores_do_not_serve(emulator):
    for shape, change in (
        ((1, 16, 3, 5), lambda x: x),  # odd rows are not whole words
        ((1, 15, 3, 6), lambda x: x),  # too few channels
        ((1, 16, 3, 6), LAYOUTS['sliced']),  # not aligned
        ((1, 16, 3, 6), torch.Tensor.float),
    ):
        features, masks, _, grad = make_inputs(shape, 5, 1, 2, False, torch.bfloat16)
        features = change(features)
        result, kernel = run_chosen(emulator, features, masks, grad, False)
        assert kernel == 'reassemble_planar'
        exact = reference.carafe(features.double(), masks.double(), 5, 1, 2)
        torch.testing.assert_close(result.double(), exact, **within(OPERATOR[torch.bfloat16], exact))


def test_small_maps_are_cut_finer(emulator):
    """With many multiprocessors to fill: channels split over blocks and over the warps of one."""
    sizes = (5, 1, 2, False)
    for channels, layout, expected_kernels in (
        (20, 'contiguous', {'reassemble_planar', 'correlate_planar_sliced', 'scatter_planar'}),
        (132, 'contiguous', {'reassemble_planar', 'correlate_planar_sliced_8', 'scatter_planar'}),
        (132, 'channels_last', LAST),
    ):
        inputs = make_inputs((1, channels, 3, 5), *sizes, torch.float32, layout)
        kernels = compare(emulator, inputs, sizes, OPERATOR[torch.float32], order=6, multiprocessors=132)
        assert kernels == expected_kernels


def test_tiny_and_narrow_maps(emulator):
    """The sums of a tiny tile reach into the ring of copies; a tall one fills the shared memory."""
    sizes = (5, 1, 2, False)
    for shape, orders in (((1, 16, 1, 3), (0, 1, 6, 8)), ((1, 16, 40, 1), (2,))):
        for dtype in (torch.float32, torch.bfloat16):
            for order in orders:
                inputs = make_inputs(shape, *sizes, dtype)
                kernels = compare(
                    emulator, inputs, sizes, OPERATOR[dtype], 'planar', order=order, multiprocessors=132
                )
                assert 'correlate_planar_sliced' in kernels


@pytest.mark.parametrize('layout', LAYOUTS)
def test_any_strides(emulator, layout):
    """The kernel that is chosen suits the layout; slices are neither aligned nor dense."""
    chosen = dict(contiguous='planar', channels_last='last', sliced='planar', transposed='planar')
    for dtype in (torch.float32, torch.bfloat16):
        sizes = (3, 1, 2, False)
        inputs = make_inputs((2, 4, 5, 11), *sizes, dtype, layout)
        kernels = compare(emulator, inputs, sizes, OPERATOR[dtype], order=7)
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
            kernels = compare(emulator, inputs, sizes, OPERATOR[dtype], order=9)
            assert not [kernel for kernel in kernels if 'generic' in kernel]


def test_any_two_dtypes(emulator):
    """16-bit features with float32 weights is autocast's normal case; float64 takes the generic kernels."""
    for layout in ('contiguous', 'channels_last'):
        for a in DTYPES:
            for b in DTYPES:
                sizes = (3, 1, 2, False)
                features, masks, logits, grad = make_inputs((1, 4, 2, 3), *sizes, torch.float64, layout)
                inputs = features.to(a), masks.to(b), logits.to(b), grad.to(a)
                kernels = compare(emulator, inputs, sizes, max(OPERATOR[a], OPERATOR[b]))
                wide = torch.float64 in (a, b)
                assert any('generic' in kernel for kernel in kernels) == wide


@pytest.mark.parametrize('family', ['generic', 'planar', 'last'])
def test_nan_weight_times_zero_border_is_nan(emulator, family):
    layout = 'channels_last' if family == 'last' else 'contiguous'
    features, masks, _, _ = make_inputs((1, 4, 2, 5), 3, 1, 2, False, torch.float32, layout)
    masks[0, 0, 0, 0] = torch.nan  # its tap lies outside the map
    result = like((1, 4, 4, 10), features)
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
    result = like((1, 4, 4, 4), features)
    emulator.run(f'reassemble_{family}', [features, result, logits, None], result, (3, 1, 2, False), True)
    torch.testing.assert_close(result, reference.carafe_softmax(features, logits, 3, 1, 2), equal_nan=True)


@pytest.mark.parametrize(
    'layout, shape, dtype',
    [
        ('contiguous', (1, 6, 13, 33), torch.float32),
        ('contiguous', (1, 50, 10, 18), torch.bfloat16),
        ('channels_last', (1, 68, 5, 9), torch.float32),
    ],
)
def test_results_do_not_depend_on_the_order_of_threads(emulator, layout, shape, dtype):
    """Bit for bit, in ascending, descending and permuted order: every barrier that is needed is there."""
    sizes = (5, 1, 2, False)
    inputs = make_inputs(shape, *sizes, dtype, layout)
    first, *others = (computed(emulator, inputs, sizes, order=order)[0] for order in (0, 1, 11))
    for other in others:
        assert all(torch.equal(x, y) for x, y in zip(first, other, strict=True))


def test_no_channels(emulator):
    """Sums of nothing are zeros, which have to be written."""
    sizes = (3, 1, 2, False)
    inputs = make_inputs((1, 0, 2, 3), *sizes, torch.float32)
    for softmax, weights in ((False, inputs[1]), (True, inputs[2])):
        result = like(weights.shape, weights)
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
                compare(emulator, inputs, sizes, OPERATOR[dtype], order=scale_factor)
