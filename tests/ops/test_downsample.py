# SPDX-License-Identifier: Apache-2.0
"""Downsampling by reassembly (CARAFE++) against the float64 oracle, natively and in plain PyTorch."""

import numpy as np
import pytest
import torch

from carafe_plugin.ops import _native, carafe_downsample, carafe_downsample_softmax, reference
from tests import reference as oracle
from tests.tolerances import OPERATOR, within
from tests.torch_versions import needs_compile

LAYOUTS = dict(
    contiguous=lambda x: x.contiguous(),
    channels_last=lambda x: x.contiguous(memory_format=torch.channels_last),
    transposed=lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
)


@pytest.fixture(params=['native', 'reference'])
def path(request, monkeypatch):
    if request.param == 'reference':
        monkeypatch.setattr(_native, 'operator', lambda *_: None)
    elif 'cpu' not in _native.loaded:
        pytest.skip(f'no native library: {_native.why_not("cpu")}')


def make_inputs(shape, k, groups, s, dtype=torch.float64):
    """Features, masks or logits, and both expected outputs."""
    rng = np.random.default_rng(k + groups + s)
    n, _, h, w = shape
    shapes = shape, (n, groups * k * k, -(-h // s), -(-w // s))
    inputs = [torch.tensor(rng.standard_normal(x)).to(dtype) for x in shapes]
    features, other = (x.double().numpy() for x in inputs)  # as the dtype holds them
    probability = oracle.softmax(other, k, groups)
    expected = [oracle.reassemble(features, x, k, groups, s, down=True) for x in (other, probability)]
    return *inputs, [torch.tensor(x) for x in expected]


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('dtype', OPERATOR, ids=str)
@pytest.mark.parametrize('scale_factor', [1, 2, 3])
@pytest.mark.parametrize('kernel_size', [1, 3, 5])
def test_matches_the_definition(path, kernel_size, scale_factor, dtype, layout):
    for shape, group_size in (((2, 4, 5, 6), 1), ((1, 4, 7, 2), 4), ((1, 4, 1, 1), 2)):
        call = (kernel_size, group_size, scale_factor)
        features, other, expected = make_inputs(shape, *call, dtype)
        features, other = map(LAYOUTS[layout], (features, other))
        for function, exact in zip((carafe_downsample, carafe_downsample_softmax), expected, strict=True):
            output = function(features, other, *call)
            assert output.dtype == dtype
            torch.testing.assert_close(output.double(), exact, **within(OPERATOR[dtype], exact))


def test_equals_a_strided_convolution():
    """One kernel for all pixels is an ordinary depthwise convolution of stride s and padding r."""
    features, kernel = torch.rand(2, 3, 8, 9), torch.rand(5, 5)
    masks = kernel.reshape(1, 25, 1, 1).expand(2, 25, 4, 5)
    weight = kernel.expand(3, 1, 5, 5)
    convolved = torch.nn.functional.conv2d(features, weight, stride=2, padding=2, groups=3)
    torch.testing.assert_close(carafe_downsample(features, masks, 5), convolved)


@pytest.mark.parametrize('call', [(3, 2, 2), (5, 1, 3), (1, 4, 1)], ids=str)
def test_gradients(path, call):
    features, other, _ = make_inputs((1, 4, 3, 4), *call)
    for function in (carafe_downsample, carafe_downsample_softmax):
        leaves = (features.requires_grad_(), other.requires_grad_())
        assert torch.autograd.gradcheck(lambda x, w, f=function: f(x, w, *call), leaves)
        assert torch.autograd.gradgradcheck(lambda x, w, f=function: f(x, w, *call), leaves)


def test_empty_batch_keeps_the_graph(path):
    weight = torch.rand(1, requires_grad=True)
    output = carafe_downsample_softmax(torch.rand(0, 4, 5, 6), torch.rand(0, 9, 3, 3) * weight, 3)
    assert output.shape == (0, 4, 3, 3)
    output.sum().backward()
    assert weight.grad == 0


@needs_compile
@pytest.mark.parametrize('function', [carafe_downsample, carafe_downsample_softmax])
def test_compile_without_graph_break(function):
    torch._dynamo.reset()
    compiled = torch.compile(function, fullgraph=True, backend='aot_eager', dynamic=True)
    for height in (5, 6):
        features, other, _ = make_inputs((2, 4, height, 7), 3, 2, 2)
        results = []
        for run in (function, compiled):
            leaves = [features.clone().requires_grad_(), other.clone().requires_grad_()]
            output = run(*leaves, 3, 2)
            output.square().sum().backward()
            results.append((output, *(x.grad for x in leaves)))
        torch.testing.assert_close(*results)


def test_bad_arguments():
    features, masks = torch.rand(2, 6, 5, 8), torch.rand(2, 9, 3, 4)
    assert carafe_downsample(features, masks, 3).shape == (2, 6, 3, 4)
    expected = r'masks must have shape \(N, G\*k\*k, ceil\(H/s\), ceil\(W/s\)\) = \(2, 9, 2, 3\)'
    with pytest.raises(ValueError, match=expected):
        carafe_downsample(features, masks, 3, 1, 3)
    with pytest.raises(ValueError, match=r'logits must have shape .* = \(2, 25, 3, 4\)'):
        carafe_downsample_softmax(features, masks, 5)
    with pytest.raises(ValueError, match='kernel_size must be odd, got 4'):
        carafe_downsample(features, masks, 4)
    with pytest.raises(TypeError, match='must have one dtype'):
        carafe_downsample_softmax(features, masks.double(), 3)


def test_the_reference_form_upsamples_as_before():
    """One core serves both directions: at s = 1 they are the same operator."""
    features, other, _ = make_inputs((1, 4, 5, 6), 3, 2, 1)
    for function in (reference.carafe, reference.carafe_softmax):
        up, down = (function(features, other, 3, 2, 1, down) for down in (False, True))
        torch.testing.assert_close(up, down, rtol=0, atol=0)
