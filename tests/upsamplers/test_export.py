# SPDX-License-Identifier: Apache-2.0
"""Upsamplers as ONNX graphs of standard operators, run at sizes that they were not exported at."""

import pytest
import torch

from tests.ops.test_export import EXPORTER_NOISE, assert_onnx_equal, to_onnx
from tests.upsamplers.cases import CASES, build

pytestmark = [EXPORTER_NOISE, pytest.mark.slow]


class Fused(torch.nn.Module):
    """What a top-down path exports."""

    def __init__(self, upsampler):
        super().__init__()
        self.upsampler = upsampler

    def forward(self, x, guide):
        return self.upsampler.fuse(x, guide)


TORCHSCRIPT = [(case, False) for case in CASES if case != 'a2u']  # whose docstring says why
DYNAMO = [('dysample', True), ('fade', True)]


@pytest.mark.parametrize('case, dynamo', TORCHSCRIPT + DYNAMO)
def test_onnx(case, dynamo):
    up = build(case).eval()
    for p in up.parameters():
        torch.nn.init.normal_(p, std=0.1)
    guided = up.needs_guide

    def call(n, height, width):
        x = torch.randn(n, 8, height, width)
        return (x, torch.randn(n, 8, 2 * height, 2 * width)) if guided else (x,)

    model = Fused(up).eval() if guided else up
    proto = to_onnx(model, call(2, 6, 7), dynamo)
    assert_onnx_equal(proto, model, call(3, 5, 9), rtol=1e-3, atol=1e-4)
