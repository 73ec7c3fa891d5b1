# SPDX-License-Identifier: Apache-2.0
"""A whole segmentor as a function of images, in a form that ONNX takes at any size."""

import torch
from torch import Tensor, nn


class _AdaptivePool(nn.Module):
    """``nn.AdaptiveAvgPool2d`` as two matrix products: ONNX has no pooling whose windows follow the size."""

    def __init__(self, output_size: int | tuple[int, int]) -> None:
        super().__init__()
        both = isinstance(output_size, int)
        self.output_size = (output_size, output_size) if both else tuple(output_size)

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = (
            _windows(out, x.shape[axis], x) for out, axis in zip(self.output_size, (-2, -1), strict=True)
        )
        return rows @ x @ columns.transpose(0, 1)


def _windows(out: int, size: int, like: Tensor) -> Tensor:
    """Row i holds the weights of the mean over pixels floor(i * size / out) to ceil((i + 1) * size / out)."""
    pixel = torch.arange(size, device=like.device)
    index = torch.arange(out, device=like.device)[:, None]
    start, end = index * size // out, ((index + 1) * size + out - 1) // out
    inside = ((pixel >= start) & (pixel < end)).to(like.dtype)
    return inside / (end - start).to(like.dtype)


class Logits(nn.Module):
    """Normalised images (N, 3, H, W) to the decode head's logits (N, classes, H/4, W/4), ready for export.

    Changes ``model``: its adaptive poolings become matrix products, with the same results to rounding.

    Args:
        model: a segmentor of MMSegmentation, such as ``mmseg.apis.init_model`` gives.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        for module in list(model.modules()):
            for name, child in module.named_children():
                if isinstance(child, nn.AdaptiveAvgPool2d):
                    setattr(module, name, _AdaptivePool(child.output_size))
        self.model = model.eval()

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images, mode='tensor')
