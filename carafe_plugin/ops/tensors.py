# SPDX-License-Identifier: Apache-2.0
"""Small functions on tensors and their shapes, written so that they can be traced and exported.

A trace and an ONNX graph are run at other sizes than the ones at hand. The exporter by TorchScript makes a
constant of ``arange``, of ``ones_like`` and of most sizes that Python reads, hence the detours below.
"""

import warnings
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def ints(shape: Sequence) -> tuple:
    """A shape as plain ints, to check it or to branch on it; do not compute with them.

    Under ``torch.jit.trace`` sizes are tensors, and looking at one gives a warning.
    """
    if not torch.jit.is_tracing():
        return tuple(shape)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', torch.jit.TracerWarning)
        return tuple(map(int, shape))


def is_exporting() -> bool:
    """Whether a graph is being made that must serve sizes other than those at hand."""
    # torch.compiler.is_exporting came after torch 2.4.
    return torch.onnx.is_in_onnx_export() or getattr(torch.compiler, 'is_exporting', bool)()


def unflatten(x: Tensor, dim: int, sizes: Sequence[int]) -> Tensor:
    """As :meth:`torch.Tensor.unflatten` for ``dim`` >= 0; ONNX has that from opset 13 on."""
    if not torch.onnx.is_in_onnx_export():
        return x.unflatten(dim, sizes)
    return x.reshape(*x.shape[:dim], *sizes, *x.shape[dim + 1 :])


def pixel_shuffle(x: Tensor, scale_factor: int) -> Tensor:  # [N, C*s*s, H, W] -> [N, C, s*H, s*W]
    """As :func:`torch.nn.functional.pixel_shuffle`, whose backward fails on an empty batch (torch 2.13)."""
    s = scale_factor
    return unflatten(x, 1, (-1, s, s)).permute(0, 1, 4, 2, 5, 3).flatten(4, 5).flatten(2, 3)


def pixel_unshuffle(x: Tensor, scale_factor: int) -> Tensor:  # [N, C, s*H, s*W] -> [N, C*s*s, H, W]
    """Undo :func:`pixel_shuffle`."""
    s = scale_factor
    return unflatten(unflatten(x, 3, (-1, s)), 2, (-1, s)).permute(0, 1, 3, 5, 2, 4).flatten(1, 3)


def enlarge_nearest(x: Tensor, scale_factor: int) -> Tensor:  # [N, C, H, W] -> [N, C, s*H, s*W]
    """Repeat each pixel s times along both axes."""
    return F.interpolate(x, scale_factor=scale_factor, mode='nearest')


def pixel_centres(x: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Distances of the pixels from the top left corner, 0.5, 1.5, ..., and the size: along x, then along y.

    Shape:
        ``x`` (N, C, H, W), of which only the size counts; returns twice (N, C, H, W) and (N, C, 1, 1), in
        the dtype of ``x``.
    """
    ones = x.detach().clamp(1, 1)

    def along(dim: int) -> tuple[Tensor, Tensor]:
        return ones.cumsum(dim) - 0.5, ones.sum(dim, keepdim=True)[..., :1, :1]

    return along(-1), along(-2)


def adaptive_avg_pool(x: Tensor, size: int | tuple[int, int]) -> Tensor:  # [N, C, H, W] -> [N, C, *size]
    """As :func:`torch.nn.functional.adaptive_avg_pool2d`; while exporting, as two products with matrices.

    ONNX has no pooling whose windows follow the size of the map.
    """
    if not is_exporting():
        return F.adaptive_avg_pool2d(x, size)
    rows, columns = (size, size) if isinstance(size, int) else size
    dtype = torch.promote_types(x.dtype, torch.float32)  # 16 bits cannot count the pixels of a large map
    (along_x, width), (along_y, height) = pixel_centres(x[:, :1].to(dtype))
    across = _means(along_x[..., :1, :], width, columns)  # [N, 1, columns, W]
    down = _means(along_y[..., :1].transpose(2, 3), height, rows)  # [N, 1, rows, H]
    return down.to(x.dtype) @ x @ across.to(x.dtype).transpose(2, 3)


def _means(centres: Tensor, size: Tensor, count: int) -> Tensor:  # [N, 1, 1, L], [N, 1, 1, 1]
    """Weights of the pixels in each mean, [N, 1, count, L]; their windows may overlap."""
    index = torch.arange(count, dtype=centres.dtype, device=centres.device)[:, None]
    # Half a pixel away from whole quotients, which a runtime that multiplies by 1/count may miss.
    begin, end = ((index * size + 0.5) / count).floor(), (((index + 1) * size - 0.5) / count).ceil()
    inside = ((centres > begin) & (centres < end)).to(centres.dtype)
    return inside / inside.sum(-1, keepdim=True)
