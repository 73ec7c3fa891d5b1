# SPDX-License-Identifier: Apache-2.0
"""mmdet's Faster R-CNN R50 with FPN_CARAFE (4 stages), for its released weights.

FPN_CARAFE adds a P6 lateral and a fourth upsampler to FPN. Unchanged but for the operator, which this
package puts under ``mmcv.ops.carafe``: no CUDA build of mmcv is needed.
Published (mmdet model zoo, val2017): 38.6 box AP.
Test: python tools/test.py configs/coco/faster-rcnn_r50_fpncarafe-zoo_1x_coco.py CHECKPOINT
(its URL is in metafile.yml)
Run here: keys and shapes compared with mmdet's model; the released weights were not at hand.
"""

_base_ = 'mmdet::carafe/faster-rcnn_r50_fpn-carafe_1x_coco.py'
custom_imports = dict(imports=['carafe_plugin.mmcv_patch', 'carafe_plugin.runtime'])
default_hooks = dict(check_data=dict(type='CheckDataHook'), finite_loss=dict(type='FiniteLossHook'))
