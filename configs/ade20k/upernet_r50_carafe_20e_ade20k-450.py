# SPDX-License-Identifier: Apache-2.0
"""UperNet R50 with CARAFE in ppm, fpn and fusion, in the paper's recipe (../_base_/ade20k_20e_450.py).

Published (ICCV 2019, val, single scale): 42.23 mIoU, 80.34 pixel accuracy.
Train: bash tools/dist_train.sh configs/ade20k/upernet_r50_carafe_20e_ade20k-450.py 8
Run here: built; not trained on ADE20K.
"""

_base_ = './upernet_r50_stock_20e_ade20k-450.py'
model = dict(
    decode_head=dict(
        type='UpsampleUPerHead',
        upsample_cfg=dict(ppm=dict(type='carafe'), fpn=dict(type='carafe'), fusion=dict(type='carafe')),
    )
)
