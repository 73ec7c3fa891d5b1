# SPDX-License-Identifier: Apache-2.0
"""UpsampleFCNMaskHead against the stock head."""

import pytest
import torch
from mmdet.models.roi_heads.mask_heads import DynamicMaskHead, FCNMaskHead, HTCMaskHead, SCNetMaskHead
from mmengine.registry import init_default_scope

from carafe_plugin.detection import UpsampleFCNMaskHead
from carafe_plugin.upsamplers import UPSAMPLERS


def build(cls, upsample_cfg, **kwargs):
    torch.manual_seed(0)
    extra = {} if upsample_cfg == 'default' else dict(upsample_cfg=upsample_cfg)
    sizes = dict(num_convs=2, in_channels=8, conv_out_channels=12, num_classes=3) | kwargs
    head = cls(**sizes, **extra)
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


def test_without_convolutions_the_upsampler_takes_the_rois_channels():
    ours = build(UpsampleFCNMaskHead, dict(type='carafe'), num_convs=0)
    stock = build(FCNMaskHead, dict(type='carafe', scale_factor=2), num_convs=0)
    ours.load_state_dict(stock.state_dict(), strict=True)
    x = torch.randn(3, 8, 14, 14)
    assert torch.equal(ours(x), ours.conv_logits(ours.upsample(x)))


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


@pytest.mark.parametrize('stock_class', [HTCMaskHead, SCNetMaskHead, DynamicMaskHead])
def test_heads_derived_from_the_stock_one(stock_class):
    """As docs/hosts.md has it: these heads call the upsampling layer that they inherit."""
    dynamic = stock_class is DynamicMaskHead

    class Head(UpsampleFCNMaskHead, stock_class):
        def init_weights(self):
            super().init_weights()
            if dynamic and hasattr(self.upsample, 'init_weights'):  # not the stock deconv
                self.upsample.init_weights()

    more, x = dict(conv_out_channels=8), [torch.randn(3, 8, 14, 14)]
    if dynamic:
        interaction = dict(in_channels=8, feat_channels=4, out_channels=8, input_feat_shape=14)
        more['dynamic_conv_cfg'] = dict(type='DynamicConv', with_proj=False, **interaction)
        x.append(torch.randn(3, 8))
    init_default_scope('mmdet')
    stock = build(stock_class, 'default', **more)
    ours, head = (build(Head, dict(type=name), **more) for name in ('deconv', 'carafe'))
    ours.load_state_dict(stock.state_dict(), strict=True)
    with torch.no_grad():
        for out, expected in zip(outputs(ours, x), outputs(stock, x), strict=True):
            assert torch.equal(out, expected)
    seen = []
    head.upsample.register_forward_hook(lambda module, args, out: seen.append(out))
    assert torch.equal(outputs(head, x)[0], head.conv_logits(*seen))  # no activation between them
    assert head.upsample.content_encoder.weight.std().item() == pytest.approx(1e-3, rel=0.1)


def outputs(head, x):
    out = head(*x)
    return out if isinstance(out, (list, tuple)) else [out]
