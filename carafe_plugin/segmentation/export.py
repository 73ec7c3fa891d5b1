# SPDX-License-Identifier: Apache-2.0
"""A whole segmentor as a function of images, in a form that ONNX takes at any size."""

from torch import Tensor, nn

from carafe_plugin.ops.tensors import adaptive_avg_pool


class _AdaptivePool(nn.Module):
    """``nn.AdaptiveAvgPool2d``, which ONNX does not have for every size, by :func:`adaptive_avg_pool`."""

    def __init__(self, output_size: int | tuple[int, int]) -> None:
        super().__init__()
        self.output_size = output_size

    def forward(self, x: Tensor) -> Tensor:
        return adaptive_avg_pool(x, self.output_size)


class Logits(nn.Module):
    """Normalised images (N, 3, H, W) to the decode head's logits (N, classes, H/4, W/4), ready for export.

    Changes ``model``: its adaptive poolings are exported as matrix products, equal but for rounding.

    Args:
        model: a segmentor of MMSegmentation, such as ``mmseg.apis.init_model`` gives.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        for module in list(model.modules()):
            for name, child in module.named_children():
                if isinstance(child, nn.AdaptiveAvgPool2d):
                    setattr(module, name, _AdaptivePool(child.output_size))  # type: ignore[arg-type]
        self.model = model.eval()

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images, mode='tensor')
