# SPDX-License-Identifier: Apache-2.0
"""A feature pyramid with CARAFE, exported and run at other sizes."""

import pytest
import torch

from carafe_plugin.detection import UpsampleFPN
from tests.ops.test_export import EXPORTER_NOISE, assert_onnx_equal, to_onnx
from tests.tolerances import LAYERS
from tests.torch_versions import VERSION, needs_export

pytestmark = [EXPORTER_NOISE, needs_export]


class Network(torch.nn.Module):
    """Two stages and the neck; stages round sizes up (as ResNet's do) or down."""

    def __init__(self, rounds_up: bool, **cfg):
        super().__init__()
        side, padding = (3, 1) if rounds_up else (2, 0)
        self.first = torch.nn.Conv2d(3, 4, side, 2, padding)
        self.second = torch.nn.Conv2d(4, 8, side, 2, padding)
        cfg = dict(type='carafe', up_kernel=3, compressed_channels=4, **cfg)
        self.neck = UpsampleFPN([4, 8], 4, num_outs=3, upsample_cfg=cfg)
        self.neck.init_weights()
        torch.nn.init.normal_(self.neck.upsamplers[0].content_encoder.weight, std=0.3)

    def forward(self, image):
        first = self.first(image)
        return self.neck((first, self.second(first)))


def images(*shape):
    return (torch.rand(shape),)


@pytest.mark.parametrize(
    'rounds_up, dynamo',
    [(True, False), (False, False), pytest.param(True, True, marks=pytest.mark.slow), (False, True)],
)
def test_onnx(rounds_up, dynamo):
    """Exported where no row is missing, run where one is, and where one is too many."""
    model = Network(rounds_up, up_group=2).eval()
    proto = to_onnx(model, images(2, 3, 24, 32), dynamo)
    calls = images(1, 3, 16, 20), images(3, 3, 22, 27), images(1, 3, 23, 22)
    assert_onnx_equal(proto, model, *calls, tolerance=LAYERS[torch.float32])


@pytest.mark.skipif(VERSION == (2, 10), reason='torch.export of 2.10 takes even sizes only where it saw one')
@pytest.mark.parametrize('rounds_up', [True, False], ids=['up', 'down'])
def test_torch_export(rounds_up):
    model = Network(rounds_up).eval()
    dim = torch.export.Dim.AUTO
    program = torch.export.export(model, images(2, 3, 24, 32), dynamic_shapes=({0: dim, 2: dim, 3: dim},))
    for inputs in (images(1, 3, 16, 20), images(3, 3, 22, 27), images(1, 3, 23, 22)):
        torch.testing.assert_close(program.module()(*inputs), model(*inputs))
