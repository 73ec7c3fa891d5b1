# SPDX-License-Identifier: Apache-2.0
"""No argument of our constructors is idle: another value changes the output or the parameters, or is refused.

The table has a case for each argument in a signature that this project wrote, of each class that it registers
or exports. ``*args`` and ``**kwargs`` go to a stock class and are its own affair.
"""

import copy
import inspect
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import mmdet.registry
import mmengine.registry
import mmseg.registry
import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.logging import MessageHub
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import nn
from torch.utils._pytree import tree_flatten

from carafe_plugin import detection, downsamplers, inpainting, probes, runtime, segmentation, upsamplers
from carafe_plugin.downsamplers import DOWNSAMPLERS
from carafe_plugin.inpainting.masks import random_box, random_strokes
from carafe_plugin.upsamplers import UPSAMPLERS, build_upsampler
from carafe_tools.drawing import OverlayHook
from tests.inpainting.pictures import picture, write_pictures
from tests.inpainting.test_losses import write_weights
from tests.segmentation import hosts

PACKAGES = (detection, downsamplers, inpainting, probes, runtime, segmentation, upsamplers)
OURS = ('carafe_plugin.', 'carafe_tools.')
ABSTRACT = (upsamplers.Upsampler, upsamplers.GuidedUpsampler, downsamplers.Downsampler)


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


def upsampler(**changes):
    return Case(dict(in_channels=16, scale_factor=3) | changes, dict(in_channels=8), upsample)


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
    upsamplers.DySample: upsampler(
        style='pl', groups=2, dyscope=True, scope_bias=Refused(True, 'scope_bias=True needs dyscope=True')
    ),
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
    upsamplers.JBU: guided(radius=1, key_channels=16, dropout=0.5),
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
    labels = PixelData(data=torch.zeros(1, 40, 48, dtype=torch.long))
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
    return [transform.transform(dict(img=np.zeros((60, 70, 3), np.uint8)))['hole'] for _ in range(8)]


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
        dict(root='others', hole='black', file_list='list.txt'), dict(root='pictures'), holes
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

VIT = dict(img_size=16, patch_size=4, embed_dims=64, num_layers=1, num_heads=1)
STACK = dict(
    type='mmseg.UpsampleStack', in_channels=64, upsample_cfg=dict(type='carafe'), scale_factors=(2, 2)
)


def image_samples(**fields):
    meta = dict(img_path='0.jpg', img_shape=(16, 16), ori_shape=(16, 16))
    return [SegDataSample(metainfo=meta, **{key: PixelData(data=data) for key, data in fields.items()})]


def labelled(size=(16, 16)):
    labels, depth = torch.randint(3, (1, *size)), torch.rand(1, *size)
    return image_samples(gt_sem_seg=labels, gt_depth_map=depth)


def probe(head):
    """Losses, what learns, and the files that a cache leaves."""

    def use(model):
        losses = model(torch.rand(1, 3, 16, 16), labelled(), mode='loss')
        files = sorted(Path().glob('features/*'))
        for file in files:
            file.unlink()
        return losses, [p.requires_grad for p in model.parameters()], list(map(str, files))

    neck = dict(STACK, upsample_cfg=BILINEAR)
    arguments = dict(backbone=dict(type='mmseg.FrozenViT', **VIT), neck=STACK, decode_head=head)
    return Case(dict(neck=neck, frozen_neck=True, cache='features'), ConfigDict(arguments), use)


def label_free(model):
    data = model.data_preprocessor(dict(inputs=torch.rand(1, 3, 16, 16)), True)
    return model(data['inputs'], mode='loss')


def depth_loss(head):
    return head.loss([torch.rand(1, 4), torch.rand(1, 4, 16, 16)], labelled(), None)


CASES |= {
    probes.FeatureCache: Case(
        dict(folder='elsewhere', backbone=Refused(probes.FrozenViT(**VIT), 'features of another backbone')),
        dict(folder='cached', backbone=probes.FrozenViT(**VIT)),
        lambda cache: (cache(torch.rand(1, 3, 16, 16), [dict(img_path='0.jpg')]), str(cache.folder)),
    ),
    probes.FrozenViT: Case(
        dict(
            weights=Refused('none.pth', 'backbone weights none.pth do not exist'),
            position_rule='offset',
            channel_norm=True,
        ),
        VIT,
        lambda vit: vit(torch.rand(1, 3, 24, 16)),
    ),
    probes.LabelFreeUpsampler: Case(
        dict(
            backbone=dict(type='mmseg.FrozenViT', channel_norm=True, **VIT),
            neck=dict(STACK, upsample_cfg=BILINEAR),
            jitters=2,
            max_pad=3,
            max_zoom=1.5,
            projection=None,
            crf_weight=0,
            data_preprocessor=dict(type='ImgDataPreprocessor', mean=[0.5], std=[0.5]),
        ),
        dict(backbone=dict(type='mmseg.FrozenViT', **VIT), neck=STACK, jitters=4, max_pad=2),
        label_free,
    ),
    probes.ProbeDepthBinsHead: Case(dict(in_channels=8, warm_up=0), dict(in_channels=4), depth_loss),
    probes.ProbeDepthEstimator: probe(dict(type='mmseg.ProbeDepthHead', in_channels=64)),
    probes.ProbeDepthHead: Case(dict(in_channels=8), dict(in_channels=4), depth_loss),
    probes.ProbeHead: Case(
        dict(in_channels=8, num_classes=4, at_features=True, ignore_index=1),
        dict(in_channels=4, num_classes=3),
        lambda head: head.loss([torch.rand(1, 4, 8, 8)], labelled(), None),
    ),
    probes.ProbeSegmentor: probe(dict(type='mmseg.ProbeHead', in_channels=64, num_classes=3)),
    probes.ResizeCenterCrop: Case(
        dict(size=12), dict(size=8), lambda crop: crop.transform(dict(img=picture(24, 32)))['img']
    ),
    probes.UpsampleStack: Case(
        dict(in_channels=16, upsample_cfg=BILINEAR, scale_factors=(2,), to_image=True, residual=True),
        dict(in_channels=8, upsample_cfg=dict(type='carafe'), scale_factors=(2, 2)),
        lambda stack: stack(torch.rand(1, 8, 4, 4), torch.rand(1, 3, 14, 14)),
    ),
}

# What RandomHole passes its other arguments to.
FUNCTIONS = {
    random_box: dict(side=60, shrink=0, margin=40),
    random_strokes: dict(area=(0.7, 0.8), vertices=(2, 3), length=(5, 10), brush=(5, 8)),
}
GIVEN = ('height', 'width', 'rng')


# The rule ---------------------------------------------------------------------------------------------------


def classes() -> list[type]:
    """Every class that we register or export."""
    found = [cls for registry in (UPSAMPLERS, DOWNSAMPLERS) for cls in map(registry.get, registry)]
    found += [getattr(package, name) for package in PACKAGES for name in package.__all__]
    for module in (mmengine.registry, mmdet.registry, mmseg.registry):
        for registry in vars(module).values():
            if isinstance(registry, mmengine.registry.Registry):
                found += registry.module_dict.values()
    ours = [cls for cls in found if isinstance(cls, type) and cls.__module__.startswith(OURS)]
    return list(dict.fromkeys(cls for cls in ours if cls not in ABSTRACT))


def own_arguments(cls: type) -> set[str]:
    """Arguments of the constructor; none where the first one among the bases is not ours."""
    owner = next(base for base in cls.__mro__ if '__init__' in vars(base))
    if not owner.__module__.startswith(OURS):
        return set()
    parameters = inspect.signature(cls).parameters.values()
    return {p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}


def name_of(cls: type) -> str:
    return '.'.join(cls.__module__.split('.')[:2]) + '.' + cls.__name__


def test_every_argument_has_a_case():
    wanted = {name_of(cls): own_arguments(cls) for cls in classes() if own_arguments(cls)}
    assert {name_of(cls): set(case.changes) for cls, case in CASES.items()} == wanted
    assert set(FUNCTIONS) == set(inpainting.RandomHole.KINDS.values())
    for function, changes in FUNCTIONS.items():
        assert set(changes) == inspect.signature(function).parameters.keys() - set(GIVEN)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Two folders of pictures, a list of one of them, and weights, as the table names them."""
    path = tmp_path_factory.mktemp('arguments')
    write_pictures(path / 'pictures')
    write_pictures(path / 'others', count=2, height=20)
    (path / 'list.txt').write_text('1.png\n')
    write_weights(path / 'vgg.pth')
    return path


def shapes(subject: object) -> dict:
    state = subject.state_dict() if isinstance(subject, nn.Module) else {}
    return {name: tuple(value.shape) for name, value in state.items()}


def equal(first: object, second: object) -> bool:
    """Whether two trees of tensors, arrays and other values are the same."""
    (leaves, structure), (others, other_structure) = map(tree_flatten, (first, second))
    if structure != other_structure:
        return False
    return all(
        torch.equal(a, b) if isinstance(a, torch.Tensor) else np.array_equal(a, b)
        for a, b in zip(leaves, others, strict=True)
    )


@pytest.mark.parametrize(
    'cls, argument',
    [
        pytest.param(cls, name, id=f'{name_of(cls)}-{name}')
        for cls, case in CASES.items()
        for name in case.changes
    ],
)
def test_another_value_shows(cls, argument, folder, monkeypatch):
    monkeypatch.chdir(folder)
    case = CASES[cls]
    change, subject = case.changes[argument], case.make(cls)
    state = None
    if isinstance(subject, nn.Module):
        for p in subject.parameters():  # so that every term counts
            nn.init.normal_(p, std=0.3)
        state = copy.deepcopy(subject.state_dict())
    before = case.run(subject)
    if isinstance(change, Refused):
        with pytest.raises(Exception, match=change.match):
            case.run(case.make(cls, **{argument: change.value}))
        return

    same, other = case.make(cls), case.make(cls, **{argument: change})
    if shapes(other) != shapes(same):
        return
    for again in (same, other):
        if state is not None:
            again.load_state_dict(state)
    assert equal(before, case.run(same)), 'without a change the result must be the same'
    assert not equal(before, case.run(other))


@pytest.mark.parametrize(
    'function, argument', [(f, name) for f, changes in FUNCTIONS.items() for name in changes]
)
def test_another_value_shows_in_a_hole(function, argument):
    def draw(**change):
        return function(200, 210, np.random.default_rng(0), **change)

    assert np.array_equal(draw(), draw())
    assert not np.array_equal(draw(), draw(**{argument: FUNCTIONS[function][argument]}))
