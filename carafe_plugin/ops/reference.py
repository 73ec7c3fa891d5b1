# SPDX-License-Identifier: Apache-2.0
"""The definition of the operators in plain PyTorch: for every device, dtype and layout, and for ONNX export.

The s*s output pixels of one input pixel, its phases, read the same neighbours. Kept apart as a dimension
they need no upsampled copy of the features, and the one shuffle into place comes last. Sums over the k*k
entries are taken one entry at a time, because ``unfold`` would multiply memory by k*k. Every slice has
constant bounds, so that an exported graph holds no arithmetic on sizes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def carafe(
    features: Tensor,  # [N, C, H, W]
    masks: Tensor,  # [N, G*k*k, s*H, s*W], or with ``down`` [N, G*k*k, ceil(H/s), ceil(W/s)]
    kernel_size: int,
    group_size: int,
    scale_factor: int,
    down: bool = False,
) -> Tensor:
    """Reassemble features with given kernels; :func:`carafe_plugin.ops.carafe` has the contract."""
    phases = 1 if down else scale_factor
    kernels = pixel_unshuffle(masks.to(_accumulation_dtype(features, masks)), phases)
    kernels = kernels.unflatten(1, (group_size, kernel_size**2, phases**2))
    return _reassemble(features, kernels, kernel_size, scale_factor, down)


def carafe_softmax(
    features: Tensor,  # [N, C, H, W]
    logits: Tensor,  # [N, G*k*k*s*s, H, W], or with ``down`` as ``masks``
    kernel_size: int,
    group_size: int,
    scale_factor: int,
    down: bool = False,
) -> Tensor:
    """Reassemble features with softmax kernels; :func:`carafe_plugin.ops.carafe_softmax` has the contract."""
    phases = 1 if down else scale_factor
    logits = logits.to(_accumulation_dtype(features, logits))
    kernels = logits.unflatten(1, (group_size, kernel_size**2, phases**2)).softmax(dim=2)
    return _reassemble(features, kernels, kernel_size, scale_factor, down)


def _reassemble(
    features: Tensor,  # [N, C, H, W]
    kernels: Tensor,  # [N, G, k*k, s*s, H, W], or with ``down`` [N, G, k*k, 1, ceil(H/s), ceil(W/s)]
    kernel_size: int,
    scale_factor: int,
    down: bool,
) -> Tensor:
    radius, step, phases = kernel_size // 2, scale_factor if down else 1, 1 if down else scale_factor
    padded = F.pad(features.to(kernels.dtype), (radius,) * 4)
    padded = padded.unflatten(1, (kernels.shape[1], -1)).unsqueeze(3)  # [N, G, C/G, 1, H + k - 1, W + k - 1]
    # Where a tap's neighbours lie in the padded map.
    taps = [slice(tap, tap - 2 * radius or None, step) for tap in range(kernel_size)]

    out = padded.new_zeros(())
    for row, rows in enumerate(taps):
        in_rows = padded[..., rows, :]
        for column, columns in enumerate(taps):
            entry = row * kernel_size + column
            out = torch.addcmul(out, in_rows[..., columns], kernels[:, :, entry : entry + 1])
    return pixel_shuffle(out.flatten(1, 3), phases).to(features.dtype)


def pixel_shuffle(x: Tensor, scale_factor: int) -> Tensor:  # [N, C*s*s, H, W] -> [N, C, s*H, s*W]
    """As :func:`torch.nn.functional.pixel_shuffle`, whose backward fails on an empty batch (torch 2.13)."""
    s = scale_factor
    return x.unflatten(1, (-1, s, s)).permute(0, 1, 4, 2, 5, 3).flatten(4, 5).flatten(2, 3)


def pixel_unshuffle(x: Tensor, scale_factor: int) -> Tensor:  # [N, C, s*H, s*W] -> [N, C*s*s, H, W]
    """Undo :func:`pixel_shuffle`."""
    s = scale_factor
    return x.unflatten(3, (-1, s)).unflatten(2, (-1, s)).permute(0, 1, 3, 5, 2, 4).flatten(1, 3)


def _accumulation_dtype(features: Tensor, kernels: Tensor) -> torch.dtype:
    """Float64 where an input has it, else float32: 16-bit sums lose the small kernel entries."""
    return torch.promote_types(torch.promote_types(features.dtype, kernels.dtype), torch.float32)
