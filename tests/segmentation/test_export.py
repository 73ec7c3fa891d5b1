# SPDX-License-Identifier: Apache-2.0
"""The whole UperNet with CARAFE as an ONNX graph, run at another size."""

import pytest
import torch
from mmengine.config import Config
from mmseg.apis import init_model

from carafe_plugin.segmentation.export import Logits
from tests.runtime.helpers import ROOT

CONFIG = ROOT / 'configs' / 'quickstart' / 'upernet_r18_carafe_shapes.py'


@pytest.mark.slow
@pytest.mark.parametrize('dynamo', [True, False], ids=['dynamo', 'torchscript'])
def test_whole_model(tmp_path, dynamo):
    onnxruntime = pytest.importorskip('onnxruntime', reason='needs the onnx extra')
    pytest.importorskip('onnxscript', reason='needs the onnx extra')
    cfg = Config.fromfile(CONFIG)
    cfg.model.backbone.update(base_channels=8, stem_channels=8)
    cfg.model.decode_head.update(in_channels=[8, 16, 32, 64], channels=16)
    cfg.model.auxiliary_head.update(in_channels=32, channels=8)
    torch.manual_seed(0)
    model = init_model(cfg, device='cpu')
    images = torch.rand(2, 3, 96, 128)
    other = torch.rand(1, 3, 160, 288)
    with torch.no_grad():
        stock = model(other, mode='tensor')
        module = Logits(model)
        expected = module(other)
        torch.testing.assert_close(expected, stock)
        assert any(isinstance(part, torch.nn.AdaptiveAvgPool2d) for part in model.modules())  # as it was
        axes = {0: 'batch', 2: 'height', 3: 'width'}
        file = tmp_path / 'upernet.onnx'
        if dynamo:
            shapes = (dict.fromkeys(axes, torch.export.Dim.DYNAMIC),)
            program = torch.onnx.export(
                module, (images,), dynamo=True, dynamic_shapes=shapes, input_names=['images'], verbose=False
            )
            program.save(file)
        else:
            torch.onnx.export(
                module,
                (images,),
                file,
                dynamo=False,
                input_names=['images'],
                output_names=['logits'],
                dynamic_axes=dict(images=axes, logits=axes),
            )
    session = onnxruntime.InferenceSession(file, providers=['CPUExecutionProvider'])
    (logits,) = session.run(None, {'images': other.numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), expected, rtol=1e-3, atol=1e-4)
