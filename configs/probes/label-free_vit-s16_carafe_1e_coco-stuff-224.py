# SPDX-License-Identifier: Apache-2.0
"""CARAFE trained without labels on ViT-S/16 features, as FeatUp trains it, for the probes of FeatUp's set-up.

Known: images of the curated list of COCO-Stuff, batch 4, 1 epoch, NAdam 1e-3, 5 views of padding up to 20,
zoom up to 2 and flips, projection to 30 channels, attention downsampler, uncertainty, CRF loss, weight 1e-3.
JBU as FeatUp's: --cfg-options model.neck.upsample_cfg._delete_=True model.neck.upsample_cfg.type=jbu \
model.neck.residual=True (and the same for the probe).
Published: none; see the probes.
Train: python tools/train.py configs/probes/label-free_vit-s16_carafe_1e_coco-stuff-224.py
Run here: 20 iterations on 40 images of COCO, random weights; not on COCO-Stuff.
"""

_base_ = '_base_/featup_224.py'
_featup = _base_.model
model = dict(
    _delete_=True,
    type='LabelFreeUpsampler',
    data_preprocessor=_featup.data_preprocessor,
    backbone=_featup.backbone,
    neck=_featup.neck,
)
train_dataloader = dict(
    batch_size=4,
    dataset=dict(
        type='BaseSegDataset',
        data_root='data/coco_stuff164k',
        data_prefix=dict(img_path='images/train2017'),
        img_suffix='.jpg',
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='ResizeCenterCrop', size=224),
            dict(type='PackSegInputs'),
        ],
    ),
)
val_dataloader = None
val_cfg = None
val_evaluator = None
test_dataloader = None
test_cfg = None
test_evaluator = None
train_cfg = dict(_delete_=True, type='EpochBasedTrainLoop', max_epochs=1)
optim_wrapper = dict(optimizer=dict(_delete_=True, type='NAdam', lr=1e-3))
