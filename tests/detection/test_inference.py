# SPDX-License-Identifier: Apache-2.0
"""mmdet's own inferencer on a CARAFE model and a checkpoint as mmengine writes it."""

import torch
from mmdet.apis import DetInferencer, init_detector
from mmengine.logging import MessageHub

from tests.runtime.helpers import write_coco, write_detector_config


def test_det_inferencer(tmp_path):
    data = write_coco(tmp_path / 'data')
    config = write_detector_config(tmp_path / 'config.py', data)
    hub = MessageHub.get_instance('inference')
    hub.update_scalar('train/loss', 1.0)  # a HistoryBuffer, which weights_only refuses by itself
    checkpoint = dict(
        state_dict=init_detector(str(config), device='cpu').state_dict(),
        meta=dict(dataset_meta=dict(classes=('red', 'blue'))),
        message_hub=hub.state_dict(),
    )
    torch.save(checkpoint, tmp_path / 'model.pth')
    inferencer = DetInferencer(model=str(config), weights=str(tmp_path / 'model.pth'), device='cpu')
    image = str(data / 'images' / '0.png')
    found = inferencer(image, no_save_vis=True, no_save_pred=True)['predictions'][0]
    assert len(found['scores']) == len(found['masks']) == 5  # the test config keeps five
