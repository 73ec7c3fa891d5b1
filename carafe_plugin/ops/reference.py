# SPDX-License-Identifier: Apache-2.0
"""The definition of the operators in plain PyTorch: for every device, dtype and layout, and for ONNX export.

The s*s output pixels of one input pixel, its phases, read the same neighbours. Kept apart as a dimension
they need no upsampled copy of the features, and the one shuffle into place comes last. Sums over the k*k
entries are taken one entry at a time, because ``unfold`` would multiply memory by k*k. Every slice has
constant bounds, so that an exported graph holds no arithmetic on sizes.
"""

from collections.abc import Iterator

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


def correlate(
    queries: Tensor,  # [N, C, s*H, s*W]
    features: Tensor,  # [N, C, H, W]
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> Tensor:  # [N, G*k*k, s*H, s*W]
    """Compare with the neighbours; :func:`carafe_plugin.ops.correlate` has the contract."""
    dtype = _accumulation_dtype(features, queries)
    split = pixel_unshuffle(queries.to(dtype), scale_factor).unflatten(1, (group_size, -1, scale_factor**2))
    neighbours = _neighbours(features.to(dtype), kernel_size, group_size, 1)
    entries = [(split * neighbour).sum(2) for neighbour in neighbours]  # [N, G, s*s, H, W]
    return pixel_shuffle(torch.stack(entries, dim=2).flatten(1, 3), scale_factor).to(queries.dtype)


def _reassemble(
    features: Tensor,  # [N, C, H, W]
    kernels: Tensor,  # [N, G, k*k, s*s, H, W], or with ``down`` [N, G, k*k, 1, ceil(H/s), ceil(W/s)]
    kernel_size: int,
    scale_factor: int,
    down: bool,
) -> Tensor:
    step, phases = (scale_factor, 1) if down else (1, scale_factor)
    neighbours = _neighbours(features.to(kernels.dtype), kernel_size, kernels.shape[1], step)
    out = kernels.new_zeros(())
    for entry, neighbour in enumerate(neighbours):
        out = torch.addcmul(out, neighbour, kernels[:, :, entry : entry + 1])
    return pixel_shuffle(out.flatten(1, 3), phases).to(features.dtype)


def _neighbours(features: Tensor, kernel_size: int, group_size: int, step: int) -> Iterator[Tensor]:
    """What each kernel entry reads, [N, G, C/G, 1, ceil(H/step), ceil(W/step)], zero outside the map."""
    radius = kernel_size // 2
    padded = F.pad(features, (radius,) * 4).unflatten(1, (group_size, -1)).unsqueeze(3)
    taps = [slice(tap, tap - 2 * radius or None, step) for tap in range(kernel_size)]
    for rows in taps:
        in_rows = padded[..., rows, :]
        for columns in taps:
            yield in_rows[..., columns]


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
