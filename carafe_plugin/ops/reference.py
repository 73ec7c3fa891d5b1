# SPDX-License-Identifier: Apache-2.0
"""The definition of the operators in plain PyTorch: for every device, dtype and layout, and for ONNX export.

The s*s output pixels of one input pixel, its phases, read the same neighbours. They stay a dimension of
their own until the end, when one shuffle puts them in place: so no upsampled copy of the features is needed.
Sums over the k*k entries are taken one entry at a time, because ``unfold`` would multiply memory by k*k.
Every slice has constant bounds, so that an exported graph holds no arithmetic on sizes.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from .tensors import pixel_shuffle, pixel_unshuffle, unflatten


def carafe(
    features: Tensor,  # [N, C, H, W]
    masks: Tensor,  # [N, G*k*k, s*H, s*W], or with ``down`` [N, G*k*k, ceil(H/s), ceil(W/s)]
    kernel_size: int,
    group_size: int,
    scale_factor: int,
    down: bool = False,
) -> Tensor:
    """Reassemble features by masks; :func:`carafe_plugin.ops.carafe` has the contract."""
    phases = 1 if down else scale_factor
    masks = pixel_unshuffle(masks.to(accumulation_dtype(features, masks)), phases)
    masks = unflatten(masks, 1, (group_size, kernel_size**2, phases**2))
    return _reassemble(features, masks, kernel_size, scale_factor, down)


def carafe_softmax(
    features: Tensor,  # [N, C, H, W]
    logits: Tensor,  # [N, G*k*k*s*s, H, W], or with ``down`` as ``masks``
    kernel_size: int,
    group_size: int,
    scale_factor: int,
    down: bool = False,
) -> Tensor:
    """Reassemble features by logits; :func:`carafe_plugin.ops.carafe_softmax` has the contract."""
    phases = 1 if down else scale_factor
    logits = logits.to(accumulation_dtype(features, logits))
    masks = unflatten(logits, 1, (group_size, kernel_size**2, phases**2)).softmax(dim=2)
    return _reassemble(features, masks, kernel_size, scale_factor, down)


def correlate(
    output: Tensor,  # [N, C, s*H, s*W]
    features: Tensor,  # [N, C, H, W]
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> Tensor:  # [N, G*k*k, s*H, s*W]
    """Compare pixels with their neighbourhoods; :func:`carafe_plugin.ops.correlate` has the contract."""
    dtype = accumulation_dtype(features, output)
    phases = pixel_unshuffle(output.to(dtype), scale_factor)
    phases = unflatten(phases, 1, (group_size, -1, scale_factor**2))
    neighbours = _neighbours(features.to(dtype), kernel_size, group_size, 1)
    entries = [(phases * neighbour).sum(2) for neighbour in neighbours]  # [N, G, s*s, H, W]
    return pixel_shuffle(torch.stack(entries, dim=2).flatten(1, 3), scale_factor).to(output.dtype)


def _reassemble(
    features: Tensor,  # [N, C, H, W]
    masks: Tensor,  # [N, G, k*k, s*s, H, W], or with ``down`` [N, G, k*k, 1, ceil(H/s), ceil(W/s)]
    kernel_size: int,
    scale_factor: int,
    down: bool,
) -> Tensor:
    step, phases = (scale_factor, 1) if down else (1, scale_factor)
    neighbours = _neighbours(features.to(masks.dtype), kernel_size, masks.shape[1], step)
    output = masks.new_zeros(())
    for entry, neighbour in enumerate(neighbours):
        output = torch.addcmul(output, neighbour, masks[:, :, entry : entry + 1])
    return pixel_shuffle(output.flatten(1, 3), phases).to(features.dtype)


def _neighbours(features: Tensor, kernel_size: int, group_size: int, step: int) -> Iterator[Tensor]:
    """What each kernel entry reads, [N, G, C/G, 1, ceil(H/step), ceil(W/step)], zero outside the map."""
    radius = kernel_size // 2
    padded = unflatten(F.pad(features, (radius,) * 4), 1, (group_size, -1)).unsqueeze(3)
    taps = [slice(tap, tap - 2 * radius or None, step) for tap in range(kernel_size)]
    for rows in taps:
        in_rows = padded[..., rows, :]
        for columns in taps:
            yield in_rows[..., columns]


def accumulation_dtype(a: Tensor, b: Tensor) -> torch.dtype:
    """Float64 where an input has it, else float32: 16-bit sums lose the small entries of a kernel."""
    return torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
