# SPDX-License-Identifier: Apache-2.0
"""Upsamplers on top of each other, with the image beside them."""

import pytest
import torch
import torch.nn.functional as F

from carafe_plugin.probes import UpsampleStack
from carafe_plugin.upsamplers import UPSAMPLERS, NearestUpsampler

CHANNELS = 8


def inputs(size=(3, 4), image=(12, 16)):
    torch.manual_seed(0)
    return torch.randn(2, CHANNELS, *size), torch.randn(2, 3, *image)


@pytest.mark.parametrize('name', list(UPSAMPLERS))
def test_every_upsampler_goes_up_step_by_step(name):
    x, image = inputs()
    torch.manual_seed(0)
    stack = UpsampleStack(CHANNELS, dict(type=name), (2, 2))
    x.requires_grad_()
    out = stack(x, image)
    assert out.shape == (2, CHANNELS, 12, 16)
    out.square().sum().backward()
    assert x.grad.isfinite().all() and all(p.grad.isfinite().all() for p in stack.parameters())


class Guided(NearestUpsampler):
    """Notes the guides that it gets."""

    needs_guide = True

    def __init__(self, in_channels, scale_factor=2, *, guide_channels):
        super().__init__(in_channels, scale_factor)
        self.guide_channels = guide_channels

    def forward(self, x, guide=None):
        self.guide = guide
        return super().forward(x)


def test_the_guide_is_the_image_averaged_to_each_size():
    x, image = inputs(image=(24, 32))
    stack = UpsampleStack(CHANNELS, dict(type=Guided), (2, 2))
    assert torch.equal(stack(x, image), x.repeat_interleave(4, 2).repeat_interleave(4, 3))
    for upsampler, pooled in zip(stack.upsamplers, (4, 2), strict=True):
        assert upsampler.guide_channels == 3
        torch.testing.assert_close(upsampler.guide, F.avg_pool2d(image, pooled))


def test_steps_are_separate_and_as_many_as_asked_for():
    """FeatUp's: four CARAFE of kernel 3, 181,648 parameters at 384 channels; JBU and a last convolution."""
    carafe = UpsampleStack(384, dict(type='carafe', up_kernel=3))
    assert sum(p.numel() for p in carafe.parameters()) == 181_648
    assert len({id(p) for p in carafe.parameters()}) == 4 * 4
    jbu = UpsampleStack(384, dict(type='jbu'), residual=True)
    assert sum(p.numel() for p in jbu.parameters()) == 4 * 6_233 + 384 * 385
    one = UpsampleStack(CHANNELS, dict(type='carafe'), (16,))
    assert one.scale_factor == 16 and one(torch.rand(1, CHANNELS, 2, 2), None).shape == (1, CHANNELS, 32, 32)
    with pytest.raises(ValueError, match='defined for scale_factor=2 only, got 16'):
        UpsampleStack(CHANNELS, dict(type='a2u'), (16,))


def test_init_weights_keeps_each_upsamplers_own():
    stack = UpsampleStack(CHANNELS, dict(type='carafe'), (2,))
    stack.init_weights()
    assert 0.0005 < stack.upsamplers[0].content_encoder.weight.std() < 0.002


def test_to_the_size_of_the_image():
    x, image = inputs(image=(10, 14))
    stack = UpsampleStack(CHANNELS, dict(type='nearest'), (2, 2), to_image=True)
    nearest = x.repeat_interleave(4, 2).repeat_interleave(4, 3)
    expected = F.interpolate(nearest, (10, 14), mode='bilinear', align_corners=False)
    assert torch.equal(stack(x, image), expected)
    assert torch.equal(UpsampleStack(CHANNELS, None)(x, image), x)


def test_residual():
    x, image = inputs()
    stack = UpsampleStack(CHANNELS, None, residual=True).eval()
    weight, bias = stack.residual[1].parameters()
    expected = x + 0.1 * (torch.einsum('oi,nihw->nohw', weight[:, :, 0, 0], x) + bias[:, None, None])
    torch.testing.assert_close(stack(x, image), expected)


def test_bad_arguments():
    with pytest.raises(ValueError, match=r'x must have shape \(N, 8, H, W\), got \(1, 4, 2, 2\)'):
        UpsampleStack(CHANNELS, None)(torch.zeros(1, 4, 2, 2), torch.zeros(1, 3, 4, 4))
    with pytest.raises(ValueError, match='scale_factors must be at least 1, got 0'):
        UpsampleStack(CHANNELS, None, (2, 0))
    with pytest.raises(ValueError, match="unknown upsampler 'caraf'"):
        UpsampleStack(CHANNELS, dict(type='caraf'))
