# SPDX-License-Identifier: Apache-2.0
"""What only a GPU can show: streams, graphs, large maps, determinism at sizes that fill it."""

import pytest
import torch

from carafe_plugin.ops import _native, carafe, carafe_softmax
from tests.ops.native_cases import make_inputs, needs_cuda
from tests.ops.test_native import computed
from tests.tolerances import OPERATOR, within

ops = torch.ops.carafe_plugin
SIZES = (5, 1, 2, False)


def test_tensors_on_two_devices_are_refused():
    """``meta`` stands for the other device where there is no GPU."""
    features, masks, logits, grad = make_inputs((1, 4, 2, 3), *SIZES, torch.float32)
    other = 'cuda' if torch.cuda.is_available() else 'meta'
    words = f'must be on one device, got cpu and {other}'
    for function, kernels in ((carafe, masks), (carafe_softmax, logits)):
        with pytest.raises(ValueError, match=words):
            function(features, kernels.to(other), 5)
    if 'cpu' not in _native.loaded:
        return
    for name, tensors in (
        ('reassemble', (features, masks.to(other))),
        ('reassemble_softmax', (features, logits.to(other))),
        ('correlate', (grad.to(other), features)),
        ('reassemble_softmax_backward', (grad, features, logits.to(other))),
    ):
        with pytest.raises(RuntimeError, match=words):
            getattr(ops, name)(*tensors, *SIZES)
    with pytest.raises(RuntimeError, match=words):
        ops.scatter(grad, masks.to(other), 2, 3, *SIZES)


@needs_cuda
@pytest.mark.parametrize('layout', ['contiguous', 'channels_last'])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize('shape', [(2, 256, 25, 42), (1, 256, 50, 84), (64, 256, 14, 14)], ids=str)
def test_sizes_of_detectors(shape, dtype, layout):
    """Against the CPU kernels, on the same rounded inputs; two runs are equal bit for bit."""
    inputs = make_inputs(shape, *SIZES, dtype, layout)
    on_gpu = [x.cuda() for x in inputs]
    first, second = computed(*on_gpu, *SIZES), computed(*on_gpu, *SIZES)
    assert all(torch.equal(x, y) for x, y in zip(first, second, strict=True))
    for result, exact in zip(first, computed(*(x.double() for x in inputs), *SIZES), strict=True):
        torch.testing.assert_close(result.double().cpu(), exact, **within(OPERATOR[dtype], exact))


@needs_cuda
@pytest.mark.parametrize('name', ['reassemble', 'reassemble_softmax', 'correlate'])
def test_what_is_tested_here_is_the_native_operator(name):
    x = torch.empty(1, 1, 1, 1, device='cuda')
    assert _native.operator(name, x, x) is getattr(ops, name)


@needs_cuda
def test_runs_on_the_current_stream():
    features, masks, _, _ = make_inputs((1, 64, 50, 84), *SIZES, torch.float32, device='cuda')
    exact = ops.reassemble(2 * features, masks, *SIZES)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)  # on another stream the operator would overtake the product
        doubled = 2 * features
        result = ops.reassemble(doubled, masks, *SIZES)
    stream.synchronize()
    assert torch.equal(result, exact)


@needs_cuda
def test_a_graph_can_hold_every_operator():
    inputs = make_inputs((1, 64, 25, 42), *SIZES, torch.float32, device='cuda')
    computed(*inputs, *SIZES)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = computed(*inputs, *SIZES)
    for x in inputs:
        x.copy_(torch.randn_like(x))
    graph.replay()
    torch.cuda.synchronize()
    for result, exact in zip(results, computed(*inputs, *SIZES), strict=True):
        assert torch.equal(result, exact)


@needs_cuda
def test_gradients_of_modules_in_16_bits_under_autocast():
    features, _, logits, grad = make_inputs((2, 64, 14, 14), *SIZES, torch.float32, device='cuda')
    features = features.bfloat16().requires_grad_()
    logits.requires_grad_()
    with torch.autocast('cuda', dtype=torch.bfloat16):
        carafe_softmax(features, logits, 5).backward(grad.bfloat16())
    assert features.grad.dtype == torch.bfloat16 and logits.grad.dtype == torch.float32
