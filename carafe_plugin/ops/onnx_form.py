# SPDX-License-Identifier: Apache-2.0
"""The operators as an ONNX graph computes them: products of small matrices, and copies of whole rows.

A runtime has no loop over kernel entries in one pass: the reference form's slices, products and sums each go
over the big map. Here the channels of a pixel are a row of memory, the map is cut into tiles, and the output
of a tile is one product: a band matrix of its kernels with the rows that they reach. Rows are gathered by
their numbers; row 0 is zeros, for what lies outside the map. Borders, and the crop of the last tiles, are the
numbers' business, which are few, and they are counted from ones: the graph holds no arithmetic on sizes.
``ops/NOTES.md`` has the other forms that were tried.

P is the number of tiles, T their side, s*s the output pixels of an input pixel (1 with ``down``), and N*G
stands for the batch, since groups are independent.
"""

import sys
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor

from . import onnx_nodes, reference
from .reference import accumulation_dtype
from .tensors import unflatten

TILE = 4  # in pixels of the coarser map, or with ``down`` of the output


def plain_form() -> ModuleType:
    """Whose functions serve where nothing native does: while an ONNX graph is made, this module's."""
    if not torch.onnx.is_in_onnx_export():
        return reference
    return onnx_nodes if onnx_nodes.are_wanted() else sys.modules[__name__]


def carafe(
    features: Tensor,  # [N, C, H, W]
    masks: Tensor,  # [N, G*k*k, s*H, s*W], or with ``down`` [N, G*k*k, ceil(H/s), ceil(W/s)]
    kernel_size: int,
    group_size: int,
    scale_factor: int,
    down: bool = False,
) -> Tensor:
    """As :func:`carafe_plugin.ops.reference.carafe`."""
    step, phases = (scale_factor, 1) if down else (1, scale_factor)
    masks = _split(masks.to(accumulation_dtype(features, masks)), group_size)
    features_of_groups = _split(features.to(masks.dtype), group_size)
    cells = _numbers(masks if down else features_of_groups)
    kernels = F.embedding(_fine_tiles(masks, phases), _rows(masks))  # [P, s*s, T, T, k*k]
    kernels = unflatten(kernels, 4, (kernel_size, kernel_size)).transpose(3, 4)
    output = _reassemble(features_of_groups, kernels, kernel_size, step)
    return _join(output, cells, phases, group_size).to(features.dtype)


def carafe_softmax(
    features: Tensor,  # [N, C, H, W]
    logits: Tensor,  # [N, G*k*k*s*s, H, W], or with ``down`` as ``masks``
    kernel_size: int,
    group_size: int,
    scale_factor: int,
    down: bool = False,
) -> Tensor:
    """As :func:`carafe_plugin.ops.reference.carafe_softmax`."""
    step, phases = (scale_factor, 1) if down else (1, scale_factor)
    logits = _split(logits.to(accumulation_dtype(features, logits)), group_size)
    cells = _numbers(logits)
    masks = unflatten(logits.flatten(2), 1, (kernel_size**2, -1)).permute(0, 3, 2, 1).softmax(3)
    rows = F.pad(masks.flatten(2).flatten(0, 1), (0, 0, 1, 0))  # [1 + N*H*W, s*s*k*k]
    kernels = F.embedding(_tiles(cells, 0, TILE, TILE).flatten(0, 2), rows)
    kernels = unflatten(kernels, 3, (-1, kernel_size, kernel_size)).permute(0, 3, 1, 4, 2, 5)
    features_of_groups = _split(features.to(logits.dtype), group_size)
    output = _reassemble(features_of_groups, kernels, kernel_size, step)
    return _join(output, cells, phases, group_size).to(features.dtype)


def correlate(
    output: Tensor,  # [N, C, s*H, s*W]
    features: Tensor,  # [N, C, H, W]
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> Tensor:  # [N, G*k*k, s*H, s*W]
    """As :func:`carafe_plugin.ops.reference.correlate`."""
    dtype = accumulation_dtype(features, output)
    fine, coarse = _split(output.to(dtype), group_size), _split(features.to(dtype), group_size)
    pixels = F.embedding(_fine_tiles(fine, scale_factor), _rows(fine))  # [P, s*s, T, T, C]
    similar = pixels.flatten(1, 3) @ _windows(coarse, kernel_size, 1).transpose(1, 2)
    side = TILE - 1 + kernel_size
    # Undo what _band does: each pixel's entries begin one column further.
    similar = unflatten(unflatten(similar, 2, (side, side)), 1, (-1, TILE, TILE)).transpose(3, 4)
    similar = F.pad(similar.flatten(4, 5).flatten(2, 3), (0, TILE, 0, TILE))
    similar = unflatten(unflatten(similar, 3, (TILE, side + 1)), 2, (TILE, side + 1))
    similar = similar[..., :kernel_size][:, :, :, :kernel_size].transpose(3, 4)  # [P, s*s, T, T, k, k]
    masks = similar.flatten(4, 5).flatten(1, 3)
    return _join(masks, _numbers(coarse), scale_factor, group_size).to(output.dtype)


def _reassemble(
    features: Tensor,  # [N*G, C/G, H, W]
    kernels: Tensor,  # [P, s*s, T, k, T, k]
    kernel_size: int,
    step: int,
) -> Tensor:  # [P, s*s*T*T, C/G]
    """Multiply a band matrix of the kernels with the pixels that they reach."""
    side = (TILE - 1) * step + kernel_size
    extra = side + step - kernel_size
    # Cut into lines of `side` entries, lines of side + step shift each kernel by step against the one before.
    kernels = F.pad(kernels, (0, extra, 0, 0, 0, extra))
    band = kernels.flatten(4, 5).flatten(2, 3)[..., : TILE * side][:, :, : TILE * side]
    band = unflatten(unflatten(band, 3, (TILE, side)), 2, (TILE, side)).transpose(3, 4)
    return band.flatten(4, 5).flatten(1, 3) @ _windows(features, kernel_size, step)


def _windows(features: Tensor, kernel_size: int, step: int) -> Tensor:  # [P, side*side, C/G]
    """The pixels that the kernels of each tile reach, zero outside the map."""
    side = (TILE - 1) * step + kernel_size
    numbers = _tiles(_numbers(features), kernel_size // 2, side, TILE * step)
    return F.embedding(numbers.flatten(3).flatten(0, 2), _rows(features))


def _fine_tiles(x: Tensor, phases: int) -> Tensor:  # [N*G, ..., s*H, s*W] -> [P, s*s, T, T]
    """Numbers of the pixels of each tile, phase by phase."""
    tiles = _tiles(_numbers(x), 0, TILE * phases, TILE * phases)
    tiles = unflatten(unflatten(tiles, 4, (TILE, phases)), 3, (TILE, phases))
    return tiles.permute(0, 1, 2, 4, 6, 3, 5).flatten(3, 4).flatten(0, 2)


def _join(
    rows: Tensor,  # [P, s*s*T*T, C/G]
    cells: Tensor,  # [N*G, H, W]
    phases: int,
    group_size: int,
) -> Tensor:  # [N, C, s*H, s*W]
    """Put the rows of the tiles in the places of their pixels."""
    height, width = cells.shape[1:]
    tiles = _tiles(cells, 0, TILE, TILE)
    numbers = _count(torch.stack([tiles] * phases**2, 3)) - 1
    numbers = unflatten(numbers, 3, (phases, phases)).permute(0, 1, 5, 3, 2, 6, 4)
    numbers = numbers.flatten(4, 5).flatten(1, 2)[:, :height, :, :width]  # [N*G, H, s, W, s]
    output = F.embedding(numbers.flatten(3, 4).flatten(1, 2), rows.flatten(0, 1)).permute(0, 3, 1, 2)
    return unflatten(output, 0, (-1, group_size)).flatten(1, 2)


def _tiles(
    numbers: Tensor, before: int, side: int, step: int
) -> Tensor:  # [N, H, W] -> [N, h, w, side, side]
    """Windows every ``step`` pixels from ``-before`` on, ceil(H/step) of them, 0 outside the map."""
    after = max(side - 1 - before, 0)
    numbers = F.pad(numbers, (before, after, before, after))
    starts = [slice(i, i - before - after or None, step) for i in range(side)]
    numbers = torch.stack([numbers[:, start] for start in starts], 3)
    return torch.stack([numbers[:, :, start] for start in starts], 4)


def _rows(x: Tensor) -> Tensor:  # [N, C, H, W] -> [1 + N*H*W, C], the first one zeros
    return F.pad(x.flatten(2).transpose(1, 2).flatten(0, 1), (0, 0, 1, 0))


def _numbers(x: Tensor) -> Tensor:  # [N, C, H, W] -> [N, H, W], 1 to N*H*W
    return _count(x[:, 0])


def _count(x: Tensor) -> Tensor:
    """Numbers from 1 on in the order of the elements."""
    ones = torch.ones_like(x, dtype=torch.int64)
    return ones.flatten().cumsum(0).view_as(ones)


def _split(x: Tensor, group_size: int) -> Tensor:  # [N, C, H, W] -> [N*G, C/G, H, W]
    return unflatten(x, 1, (group_size, -1)).flatten(0, 1)
