# SPDX-License-Identifier: Apache-2.0
"""Inputs, layouts, exact results and comparisons that the tests of the native operators share."""

import os

import pytest
import torch

from carafe_plugin.ops import _native
from tests import reference as oracle
from tests.tolerances import within

# The kernels are tested before they are proven; with the gate closed every test would pass on the plain form.
os.environ.setdefault('CARAFE_CUDA_KERNELS', '1')
WHY_NO_CUDA = 'no CUDA device' if not torch.cuda.is_available() else f'no library: {_native.why_not("cuda")}'
needs_cuda = pytest.mark.skipif(
    not (torch.cuda.is_available() and 'cuda' in _native.loaded), reason=WHY_NO_CUDA
)
on_devices = pytest.mark.parametrize('device', ['cpu', pytest.param('cuda', marks=needs_cuda)])

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]  # as carafe::Dtype
GUARD = 64  # elements beside every result, which no kernel may touch
LAYOUTS = dict(
    contiguous=lambda x: x.contiguous(),
    channels_last=lambda x: x.contiguous(memory_format=torch.channels_last),
    sliced=lambda x: torch.nn.functional.pad(x, (1, 2, 2, 1, 1, 0))[:, 1:, 2:-1, 1:-2],
    transposed=lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    expanded=lambda x: x[:1].expand(x.shape),
)


def make_inputs(shape, k, groups, s, down, dtype=torch.float64, layout='contiguous', seed=0, device='cpu'):
    """Features, masks, logits and an output gradient."""
    generator = torch.Generator().manual_seed(seed)
    n, c, h, w = shape
    phases, out_h, out_w = (1, -(-h // s), -(-w // s)) if down else (s, s * h, s * w)
    shapes = (
        shape,
        (n, groups * k * k, out_h, out_w),
        (n, groups * (k * phases) ** 2, out_h // phases, out_w // phases),
        (n, c, out_h, out_w),
    )
    return [
        LAYOUTS[layout](torch.randn(x, generator=generator, dtype=torch.float64).to(device, dtype))
        for x in shapes
    ]


def expected(features, masks, logits, grad, k, groups, s, down):
    features, masks, logits, grad = (x.double().cpu().numpy() for x in (features, masks, logits, grad))
    sizes, size = (k, groups, s, down), features.shape[2:]
    phases = 1 if down else s
    probability = oracle.softmax(oracle.shuffle(logits, phases), k, groups)
    grad_logits = oracle.softmax_backward(probability, oracle.correlate(grad, features, *sizes), k, groups)
    return [
        oracle.reassemble(features, masks, *sizes),
        oracle.correlate(grad, features, *sizes),
        oracle.scatter(grad, masks, *size, *sizes),
        oracle.reassemble(features, probability, *sizes),
        oracle.scatter(grad, probability, *size, *sizes),
        oracle.unshuffle(grad_logits, phases),
    ]


def halfway(dtype):
    """Every float32 half-way between two neighbouring 16-bit values, as (1, 1, rows, columns)."""
    largest = torch.tensor(torch.finfo(dtype).max, dtype=dtype).view(torch.int16).item()
    values = torch.arange(largest + 1, dtype=torch.int16).view(dtype).float()
    middle = values[:-1] / 2 + values[1:] / 2
    return torch.stack([middle, -middle])[None, None]


def like(shape, source, dtype=None):
    """A result full of NaN between guards, in the layout of ``source`` as the native ``empty`` chooses it."""
    dtype = dtype or source.dtype
    layout = torch._prims_common.suggest_memory_format(source)
    strides = torch.empty(shape, memory_format=layout, device='meta').stride()
    count = torch.Size(shape).numel()
    return torch.full((count + 2 * GUARD,), torch.nan, dtype=dtype)[GUARD:].as_strided(shape, strides)


def computed(runner, inputs, sizes, family='', **kwargs):
    """The six results of an operator family and the kernels that ran, where no torch runs them."""
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
            result = like(grad.shape, features)
            tensors = [features, result, weights, None]
        elif operator == 'correlate':
            result = like(weights.shape, logits if softmax else grad, weights.dtype)
            tensors = [features, grad, logits if softmax else None, result]
        else:
            result = like(features.shape, grad)
            tensors = [result, grad, weights, None]
        kernels.append(runner.run(name.format(operator), tensors, result, sizes, softmax, **kwargs))
        results.append(result)
    return results, kernels


def compare(runner, inputs, sizes, tolerance, family='', **kwargs):
    results, kernels = computed(runner, inputs, sizes, family, **kwargs)
    for result, exact, kernel in zip(results, expected(*inputs, *sizes), kernels, strict=True):
        exact = torch.from_numpy(exact)
        torch.testing.assert_close(
            result.double(), exact, **within(tolerance, exact), msg=lambda m, k=kernel: f'{k}: {m}'
        )
    return set(kernels)
