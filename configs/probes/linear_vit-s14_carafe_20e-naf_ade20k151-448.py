# SPDX-License-Identifier: Apache-2.0
"""The ADE20K probe with NAF's schedule: one cosine over all iterations.

Published: no figure at hand.
Train: python tools/train.py configs/probes/linear_vit-s14_carafe_20e-naf_ade20k151-448.py
Run here: 20 iterations on 20 images, random weights; not on ADE20K.
"""

_base_ = 'linear_vit-s14_carafe_20e_ade20k151-448.py'
param_scheduler = [
    dict(type='CosineAnnealingLR', T_max=20, by_epoch=True, convert_to_iter_based=True),
]
