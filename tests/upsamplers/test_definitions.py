# SPDX-License-Identifier: Apache-2.0
"""Each upsampler against an independent form of its definition, in float64."""

import pytest
import torch
import torch.nn.functional as F

from carafe_plugin.upsamplers import build_upsampler
from tests import reference
from tests.upsamplers.cases import inputs

DOUBLE = torch.float64


def build(name, channels=4, scale_factor=2, **cfg):
    """In float64, with weights that make every term count."""
    torch.manual_seed(0)
    up = build_upsampler(dict(type=name, **cfg), channels, scale_factor, guide_channels=channels).double()
    for p in up.parameters():
        torch.nn.init.normal_(p, std=0.5)
    return up.eval()


def maps(up, size=(4, 3)):
    return [t if t is None else t.detach() for t in inputs(up, batch=1, size=size, dtype=DOUBLE)]


def reassemble(x, masks, k, groups, s):
    return torch.tensor(reference.carafe_loops(x.numpy(), masks.detach().numpy(), k, groups, s))


def bilinear(x, s):
    return F.interpolate(x, scale_factor=s, mode='bilinear', align_corners=False)


def nearest(x, s):
    return x.repeat_interleave(s, 2).repeat_interleave(s, 3)


def read(image, y, x):
    """One channel (H, W) at a point given in pixels, linearly between pixel centres, clamped to the map."""
    height, width = image.shape
    y, x = min(max(y - 0.5, 0), height - 1), min(max(x - 0.5, 0), width - 1)
    top, left = int(y), int(x)
    rows, columns = [top, min(top + 1, height - 1)], [left, min(left + 1, width - 1)]
    b, a = y - top, x - left
    weights = torch.tensor([[(1 - b) * (1 - a), (1 - b) * a], [b * (1 - a), b * a]], dtype=DOUBLE)
    return (image[rows][:, columns] * weights).sum()


@pytest.mark.parametrize('s', [2, 3])
def test_fixed_baselines(s):
    x = torch.randn(1, 4, 3, 5, dtype=DOUBLE)
    assert torch.equal(build('nearest', scale_factor=s)(x), nearest(x, s))
    size = (3 * s, 5 * s)
    interpolated = F.interpolate(x, size=size, mode='bilinear', align_corners=False)
    torch.testing.assert_close(build('bilinear', scale_factor=s)(x), interpolated)


@pytest.mark.parametrize('s', [2, 3])
def test_convolved_baselines(s):
    up = {name: build(name, 4, s) for name in ('nearest_conv', 'bilinear_conv', 'pixel_shuffle')}
    x = torch.randn(1, 4, 3, 5, dtype=DOUBLE)
    for name, enlarged in (('nearest_conv', nearest(x, s)), ('bilinear_conv', bilinear(x, s))):
        torch.testing.assert_close(up[name](x), F.conv2d(enlarged, *up[name].conv.parameters(), padding=1))
    convolved = F.conv2d(x, *up['pixel_shuffle'].upsample_conv.parameters(), padding=1)
    torch.testing.assert_close(up['pixel_shuffle'](x), F.pixel_shuffle(convolved, s))


def test_deconv_is_the_layer_of_the_fpn_tables():
    deconv = build('deconv').deconv
    layer = (deconv.kernel_size, deconv.stride, deconv.padding, deconv.output_padding)
    assert layer == ((3, 3), (2, 2), (1, 1), (1, 1))


def test_spatial_attention():
    up = build('spatial_attention')
    x, _ = maps(up)
    enlarged = bilinear(x, 2)
    weight = torch.sigmoid(F.conv2d(enlarged, *up.attention.parameters(), padding=1))
    torch.testing.assert_close(up(x), enlarged * weight)


@pytest.mark.parametrize('normalizer', ['softmax', 'sigmoid', 'sigmoid_normalized'])
@pytest.mark.parametrize('compressed_channels', [3, None])
def test_carafe(normalizer, compressed_channels):
    """Its convolutions, the normaliser written out, and the definition's loops."""
    up = build(
        'carafe',
        normalizer=normalizer,
        compressed_channels=compressed_channels,
        up_kernel=3,
        up_group=2,
        encoder_kernel=5,
        encoder_dilation=2,
    )
    x, _ = maps(up)
    compressed = x if compressed_channels is None else F.conv2d(x, *up.channel_compressor.parameters())
    logits = F.conv2d(compressed, *up.content_encoder.parameters(), padding=4, dilation=2).detach()
    if normalizer == 'softmax':
        masks = torch.tensor(reference.kernels_from_logits(logits.numpy(), 3, 2, 2))
    else:
        masks = (1 / (1 + (-torch.tensor(reference.shuffle(logits.numpy(), 2))).exp())).reshape(1, 2, 9, 8, 6)
        if normalizer == 'sigmoid_normalized':
            masks = masks / masks.sum(2, keepdim=True)
        masks = masks.reshape(1, 18, 8, 6)
    torch.testing.assert_close(up(x), reassemble(x, masks, 3, 2, 2))


@pytest.mark.parametrize('name', ['gum', 'dysample'])
@pytest.mark.parametrize('s', [1, 2, 3])
def test_zero_offsets_are_bilinear_interpolation(name, s):
    up = build(name, scale_factor=s)
    for p in up.parameters():
        torch.nn.init.zeros_(p)
    x, _ = maps(up)
    torch.testing.assert_close(up(x), bilinear(x, s))


@pytest.mark.parametrize('dyscope', [False, True])
@pytest.mark.parametrize('style', ['lp', 'pl'])
@pytest.mark.parametrize('s', [2, 3])
def test_dysample(style, dyscope, s):
    """Point by point: x offsets of all groups first, then y; in input pixels from the sub-pixel's centre."""
    up = build('dysample', 2 * s * s, s, style=style, dyscope=dyscope, groups=2)
    x, _ = maps(up)
    source = F.pixel_shuffle(x, s) if style == 'pl' else x
    offsets = F.conv2d(source, *up.offset.parameters())
    scope = torch.sigmoid(F.conv2d(source, up.scope.weight)) * 0.5 if dyscope else 0.25
    offsets = offsets * scope
    if style == 'lp':
        offsets = F.pixel_shuffle(offsets, s)
    out = up(x).detach()
    for group, row, column in [(0, 0, 0), (1, 2, 3), (0, 4 * s - 1, 3 * s - 1), (1, 5, 1)]:
        dx, dy = offsets[0, group, row, column].item(), offsets[0, 2 + group, row, column].item()
        channel = group * s * s
        expected = read(x[0, channel], (row + 0.5) / s + dy, (column + 0.5) / s + dx)
        assert out[0, channel, row, column].item() == pytest.approx(expected.item(), rel=1e-9)


def test_dysample_has_the_published_groups():
    assert build('dysample', 8).groups == 4 and build('dysample', 8, style='pl').groups == 8


def test_gum_moves_all_channels_by_one_table():
    up = build('gum')
    with torch.no_grad():
        up.offset[-1].weight.zero_()
        up.offset[-1].bias.copy_(torch.tensor([1.0, -0.5]))  # x, y in input pixels
    x, _ = maps(up)
    out = up(x).detach()
    expected = read(x[0, 2], 5.5 / 2 - 0.5, 1.5 / 2 + 1)
    assert out[0, 2, 5, 1].item() == pytest.approx(expected.item(), rel=1e-9)


@pytest.mark.parametrize('name', ['fade', 'fade_lite'])
@pytest.mark.parametrize('gate', [False, True])
@pytest.mark.parametrize('s', [2, 3])
def test_fade(name, gate, s):
    up = build(name, scale_factor=s, gate=gate, up_kernel=3)
    x, guide = maps(up)
    weight, bias = up.content_encoder.parameters()
    shared = dict(padding=1, groups=9 if name == 'fade_lite' else 1)
    fine = F.conv2d(F.conv2d(guide, *up.guide_compressor.parameters()), weight, bias, **shared)
    coarse = F.conv2d(F.conv2d(x, up.channel_compressor.weight), weight, bias, **shared)
    masks = (fine + nearest(coarse, s)).exp()
    plain = reassemble(x, masks / masks.sum(1, keepdim=True), 3, 1, s)
    if not gate:
        torch.testing.assert_close(up(x, guide), plain)
        torch.testing.assert_close(up.fuse(x, guide), guide + plain)
        return
    opened = nearest(torch.sigmoid(F.conv2d(x, *up.gate.parameters())), s)
    expected = opened * guide + (1 - opened) * plain
    torch.testing.assert_close(up(x, guide), expected)
    torch.testing.assert_close(up.fuse(x, guide), expected)


def test_a_gate_passes_every_pixel_of_a_larger_guide():
    up = build('fade', gate=True)
    torch.nn.init.constant_(up.gate.bias, 40.0)  # wide open
    x, _ = maps(up)
    guide = torch.randn(1, 4, 9, 7, dtype=DOUBLE)
    torch.testing.assert_close(up.fuse(x, guide), guide)
