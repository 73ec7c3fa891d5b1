# SPDX-License-Identifier: Apache-2.0
"""Global&Local with CARAFE, and the two discriminators and the three phases of the original.

From Iizuka et al.: a global and a local discriminator, cross entropy; the generator alone for 90,000
iterations, the discriminators alone for 10,000, then both in turns. `model.generator.upsample_cfg=None` is
the stock.
Assumed: everything else as in global-local_patchgan_500k_places-256.py (the original uses AdaDelta and
batch 96).
Train: bash tools/dist_train.sh configs/inpainting/global-local-carafe_original-gan_500k_places-256.py 4
Run here: built, and trained for a few iterations on other images; not on Places.
"""

_base_ = 'global-local-carafe_patchgan_500k_places-256.py'
model = dict(
    discriminator=dict(_delete_=True, type='GlobalLocalDiscriminator', image_size=256, local_size=128),
    gan='vanilla',
    phases=(90_000, 10_000),
)
