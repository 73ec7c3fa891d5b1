# SPDX-License-Identifier: Apache-2.0
"""Pooling in the form that exported graphs hold."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from carafe_plugin.ops.tensors import adaptive_avg_pool
from tests.ops.test_export import EXPORTER_NOISE, assert_onnx_equal, to_onnx
from tests.tolerances import LAYERS
from tests.torch_versions import needs_export


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize('map_size', [(1, 1), (5, 7), (6, 12), (13, 4)])
@pytest.mark.parametrize('size', [1, 2, 3, 6, (2, 5)])
def test_pooling_by_matrices(monkeypatch, size, map_size, dtype):
    x = torch.rand(2, 3, *map_size, dtype=dtype)
    expected = F.adaptive_avg_pool2d(x, size)
    assert torch.equal(adaptive_avg_pool(x, size), expected)
    monkeypatch.setattr(torch.onnx, 'is_in_onnx_export', lambda: True)
    monkeypatch.setattr(F, 'adaptive_avg_pool2d', None)  # matrices alone
    torch.testing.assert_close(adaptive_avg_pool(x, size), expected)


class Pool(torch.nn.Module):
    def __init__(self, size):
        super().__init__()
        self.size = size

    def forward(self, x):
        return adaptive_avg_pool(x, self.size)


def divide_by_reciprocals(proto):
    """As a runtime may: a division by a constant becomes a multiplication by its rounded reciprocal."""
    numpy_helper = pytest.importorskip('onnx', reason='needs the onnx extra').numpy_helper
    constants = {
        node.output[0]: node.attribute[0].t for node in proto.graph.node if node.op_type == 'Constant'
    }
    constants |= {tensor.name: tensor for tensor in proto.graph.initializer}
    count = 0
    for node in proto.graph.node:
        if node.op_type == 'Div' and node.input[1] in constants:
            value = numpy_helper.to_array(constants[node.input[1]]).astype(np.float32)
            name = f'{node.input[1]}_reciprocal_{count}'
            proto.graph.initializer.append(numpy_helper.from_array(np.float32(1) / value, name))
            node.op_type, node.input[1] = 'Mul', name
            count += 1
    return count


@EXPORTER_NOISE
@needs_export
@pytest.mark.parametrize('size', [1, 2, 3, 6, (5, 7)])
def test_exported_pooling_at_many_sizes(size):
    """Windows are right, divided and multiplied; 6 of them once were wrong at 17 sizes below 200."""
    model = Pool(size).eval()
    proto = to_onnx(model, (torch.randn(2, 2, 9, 8),), dynamo=False)
    calls = [(torch.randn(1, 2, n, n % 13 + 1),) for n in range(1, 200)]
    assert_onnx_equal(proto, model, *calls, tolerance=LAYERS[torch.float32])
    assert divide_by_reciprocals(proto) or size == 1
    assert_onnx_equal(proto, model, *calls, tolerance=LAYERS[torch.float32])
