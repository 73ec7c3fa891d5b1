# SPDX-License-Identifier: Apache-2.0
"""A small UperNet (half-width ResNet-18) with CARAFE in ppm, fpn and fusion, trained from scratch on shapes.

The demonstration behind `make demo-seg`, sized for two CPU cores. By itself:

    python tools/make_shapes.py data/shapes
    python tools/train.py configs/quickstart/upernet_r18_carafe_shapes.py

Result, time and machine: docs/segmentation.md.
"""

_base_ = './upernet_r18_stock_shapes.py'
model = dict(
    decode_head=dict(
        type='UpsampleUPerHead',
        upsample_cfg=dict(ppm=dict(type='carafe'), fpn=dict(type='carafe'), fusion=dict(type='carafe')),
    )
)
