# SPDX-License-Identifier: Apache-2.0
"""Every upsampler keeps the call contract; each is checked against an independent form."""

import pytest
import torch
import torch.nn.functional as F

from carafe_plugin.upsamplers import UPSAMPLERS, Upsampler, build_upsampler
from tests.reference import carafe_loops, kernels_from_logits

NAMES = list(UPSAMPLERS)


@pytest.mark.parametrize('scale_factor', [1, 2, 3])
@pytest.mark.parametrize('name', NAMES)
def test_contract(name, scale_factor):
    """Size, layouts, 16-bit, and gradients in all parameters; an empty batch gives zero ones, not None."""
    up = build_upsampler(dict(type=name), 8, scale_factor)
    x = torch.rand(2, 8, 5, 7, requires_grad=True)
    out = up(x)
    assert out.shape == (2, 8, 5 * scale_factor, 7 * scale_factor)
    torch.testing.assert_close(up(x.contiguous(memory_format=torch.channels_last)), out)
    with torch.autocast('cpu', torch.bfloat16):
        torch.testing.assert_close(up(x.bfloat16()).float(), out, rtol=0.05, atol=0.05)

    out.square().sum().backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in (x, *up.parameters()))
    up.zero_grad()
    empty = up(torch.rand(0, 8, 5, 7, requires_grad=True))
    assert empty.shape == (0, 8, 5 * scale_factor, 7 * scale_factor)
    empty.sum().backward()
    assert not any(p.grad.any() for p in up.parameters())


@pytest.mark.parametrize('name', NAMES)
def test_init_weights_restores_the_published_initialisation(name):
    up = build_upsampler(dict(type=name), 64)
    for p in up.parameters():
        torch.nn.init.constant_(p, 7.0)
    up.init_weights()
    for key, p in up.named_parameters():
        fan_in, fan_out = torch.nn.init._calculate_fan_in_and_fan_out(p) if p.dim() > 1 else (1, 1)
        std = 0.001 if 'content_encoder' in key else (2 / (fan_in + fan_out)) ** 0.5
        assert (p.std().item() == pytest.approx(std, rel=0.05)) if key.endswith('weight') else not p.any()


def test_carafe_is_its_two_convolutions_and_the_definition():
    up = build_upsampler(
        dict(type='carafe', up_kernel=3, up_group=2, encoder_kernel=5, encoder_dilation=2), 4
    ).double()
    torch.nn.init.normal_(up.content_encoder.weight)
    x = torch.randn(1, 4, 5, 4, dtype=torch.double)
    compressed = F.conv2d(x, up.channel_compressor.weight, up.channel_compressor.bias)
    logits = F.conv2d(compressed, up.content_encoder.weight, up.content_encoder.bias, padding=4, dilation=2)
    masks = kernels_from_logits(logits.detach().numpy(), 3, 2, 2)
    torch.testing.assert_close(up(x).detach(), torch.tensor(carafe_loops(x.numpy(), masks, 3, 2, 2)))
    torch.testing.assert_close(up.kernels(x).detach(), torch.tensor(masks))


def test_baselines_against_torch():
    x = torch.rand(1, 4, 3, 5)
    up = {name: build_upsampler(dict(type=name), 4) for name in NAMES}
    assert torch.equal(up['nearest'](x), x.repeat_interleave(2, 2).repeat_interleave(2, 3))
    assert torch.equal(
        up['bilinear'](x), F.interpolate(x, size=(6, 10), mode='bilinear', align_corners=False)
    )
    shuffle, deconv = up['pixel_shuffle'], up['deconv'].deconv
    convolved = F.conv2d(x, *shuffle.upsample_conv.parameters(), padding=1)
    assert torch.equal(shuffle(x), F.pixel_shuffle(convolved, 2))
    assert (deconv.kernel_size, deconv.stride, deconv.padding, deconv.output_padding) == (
        (3, 3),
        (2, 2),
        (1, 1),
        (1, 1),
    )


@pytest.mark.parametrize(
    'name, weights, biases',
    [
        ('carafe', 73_984, 164),
        ('deconv', 589_824, 256),
        ('pixel_shuffle', 2_359_296, 1024),
        ('nearest', 0, 0),
        ('bilinear', 0, 0),
    ],
)
def test_parameter_counts_at_256_channels(name, weights, biases):
    """Published: CARAFE 74k (with biases), deconv 590k, pixel-shuffle 2.4M (both without)."""
    counts = {True: 0, False: 0}
    for p in build_upsampler(dict(type=name), 256).parameters():
        counts[p.dim() > 1] += p.numel()
    assert counts == {True: weights, False: biases}


def test_mmcv_weights_load():
    ours = build_upsampler(dict(type='carafe'), 16)
    theirs = pytest.importorskip('mmcv.ops').CARAFEPack(16, 2)
    ours.load_state_dict(theirs.state_dict(), strict=True)


class Guided(Upsampler):
    """A guided upsampler for the builder's tests."""

    needs_guide = True

    def __init__(self, in_channels, scale_factor=2, *, guide_channels=None):
        super().__init__(in_channels, scale_factor)
        self.guide_channels = guide_channels


@pytest.mark.parametrize(
    'error, match, cfg',
    [
        (TypeError, 'upsample_cfg must be a dict', 'carafe'),
        (ValueError, r"must name its type, got \{'up_kernel': 5\}", dict(up_kernel=5)),
        (ValueError, "unknown upsampler 'caraf'; known: bilinear, carafe", dict(type='caraf')),
        (
            TypeError,
            "'deconv' takes no argument 'up_kernel'; it takes .*kernel_size.*_delete_",
            dict(type='deconv', up_kernel=5),
        ),
        (
            ValueError,
            'asks for scale_factor=3, this place upsamples by 2',
            dict(type='carafe', scale_factor=3),
        ),
        (
            ValueError,
            'in_channels must be divisible by up_group=3, got 8',
            dict(type='carafe', up_group=3),
        ),
        (ValueError, 'up_kernel must be odd, got 4', dict(type='carafe', up_kernel=4)),
        (
            ValueError,
            'kernel_size must be at least scale_factor=2, got 1',
            dict(type='deconv', kernel_size=1),
        ),
        (ValueError, 'needs a guide', dict(type=Guided)),
    ],
)
def test_bad_configs(error, match, cfg):
    with pytest.raises(error, match=match):
        build_upsampler(cfg, 8)


@pytest.mark.parametrize('value, error', [(0, ValueError), (2.0, TypeError), ('2', TypeError)])
def test_bad_scale_factor(value, error):
    with pytest.raises(error, match='scale_factor must be'):
        build_upsampler(dict(type='nearest'), 8, value)


def test_a_class_and_its_guide_pass_through():
    up = build_upsampler(dict(type=Guided), 8, guide_channels=16)
    assert (up.in_channels, up.scale_factor, up.guide_channels) == (8, 2, 16)


def test_a_name_is_registered_once():
    with pytest.raises(ValueError, match="'carafe' is already registered"):
        UPSAMPLERS.register_module('carafe')(Guided)
