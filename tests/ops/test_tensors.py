# SPDX-License-Identifier: Apache-2.0
"""Pooling in the form that exported graphs hold."""

import pytest
import torch
import torch.nn.functional as F

from carafe_plugin.ops.tensors import adaptive_avg_pool


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
