# SPDX-License-Identifier: Apache-2.0
"""What is particular to one host: UPerHead's three places, SegFormer's chain, MaskFormer's projection."""

import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmseg.registry import MODELS

from carafe_plugin.segmentation import UpsampleUPerHead
from carafe_plugin.upsamplers import Upsampler, fit
from tests.segmentation.hosts import HEAD, HOSTS, LEVELS, pyramid

ADDED = dict(ppm=362_128, fpn=271_596, fusion=369_900)


@pytest.mark.parametrize(
    'places', [('ppm',), ('fpn',), ('fusion',), ('ppm', 'fpn'), ('ppm', 'fpn', 'fusion')]
)
def test_parameters_at_the_published_width(places):
    with torch.device('meta'):
        head = UpsampleUPerHead(
            in_channels=[256, 512, 1024, 2048],
            in_index=[0, 1, 2, 3],
            channels=512,
            num_classes=150,
            upsample_cfg={place: dict(type='carafe') for place in places},
        )
    count = sum(p.numel() for key, p in head.named_parameters() if key.startswith('upsamplers.'))
    assert count == sum(ADDED[place] for place in places)


@pytest.mark.parametrize('align_corners', [False, True])
@pytest.mark.parametrize('places', [('ppm', 'fpn', 'fusion'), ('ppm',), ('fpn',), ('fusion',)], ids='-'.join)
def test_the_three_places_are_what_the_docstring_says(places, align_corners):
    """Written out, on sizes that are no multiples of two; a place that is not named is the stock's."""
    cfg = {place: dict(type='carafe', compressed_channels=8) for place in places}
    levels = {**LEVELS, 'align_corners': align_corners}
    head = MODELS.build(dict(type='mmseg.UpsampleUPerHead', upsample_cfg=cfg, **levels)).eval()
    inputs = pyramid(90, 140)  # 23 x 35, 12 x 18, 6 x 9, 3 x 5
    ups = head.upsamplers
    assert set(ups) == set(places)

    def stretch(x, size):
        return F.interpolate(x, size=size, mode='bilinear', align_corners=align_corners)

    def enlarge(place, index, x, like):
        height, width = like.shape[-2:]
        return ups[place][index](x)[..., :height, :width] if place in places else stretch(x, (height, width))

    c5 = inputs[-1]
    pooled = [c5]
    for index, pool in enumerate(head.psp_modules):
        part = pool[1](F.adaptive_avg_pool2d(c5, pool[0].output_size))
        pooled.append(enlarge('ppm', index, stretch(part, (2, 3)) if 'ppm' in places else part, c5))
    maps = [conv(x) for conv, x in zip(head.lateral_convs, inputs[:3], strict=True)]
    maps.append(head.bottleneck(torch.cat(pooled, 1)))
    for level in (2, 1, 0):
        maps[level] = maps[level] + enlarge('fpn', level, maps[level + 1], maps[level])
    maps[:3] = [conv(x) for conv, x in zip(head.fpn_convs, maps[:3], strict=True)]
    if 'fusion' in places:
        fused = maps[3]
        for level in (2, 1, 0):
            fused = torch.cat([maps[level], enlarge('fusion', level, fused, maps[level])], 1)
    else:
        fused = torch.cat([maps[0], *(stretch(x, maps[0].shape[-2:]) for x in maps[1:])], 1)
    expected = head.conv_seg(head.fpn_bottleneck(fused))
    assert torch.equal(head(inputs), expected)


def test_fusion_has_the_stock_order_of_channels():
    """Constant maps come through any interpolation: a stock checkpoint sees the same inputs."""
    host = HOSTS['uper_fusion']
    stock, ours = host.stock(), host.build(dict(type='bilinear'))
    ours.load_state_dict(stock.state_dict())
    seen = []
    for head in (stock.eval(), ours.eval()):
        for conv in head.fpn_convs:
            conv.register_forward_hook(lambda m, i, out: out.mean((2, 3), keepdim=True).expand_as(out))
        head.bottleneck.register_forward_hook(lambda m, i, out: out.mean((2, 3), keepdim=True).expand_as(out))
        head.fpn_bottleneck.register_forward_pre_hook(lambda m, i: seen.append(i[0]))
    inputs = pyramid()
    stock(inputs), ours(inputs)
    torch.testing.assert_close(*seen)


def test_dilated_stages_need_no_upsampling():
    maps = [torch.rand(2, c, 16, 20) for c in LEVELS['in_channels']]
    for name in ('uper_fpn', 'uper_fusion', 'segformer'):
        host = HOSTS[name]
        stock, ours = host.stock().eval(), host.build(dict(type='carafe')).eval()
        ours.load_state_dict(stock.state_dict(), strict=False)
        assert torch.equal(ours(maps), stock(maps))


@pytest.mark.parametrize('name', ['uper_ppm', 'uper_fusion', 'segformer'])
def test_maps_of_one_pixel_leave_no_parameter_without_a_gradient(name):
    """Both of the coarsest levels have one; a distributed training would wait for what lies between them."""
    host = HOSTS[name]
    head, inputs = host.build(dict(type='carafe')), pyramid(16, 16)
    assert inputs[-1].shape[-2:] == inputs[-2].shape[-2:] == (1, 1)
    sum(out.square().sum() for out in host.run(head, inputs)).backward()
    assert not [key for key, p in head.named_parameters() if key.startswith('upsamplers') and p.grad is None]


@pytest.mark.parametrize(
    'error, match, cfg',
    [
        (ValueError, 'the places ppm, fpn, fusion, got .type.; write e.g.', dict(type='carafe')),
        (ValueError, 'unknown upsampler .unpool.', dict(fpn=dict(type='unpool'))),
        (ValueError, 'must name its type', dict(fusion=dict())),
        (TypeError, 'must be a dict', 'carafe'),
    ],
)
def test_bad_arguments(error, match, cfg):
    with pytest.raises(error, match=match):
        UpsampleUPerHead(upsample_cfg=cfg, **LEVELS)


def test_segformer_goes_up_two_by_two():
    host = HOSTS['segformer']
    head = host.build(dict(type='carafe')).eval()
    inputs = pyramid(37, 101)
    maps = [conv(x) for conv, x in zip(head.convs, inputs, strict=True)]
    outs = maps[:1]
    for level in (1, 2, 3):
        x = maps[level]
        for target in reversed(range(level)):
            x = fit(head.upsamplers[level - 1][target](x), maps[target].shape[-2:])
        outs.append(x)
    assert torch.equal(head(inputs), head.conv_seg(head.fusion_conv(torch.cat(outs, 1))))


@pytest.mark.parametrize('name', ['bilinear', 'fade'])
def test_fpn_head_goes_up_to_its_finest_level(name):
    """Which is of stride 8 here: one step from 16, two from 32."""
    cfg = dict(
        HOSTS['fpn_head'].cfg, feature_strides=[8, 16, 32], in_channels=[16, 24, 32], in_index=[0, 1, 2]
    )
    head = MODELS.build(dict(type='mmseg.UpsampleFPNHead', upsample_cfg=dict(type=name), **cfg)).eval()
    assert [len(ups) for ups in head.upsamplers] == [0, 1, 2]
    inputs = pyramid()[1:]
    out = head(inputs)
    assert out.shape[-2:] == inputs[0].shape[-2:]
    if name == 'bilinear':
        stock = MODELS.build(dict(type='mmseg.FPNHead', **cfg)).eval()
        stock.load_state_dict(head.state_dict())
        assert torch.equal(out, stock(inputs))


def test_setr_takes_its_ratio_from_up_scale():
    cfg = dict(in_channels=32, in_index=0, num_convs=1, up_scale=4, upsample_cfg=dict(type='carafe'), **HEAD)
    head = MODELS.build(dict(type='mmseg.UpsampleSETRUPHead', **cfg))
    assert [m.scale_factor for m in head.modules() if isinstance(m, Upsampler)] == [4]
    assert head([torch.rand(2, 32, 6, 7)]).shape == (2, 5, 24, 28)


def test_unet_on_the_stock_class_by_name():
    """The stock UNet takes the registered up-convolution, with upsamplers that need no guide."""
    inner = dict(type='mmseg.UpsampleInterpConv', upsample_cfg=dict(type='carafe'), conv_first=True)
    with DefaultScope.overwrite_default_scope('mmseg'):
        unet = MODELS.build(dict(type='mmseg.UNet', upsample_cfg=inner, **HOSTS['unet'].cfg))
    outs = unet(torch.rand(2, 3, 32, 32))
    assert outs[-1].shape == (2, 32, 32, 32)


@pytest.mark.filterwarnings(
    'ignore:torch.utils.checkpoint. the use_reentrant:UserWarning'
)  # of the stock blocks
def test_unet_hands_the_guide_to_a_checkpointed_block():
    """``with_cp`` runs each upsampler a second time in the backward pass, with the same results."""
    host, seen = HOSTS['unet'], []
    image = torch.rand(2, 3, 32, 48, requires_grad=True)
    for with_cp in (False, True):
        cfg = dict(host.cfg, with_cp=with_cp, upsample_cfg=dict(type='fade'))
        torch.manual_seed(0)
        unet, calls = MODELS.build(dict(type='mmseg.UpsampleUNet', **cfg)), []
        ups = [module for module in unet.modules() if isinstance(module, Upsampler)]
        for up in ups:
            up.register_forward_hook(lambda module, args, out, calls=calls: calls.append(module))
        out = unet(image)[-1]
        image.grad = None
        out.square().mean().backward()  # the stock blocks' checkpoints refuse torch.autograd.grad
        gradients = [leaf.grad for leaf in (image, *unet.parameters())]
        assert [calls.count(up) for up in ups] == [2 if with_cp else 1] * host.count
        seen.append((out, *gradients))
    for plain, checkpointed in zip(*seen, strict=True):
        assert plain.any()
        torch.testing.assert_close(checkpointed, plain)


@pytest.mark.parametrize('enforce', [False, True])
def test_maskformer_projects_as_the_stock_head(enforce):
    text = "_base_ = 'mmseg::maskformer/maskformer_r50-d32_8xb2-160k_ade20k-512x512.py'"
    cfg = Config.fromstring(text, '.py').model.decode_head
    cfg.update(in_channels=[8, 16, 24, 32], enforce_decoder_input_project=enforce)
    stock = MODELS.build(dict(cfg, type='mmseg.MaskFormerHead'))
    decoder = dict(cfg.pixel_decoder, type='mmdet.UpsamplePixelDecoder', upsample_cfg=dict(type='nearest'))
    cfg.update(type='mmseg.UpsampleMaskFormerHead', pixel_decoder=decoder)
    ours = MODELS.build(cfg)
    ours.load_state_dict(stock.state_dict(), strict=True)


def test_mask2former_refuses_other_outputs_than_the_encoders():
    host = HOSTS['mask2former']
    with pytest.raises(ValueError, match='num_outs must be the number of encoder levels, 3'):
        MODELS.build(
            dict(
                type='mmdet.UpsampleMSDeformAttnPixelDecoder',
                num_outs=2,
                upsample_cfg=dict(type='carafe'),
                **{**host.cfg, 'encoder': Config(host.cfg['encoder'])._cfg_dict},
            )
        )
