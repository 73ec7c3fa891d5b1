# SPDX-License-Identifier: Apache-2.0
"""Partial convolution against what follows from its definition, upsampling included."""

import pytest
import torch
import torch.nn.functional as F

from carafe_plugin.inpainting import PartialConv2d, PartialUpsample
from carafe_plugin.upsamplers import Upsampler, build_upsampler


def averaging(channels, kernel, stride=1):
    conv = PartialConv2d(channels, 2, kernel, stride)
    torch.nn.init.constant_(conv.conv.weight, 1 / conv.conv.weight[0].numel())
    torch.nn.init.zeros_(conv.conv.bias)
    return conv


@pytest.mark.parametrize('density', [0.0, 0.02, 0.3, 1.0])
@pytest.mark.parametrize(('channels', 'kernel', 'stride'), [(3, 3, 1), ((2, 3), 5, 2), ((4, 1), 3, 1)])
def test_constant_image_stays_constant_wherever_a_valid_pixel_is_seen(channels, kernel, stride, density):
    torch.manual_seed(0)
    conv = averaging(channels, kernel, stride)
    mask = (torch.rand(2, len(conv.in_channels), 9, 12) < density).float()
    x = torch.where(mask.amax(1, keepdim=True) > 0, 0.7, torch.nan).nan_to_num(5.0)
    x = x.expand(-1, sum(conv.in_channels), -1, -1)  # 5 in the holes of all maps, where nobody may look
    out, valid = conv(x, mask)
    seen = F.max_pool2d(mask.amax(1, keepdim=True), kernel, stride, kernel // 2)
    assert torch.equal(valid, seen)
    torch.testing.assert_close(out, 0.7 * seen.expand_as(out))


def test_content_of_holes_is_never_seen():
    torch.manual_seed(0)
    conv = PartialConv2d((2, 1), 4, 3)
    mask = (torch.rand(1, 2, 8, 8) < 0.5).float()
    x = torch.randn(1, 3, 8, 8)
    hidden = 1 - mask[:, [0, 0, 1]]
    torch.testing.assert_close(conv(x, mask), conv(x + 9 * hidden, mask))


def test_equals_ordinary_convolution_where_everything_is_valid():
    torch.manual_seed(0)
    conv = PartialConv2d((2, 3), 4, 3)
    x = torch.randn(2, 5, 7, 8)
    out, valid = conv(x, torch.ones(2, 2, 7, 8))
    ordinary = F.conv2d(x, conv.conv.weight, conv.conv.bias)
    torch.testing.assert_close(out[..., 1:-1, 1:-1], ordinary)
    assert valid.all()
    # At the border, padding counts as a hole.
    inside = F.avg_pool2d(torch.ones(1, 1, 7, 8), 3, 1, 1)
    border = F.conv2d(x, conv.conv.weight, padding=1) / inside + conv.conv.bias.view(-1, 1, 1)
    torch.testing.assert_close(out, border)


def test_rounding_in_the_count_of_valid_pixels_marks_none(monkeypatch):
    torch.manual_seed(0)
    conv, ordinary = PartialConv2d(3, 4, 3), F.conv2d
    mask = (torch.rand(1, 1, 12, 12) < 0.05).float()
    x = torch.randn(1, 3, 12, 12)
    expected = conv(x, mask)

    def inexact(x, weight, *arguments):  # as by Winograd's algorithm or FFT
        out = ordinary(x, weight, *arguments)
        return out + 1e-5 if weight is conv.window else out

    monkeypatch.setattr(F, 'conv2d', inexact)
    torch.testing.assert_close(conv(x, mask), expected, rtol=0, atol=0)
    assert not expected[1].all()


def test_hole_shrinks_by_half_a_window_each_time():
    mask = torch.ones(1, 1, 21, 21)
    mask[..., 5:16, 5:16] = 0
    x, sides = torch.rand(1, 2, 21, 21), []
    conv = averaging(2, 3)
    while not mask.all():
        sides.append(int((1 - mask).sum()) ** 0.5)
        x, mask = conv(x, mask)
    assert sides == [11, 9, 7, 5, 3, 1]


def carafe(channels=4, std=0.0, **arguments):
    up = build_upsampler(dict(type='carafe', **arguments), channels)
    torch.nn.init.normal_(up.content_encoder.weight, std=std)
    return up


@pytest.mark.parametrize('name', ['carafe', 'nearest', 'bilinear'])
@pytest.mark.parametrize('density', [0.0, 0.02, 0.3, 1.0])
def test_constant_map_stays_constant_when_upsampled(name, density):
    torch.manual_seed(0)
    up = carafe(std=1.0, up_group=2) if name == 'carafe' else build_upsampler(dict(type=name), 4)
    mask = (torch.rand(2, 1, 6, 7) < density).float()
    x = torch.where(mask > 0, 0.7, 5.0).expand(-1, 4, -1, -1)
    out, valid = PartialUpsample(up)(x, mask, (12, 14))
    torch.testing.assert_close(out, 0.7 * valid.expand_as(out))
    assert (F.interpolate(mask, scale_factor=2) <= valid).all() or name == 'carafe'


@pytest.mark.parametrize('normalizer', ['softmax', 'sigmoid', 'sigmoid_normalized'])
def test_map_and_mask_are_reassembled_by_the_same_kernels(normalizer):
    """The mean over the valid pixels, times the sum of the kernel, which the mask must not be scaled by."""
    torch.manual_seed(0)
    up = carafe(std=0.3, up_kernel=3, normalizer=normalizer).double()
    x, mask = torch.randn(1, 4, 5, 6).double(), (torch.rand(1, 1, 5, 6) < 0.1).double()
    out, valid = PartialUpsample(up)(x, mask, (10, 12))
    kernels = up.kernels(x * mask)
    sums = torch.zeros(5, 10, 12, dtype=torch.double)
    source = F.pad(torch.cat([x * mask, mask], 1)[0], (1, 1, 1, 1))
    for entry in range(9):
        window = source[:, entry // 3 : entry // 3 + 5, entry % 3 : entry % 3 + 6]
        sums += window.repeat_interleave(2, 1).repeat_interleave(2, 2) * kernels[0, entry]
    expected = torch.where(sums[4:] > 0, sums[:4] / sums[4:], 0) * kernels[0].sum(0)
    torch.testing.assert_close(out[0], expected)
    assert torch.equal(valid[0], (sums[4:] > 0).double())
    assert not valid.all()


def test_upsampling_equals_the_ordinary_where_everything_is_valid():
    torch.manual_seed(0)
    names = ('nearest', 'bilinear', 'deconv')
    sigmoid = carafe(std=0.3, normalizer='sigmoid')
    for up in (carafe(std=0.3), sigmoid, *(build_upsampler(dict(type=name), 4) for name in names)):
        x = torch.randn(1, 4, 8, 8)
        out, valid = PartialUpsample(up)(x, torch.ones(1, 1, 8, 8), (16, 16))
        inner = (..., slice(4, -4), slice(4, -4))  # kernels of carafe reach over the border there
        torch.testing.assert_close(out[inner], up(x)[inner])
        assert valid.all()


@pytest.mark.parametrize('shift', [-18.0, 6.0])
def test_valid_is_what_takes_a_share_of_its_kernel_from_valid_pixels(shift):
    """However small or large the values of sigmoid kernels, of which a sum of 1 is not asked."""
    up = carafe(normalizer='sigmoid')
    torch.nn.init.constant_(up.content_encoder.bias, shift)
    mask = torch.zeros(1, 1, 9, 9)
    mask[..., 4, 4] = 1
    out, valid = PartialUpsample(up)(torch.ones(1, 4, 9, 9), mask, (18, 18))
    assert valid.sum() == 100
    total = 25 * torch.tensor(shift).sigmoid()
    torch.testing.assert_close(out, (total * valid).expand_as(out))


def test_carafe_grows_the_mask_by_its_window():
    mask = torch.zeros(1, 1, 9, 9)
    mask[..., 4, 4] = 1
    _, valid = PartialUpsample(carafe(up_kernel=5))(torch.rand(1, 4, 9, 9), mask, (17, 17))
    assert torch.equal(valid.nonzero()[:, 2:].aminmax(dim=0).max, torch.tensor([13, 13]))
    assert valid.sum() == 100


@pytest.mark.parametrize('weight, known', [(2e-6, True), (5e-7, False)])
def test_a_millionth_of_a_kernel_must_lie_on_valid_pixels(weight, known):
    class Given(Upsampler):
        """The middle of each kernel has a weight, its right neighbour the rest."""

        def kernels(self, x, guide=None):
            kernels = torch.zeros(1, 9, 2 * x.shape[2], 2 * x.shape[3])
            kernels[:, 4], kernels[:, 5] = weight, 1 - weight
            return kernels

    mask = torch.zeros(1, 1, 5, 5)
    mask[..., 2, 2] = 1
    out, valid = PartialUpsample(Given(2))(torch.full((1, 2, 5, 5), 0.7), mask, (10, 10))
    expected = torch.zeros(10, 10)
    expected[4:6, 4:6] = known  # of the middle
    expected[4:6, 2:4] = 1  # of the right neighbour
    assert torch.equal(valid[0, 0], expected)
    torch.testing.assert_close(out, 0.7 * valid.expand_as(out))


def test_mask_gets_no_gradient_trouble():
    x = torch.randn(1, 4, 6, 6, requires_grad=True)
    up = carafe(std=3.0)
    out, _ = PartialUpsample(up)(x, (torch.rand(1, 1, 6, 6) < 0.1).float(), (12, 12))
    out.square().sum().backward()
    assert all(p.grad.isfinite().all() for p in (x, *up.parameters()))
