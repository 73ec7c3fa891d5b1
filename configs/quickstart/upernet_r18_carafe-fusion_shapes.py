# SPDX-License-Identifier: Apache-2.0
"""The small UperNet of upernet_r18_carafe_shapes.py with CARAFE in fusion alone."""

_base_ = './upernet_r18_stock_shapes.py'
model = dict(decode_head=dict(type='UpsampleUPerHead', upsample_cfg=dict(fusion=dict(type='carafe'))))
