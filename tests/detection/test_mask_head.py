# SPDX-License-Identifier: Apache-2.0
"""UpsampleFCNMaskHead against the stock head."""

import pytest
import torch
from mmdet.models.roi_heads.mask_heads import FCNMaskHead, HTCMaskHead

from carafe_plugin.detection import UpsampleFCNMaskHead
from carafe_plugin.upsamplers import UPSAMPLERS


def build(cls, upsample_cfg, **kwargs):
    torch.manual_seed(0)
    extra = {} if upsample_cfg == 'default' else dict(upsample_cfg=upsample_cfg)
    head = cls(num_convs=2, in_channels=8, conv_out_channels=12, num_classes=3, **extra, **kwargs)
    head.init_weights()
    return head


@pytest.mark.parametrize(
    'ours, stock',
    [
        (None, 'default'),
        (dict(type='deconv'), dict(type='deconv', scale_factor=2)),
        (dict(type='nearest'), dict(type='nearest', scale_factor=2)),
        (dict(type='bilinear'), dict(type='bilinear', scale_factor=2)),
        (dict(type='nearest', scale_factor=4), dict(type='nearest', scale_factor=4)),
    ],
    ids=str,
)
def test_equals_the_stock_head(ours, stock):
    ours, stock = build(UpsampleFCNMaskHead, ours), build(FCNMaskHead, stock)
    ours.load_state_dict(stock.state_dict(), strict=True)
    x = torch.randn(3, 8, 14, 14)
    assert torch.equal(ours(x), stock(x))


def test_carafe_has_the_published_keys_and_no_activation():
    ours = build(UpsampleFCNMaskHead, dict(type='carafe'))
    stock = build(FCNMaskHead, dict(type='carafe', scale_factor=2))
    ours.load_state_dict(stock.state_dict(), strict=True)
    x = torch.randn(3, 8, 14, 14)
    features = x
    for conv in ours.convs:
        features = conv(features)
    assert torch.equal(ours(x), ours.conv_logits(ours.upsample(features)))
    assert ours.upsample.content_encoder.weight.std().item() == pytest.approx(1e-3, rel=0.1)


@pytest.mark.parametrize('name', [name for name in UPSAMPLERS if not UPSAMPLERS.get(name).needs_guide])
@pytest.mark.parametrize('rois', [3, 0])
def test_every_upsampler_learns(name, rois):
    head = build(UpsampleFCNMaskHead, dict(type=name))
    out = head(torch.randn(rois, 8, 14, 14))
    assert out.shape == (rois, 3, 28, 28)
    out.square().sum().backward()
    for key, p in head.named_parameters():
        assert p.grad.isfinite().all() and p.grad.any() == bool(rois), key


@pytest.mark.parametrize(
    'error, match, cfg',
    [
        (ValueError, 'scale_factor must be at least 1, got 0', dict(type='carafe', scale_factor=0)),
        (ValueError, 'scale_factor must be at least 1, got 0', dict(type='deconv', scale_factor=0)),
        (TypeError, "deconv takes no argument 'up_kernel'", dict(type='deconv', up_kernel=5)),
        (ValueError, 'unknown upsampler', dict(type='unpool')),
        (ValueError, 'must name its type', dict()),
    ],
)
def test_bad_arguments(error, match, cfg):
    with pytest.raises(error, match=match):
        build(UpsampleFCNMaskHead, cfg)


def test_heads_derived_from_the_stock_one():
    """The snippet of docs/hosts.md: HTC's head calls the upsampling layer that it inherits."""

    class UpsampleHTCMaskHead(UpsampleFCNMaskHead, HTCMaskHead):
        pass

    ours, stock = build(UpsampleHTCMaskHead, dict(type='deconv')), build(HTCMaskHead, 'default')
    ours.load_state_dict(stock.state_dict(), strict=True)
    x = torch.randn(3, 8, 14, 14)
    assert torch.equal(ours(x)[0], stock(x)[0])
    head = build(UpsampleHTCMaskHead, dict(type='carafe'))
    features = x
    for conv in head.convs:
        features = conv(features)
    assert torch.equal(head(x)[0], head.conv_logits(head.upsample(features)))
