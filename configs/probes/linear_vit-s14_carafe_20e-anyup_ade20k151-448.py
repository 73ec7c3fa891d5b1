# SPDX-License-Identifier: Apache-2.0
"""The ADE20K probe with AnyUp's schedule: the cosine is stepped after every epoch.

Published: no figure at hand (AnyUp ran all of JAFAR's baselines again with it).
Train: python tools/train.py configs/probes/linear_vit-s14_carafe_20e-anyup_ade20k151-448.py
Run here: 20 iterations on 20 images, random weights; not on ADE20K.
"""

_base_ = 'linear_vit-s14_carafe_20e_ade20k151-448.py'
param_scheduler = [dict(type='CosineAnnealingLR', T_max=20, by_epoch=True)]
