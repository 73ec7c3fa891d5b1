# SPDX-License-Identifier: Apache-2.0
"""The definition of the operators in plain PyTorch: runs on every device, dtype and layout.

Memory: one zero-padded, nearest-upsampled copy of the features beside the output. Sums over the k*k
entries are taken one entry at a time, because ``unfold`` would multiply memory by k*k.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def carafe(
    features: Tensor,  # [N, C, H, W]
    masks: Tensor,  # [N, G*k*k, s*H, s*W]
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> Tensor:  # [N, C, s*H, s*W]
    """Reassemble features with given kernels; :func:`carafe_plugin.ops.carafe` has the contract."""
    dtype = _accumulation_dtype(features, masks)
    height, width = masks.shape[-2:]
    radius = kernel_size // 2
    padded = F.pad(features.to(dtype), (radius,) * 4)
    if scale_factor > 1:
        padded = F.interpolate(padded, scale_factor=scale_factor, mode='nearest')
    padded = padded.unflatten(1, (group_size, features.shape[1] // group_size))  # [N, G, C/G, ...]
    kernels = masks.to(dtype).unflatten(1, (group_size, kernel_size**2))  # [N, G, k*k, s*H, s*W]

    out = None
    for entry in range(kernel_size**2):
        top, left = entry // kernel_size * scale_factor, entry % kernel_size * scale_factor
        neighbour = padded[..., top : top + height, left : left + width]
        kernel = kernels[:, :, entry : entry + 1]
        out = neighbour * kernel if out is None else torch.addcmul(out, neighbour, kernel)
    return out.flatten(1, 2).to(features.dtype)


def carafe_softmax(
    features: Tensor,  # [N, C, H, W]
    logits: Tensor,  # [N, G*k*k*s*s, H, W]
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> Tensor:  # [N, C, s*H, s*W]
    """Reassemble features with softmax kernels; :func:`carafe_plugin.ops.carafe_softmax` has the contract."""
    shuffled = pixel_shuffle(logits.to(_accumulation_dtype(features, logits)), scale_factor)
    masks = shuffled.unflatten(1, (group_size, kernel_size**2)).softmax(dim=2).flatten(1, 2)
    return carafe(features, masks, kernel_size, group_size, scale_factor)


def pixel_shuffle(x: Tensor, scale_factor: int) -> Tensor:  # [N, C*s*s, H, W] -> [N, C, s*H, s*W]
    """As :func:`torch.nn.functional.pixel_shuffle`, whose backward fails on an empty batch (torch 2.13)."""
    s = scale_factor
    return x.unflatten(1, (x.shape[1] // s**2, s, s)).permute(0, 1, 4, 2, 5, 3).flatten(4, 5).flatten(2, 3)


def _accumulation_dtype(features: Tensor, kernels: Tensor) -> torch.dtype:
    """Float64 where an input has it, else float32: 16-bit sums lose the small kernel entries."""
    return torch.promote_types(torch.promote_types(features.dtype, kernels.dtype), torch.float32)
