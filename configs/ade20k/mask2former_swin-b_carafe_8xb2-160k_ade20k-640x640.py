# SPDX-License-Identifier: Apache-2.0
"""Mask2Former Swin-B (ImageNet-22k, 384) with CARAFE in the pixel decoder's step from stride 8 to 4.

Published (SAPA, val): 53.90 -> 53.94 mIoU.
Train: bash tools/dist_train.sh configs/ade20k/mask2former_swin-b_carafe_8xb2-160k_ade20k-640x640.py 8
Run here: built and compared with mmseg's config; not trained on ADE20K.
"""

_base_ = 'mmseg::mask2former/mask2former_swin-b-in22k-384x384-pre_8xb2-160k_ade20k-640x640.py'
custom_imports = dict(imports=['carafe_plugin.segmentation'])
default_hooks = dict(check_data=dict(type='CheckDataHook'), finite_loss=dict(type='FiniteLossHook'))
model = dict(
    decode_head=dict(
        pixel_decoder=dict(type='mmdet.UpsampleMSDeformAttnPixelDecoder', upsample_cfg=dict(type='carafe'))
    )
)
