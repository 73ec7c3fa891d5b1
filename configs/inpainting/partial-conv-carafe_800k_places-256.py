# SPDX-License-Identifier: Apache-2.0
"""Partial-convolution U-Net on Places, first stage, CARAFE in every step of the decoder.

Masks are reassembled by the kernels of the maps. Published (CARAFE, ICCV 2019, Places val): L1 5.72 %, PSNR
20.98 dB, against 5.96 % and 20.78 dB of the stock. Everything else, what is assumed included, as in
partial-conv_800k_places-256.py. Another upsampler: `--cfg-options model.generator.upsample_cfg.type=NAME`.
Train: bash tools/dist_train.sh configs/inpainting/partial-conv-carafe_800k_places-256.py 4
Run here: built, and trained for a few iterations on other images; not on Places.
"""

_base_ = 'partial-conv_800k_places-256.py'
model = dict(generator=dict(upsample_cfg=dict(type='carafe')))
