# SPDX-License-Identifier: Apache-2.0
"""UperNet R50 without CARAFE, in the paper's recipe (../_base_/ade20k_20e_450.py).

Published (ICCV 2019, val, single scale): 40.44 mIoU, 79.80 pixel accuracy.
Train: bash tools/dist_train.sh configs/ade20k/upernet_r50_stock_20e_ade20k-450.py 8
Run here: built; not trained on ADE20K.
"""

_base_ = [
    'mmseg::_base_/models/upernet_r50.py',
    'mmseg::_base_/default_runtime.py',
    '../_base_/ade20k_20e_450.py',
]
custom_imports = dict(imports=['carafe_plugin.segmentation'])
default_hooks = dict(check_data=dict(type='CheckDataHook'), finite_loss=dict(type='FiniteLossHook'))
model = dict(
    data_preprocessor=dict(size_divisor=32),
    decode_head=dict(num_classes=150),
    auxiliary_head=dict(num_classes=150),
)
