# SPDX-License-Identifier: Apache-2.0
"""Whole models as ONNX files: what they find is what the toolboxes' own predictions are."""

import json
import re
import shutil
import subprocess
import sys
import warnings
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from torch import nn

from carafe_tools.preflight import build_model
from tests.runtime.helpers import ROOT, load_tool, write_coco, write_detector_config

onnx = pytest.importorskip('onnx', reason='needs the onnx extra')
pytest.importorskip('onnxruntime', reason='needs the onnx extra')

export, infer = load_tool('export_onnx'), load_tool('infer_onnx')

TEST = """
test_dataloader = dict(dataset=dict(
    metainfo=dict(classes=('red', 'blue'), palette=[(255, 0, 0), (0, 0, 255)]),
    pipeline=[dict(type='LoadImageFromFile'), {steps},
              dict(type='Pack{pack}Inputs', meta_keys=({id}'img_path', 'ori_shape', 'img_shape', 'scale_factor'))]))
"""
RETINANET = """
_base_ = '{root}/configs/coco/retinanet_r50_fpn-carafe_1x_coco.py'
model = dict(
    backbone=dict(depth=18, base_channels=8, stem_channels=8, init_cfg=None, frozen_stages=-1),
    neck=dict(in_channels=[8, 16, 32, 64], out_channels=16),
    bbox_head=dict(in_channels=16, feat_channels=16, stacked_convs=1, num_classes=2))
"""
YOLOX = """
_base_ = '{root}/configs/coco/yolox_s_pafpn-carafe_8xb8-300e_coco.py'
model = dict(
    backbone=dict(widen_factor=0.125),
    neck=dict(in_channels=[32, 64, 128], out_channels=16),
    bbox_head=dict(in_channels=16, feat_channels=16, num_classes=2))
"""
RTMDET = """
_base_ = '{root}/configs/coco/rtmdet_s_pafpn-carafe_8xb32-300e_coco.py'
model = dict(
    backbone=dict(widen_factor=0.125, init_cfg=None),
    neck=dict(in_channels=[32, 64, 128], out_channels=16, num_csp_blocks=1),
    bbox_head=dict(in_channels=16, feat_channels=16, num_classes=2))
"""
SEGMENTOR = """
default_scope = 'mmseg'
custom_imports = dict(imports=['carafe_plugin.segmentation'])
norm = dict(type='BN', requires_grad=True)
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(type='SegDataPreProcessor', size=(64, 64), test_cfg=dict(size_divisor=32),
                           mean=[120, 110, 100], std=[60, 57, 50], bgr_to_rgb=True),
    backbone=dict(type='ResNet', depth=18, base_channels=8, stem_channels=8, norm_cfg=norm),
    decode_head=dict(type='UpsampleUPerHead', upsample_cfg=dict(fpn=dict(type='carafe')),
                     in_channels=[8, 16, 32, 64], in_index=[0, 1, 2, 3], pool_scales=(1, 2, 3, 6),
                     channels=16, num_classes=2, norm_cfg=norm),
    test_cfg=dict(mode='whole'))
"""
KINDS = dict(retinanet=RETINANET, yolox=YOLOX, rtmdet=RTMDET, segmentor=SEGMENTOR)
STEPS = dict(
    retinanet="dict(type='Resize', scale=(160, 128), keep_ratio=True)",
    yolox="dict(type='Resize', scale=(128, 128), keep_ratio=True), "
    "dict(type='Pad', pad_to_square=True, pad_val=dict(img=(114.0, 114.0, 114.0)))",
    rtmdet="dict(type='Resize', scale=(128, 128), keep_ratio=True), "
    "dict(type='Pad', size=(128, 128), pad_val=dict(img=(114, 114, 114)))",
    segmentor="dict(type='Resize', scale=(300, 100), keep_ratio=True)",
)


def lively(model: nn.Module, predict) -> None:
    """Scale the weights, layer after layer, so that every map varies; then scores and boxes do."""
    torch.manual_seed(0)
    handles, seen = [], set()

    def rescale(name, module, inputs, output):
        if name not in seen:
            seen.add(name)
            wanted = 0.3 if 'reg' in name.split('.')[-1] else 1.5
            factor = wanted / output.std().clamp(min=1e-6)
            module.weight.data *= factor
            return output * factor
        return None

    for name, module in model.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            if module.bias is not None:
                module.bias.data.zero_()
            handles.append(module.register_forward_hook(partial(rescale, name)))
    predict()
    for handle in handles:
        handle.remove()
