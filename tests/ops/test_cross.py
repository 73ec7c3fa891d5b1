# SPDX-License-Identifier: Apache-2.0
"""The CPU kernels for arm64, run by QEMU, and by clang, against the float64 oracle.

No torch is behind them: the driver lets no kernel read or write beside a tensor or its scratch, and
whatever a kernel does not write is NaN.
"""

import pytest
import torch

from carafe_plugin.ops.reference import carafe_softmax
from tests.ops import cross
from tests.ops.native_cases import DTYPES, LAYOUTS, compare, computed, expected, halfway, like, make_inputs
from tests.tolerances import OPERATOR, within

pytestmark = pytest.mark.slow  # seven seconds of compiling for each object

MACHINES = [
    ('gcc-arm64', 'baseline'),
    ('clang-arm64', 'baseline'),
    *(('clang', isa) for isa in cross.INSTRUCTION_SETS),
]


@pytest.fixture(scope='module', params=MACHINES, ids='-'.join)
def started(request):
    target, isa = request.param
    if cross.missing(target):
        pytest.skip(f'needs {" and ".join(cross.missing(target))}')
    drivers = [cross.Driver(target, isa)]
    try:
        assert drivers[0].isa, f'{target} does not start'
        if drivers[0].isa != isa and isa != 'baseline':
            pytest.skip(f'this machine has no {isa}')
        yield drivers
    finally:
        drivers[-1].close()


@pytest.fixture
def driver(started):
    """The running program, or a new one where a fault ended it."""
    last = started[-1]
    if last.process.poll() is not None:
        started.append(cross.Driver(last.target, last.isa))
    return started[-1]


@pytest.mark.parametrize('down', [False, True], ids=['up', 'down'])
@pytest.mark.parametrize('scale_factor', [1, 2, 3, 4])
@pytest.mark.parametrize('kernel_size', [1, 3, 5, 7])
def test_sizes(driver, kernel_size, scale_factor, down):
    for shape, groups in (((1, 4, 1, 1), 4), ((2, 6, 3, 5), 1), ((1, 10, 7, 1), 2), ((1, 4, 4, 33), 1)):
        sizes = (kernel_size, groups, scale_factor, down)
        for dtype in (torch.float64, torch.float32):
            compare(driver, make_inputs(shape, *sizes, dtype), sizes, OPERATOR[dtype])


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('dtype', DTYPES, ids=lambda dtype: str(dtype)[6:])
def test_dtypes_and_layouts(driver, dtype, layout):
    for shape, sizes in (
        ((2, 12, 5, 19), (5, 1, 2, False)),
        ((1, 5, 3, 13), (5, 1, 2, False)),
        ((2, 12, 4, 7), (3, 4, 3, False)),
        ((1, 37, 4, 3), (3, 1, 1, False)),
        ((2, 7, 6, 37), (5, 1, 2, True)),
    ):
        compare(driver, make_inputs(shape, *sizes, dtype, layout), sizes, OPERATOR[dtype])


@pytest.mark.parametrize('layout', ['contiguous', 'channels_last'])
@pytest.mark.parametrize('a', DTYPES, ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize('b', DTYPES, ids=lambda dtype: str(dtype)[6:])
def test_any_two_dtypes(driver, a, b, layout):
    sizes = (5, 2, 2, False)
    features, masks, logits, grad = make_inputs((2, 4, 3, 19), *sizes, layout=layout)
    inputs = features.to(a), masks.to(b), logits.to(b), grad.to(a)
    for result, exact in zip(computed(driver, inputs, sizes)[0], expected(*inputs, *sizes), strict=True):
        exact = torch.from_numpy(exact)
        torch.testing.assert_close(result.double(), exact, **within(OPERATOR[result.dtype], exact))


def test_many_channels_and_tiles(driver):
    """More channels than a block, columns than a tile, rows than a chunk; a result above 8 MB."""
    for shape, sizes, dtypes in (
        ((1, 70, 9, 40), (5, 1, 2, False), (torch.float32, torch.bfloat16, torch.float16)),
        ((1, 6, 3, 1700), (5, 2, 2, False), (torch.float32,)),
        ((1, 2, 5, 130), (9, 1, 4, False), (torch.float32,)),
        ((1, 3, 20, 600), (3, 1, 2, True), (torch.float32, torch.bfloat16)),
        ((1, 66, 80, 101), (1, 1, 2, False), (torch.float32,)),
    ):
        for dtype in dtypes:
            compare(driver, make_inputs(shape, *sizes, dtype), sizes, OPERATOR[dtype])


@pytest.mark.parametrize('layout', ['contiguous', 'channels_last'])
def test_results_do_not_depend_on_the_plan(driver, layout):
    """Bit for bit, however the work is cut into items and these into runs with scratch of their own."""
    for shape, sizes in (
        ((2, 96, 14, 14), (5, 1, 2, False)),
        ((1, 8, 37, 41), (3, 4, 2, False)),
        ((1, 64, 30, 9), (5, 1, 3, True)),
    ):
        for dtype in (torch.float32, torch.bfloat16):
            inputs = make_inputs(shape, *sizes, dtype, layout)
            first, *others = (
                computed(driver, inputs, sizes, threads=threads, pieces=pieces)[0]
                for threads, pieces in ((1, 1), (1, 3), (2, 5), (5, 2))
            )
            for other in others:
                assert all(torch.equal(x, y) for x, y in zip(first, other, strict=True))


def run(driver, name, tensors, like_shape, like_tensor, sizes, softmax=False, dtype=None):
    """One operator, with its result in the place of the tensor that is ``...``."""
    result = like(like_shape, like_tensor, dtype)
    driver.run(name, [result if x is ... else x for x in tensors], result, sizes, softmax)
    return result


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=lambda dtype: str(dtype)[6:])
def test_16_bit_conversions_are_exact(driver, dtype):
    """Every value passes through float32 and back unchanged; float32 rounds to nearest even as torch does."""
    sizes = (1, 1, 1, False)
    values = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype)
    values = values[~values.isnan()].reshape(1, 1, 1, -1)
    out = run(driver, 'reassemble', [values, ..., torch.ones_like(values), None], values.shape, values, sizes)
    assert torch.equal(out.view(torch.int16), (values + 0).view(torch.int16))
    wide = torch.randn(1, 1, 200, 100) * torch.logspace(-9, 6, 200)[:, None]
    wide[0, 0, 0, :4] = torch.tensor([torch.inf, -torch.inf, 65519.9, 65520.0])
    for x in (wide, halfway(dtype), wide * torch.nan):
        out = run(driver, 'correlate', [torch.ones_like(x), x, None, ...], x.shape, x, sizes, dtype=dtype)
        torch.testing.assert_close(out, x.to(dtype), rtol=0, atol=0, equal_nan=True)


def test_softmax_of_extreme_logits(driver):
    features, logits = torch.ones(1, 1, 3, 3), torch.zeros(1, 9, 3, 3)
    logits[0, :, 0, 0] = torch.tensor([-torch.inf, 1e30, -1e30, 3.4e38, 0, -88, -104, -87, 1])
    logits[0, :, 1, 1] = torch.tensor([-100.0, 0, -100, -100, -100, -100, -100, -100, -100])
    logits[0, 3, 1, 2] = torch.nan
    logits[0, 3, 2, 2] = torch.inf
    logits[0, :, 2, 0] = -torch.inf
    sizes = (3, 1, 1, False)
    out = run(driver, 'reassemble', [features, ..., logits, None], features.shape, features, sizes, True)
    torch.testing.assert_close(out, carafe_softmax(features, logits, 3, 1, 1), equal_nan=True)
    assert out[0, 0, 1, 1] == 1


@pytest.mark.parametrize('dtype', DTYPES, ids=lambda dtype: str(dtype)[6:])
def test_non_finite_values_reach_their_window_alone(driver, dtype):
    features, masks = torch.zeros(1, 5, 7, 21, dtype=dtype), torch.ones(1, 25, 14, 42, dtype=dtype)
    features[0, :, 3, 9], features[0, :, 3, 20] = torch.inf, torch.nan
    masks[0, 0, 0, 0] = torch.nan  # its tap lies outside the map
    out = run(driver, 'reassemble', [features, ..., masks, None], (1, 5, 14, 42), features, (5, 1, 2, False))
    exact = torch.zeros(14, 42, dtype=dtype)
    exact[2:12, 14:24], exact[2:12, 36:], exact[0, 0] = torch.inf, torch.nan, torch.nan
    torch.testing.assert_close(out, exact.expand(1, 5, 14, 42), equal_nan=True)
