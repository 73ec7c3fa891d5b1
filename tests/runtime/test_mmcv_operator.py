# SPDX-License-Identifier: Apache-2.0
"""mmcv's operator in the place of ours: its Python as it is, and a stand-in for what it has compiled.

The stand-in computes by the oracle, on the CPU, which is here the device that mmcv has kernels for.
"""

import re
import sys

import mmcv.ops
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx

import carafe_plugin
import carafe_plugin.detection  # enters it
from carafe_plugin import env
from carafe_plugin.ops import _native, carafe, carafe_downsample, carafe_softmax, compat, reference
from carafe_plugin.ops._checks import Sizes
from carafe_plugin.runtime import mmcv_operator
from tests import reference as oracle
from tests.ops.native_cases import LAYOUTS, make_inputs
from tests.tolerances import OPERATOR, within

CALL = (5, 2, 2)
FLOAT32 = {torch.float32}


class Compiled:
    """mmcv's ``_ext``: dense float32, features kept as [N, H, W, C] for the backward; counts its calls."""

    def __init__(self):
        self.forwards = self.backwards = 0

    def carafe_forward(self, features, masks, rfeatures, routput, rmasks, output, **sizes):
        self.forwards += 1
        rows = features.permute(0, 2, 3, 1)
        rfeatures.resize_(rows.shape).copy_(rows)
        features, masks = arrays(features, masks)
        output.copy_(torch.from_numpy(oracle.reassemble(features, masks, *sizes.values())))

    def carafe_backward(self, grad, rfeatures, masks, _a, _b, _c, _d, grad_features, grad_masks, **sizes):
        self.backwards += 1
        grad, rfeatures, masks = arrays(grad, rfeatures, masks)
        features, size = rfeatures.transpose(0, 3, 1, 2), grad_features.shape[2:]
        grad_features.copy_(torch.from_numpy(oracle.scatter(grad, masks, *size, *sizes.values())))
        grad_masks.copy_(torch.from_numpy(oracle.correlate(grad, features, *sizes.values())))


def arrays(*tensors):
    assert all(x.dtype == torch.float32 and x.is_contiguous() for x in tensors)
    return [x.detach().double().numpy() for x in tensors]


@pytest.fixture
def compiled(monkeypatch):
    """No library of ours on the device, and mmcv with its own."""
    stand_in = Compiled()
    monkeypatch.setattr(sys.modules['mmcv.ops.carafe'], 'ext_module', stand_in)
    monkeypatch.setattr(mmcv.ops, 'get_compiling_cuda_version', lambda: '13.0')
    monkeypatch.setattr(mmcv_operator, 'DEVICE', 'cpu')
    monkeypatch.delitem(_native.loaded, 'cpu', raising=False)
    monkeypatch.setattr(_native, '_warned', {'cpu'})
    monkeypatch.delenv('CARAFE_NATIVE', raising=False)
    mmcv_operator.why_not.cache_clear()
    yield stand_in
    mmcv_operator.why_not.cache_clear()


def inputs(dtype=torch.float32, layout='contiguous', shape=(2, 4, 3, 5)):
    features, masks, logits, grad = make_inputs(shape, *CALL, False, dtype, layout)
    return features, masks.requires_grad_(), logits.requires_grad_(), grad


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_it_computes_what_the_plain_form_does(compiled, dtype, layout):
    features, masks, logits, grad = inputs(dtype, layout)
    features.requires_grad_()
    for ours, plain, other in (
        (carafe, reference.carafe, masks),
        (carafe_softmax, reference.carafe_softmax, logits),
    ):
        exact = plain(features.double(), other.double(), *CALL)
        exact = [exact, *torch.autograd.grad(exact, (features, other), grad.double())]
        output = ours(features, other, *CALL)
        results = [output, *torch.autograd.grad(output, (features, other), grad)]
        for result, expected in zip(results, exact, strict=True):
            assert result.dtype == dtype
            result, expected = result.detach().double(), expected.detach().double()
            torch.testing.assert_close(result, expected, **within(OPERATOR[dtype], expected))
    assert (compiled.forwards, compiled.backwards) == (2, 2)


@pytest.mark.parametrize('wanted', ['features', 'masks'])
def test_one_input_without_gradient(compiled, wanted):
    features, masks, _, grad = inputs()
    masks = masks.detach()
    x = dict(features=features, masks=masks)[wanted].requires_grad_()
    (result,) = torch.autograd.grad(carafe(features, masks, *CALL), x, grad)
    (expected,) = torch.autograd.grad(reference.carafe(features, masks, *CALL), x, grad)
    torch.testing.assert_close(result, expected)
    assert compiled.backwards == 1


def test_a_second_derivative_is_the_plain_forms(compiled):
    features, masks, _, grad = inputs()
    tensors = (features.requires_grad_(), masks, grad.requires_grad_())

    def second(function):
        grads = torch.autograd.grad(function(features, masks, *CALL), tensors[:2], grad, create_graph=True)
        return torch.autograd.grad(sum((g**2).sum() for g in grads), tensors)

    torch.testing.assert_close(second(carafe), second(reference.carafe))
    assert (compiled.forwards, compiled.backwards) == (1, 0)


def test_under_autocast(compiled):
    features, masks, _, grad = inputs()
    with torch.autocast('cpu', torch.bfloat16):
        output = carafe(features.bfloat16(), masks, *CALL)
    assert output.dtype == torch.bfloat16
    output.backward(grad.bfloat16())
    assert masks.grad.dtype == torch.float32 and compiled.backwards == 1


def test_unmodified_mmcv_layers_do_not_turn_in_a_circle(compiled):
    """Where ``patch_mmcv`` makes mmcv call us, we call what mmcv had."""
    layer, x = mmcv.ops.CARAFEPack(4, 2, up_group=2), torch.rand(1, 4, 3, 5)
    features, masks, _, grad = inputs()
    carafe_plugin.patch_mmcv()
    try:
        layer(x).sum().backward()
        output = mmcv_operator.originals()['carafe'](features, masks, *CALL)  # a name bound before the patch
        output.backward(grad)
    finally:
        carafe_plugin.unpatch_mmcv()
    torch.testing.assert_close(output, reference.carafe(features, masks, *CALL))
    assert (compiled.forwards, compiled.backwards) == (3, 2)
    assert all(parameter.grad is not None for parameter in layer.parameters())


@pytest.mark.parametrize(
    'shape, dtypes, sizes, right',
    [
        ((2, 256, 50, 84), FLOAT32, (5, 1, 2, False), True),
        ((2, 256, 50, 84), {torch.float16, torch.float32}, (5, 1, 2, False), True),
        ((2, 256, 50, 84), {torch.bfloat16}, (5, 1, 2, False), True),
        ((2, 256, 50, 84), {torch.float64}, (5, 1, 2, False), False),
        ((2, 256, 50, 84), FLOAT32, (5, 1, 2, True), False),
        ((1, 128, 8, 8), FLOAT32, (1, 128, 2, False), True),
        ((1, 384, 8, 8), FLOAT32, (1, 384, 2, False), True),
        ((1, 385, 8, 8), FLOAT32, (1, 385, 2, False), False),
        ((1, 32, 8, 8), FLOAT32, (7, 8, 2, False), False),
        ((0, 256, 50, 84), FLOAT32, (5, 1, 2, False), False),
        ((1, 0, 50, 84), FLOAT32, (5, 1, 2, False), False),
        # 32 threads for each entry of each pixel's kernel are counted in an int.
        ((9, 256, 200, 336), FLOAT32, (5, 1, 2, False), True),
        ((10, 256, 200, 336), FLOAT32, (5, 1, 2, False), False),
        ((1, 1 << 15, 128, 128), FLOAT32, (1, 1, 2, False), False),
    ],
)
def test_where_it_is_right(shape, dtypes, sizes, right):
    assert mmcv_operator.is_right(shape, dtypes, Sizes(*sizes)) == right


def transforms():
    yield 'jit', lambda f, x: torch.jit.trace(f, x, check_trace=False)
    yield 'make_fx', lambda f, x: make_fx(f)(x)
    yield 'grad', lambda f, x: torch.func.grad(lambda y: f(y).sum())(x)
    yield 'dual', dual
    yield 'fake', lambda f, x: f(FakeTensorMode(allow_non_fake_inputs=True).from_tensor(x))
    if compat.VERSION >= (2, 4):
        yield 'compile', lambda f, x: torch.compile(f, fullgraph=True, backend='eager')(x)


def dual(function, x):
    with forward_ad.dual_level():
        function(forward_ad.make_dual(x, x))


@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning')
@pytest.mark.parametrize('transform', [pytest.param(f, id=name) for name, f in transforms()])
def test_a_graph_or_a_transform_takes_the_plain_form(compiled, transform):
    features, masks, _, _ = inputs()
    masks = masks.detach()
    transform(lambda x: carafe(x, masks, *CALL), features)
    assert compiled.forwards == 0
    carafe(features, masks, *CALL)
    assert compiled.forwards == 1


def test_other_devices_and_forms_are_not_its(compiled, monkeypatch):
    features, masks, _, _ = inputs()
    carafe_downsample(features, torch.rand(2, 50, 2, 3), *CALL)  # (2, 4, 3, 5) to (2, 4, 2, 3)
    monkeypatch.setattr(mmcv_operator, 'DEVICE', 'cuda')
    carafe(features, masks, *CALL)
    assert compiled.forwards == 0


def test_ours_comes_first(compiled, monkeypatch):
    monkeypatch.setattr(_native, 'operator', lambda *_: reference.carafe)
    features, masks, _, _ = inputs()
    carafe(features, masks, *CALL)
    assert compiled.forwards == 0


@pytest.mark.parametrize('why', ['CARAFE_NATIVE', 'without CUDA', 'mmcv-lite'])
def test_where_mmcv_has_none_the_plain_form_serves(compiled, monkeypatch, why):
    if why == 'CARAFE_NATIVE':
        monkeypatch.setenv('CARAFE_NATIVE', '0')
    elif why == 'without CUDA':
        monkeypatch.setattr(mmcv.ops, 'get_compiling_cuda_version', lambda: 'not available')
    else:

        def absent():
            raise ModuleNotFoundError("No module named 'mmcv._ext'")

        monkeypatch.setattr(mmcv_operator, 'originals', absent)
    features, masks, _, _ = inputs()
    torch.testing.assert_close(carafe(features, masks, *CALL), reference.carafe(features, masks, *CALL))
    assert compiled.forwards == 0
    if why != 'CARAFE_NATIVE':
        assert re.match('missing: (mmcv was compiled without CUDA|No module named)', env._mmcv())


def test_env_tells(compiled):
    assert env._mmcv().startswith('serves on CUDA')
