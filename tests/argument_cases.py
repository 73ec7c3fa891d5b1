# SPDX-License-Identifier: Apache-2.0
"""For each argument of our constructors another value, and a use in which it shows; for test_arguments.py."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from mmengine.config import ConfigDict
from mmengine.logging import MessageHub
from mmengine.model import BaseDataPreprocessor
from mmengine.optim import OptimWrapper
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import nn

from carafe_plugin import detection, downsamplers, inpainting, probes, runtime, segmentation, upsamplers
from carafe_plugin.inpainting.masks import random_box, random_strokes
from carafe_plugin.upsamplers import build_upsampler
from carafe_tools.drawing import OverlayHook
from tests.inpainting.pictures import picture
from tests.segmentation import hosts


@dataclass
class Refused:
    """A value that raises an error of these words, when it is given or when it is used."""

    value: object
    match: str


@dataclass
class Case:
    """How an object is made and used, and another value for each of its own arguments.

    Args:
        changes: argument to value, or to :class:`Refused`.
        arguments: what it is made with; the rest has its default.
        use: what it does for its user.
    """

    changes: dict
    arguments: dict
    use: Callable

    def make(self, cls: type, **change) -> object:
        seed_everything()
        return cls(**{**self.arguments, **change})

    def run(self, subject: object) -> object:
        seed_everything()
        return self.use(subject)


def seed_everything():
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    torch.manual_seed(0)


# Upsamplers and downsamplers --------------------------------------------------------------------------------


def upsample(up):
    s = up.scale_factor
    x, guide = torch.rand(1, 8, 5, 6), torch.rand(1, 8, 5 * s, 6 * s)
    return up(x, guide), up.fuse(x, guide)


def upsampler(arguments=(), **changes):
    return Case(
        dict(in_channels=16, scale_factor=3) | changes, dict(in_channels=8) | dict(arguments), upsample
    )


def guided(**changes):
    return upsampler(guide_channels=16, **changes)


def downsampler(**changes):
    sizes = dict(in_channels=16, scale_factor=3)
    return Case(sizes | changes, dict(in_channels=8), lambda down: down(torch.rand(1, 8, 6, 7)))


CASES = {
    upsamplers.A2U: guided(scale_factor=Refused(3, 'scale_factor=2 only, got 3')),
    upsamplers.BilinearConvUpsampler: upsampler(kernel_size=5),
    upsamplers.BilinearUpsampler: upsampler(in_channels=Refused(16, r'guide must have shape \(N, 16')),
    upsamplers.CARAFE: upsampler(
        up_kernel=3,
        up_group=2,
        encoder_kernel=5,
        encoder_dilation=2,
        compressed_channels=32,
        normalizer='sigmoid',
    ),
    upsamplers.DeconvUpsampler: upsampler(kernel_size=4),
    upsamplers.DySample: upsampler(dict(dyscope=True), style='pl', groups=2, dyscope=False, scope_bias=True),
    upsamplers.FADE: guided(up_kernel=3, encoder_kernel=5, compressed_channels=32, gate=True),
    upsamplers.FADELite: guided(up_kernel=3, encoder_kernel=5, gate=True),
    upsamplers.FreqFusion: guided(
        lowpass_kernel=3,
        highpass_kernel=5,
        encoder_kernel=5,
        compressed_channels=32,
        feature_resample=False,
        feature_resample_group=2,
    ),
    upsamplers.GUM: upsampler(scale_factor=3),
    upsamplers.IndexNet: guided(scale_factor=Refused(3, 'scale_factor=2 only, got 3')),
    upsamplers.JBU: guided(radius=2, key_channels=16, dropout=0.5),
    upsamplers.NearestConvUpsampler: upsampler(kernel_size=5),
    upsamplers.NearestUpsampler: upsampler(in_channels=Refused(16, r'guide must have shape \(N, 16')),
    upsamplers.PixelShuffleUpsampler: upsampler(upsample_kernel=5),
    upsamplers.SAPA: guided(similarity='gated', up_kernel=3, embedding_channels=16),
    upsamplers.SAPADeform: guided(points=4, groups=2, embedding_channels=16),
    upsamplers.SpatialAttentionUpsampler: upsampler(),
    # Pooling takes any number of channels: what it is told is checked, and shown by its repr.
    downsamplers.AvgPoolDownsampler: downsampler(in_channels=Refused(0, 'in_channels must be at least 1')),
    downsamplers.CarafeDownsample: downsampler(
        down_kernel=3, down_group=2, encoder_kernel=5, compressed_channels=32
    ),
    downsamplers.MaxPoolDownsampler: downsampler(
        in_channels=Refused(0, 'in_channels must be at least 1'), kernel_size=5
    ),
    downsamplers.StridedConvDownsampler: downsampler(kernel_size=5),
}


# Hosts ------------------------------------------------------------------------------------------------------

NEAREST, BILINEAR = dict(type='nearest'), dict(type='bilinear')  # the same parameters, which are none


def host(arguments, use=lambda model: model(hosts.pyramid()), place=lambda cfg: cfg, **changes):
    changes['upsample_cfg'] = place(BILINEAR)
    return Case(changes, dict(arguments, upsample_cfg=place(NEAREST)), use)


# Its own arguments decide whether C5 is projected: as wide as the decoder, only where that is asked for.
MASKFORMER = ConfigDict(
    in_channels=[8, 16, 24, 32],
    feat_channels=32,
    out_channels=32,
    num_classes=3,
    num_queries=2,
    pixel_decoder=dict(
        type='mmdet.UpsamplePixelDecoder',
        norm_cfg=dict(type='GN', num_groups=4),
        act_cfg=dict(type='ReLU'),
        upsample_cfg=NEAREST,
    ),
    positional_encoding=dict(num_feats=16, normalize=True),
    transformer_decoder=dict(
        num_layers=1,
        layer_cfg=dict(
            self_attn_cfg=dict(embed_dims=32, num_heads=2),
            cross_attn_cfg=dict(embed_dims=32, num_heads=2),
            ffn_cfg=dict(embed_dims=32, feedforward_channels=32),
        ),
    ),
    loss_cls=dict(type='mmdet.CrossEntropyLoss', class_weight=[1.0] * 4),
    loss_mask=dict(type='mmdet.FocalLoss'),
    loss_dice=dict(type='mmdet.DiceLoss'),
)
PYRAMID = dict(in_channels=hosts.CHANNELS, out_channels=64, num_outs=4)
YOLO = dict(in_channels=hosts.CHANNELS[:3], out_channels=8, num_csp_blocks=1)

CASES |= {
    detection.CarafeResNet: Case(
        dict(downsample_cfg=dict(type='avg_pool'), avg_down=True),
        dict(depth=18, base_channels=8, stem_channels=8),
        lambda model: model(torch.rand(1, 3, 64, 64)),
    ),
    detection.UpsampleCSPNeXtPAFPN: host(YOLO, lambda neck: neck(hosts.pyramid()[:3])),
    detection.UpsampleFCNMaskHead: host(
        dict(num_convs=1, in_channels=8, conv_out_channels=8, num_classes=3),
        lambda head: head(torch.rand(2, 8, 7, 7)),
    ),
    detection.UpsampleFPN: host(PYRAMID),
    detection.UpsampleFPNCARAFE: host(PYRAMID),
    detection.UpsampleMSDeformAttnPixelDecoder: host(
        ConfigDict(hosts.HOSTS['mask2former'].cfg), feat_channels=32
    ),
    detection.UpsamplePAFPN: host(PYRAMID),
    detection.UpsamplePanopticFPNHead: host(
        dict(num_things_classes=3, num_stuff_classes=2, in_channels=8, inner_channels=32),
        lambda head: head([torch.rand(2, 8, 32 >> level, 32 >> level) for level in range(4)]),
    ),
    detection.UpsamplePixelDecoder: host(
        hosts.HOSTS['maskformer'].cfg,
        lambda decoder: decoder(hosts.pyramid(), hosts.METAS),
        in_channels=[8, 16, 24, 40],
        feat_channels=32,
    ),
    detection.UpsampleYOLOXPAFPN: host(YOLO, lambda neck: neck(hosts.pyramid()[:3])),
    segmentation.UpsampleFPN: host(PYRAMID),
    segmentation.UpsampleFPNHead: host(hosts.HOSTS['fpn_head'].cfg),
    segmentation.UpsampleInterpConv: host(
        dict(in_channels=8, out_channels=8),
        lambda layer: layer(torch.rand(2, 8, 4, 5)),
        in_channels=16,
        out_channels=16,
    ),
    segmentation.UpsampleMaskFormerHead: Case(
        dict(in_channels=[8, 16, 24, 40], enforce_decoder_input_project=True),
        MASKFORMER,
        lambda head: head(hosts.pyramid(), [SegDataSample(metainfo=meta) for meta in hosts.METAS]),
    ),
    segmentation.UpsampleSETRUPHead: host(
        dict(hosts.HOSTS['setr_up'].cfg, in_index=0),
        lambda head: head([torch.rand(2, 32, 4, 5)]),
        up_scale=4,
    ),
    segmentation.UpsampleSegformerHead: host(hosts.LEVELS),
    segmentation.UpsampleUNet: host(hosts.HOSTS['unet'].cfg, lambda unet: unet(hosts.image())),
    segmentation.UpsampleUPerHead: host(hosts.LEVELS, place=lambda cfg: dict(ppm=cfg, fpn=cfg, fusion=cfg)),
}


# Labels of segmentation -------------------------------------------------------------------------------------


def map_labels(transform):
    labels = np.array([[0, 1, 255]], np.uint8)
    return transform.transform(dict(gt_seg_map=labels, seg_fields=['gt_seg_map']))['gt_seg_map']


def evaluate(metric):
    metric.dataset_meta = dict(classes=['a', 'b', 'c'])
    maps = [torch.arange(900).view(1, 30, 30) // step % 3 for step in (40, 43)]
    maps[1][:, :5] = 255
    metric.process({}, [dict(pred_sem_seg=dict(data=maps[0]), gt_sem_seg=dict(data=maps[1]))])
    return metric.evaluate(1)


def drawn(hook, *outputs):
    """Pictures that a hook writes, in folders that are new."""
    dataset = SimpleNamespace(metainfo=dict(classes=['a'], palette=[(9, 9, 9)]))
    hook.after_test_iter(SimpleNamespace(test_dataloader=SimpleNamespace(dataset=dataset)), 0, {}, outputs)
    files = sorted(Path().glob('drawn*/*'))
    for file in files:
        file.unlink()
    return list(map(str, files))


def overlay(hook):
    labels = PixelData(data=torch.zeros(1, 60, 70, dtype=torch.long))
    return drawn(hook, SegDataSample(metainfo=dict(img_path='pictures/0.png'), pred_sem_seg=labels))


CASES |= {
    segmentation.BoundaryIoUMetric: Case(dict(dilation_ratio=0.1, ignore_index=2), {}, evaluate),
    segmentation.MapLabels: Case(
        dict(
            label_map=[0, 1],
            num_classes=Refused(1, r'send label 0 to 0\.\.0 or 255, got 1'),
            ignore_index=Refused(254, 'label_map leaves label 255 unmapped'),
        ),
        dict(label_map=[1, 0], num_classes=2),
        map_labels,
    ),
    OverlayHook: Case(dict(out_dir='drawn-elsewhere'), dict(out_dir='drawn'), overlay),
}


# Inpainting -------------------------------------------------------------------------------------------------


class Brightness(nn.Module):
    """A loss to be added to the others."""

    def forward(self, result, composed, image):
        return dict(loss_brightness=result.mean())


class Darker(inpainting.InpaintingPreprocessor):
    """Images of half the brightness."""

    def forward(self, data, training=False):
        data = super().forward(data, training)
        return dict(data, inputs=data['inputs'] * 0.5)


def fill(network):
    image, hole = torch.rand(2, 3, 64, 64), torch.zeros(2, 1, 64, 64)
    hole[..., 20:40, 16:50] = 1
    return network(image * (1 - hole), hole)


def train_step(model):
    hole = torch.zeros(1, 16, 16, dtype=torch.uint8)
    hole[:, 4:9, 4:12] = 1
    images = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    MessageHub.get_current_instance().update_info('iter', 0)
    data = dict(inputs=list(images), data_samples=dict(holes=[hole, hole]))
    return model.train_step(data, inpainting.GeneratorDiscriminatorConstructor(OPTIMIZERS)(model))


def learning_rates(constructor):
    parts = constructor(nn.ModuleDict(dict(generator=nn.Linear(1, 1), discriminator=nn.Linear(1, 1))))
    return {name: part.param_groups[0]['lr'] for name, part in parts.items()}


def crop(transform):
    return [transform.transform(dict(img=picture(24, 32)))['img'] for _ in range(3)]


def holes(transform):
    image = dict(img=np.zeros((60, 70, 3), np.uint8), img_path='pictures/0.png')
    return [transform.transform(dict(image))['hole'] for _ in range(8)]


def perceptual(loss):
    loss.init_weights()
    return loss(*torch.rand(3, 1, 3, 16, 16))


def strips(hook):
    images = dict(result=torch.zeros(3, 8, 8).byte(), original=torch.ones(3, 8, 8).byte())
    return drawn(hook, dict(images, hole=torch.ones(1, 8, 8), path='name.png'))


def network(arguments, **changes):
    return Case(changes, arguments, fill)


def optimizers(rate):
    return {name: dict(optimizer=dict(type='SGD', lr=rate)) for name in ('generator', 'discriminator')}


OPTIMIZERS = optimizers(0.1)
PIPELINE = [dict(type='ReadImage'), dict(type='RandomHole', kind='box', side=20, shrink=15, margin=2)]

CASES |= {
    inpainting.CropResize: Case(dict(size=12, crop=10, random=False), dict(size=8), crop),
    inpainting.GeneratorDiscriminatorConstructor: Case(
        dict(
            optim_wrapper_cfg=optimizers(0.2),
            paramwise_cfg=Refused({}, 'paramwise_cfg belongs into generator or discriminator'),
        ),
        dict(optim_wrapper_cfg=OPTIMIZERS),
        learning_rates,
    ),
    inpainting.GlobalLocalDiscriminator: network(
        dict(image_size=64, local_size=32, base_channels=2),
        image_size=128,
        local_size=64,
        base_channels=4,
        norm_cfg=None,
    ),
    inpainting.GlobalLocalGenerator: network(
        dict(base_channels=4, upsample_cfg=NEAREST),
        base_channels=8,
        upsample_cfg=BILINEAR,
        norm_cfg=None,
        act_cfg=dict(type='ELU'),
    ),
    inpainting.HoleFromFiles: Case(
        dict(root='others', hole='black', file_list='list.txt', by_name=True), dict(root='pictures'), holes
    ),
    inpainting.Inpainter: Case(
        dict(
            generator=dict(type='PartialConvUNet', base_channels=4, num_stages=1),
            weights=dict(hole=2.0, adversarial=0.1),
            discriminator=Refused(None, 'weights.adversarial and discriminator go together'),
            gan='vanilla',
            phases=(1, 0),
            perceptual=dict(type=Brightness),
            data_preprocessor=dict(type=Darker),
        ),
        dict(
            generator=dict(type='PartialConvUNet', base_channels=4, num_stages=2),
            weights=dict(hole=1.0, adversarial=0.1),
            discriminator=dict(type='PatchDiscriminator', base_channels=4, num_layers=2),
        ),
        train_step,
    ),
    inpainting.InpaintingDataset: Case(
        dict(data_root='others', pipeline=PIPELINE[:1], ann_file='list.txt', test_mode=True),
        dict(data_root='pictures', pipeline=PIPELINE),
        lambda dataset: [dataset[index] for index in range(len(dataset))],
    ),
    inpainting.InpaintingVisualizationHook: Case(
        dict(draw=False, test_out_dir='drawn-elsewhere'), dict(draw=True, test_out_dir='drawn'), strips
    ),
    inpainting.PartialConv2d: Case(
        dict(in_channels=(1, 3), out_channels=3, kernel_size=5, stride=2, bias=False),
        dict(in_channels=4, out_channels=2, kernel_size=3),
        lambda conv: conv(torch.rand(1, 4, 6, 7), (torch.rand(1, len(conv.in_channels), 6, 7) < 0.2).float()),
    ),
    inpainting.PartialConvUNet: network(
        dict(base_channels=4, num_stages=3, upsample_cfg=NEAREST),
        base_channels=8,
        num_stages=2,
        upsample_cfg=BILINEAR,
        freeze_encoder_norm=True,
    ),
    inpainting.PartialUpsample: Case(
        dict(upsampler=build_upsampler(BILINEAR, 4)),
        dict(upsampler=build_upsampler(NEAREST, 4)),
        lambda up: up(torch.rand(1, 4, 3, 4), torch.ones(1, 1, 3, 4), (6, 8)),
    ),
    inpainting.PatchDiscriminator: network(
        dict(base_channels=4, num_layers=3), base_channels=8, num_layers=2
    ),
    inpainting.RandomHole: Case(dict(kind='strokes'), dict(kind='box'), holes),
    inpainting.VGGLoss: Case(
        dict(perceptual=0.1, style=60.0, weights=Refused('none.pth', 'weights of VGG16: .*none.pth')),
        dict(weights='vgg.pth'),
        perceptual,
    ),
}


# Probes -----------------------------------------------------------------------------------------------------


class Scaled(nn.Module):
    """A backbone that knows one number."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, images):
        return [self.factor * images]


class Halved(BaseDataPreprocessor):
    """Images of half the brightness."""

    def forward(self, data, training=False):
        return dict(inputs=data['inputs'] / 2)


def vit(**changes):
    return dict(img_size=16, patch_size=4, embed_dims=16, num_layers=1, num_heads=1) | changes


def stack(upsample_cfg, **changes):
    return dict(type='mmseg.UpsampleStack', in_channels=16, upsample_cfg=upsample_cfg, **changes)


def label_free_step(model):
    optimizer = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    return model.train_step(dict(inputs=torch.rand(2, 3, 16, 16)), optimizer)


def samples(**maps):
    """Two images with maps, by the name of the field."""
    metas = [dict(img_path=f'{i}.png', img_shape=(16, 16)) for i in range(2)]
    return [
        SegDataSample(metainfo=meta, **{name: PixelData(data=data[i]) for name, data in maps.items()})
        for i, meta in enumerate(metas)
    ]


def probe(head):
    labels = torch.randint(3, (2, 1, 16, 16))
    return head.loss_by_feat(head([torch.rand(2, 8, 4, 4)]), samples(gt_sem_seg=labels))


def probe_depth(head):
    features = [torch.rand(2, 8), torch.rand(2, 8, 4, 4)]
    return head.loss_by_feat(head(features), samples(gt_depth_map=torch.rand(2, 1, 16, 16)))


def features_and_files(model, read):
    """What a model with a cache gives, and the folders that it writes to."""
    features = read(model, torch.rand(2, 3, 16, 16), [sample.metainfo for sample in samples()])
    files = list(Path().glob('features*/*'))
    for file in files:
        file.unlink()
    return features, sorted({str(file.parent) for file in files})


def frozen(**head):
    return Case(
        dict(neck=stack(BILINEAR, residual=True), frozen_neck=True, cache='features'),
        ConfigDict(
            backbone=dict(type='mmseg.FrozenViT', **vit()),
            neck=stack(NEAREST, residual=True),
            decode_head=dict(in_channels=16, **head),
        ),
        lambda model: features_and_files(model, type(model).extract_feat),
    )


CASES |= {
    probes.FeatureCache: Case(
        dict(folder='features-elsewhere', backbone=Scaled(2.0)),
        dict(folder='features', backbone=Scaled(1.0)),
        lambda cache: features_and_files(cache, type(cache).__call__),
    ),
    probes.FrozenViT: Case(
        dict(weights=Refused('none.pth', 'none.pth do not exist'), position_rule='offset', channel_norm=True),
        vit(),
        lambda backbone: backbone(torch.rand(1, 3, 24, 16)),
    ),
    probes.LabelFreeUpsampler: Case(
        dict(
            backbone=dict(type='mmseg.FrozenViT', **vit(num_layers=2)),
            neck=stack(BILINEAR, scale_factors=(4,)),
            jitters=5,
            max_pad=2,
            max_zoom=1.2,
            projection=None,
            crf_weight=0,
            data_preprocessor=dict(type=Halved),
        ),
        dict(
            backbone=dict(type='mmseg.FrozenViT', **vit()),
            neck=stack(NEAREST, scale_factors=(4,)),
            jitters=4,
            max_pad=4,
        ),
        label_free_step,
    ),
    probes.ProbeDepthBinsHead: Case(dict(in_channels=16, warm_up=0), dict(in_channels=8), probe_depth),
    probes.ProbeDepthEstimator: frozen(type='mmseg.ProbeDepthHead'),
    probes.ProbeDepthHead: Case(dict(in_channels=16), dict(in_channels=8), probe_depth),
    probes.ProbeHead: Case(
        dict(in_channels=16, num_classes=4, at_features=True, ignore_index=1),
        dict(in_channels=8, num_classes=3),
        probe,
    ),
    probes.ProbeSegmentor: frozen(type='mmseg.ProbeHead', num_classes=3),
    probes.ResizeCenterCrop: Case(
        dict(size=12), dict(size=10), lambda transform: transform.transform(dict(img=picture()))['img']
    ),
    probes.UpsampleStack: Case(
        dict(
            in_channels=Refused(8, r'x must have shape \(N, 8, H, W\)'),
            upsample_cfg=BILINEAR,
            scale_factors=(3,),
            to_image=True,
            residual=True,
        ),
        dict(in_channels=4, upsample_cfg=NEAREST),
        lambda up: up(torch.rand(1, 4, 2, 3), torch.rand(1, 3, 30, 45)),
    ),
}


# Hooks ------------------------------------------------------------------------------------------------------


def after_a_loss_of_nan(hook):
    hook.after_train_iter(SimpleNamespace(iter=0, work_dir='.'), 0, {}, dict(loss=torch.tensor(torch.nan)))


CASES |= {
    runtime.FiniteLossHook: Case(dict(patience=Refused(1, 'losses are not finite')), {}, after_a_loss_of_nan),
}

# What RandomHole passes its other arguments to.
FUNCTIONS = {
    random_box: dict(side=60, shrink=0, margin=40),
    random_strokes: dict(area=(0.7, 0.8), vertices=(2, 3), length=(5, 10), brush=(5, 8)),
}
GIVEN = ('height', 'width', 'rng')
