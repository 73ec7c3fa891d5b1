# SPDX-License-Identifier: Apache-2.0
"""Group norm for any number of channels and any size of the map."""

import math

import torch
from torch import Tensor, nn

GROUPS = 32  # of the released code


class GroupNorm(nn.GroupNorm):
    """Group norm with 32 groups, or as many as the greatest common divisor of 32 and the channels.

    Where a group has one value (a map of one pixel with as many channels as groups) the result is the bias;
    :class:`torch.nn.GroupNorm` refuses such a map, in evaluation too.

    Args:
        channels: channels C of the map.

    Shape:
        (N, C, H, W), kept.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(math.gcd(GROUPS, channels), channels)

    def forward(self, x: Tensor) -> Tensor:
        return torch.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)
