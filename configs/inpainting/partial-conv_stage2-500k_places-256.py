# SPDX-License-Identifier: Apache-2.0
"""Partial-convolution U-Net on Places, second stage: batch norms of the encoder frozen, learning rate 5e-5.

It starts from a checkpoint of partial-conv_800k_places-256.py: add `--cfg-options load_from=PATH`.
From Liu et al.: the stage and its learning rate. Assumed: 500,000 iterations (the same laboratory's later
recipe).
Train: bash tools/dist_train.sh configs/inpainting/partial-conv_stage2-500k_places-256.py 4
Run here: built; not trained.
"""

_base_ = 'partial-conv_800k_places-256.py'
model = dict(generator=dict(freeze_encoder_norm=True))
train_cfg = dict(max_iters=500_000)
optim_wrapper = dict(optimizer=dict(lr=5e-5))
