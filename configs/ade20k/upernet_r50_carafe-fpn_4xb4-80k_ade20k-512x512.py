# SPDX-License-Identifier: Apache-2.0
"""UperNet R50 with CARAFE in fpn, in mmseg's 80k recipe at 512 x 512.

Published (SAPA-D authors, val): 41.09 -> 41.49 mIoU; they state a noise of about 0.5.
Train: bash tools/dist_train.sh configs/ade20k/upernet_r50_carafe-fpn_4xb4-80k_ade20k-512x512.py 4
Run here: built and compared with mmseg's config; not trained on ADE20K.
"""

_base_ = 'mmseg::upernet/upernet_r50_4xb4-80k_ade20k-512x512.py'
custom_imports = dict(imports=['carafe_plugin.segmentation'])
default_hooks = dict(check_data=dict(type='CheckDataHook'), finite_loss=dict(type='FiniteLossHook'))
model = dict(decode_head=dict(type='UpsampleUPerHead', upsample_cfg=dict(fpn=dict(type='carafe'))))
