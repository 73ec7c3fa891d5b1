# SPDX-License-Identifier: Apache-2.0
"""L1, PSNR and SSIM of inpainted images."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS
from torch import Tensor

PSNR_LIMIT = 100.0
WINDOW, SIGMA = 11, 1.5


def l1(result: Tensor, original: Tensor, where: Tensor) -> float:
    """Mean absolute difference in percent of the range, over the pixels (H, W) that ``where`` marks."""
    return float((result - original).abs()[:, where].mean() / 255 * 100)


def psnr(result: Tensor, original: Tensor, where: Tensor) -> float:
    """Peak signal-to-noise ratio in dB over the marked pixels, peak 255; equal images have 100 dB."""
    error = float((result - original).square()[:, where].mean())
    return PSNR_LIMIT if error == 0 else min(10 * np.log10(255**2 / error), PSNR_LIMIT)


def ssim(result: Tensor, original: Tensor, where: Tensor) -> float:
    """Structural similarity (Wang et al., 2004), mean over the marked pixels and the channels.

    Gaussian window of 11 pixels, sigma 1.5, K1 = 0.01, K2 = 0.03, range 255. Pixels closer to the border
    than half a window have no value; NaN where none is left.
    """
    radius = WINDOW // 2
    if min(where.shape) < WINDOW:
        return float('nan')
    kernel = torch.exp(-(torch.arange(-radius, radius + 1, dtype=torch.double) ** 2) / (2 * SIGMA**2))
    kernel = (kernel / kernel.sum()).to(result)

    def mean(x: Tensor) -> Tensor:  # [C, H, W] -> [C, H - 10, W - 10]
        rows = F.conv2d(x[:, None], kernel.view(1, 1, -1, 1))
        return F.conv2d(rows, kernel.view(1, 1, 1, -1))[:, 0]

    a, b = mean(result), mean(original)
    var_a, var_b = mean(result**2) - a**2, mean(original**2) - b**2
    covariance = mean(result * original) - a * b
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    values = (2 * a * b + c1) * (2 * covariance + c2) / ((a**2 + b**2 + c1) * (var_a + var_b + c2))
    return float(values[:, where[radius:-radius, radius:-radius]].mean())


@METRICS.register_module()
class InpaintingMetric(BaseMetric):
    """Means over images of L1, PSNR and SSIM, of the whole image and of its hole.

    ``L1`` (%), ``PSNR`` (dB) and ``SSIM`` compare the result, the image with its hole filled, with the
    original, both rounded to bytes; ``hole_L1``, ``hole_PSNR`` and ``hole_SSIM`` look at the pixels of the
    hole alone. See :func:`l1`, :func:`psnr` and :func:`ssim`. An image without a hole, or one that stands in
    for an unreadable one, does not count; SSIM leaves out images for which it has no value.
    """

    def process(self, data_batch: dict | None, data_samples: Sequence[dict]) -> None:
        for sample in data_samples:
            hole = sample['hole'][0] > 0
            if sample['skipped'] or not hole.any():
                self.results.append({})  # holds its place: several processes' results are merged in order
                continue
            images = sample['result'].double(), sample['original'].double()
            row = {}
            for prefix, where in (('', torch.ones_like(hole)), ('hole_', hole)):
                for name, metric in (('L1', l1), ('PSNR', psnr), ('SSIM', ssim)):
                    row[prefix + name] = metric(*images, where)
            self.results.append(row)

    def compute_metrics(self, results: list[dict]) -> dict[str, float]:
        rows = [row for row in results if row]
        if not rows:
            raise ValueError('no image with a hole was evaluated')
        columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
        return {
            name: float(np.nanmean(column)) if not np.isnan(column).all() else float('nan')
            for name, column in columns.items()
        }
