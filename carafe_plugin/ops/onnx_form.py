# SPDX-License-Identifier: Apache-2.0
"""The operators as an ONNX graph computes them: products of small matrices, and copies of whole rows.

A runtime has no loop over kernel entries in one pass: the reference form's slices, products and sums each go
over the big map. Here the channels of a pixel are a row of memory, the map is cut into tiles, and the output
of a tile is one product: a band matrix of its kernels with the rows that they reach. Rows are gathered by
their numbers; row 0 is zeros, for what lies outside the map. Borders, and the crop of the last tiles, are the
numbers' business, which are few, and they are counted from ones: the graph holds no arithmetic on sizes.
``ops/NOTES.md`` has the other forms that were tried.

P counts the tiles of every image and group, T is their side, s*s the output pixels of an input pixel (1 with
``down``). Reshapes leave only the first size open, so that a batch may be empty.
"""

import contextlib
import sys
from collections.abc import Iterator
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor

from . import _native, onnx_nodes, reference
from .reference import accumulation_dtype

TILE = 4  # in pixels of the coarser map, or with ``down`` of the output

# How many onnx_operators() are open.
_open = 0


@contextlib.contextmanager
def onnx_operators() -> Iterator[None]:
    """Run this form in the block: for a graph that is traced there, and goes to ONNX later."""
    global _open
    _open += 1
    try:
        with _native.plain_operators():
            yield
    finally:
        _open -= 1


def plain_form() -> ModuleType:
    """Whose functions serve where nothing native does: while an ONNX graph is made, this module's."""
    if not (_open or torch.onnx.is_in_onnx_export()):
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
    masks = masks.to(accumulation_dtype(features, masks))
    kernels = F.embedding(_fine_tiles(masks, group_size, phases), _rows(masks, group_size))
    kernels = kernels.reshape(-1, phases**2, TILE, TILE, kernel_size, kernel_size)
    windows = _windows(features.to(masks.dtype), kernel_size, group_size, step)
    output = _band(kernels.transpose(3, 4), kernel_size, phases, step) @ windows
    return _join(output, _numbers(masks if down else features, group_size), group_size, phases).to(
        features.dtype
    )


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
    logits = logits.to(accumulation_dtype(features, logits))
    cells = _numbers(logits, group_size)
    masks = logits.permute(0, 2, 3, 1).reshape(-1, kernel_size**2, phases**2).transpose(1, 2).softmax(2)
    rows = F.pad(masks.reshape(-1, (phases * kernel_size) ** 2), (0, 0, 1, 0))
    kernels = F.embedding(_tiles(cells, 0, TILE, TILE), rows)
    kernels = kernels.reshape(-1, TILE, TILE, phases**2, kernel_size, kernel_size).permute(0, 3, 1, 4, 2, 5)
    windows = _windows(features.to(logits.dtype), kernel_size, group_size, step)
    return _join(_band(kernels, kernel_size, phases, step) @ windows, cells, group_size, phases).to(
        features.dtype
    )


def correlate(
    output: Tensor,  # [N, C, s*H, s*W]
    features: Tensor,  # [N, C, H, W]
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> Tensor:  # [N, G*k*k, s*H, s*W]
    """As :func:`carafe_plugin.ops.reference.correlate`."""
    dtype = accumulation_dtype(features, output)
    pixels = F.embedding(_fine_tiles(output, group_size, scale_factor), _rows(output.to(dtype), group_size))
    pixels = pixels.reshape(-1, (scale_factor * TILE) ** 2, pixels.shape[4])
    similar = pixels @ _windows(features.to(dtype), kernel_size, group_size, 1).transpose(1, 2)
    # What _band does, undone: the entries of a pixel begin one column further than those of the one before.
    side = TILE - 1 + kernel_size
    similar = similar.reshape(-1, scale_factor**2, TILE, TILE, side, side).transpose(3, 4)
    similar = F.pad(similar.reshape(-1, scale_factor**2, TILE * side, TILE * side), (0, TILE, 0, TILE))
    similar = similar.reshape(-1, scale_factor**2, TILE, side + 1, TILE, side + 1)
    masks = similar[..., :kernel_size][:, :, :, :kernel_size].transpose(3, 4)
    masks = masks.reshape(-1, (scale_factor * TILE) ** 2, kernel_size**2)
    return _join(masks, _numbers(features, group_size), group_size, scale_factor).to(output.dtype)


def _band(kernels: Tensor, kernel_size: int, phases: int, step: int) -> Tensor:
    """Kernels [P, s*s, T, k, T, k] as matrices [P, s*s*T*T, side*side], which reach a tile's window."""
    side = (TILE - 1) * step + kernel_size
    # Lines of side + step entries, cut into lines of side: each kernel begins step columns further.
    extra = side + step - kernel_size
    band = F.pad(kernels, (0, extra, 0, 0, 0, extra)).reshape(-1, phases**2, *[TILE * (side + step)] * 2)
    band = band[..., : TILE * side][:, :, : TILE * side].reshape(-1, phases**2, TILE, side, TILE, side)
    return band.transpose(3, 4).reshape(-1, (phases * TILE) ** 2, side**2)


def _windows(features: Tensor, kernel_size: int, group_size: int, step: int) -> Tensor:
    """The pixels [P, side*side, C/G] that the kernels of each tile reach, zero outside the map."""
    side = (TILE - 1) * step + kernel_size
    numbers = _tiles(_numbers(features, group_size), kernel_size // 2, side, TILE * step)
    return F.embedding(numbers.reshape(-1, side**2), _rows(features, group_size))


def _fine_tiles(x: Tensor, group_size: int, phases: int) -> Tensor:  # [N, C, s*H, s*W] -> [P, s*s, T, T]
    """Numbers of the pixels of each tile, phase by phase."""
    tiles = _tiles(_numbers(x, group_size), 0, TILE * phases, TILE * phases)
    tiles = tiles.reshape(-1, TILE, phases, TILE, phases).permute(0, 2, 4, 1, 3)
    return tiles.reshape(-1, phases**2, TILE, TILE)


def _join(
    rows: Tensor,  # [P, s*s*T*T, C/G]
    cells: Tensor,  # [N, H, W, G]
    group_size: int,
    phases: int,
) -> Tensor:  # [N, C, s*H, s*W]
    """Put the rows of the tiles in the places of their pixels."""
    y, x = _count(cells.sum((0, 2, 3))) - 1, _count(cells.sum((0, 1, 3))) - 1
    # Tiles by their first pixels. Asking a strided slice for its shape would be shorter, but after a
    # convolution OpenVINO (2026.4) answers with the shape of the whole.
    begins = (y % TILE == 0)[:, None, None] & (x % TILE == 0)[:, None] & (cells > 0)
    first = (begins.long().flatten().cumsum(0).view_as(cells) - 1) * (phases * TILE) ** 2
    # Of each output pixel: the tile that it is in, and how far its row comes after the tile's first one.
    tile_y, tile_x = (torch.stack([at - at % TILE] * phases, 1).flatten() for at in (y, x))
    of_y = torch.stack([(y % TILE + p * phases * TILE) * TILE for p in range(phases)], 1).flatten()
    of_x = torch.stack([x % TILE + p * TILE**2 for p in range(phases)], 1).flatten()
    first = first.index_select(1, tile_y).index_select(2, tile_x)
    numbers = first + of_y[:, None, None] + of_x[:, None]  # [N, s*H, s*W, G]
    channels = rows.shape[2]
    output = F.embedding(numbers, rows.reshape(-1, channels))
    return output.reshape(*numbers.shape[:3], group_size * channels).permute(0, 3, 1, 2)


def _tiles(numbers: Tensor, before: int, side: int, step: int) -> Tensor:
    """Windows every ``step`` pixels from ``-before`` on, ceil(H/step) of them, 0 outside the map.

    Shape:
        (N, H, W, G); returns (N, h, w, G, side, side).
    """
    after = max(side - 1 - before, 0)
    numbers = F.pad(numbers, (0, 0, before, after, before, after))
    starts = [slice(i, i - before - after or None, step) for i in range(side)]
    numbers = torch.stack([numbers[:, start] for start in starts], 4)
    return torch.stack([numbers[:, :, start] for start in starts], 5)


def _rows(x: Tensor, group_size: int) -> Tensor:  # [N, C, H, W] -> [1 + N*H*W*G, C/G], the first one zeros
    return F.pad(x.permute(0, 2, 3, 1).reshape(-1, x.shape[1] // group_size), (0, 0, 1, 0))


def _numbers(x: Tensor, group_size: int) -> Tensor:  # [N, C, H, W] -> [N, H, W, G], 1 to N*H*W*G
    return _count(x[:, :group_size].permute(0, 2, 3, 1))


def _count(x: Tensor) -> Tensor:
    """Numbers from 1 on in the order of the elements."""
    ones = torch.ones_like(x, dtype=torch.int64, memory_format=torch.contiguous_format)
    return ones.flatten().cumsum(0).view_as(ones)
