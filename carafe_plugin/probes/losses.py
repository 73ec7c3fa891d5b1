# SPDX-License-Identifier: Apache-2.0
"""Losses of the depth probes: FeatUp's, which is MiDaS's, and JAFAR's, which is AdaBins's."""

import torch
from torch import Tensor, nn


def scale_and_shift(prediction: Tensor, target: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Scale a and shift b of each image for which a * prediction + b comes closest to the target.

    Least squares over the pixels of the mask; both are zero where they are not determined, as in a constant
    prediction.

    Shape:
        All (N, H, W), the mask of the target's dtype; returns two (N,).
    """
    p, t = prediction, target
    pp, p1, n = ((mask * v).sum((1, 2)) for v in (p * p, p, torch.ones_like(p)))
    pt, t1 = ((mask * v).sum((1, 2)) for v in (p * t, t))
    determinant = pp * n - p1 * p1
    safe = torch.where(determinant == 0, torch.ones_like(determinant), determinant)
    scale, shift = (n * pt - p1 * t1) / safe, (pp * t1 - p1 * pt) / safe
    zero = torch.zeros_like(scale)
    return torch.where(determinant == 0, zero, scale), torch.where(determinant == 0, zero, shift)


def scale_and_shift_invariant(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Half the mean squared error of the aligned prediction and half its gradients' error at four scales.

    Ranftl et al., Towards Robust Monocular Depth Estimation, TPAMI 2022, https://arxiv.org/abs/1907.01341, as
    FeatUp uses it: means are taken over all pixels of the masks of the batch.

    Shape:
        All (N, H, W), the mask of the target's dtype; returns a number.
    """
    scale, shift = scale_and_shift(prediction, target, mask)
    error = mask * (scale[:, None, None] * prediction + shift[:, None, None] - target)
    loss = error.square().sum() / (2 * mask.sum()).clamp_min(1)
    for step in (1, 2, 4, 8):
        e, m = error[:, ::step, ::step], mask[:, ::step, ::step]
        across = ((e[:, :, 1:] - e[:, :, :-1]).abs() * m[:, :, 1:] * m[:, :, :-1]).sum()
        down = ((e[:, 1:] - e[:, :-1]).abs() * m[:, 1:] * m[:, :-1]).sum()
        loss = loss + 0.5 * (across + down) / m.sum().clamp_min(1)
    return loss


class SigLoss(nn.Module):
    """Root of variance and 0.15 times squared mean of the logarithms' error.

    Bhat et al., AdaBins, CVPR 2021, https://arxiv.org/abs/2011.14141, as DINOv2's depth probes and JAFAR use
    it: during the first iterations the mean alone counts.

    Args:
        warm_up: number of these iterations.
        max_depth: pixels beyond it, and those of depth 0, do not count.
    """

    seen: Tensor

    def __init__(self, warm_up: int = 100, max_depth: float = 10.0) -> None:
        super().__init__()
        self.warm_up, self.max_depth = warm_up, max_depth
        self.register_buffer('seen', torch.zeros((), dtype=torch.long))

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """The loss of two maps of one shape; zero where no pixel counts."""
        valid = (target > 0) & (target <= self.max_depth)
        if valid.sum() < 2:
            return 0 * prediction.sum()
        error = (prediction[valid] + 1e-3).log() - (target[valid] + 1e-3).log()
        loss = 0.15 * error.mean().square()
        if self.seen >= self.warm_up:
            loss = loss + error.var()
        self.seen += 1
        return loss.sqrt()
