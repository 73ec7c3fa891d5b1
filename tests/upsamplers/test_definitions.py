# SPDX-License-Identifier: Apache-2.0
"""Each upsampler against an independent form of its definition, in float64."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from carafe_plugin.upsamplers import build_upsampler
from tests import reference
from tests.tolerances import LAYERS, OPERATOR, within
from tests.torch_versions import FLOAT16
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


def similarities(queries, keys, k, s):
    return torch.tensor(reference.correlate(queries.detach().numpy(), keys.detach().numpy(), k, 1, s))


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
        masks = torch.tensor(reference.masks_from_logits(logits.numpy(), 3, 2, 2))
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


@pytest.mark.parametrize(
    'size, name, cfg',
    [
        ((600, 610), 'dysample', dict(groups=1)),
        ((3, 640), 'dysample', dict(style='pl', groups=2)),
        ((3, 640), 'gum', dict()),
        ((640, 3), 'sapa_deform', dict(groups=1)),
    ],
)
@pytest.mark.parametrize('dtype', [torch.bfloat16, FLOAT16], ids=str)
def test_16_bits_name_every_pixel_of_a_large_map(size, name, cfg, dtype):
    """Zero offsets interpolate (or repeat) every pixel, to a few roundings: coordinates have 32 bits."""
    up = build(name, **cfg).to(dtype)
    for key, p in up.named_parameters():
        if key.startswith('offset'):
            torch.nn.init.zeros_(p)
    x = torch.randn(1, 4, *size).to(dtype)
    guide = torch.randn(1, 4, 2 * size[0], 2 * size[1]).to(dtype) if up.needs_guide else None
    with torch.no_grad():
        out = up(x, guide).double()
    expected = (nearest if name == 'sapa_deform' else bilinear)(x.double(), 2)
    torch.testing.assert_close(out, expected, **within(LAYERS[dtype], expected))


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
    output = up(x).detach()
    for group, row, column in [(0, 0, 0), (1, 2, 3), (0, 4 * s - 1, 3 * s - 1), (1, 5, 1)]:
        dx, dy = offsets[0, group, row, column].item(), offsets[0, 2 + group, row, column].item()
        channel = group * s * s
        expected = read(x[0, channel], (row + 0.5) / s + dy, (column + 0.5) / s + dx)
        assert output[0, channel, row, column].item() == pytest.approx(expected.item(), rel=LAYERS[DOUBLE])


def test_dysample_has_the_published_groups():
    assert build('dysample', 8).groups == 4 and build('dysample', 8, style='pl').groups == 8


def test_gum_moves_all_channels_by_one_table():
    up = build('gum')
    with torch.no_grad():
        up.offset[-1].weight.zero_()
        up.offset[-1].bias.copy_(torch.tensor([1.0, -0.5]))  # x, y in input pixels
    x, _ = maps(up)
    output = up(x).detach()
    expected = read(x[0, 2], 5.5 / 2 - 0.5, 1.5 / 2 + 1)
    assert output[0, 2, 5, 1].item() == pytest.approx(expected.item(), rel=LAYERS[DOUBLE])


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


@pytest.mark.parametrize('similarity', ['inner', 'bilinear', 'gated'])
@pytest.mark.parametrize('s', [2, 3])
def test_sapa(similarity, s):
    up = build('sapa', 4, s, similarity=similarity, up_kernel=3, embedding_channels=3)
    x, guide = maps(up)
    queries = F.group_norm(guide, 4, *up.guide_norm.parameters())
    normed = keys = F.group_norm(x, 4, *up.norm.parameters())
    if similarity != 'inner':
        queries, keys = F.conv2d(queries, *up.query.parameters()), F.conv2d(keys, *up.key.parameters())
    if similarity == 'gated':
        gate = nearest(torch.sigmoid(F.conv2d(normed, *up.gate.parameters())), s)
        own = F.conv2d(nearest(x, s), *up.self_query.parameters())
        queries = gate * queries + (1 - gate) * own
    masks = similarities(queries, keys, 3, s).softmax(1)
    torch.testing.assert_close(up(x, guide), reassemble(x, masks, 3, 1, s))


def test_sapa_averages_where_the_map_is_constant():
    up = build('sapa')
    x, guide = torch.full((1, 4, 7, 7), 3.0, dtype=DOUBLE), torch.randn(1, 4, 14, 14, dtype=DOUBLE)
    inner = up(x, guide)[..., 4:-4, 4:-4]
    torch.testing.assert_close(inner, torch.full_like(inner, 3.0))


def test_sapa_deform_reads_the_input_pixel_where_offsets_are_zero():
    up = build('sapa_deform', scale_factor=3)
    for p in up.offset.parameters():
        torch.nn.init.zeros_(p)
    x, guide = maps(up)
    torch.testing.assert_close(up(x, guide), nearest(x, 3))


def test_sapa_deform():
    """Point by point: (x, y) of each point, in input pixels from the input pixel, zero outside the map."""
    up = build('sapa_deform', points=3, groups=2, embedding_channels=2)
    x, guide = maps(up)
    offsets = F.pixel_shuffle(F.conv2d(x, *up.offset.parameters()), 2)[0].detach()
    queries = F.conv2d(guide, *up.query.parameters())[0].detach()
    keys = F.conv2d(x, *up.key.parameters())[0].detach()
    output = up(x, guide).detach()
    margin = 20  # the zero border that points may fall on
    for group, row, column in [(0, 0, 0), (1, 3, 4), (0, 7, 5), (1, 6, 1)]:
        points = offsets[6 * group : 6 * group + 6, row, column].reshape(3, 2)
        places = [
            (row // 2 + 0.5 + margin + dy, column // 2 + 0.5 + margin + dx) for dx, dy in points.tolist()
        ]

        def read_at(image, places=places):
            return torch.stack([read(F.pad(image, (margin,) * 4), *place) for place in places])

        own = slice(2 * group, 2 * group + 2)
        scores = sum(q * read_at(k) for q, k in zip(queries[own, row, column], keys[own], strict=True))
        expected = (scores.softmax(0) * read_at(x[0, 2 * group + 1])).sum()
        got = output[0, 2 * group + 1, row, column].item()
        assert got == pytest.approx(expected.item(), rel=LAYERS[DOUBLE])


def test_indexnet():
    up = build('indexnet')
    x, guide = maps(up)
    conv, norm, _, last = up.index
    hidden = F.conv2d(guide, conv.weight, stride=2, padding=1) / (1 + 1e-5) ** 0.5  # mean 0, variance 1
    hidden = hidden * norm.weight[:, None, None] + norm.bias[:, None, None]
    index = F.pixel_shuffle(torch.sigmoid(F.conv2d(hidden.clamp(0, 6), last.weight)), 2)
    torch.testing.assert_close(up(x, guide), index * nearest(x, 2))
    assert ((index > 0) & (index < 1)).all()


def test_a2u():
    """Image by image and channel by channel."""
    up = build('a2u')
    x, guide = inputs(up, size=(4, 5), dtype=DOUBLE)
    windows = F.conv2d(F.adaptive_avg_pool2d(guide, 6), *up.windows.parameters())
    spread = F.conv2d(guide.mean((2, 3), keepdim=True), *up.spread.parameters())
    masks = []
    for image in range(2):
        convolved = [
            torch.stack(
                [F.conv2d(c[None, None], w[None, None], stride=2, padding=2)[0, 0] for c in guide[image]]
            )
            for w in windows[image]
        ]
        u, v = (
            F.leaky_relu(F.group_norm(c[None], 4, *norm.parameters()))
            for c, norm in zip(convolved, up.norms, strict=True)
        )
        logits = F.pixel_shuffle((u * v).sum(1, keepdim=True) / 2 * spread[image], 2)
        masks.append(torch.sigmoid(logits).softmax(1))
    masks = torch.cat(masks)
    torch.testing.assert_close(masks.sum(1), torch.ones(2, 8, 10, dtype=DOUBLE))
    assert masks.max() / masks.min() < np.e  # the sigmoid before the softmax bounds it
    torch.testing.assert_close(up(x, guide).detach(), reassemble(x.detach(), masks, 3, 1, 2))


def windowed(logits, k):
    masks = logits.softmax(1) * torch.tensor(np.outer(np.hamming(k), np.hamming(k))).reshape(-1, 1, 1)
    return masks / masks.sum(1, keepdim=True)


@pytest.mark.parametrize('feature_resample', [False, True])
@pytest.mark.parametrize('s', [2, 3])
def test_freqfusion(feature_resample, s):
    up = build('freqfusion', scale_factor=s, feature_resample=feature_resample, compressed_channels=8)
    x, guide = maps(up)

    def conv(layer, x):
        return F.conv2d(x, *layer.parameters(), padding=layer.kernel_size[0] // 2).detach()

    fine, coarse = conv(up.hr_channel_compressor, guide), conv(up.lr_channel_compressor, x)
    high = conv(up.content_encoder2, fine)
    fine = 2 * fine - reassemble(fine, windowed(high, 3), 3, 1, 1)
    low = conv(up.content_encoder, fine)
    low = low + reassemble(conv(up.content_encoder, coarse), windowed(low, 5), 5, 1, s)
    high = high + reassemble(conv(up.content_encoder2, coarse), windowed(low, 5), 5, 1, s)
    expected = reassemble(x, windowed(low, 5), 5, 1, s)
    if feature_resample:
        offsets = offsets_of_freqfusion(up.dysampler, fine, coarse, conv)
        rows, columns = (torch.arange(n, dtype=DOUBLE) for n in expected.shape[2:])
        grid = torch.stack(
            (
                (columns + 0.5 + s * offsets[0, :4]) / len(columns) * 2 - 1,
                (rows[:, None] + 0.5 + s * offsets[0, 4:]) / len(rows) * 2 - 1,
            ),
            dim=-1,
        )
        expected = F.grid_sample(expected[0][:, None], grid, padding_mode='border', align_corners=False)
        expected = expected[:, 0][None]
    tolerance = OPERATOR[torch.float32]  # of the Hamming windows, which are stored so
    torch.testing.assert_close(up(x, guide), expected, **within(tolerance, expected))
    sharpened = 2 * guide - reassemble(guide, windowed(high, 3), 3, 1, 1)
    expected = expected + sharpened
    torch.testing.assert_close(up.fuse(x, guide), expected, **within(tolerance, expected))


def offsets_of_freqfusion(generator, fine, coarse, conv):
    """x of the four groups, then y, at the output's size."""
    parts = []
    for x, norm in ((fine, generator.norm_hr), (coarse, generator.norm_lr)):
        x = F.group_norm(x, 1, *norm.parameters()).detach()
        padded, (height, width) = F.pad(x, (2,) * 4), x.shape[2:]
        neighbours = [
            F.cosine_similarity(x, padded[..., dy : dy + height, dx : dx + width])
            for dy in (0, 2, 4)
            for dx in (0, 2, 4)
            if (dy, dx) != (2, 2)
        ]
        parts.append(torch.cat((x, torch.stack(neighbours, 1)), 1))
    fine, coarse = parts
    s = generator.scale_factor
    direction = conv(generator.hr_offset, fine) + F.pixel_shuffle(conv(generator.offset, coarse), s)
    reach = conv(generator.hr_direct_scale, fine) + F.pixel_shuffle(conv(generator.direct_scale, coarse), s)
    return direction * torch.sigmoid(reach)


def test_freqfusion_on_constants():
    """The low-pass keeps them and the high-pass finds nothing, away from the zero border."""
    up = build('freqfusion', feature_resample=False)
    x, guide = torch.full((1, 4, 9, 9), 3.0, dtype=DOUBLE), torch.full((1, 4, 18, 18), -2.0, dtype=DOUBLE)
    up_only, fused = (output[..., 5:-5, 5:-5].detach() for output in (up(x, guide), up.fuse(x, guide)))
    torch.testing.assert_close(up_only, torch.full_like(up_only, 3.0))
    torch.testing.assert_close(fused, torch.full_like(fused, 1.0))


def reflected(index, side):
    """Where a pixel outside the map is read: mirrored at the edge's centre until it lies inside."""
    while not 0 <= index < side:
        index = -index if index < 0 else 2 * (side - 1) - index
    return index


def jbu_kernels(up, guide, radius):
    """Pixel by pixel and neighbour by neighbour."""

    def network(layers, vector):
        first, last = layers[0], layers[3]
        hidden = F.gelu(first.weight[:, :, 0, 0] @ vector + first.bias)
        return last.weight[:, :, 0, 0] @ hidden + last.bias

    height, width = guide.shape[1:]
    keys = {(i, j): network(up.range_proj, guide[:, i, j]) for i in range(height) for j in range(width)}
    steps = range(-radius, radius + 1)
    distances = torch.tensor([(a / radius) ** 2 + (b / radius) ** 2 for a in steps for b in steps])
    kernels = torch.empty(len(distances), height, width, dtype=DOUBLE)
    for i, j in keys:
        neighbours = [keys[reflected(i + a, height), reflected(j + b, width)] for a in steps for b in steps]
        scores = torch.stack([keys[i, j] @ neighbour for neighbour in neighbours])
        kernel = (up.range_temp.exp() * scores).softmax(0)
        kernel = kernel * torch.exp(-distances / (2 * up.sigma_spatial**2))
        kernel = kernel / kernel.sum()
        kernels[:, i, j] = kernel + 0.1 * network(up.fixup_proj, torch.cat((kernel, guide[:, i, j])))
    return kernels


@pytest.mark.parametrize('size, s, radius', [((4, 3), 2, 3), ((2, 3), 3, 1), ((3, 5), 1, 2), ((1, 2), 2, 3)])
def test_jbu(size, s, radius):
    """Small maps are reflected more than once."""
    up = build('jbu', scale_factor=s, radius=radius, key_channels=5)
    x, guide = maps(up, size)
    with torch.no_grad():
        kernels = jbu_kernels(up, guide[0], radius)
    enlarged = F.interpolate(x, size=guide.shape[2:], mode='bicubic', align_corners=False)
    (height, width), steps = enlarged.shape[2:], range(-radius, radius + 1)
    expected = torch.zeros_like(enlarged)
    for i in range(height):
        for j in range(width):
            places = [(reflected(i + a, height), reflected(j + b, width)) for a in steps for b in steps]
            for place, weight in zip(places, kernels[:, i, j], strict=True):
                expected[0, :, i, j] += weight * enlarged[0, :, place[0], place[1]]
    torch.testing.assert_close(up(x, guide).detach(), expected)


def test_jbu_temperature_is_bounded():
    """As released, between 1e-4 and 1e4."""
    up = build('jbu')
    args = maps(up)
    for far, bound in ((-50.0, 1e-4), (50.0, 1e4)):
        up.range_temp.data.fill_(far)
        out = up(*args)
        up.range_temp.data.fill_(np.log(bound))
        torch.testing.assert_close(out, up(*args))


def test_jbu_gradients():
    up = build('jbu', radius=1, key_channels=3)
    x, guide = inputs(up, batch=1, size=(2, 3), dtype=DOUBLE)
    parameters = dict(up.named_parameters())

    def call(x, guide, *values):
        return torch.func.functional_call(up, dict(zip(parameters, values, strict=True)), (x, guide))

    assert torch.autograd.gradcheck(call, (x, guide, *parameters.values()))


def test_jbu_drops_channels_in_training_alone():
    up = build('jbu', dropout=0.5)
    args = maps(up)
    assert torch.equal(up(*args), up(*args))
    up.train()
    assert not torch.equal(up(*args), up(*args))
