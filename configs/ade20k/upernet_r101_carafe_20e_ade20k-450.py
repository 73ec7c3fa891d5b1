# SPDX-License-Identifier: Apache-2.0
"""UperNet R101 with CARAFE in ppm, fpn and fusion, in the paper's recipe (../_base_/ade20k_20e_450.py).

Published: nothing known.
Train: bash tools/dist_train.sh configs/ade20k/upernet_r101_carafe_20e_ade20k-450.py 8
Run here: built; not trained on ADE20K.
"""

_base_ = './upernet_r50_carafe_20e_ade20k-450.py'
model = dict(pretrained='open-mmlab://resnet101_v1c', backbone=dict(depth=101))
