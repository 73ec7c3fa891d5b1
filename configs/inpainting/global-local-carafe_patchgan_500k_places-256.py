# SPDX-License-Identifier: Apache-2.0
"""Global&Local with one PatchGAN discriminator on Places, CARAFE in both x2 steps of the decoder.

Published (CARAFE, ICCV 2019, Places val): L1 6.00 %, PSNR 20.71 dB, against 6.78 % and 19.58 dB of the
stock.
Everything else, what is assumed included, as in global-local_patchgan_500k_places-256.py. Another
upsampler: `--cfg-options model.generator.upsample_cfg.type=NAME`.
Train: bash tools/dist_train.sh configs/inpainting/global-local-carafe_patchgan_500k_places-256.py 4
Run here: built, and trained for a few iterations on other images; not on Places.
"""

_base_ = 'global-local_patchgan_500k_places-256.py'
model = dict(generator=dict(upsample_cfg=dict(type='carafe')))
