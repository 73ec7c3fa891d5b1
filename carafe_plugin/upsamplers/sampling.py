# SPDX-License-Identifier: Apache-2.0
"""Reading a map at predicted points, shared by the upsamplers that predict offsets."""

import torch
import torch.nn.functional as F
from torch import Tensor

from carafe_plugin.ops.tensors import pixel_centres


def sample_around_centres(features: Tensor, offsets: Tensor, scale_factor: int, groups: int = 1) -> Tensor:
    """Read features at the centre of every output pixel plus an offset.

    Zero offsets read the map as bilinear interpolation with ``align_corners=False`` does. Points beyond
    the map read its border.

    Args:
        features: map of any size, laid over the same area as the output.
        offsets: in input pixels, each ``scale_factor`` output pixels wide; first x of all groups, then y.
        scale_factor: integer ratio s.
        groups: number G of groups of contiguous channels, each with offsets of its own.

    Shape:
        ``features`` (N, C, h, w), ``offsets`` (N, 2*G, H', W'); returns (N, C, H', W').
    """
    dtype = torch.promote_types(offsets.dtype, torch.float32)  # 16 bits cannot name a pixel of a large map
    offsets = offsets.to(dtype).unflatten(1, (2, groups))
    (x, width), (y, height) = pixel_centres(offsets[:, :1, 0])
    grid = torch.stack(
        (
            (x + scale_factor * offsets[:, 0]) * (2 / width) - 1,
            (y + scale_factor * offsets[:, 1]) * (2 / height) - 1,
        ),
        dim=-1,
    )
    return sample(features, grid, padding_mode='border')


def sample(features: Tensor, grid: Tensor, padding_mode: str) -> Tensor:
    """As :func:`torch.nn.functional.grid_sample` without ``align_corners``, at points of each group's own.

    Shape:
        ``features`` (N, C, h, w), ``grid`` (N, G, H', W', 2) in [-1, 1], x first; returns (N, C, H', W').
    """
    groups = grid.shape[1]
    split = features.unflatten(1, (groups, features.shape[1] // groups)).flatten(0, 1)
    values = F.grid_sample(
        split.to(grid.dtype), grid.flatten(0, 1), padding_mode=padding_mode, align_corners=False
    )
    return values.unflatten(0, (-1, groups)).flatten(1, 2).to(features.dtype)
