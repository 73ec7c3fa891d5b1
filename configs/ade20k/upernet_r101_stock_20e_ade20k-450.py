# SPDX-License-Identifier: Apache-2.0
"""UperNet R101 without CARAFE, in the paper's recipe (../_base_/ade20k_20e_450.py).

Published (CSAILVision/semantic-segmentation-pytorch, val): 42.00 mIoU, 80.79 pixel accuracy.
Train: bash tools/dist_train.sh configs/ade20k/upernet_r101_stock_20e_ade20k-450.py 8
Run here: built; not trained on ADE20K.
"""

_base_ = './upernet_r50_stock_20e_ade20k-450.py'
model = dict(pretrained='open-mmlab://resnet101_v1c', backbone=dict(depth=101))
