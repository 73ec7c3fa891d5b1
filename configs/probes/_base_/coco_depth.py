# SPDX-License-Identifier: Apache-2.0
"""Pseudo-depth on COCO: one 16-bit PNG beside each image, made by a depth network of the user's choice.

The files hold depth in thousandths, 0 where there is none: depth/train2017/000000000009.png and so on.
"""

load = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadDepthAnnotation', depth_rescale_factor=1e-3),
]
train = dict(
    type='DepthDataset',
    data_root='data/coco',
    data_prefix=dict(img_path='train2017', depth_map_path='depth/train2017'),
)
val = dict(
    type='DepthDataset',
    data_root='data/coco',
    data_prefix=dict(img_path='val2017', depth_map_path='depth/val2017'),
)
