# SPDX-License-Identifier: Apache-2.0
"""SegFormer-B1 with bilinear interpolation in the head's six x2 steps, in mmseg's 160k recipe.

Published: 41.68 (FADE) or 42.11 (SAPA-D authors) mIoU for SegFormer-B1; which of the two heads is not said.
Train: bash tools/dist_train.sh configs/ade20k/segformer_mit-b1_bilinear_8xb2-160k_ade20k-512x512.py 8
Run here: built and compared with mmseg's config; not trained on ADE20K.
"""

_base_ = 'mmseg::segformer/segformer_mit-b1_8xb2-160k_ade20k-512x512.py'
custom_imports = dict(imports=['carafe_plugin.segmentation'])
default_hooks = dict(check_data=dict(type='CheckDataHook'), finite_loss=dict(type='FiniteLossHook'))
model = dict(decode_head=dict(type='UpsampleSegformerHead', upsample_cfg=dict(type='bilinear')))
