# SPDX-License-Identifier: Apache-2.0
"""Upsamplers as ONNX graphs of standard operators, run at sizes that they were not exported at."""

import pytest
import torch

from carafe_plugin.upsamplers import UPSAMPLERS
from tests.ops.test_export import EXPORTER_NOISE, assert_onnx_equal, to_onnx
from tests.tolerances import LAYERS
from tests.torch_versions import needs_export
from tests.upsamplers.cases import CASES, build

pytestmark = [EXPORTER_NOISE, needs_export]
# What CI exports. Dynamo takes up to two minutes for a graph: some variants are left out altogether.
QUICK = ('a2u', 'dysample', 'fade', 'freqfusion', 'sapa')
DYNAMO = (*UPSAMPLERS, 'carafe-sigmoid_normalized', 'dysample-s+', 'fade-gate', 'sapa-gated')


class Fused(torch.nn.Module):
    """What a top-down path exports."""

    def __init__(self, upsampler):
        super().__init__()
        self.upsampler = upsampler

    def forward(self, x, guide):
        return self.upsampler.fuse(x, guide)


def check(case, dynamo):
    """Exported where no row is missing, run where none is, and where one is missing and one too many."""
    up = build(case).eval()
    for p in up.parameters():
        torch.nn.init.normal_(p, std=0.1)
    guided = up.needs_guide

    def call(n, height, width, missing=0):
        x = torch.randn(n, 8, height, width)
        return (x, torch.randn(n, 8, 2 * height - missing, 2 * width + missing)) if guided else (x,)

    model = Fused(up).eval() if guided else up
    proto = to_onnx(model, call(2, 6, 7), dynamo)
    assert_onnx_equal(proto, model, call(3, 5, 9), call(1, 2, 4, missing=1), tolerance=LAYERS[torch.float32])


@pytest.mark.parametrize(
    'case', [pytest.param(case, marks=[] if case in QUICK else pytest.mark.slow) for case in CASES]
)
def test_onnx_by_torchscript(case):
    check(case, dynamo=False)


@pytest.mark.slow
@pytest.mark.parametrize('case', DYNAMO)
def test_onnx_by_dynamo(case):
    check(case, dynamo=True)
