# SPDX-License-Identifier: Apache-2.0
"""Global&Local with one PatchGAN discriminator on Places, stock upsampling (transposed convolutions).

Published (CARAFE, ICCV 2019, Places val): L1 6.78 %, PSNR 19.58 dB; the masks behind these figures are not
known in detail, so that other protocols give other values.
Taken as the paper's, but not checked against its text: 256 x 256, one PatchGAN, Adam 1e-4 with betas 0.5
and 0.9, batch 32.
Assumed: weights of the losses (1 for L1 on the hole, 0.001 adversarial: the same laboratory's later
recipe), the hinge, layers of the PatchGAN, 500,000 iterations, box masks of 88 to 128 pixels (the paper's
are said to be free-form).
Train: bash tools/dist_train.sh configs/inpainting/global-local_patchgan_500k_places-256.py 4
Run here: built, and trained for a few iterations on other images; not on Places.
"""

_base_ = ['_base_/runtime.py', '_base_/places_256.py']
model = dict(
    type='Inpainter',
    generator=dict(type='GlobalLocalGenerator'),
    discriminator=dict(type='PatchDiscriminator'),
    gan='hinge',
    weights=dict(hole=1.0, adversarial=0.001),
)
train_cfg = dict(type='IterBasedTrainLoop', max_iters=500_000, val_interval=50_000)
optimizer = dict(type='Adam', lr=1e-4, betas=(0.5, 0.9))
optim_wrapper = dict(
    type='OptimWrapper',  # `--amp` makes both of them AmpOptimWrapper
    constructor='GeneratorDiscriminatorConstructor',
    generator=dict(optimizer=optimizer),
    discriminator=dict(optimizer=optimizer),
)
model_wrapper_cfg = dict(type='MMSeparateDistributedDataParallel')
