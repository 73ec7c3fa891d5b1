# SPDX-License-Identifier: Apache-2.0
"""The size policy: which sizes join, and how."""

import pytest
import torch
import torch.nn.functional as F

from carafe_plugin.upsamplers import build_upsampler, fit, top_down

NEAREST = build_upsampler(dict(type='nearest'), 3)


@pytest.mark.parametrize('size', [(7, 10), (8, 9), (7, 9), (8, 10), (1, 2)])
def test_smaller_finer_maps_equal_nearest_interpolation(size):
    coarse = torch.rand(2, 3, (size[0] + 1) // 2, (size[1] + 1) // 2)
    assert torch.equal(fit(NEAREST(coarse), size), F.interpolate(coarse, size=size, mode='nearest'))


@pytest.mark.parametrize('s, height, width', [(2, 9, 8), (2, 8, 9), (3, 14, 10), (4, 19, 13)])
def test_larger_finer_maps_repeat_the_edge(s, height, width):
    up = torch.rand(1, 2, s * 4, s * 3) if s > 2 else torch.rand(1, 2, 8, 8)
    output = fit(up, (height, width), s)
    rows = torch.arange(height).clamp(max=up.shape[2] - 1)
    columns = torch.arange(width).clamp(max=up.shape[3] - 1)
    assert torch.equal(output, up[:, :, rows][..., columns])


@pytest.mark.parametrize('size', [(8, 10), (6, 8), (8, 6), (4, 8)])
def test_other_ratios_are_refused(size):
    with pytest.raises(ValueError, match=r'upsampled by 2 to \(8, 8\) does not fit size'):
        fit(torch.rand(1, 1, 8, 8), size)


def test_top_down_adds_level_by_level():
    sizes = [(13, 16), (7, 8), (7, 8), (3, 4)]  # rounded up, dilated, rounded down
    laterals = [torch.rand(1, 3, *size) for size in sizes]
    merged = top_down(laterals, [NEAREST] * 3)
    third = laterals[2] + F.pad(NEAREST(laterals[3]), (0, 0, 0, 1), mode='replicate')
    second = laterals[1] + third
    first = laterals[0] + F.interpolate(second, size=(13, 16), mode='nearest')
    for got, expected in zip(merged, (first, second, third, laterals[3]), strict=True):
        assert torch.equal(got, expected)


def test_single_pixels_still_pass_through_the_upsampler():
    """1 and 1 pixel are one size, and 2n - 1 as well: the second reading keeps parameters in the graph."""
    up = build_upsampler(dict(type='carafe'), 4)
    top_down([torch.rand(1, 4, 1, 1), torch.rand(1, 4, 1, 1)], [up])[0].sum().backward()
    assert all(p.grad is not None for p in up.parameters())


def test_a_wrong_level_is_named():
    laterals = [torch.rand(1, 3, 16, 16), torch.rand(1, 3, 8, 8), torch.rand(1, 3, 2, 2)]
    with pytest.raises(
        ValueError,
        match=r'level 2 of size \(2, 2\) cannot be upsampled by 2 to level 1 of size \(8, 8\)',
    ):
        top_down(laterals, [NEAREST] * 2)
