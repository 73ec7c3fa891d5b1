# SPDX-License-Identifier: Apache-2.0
"""Errors of depth that is right up to scale and shift."""

from collections.abc import Sequence

import torch
from mmengine.evaluator import BaseMetric
from mmseg.registry import METRICS

from .losses import scale_and_shift

LEAST = 1e-3  # depth that an aligned prediction has at least: ratios want positive numbers


@METRICS.register_module()
class AlignedDepthMetric(BaseMetric):
    """RMSE and the shares d1, d2, d3 of pixels off by less than 1.25, 1.25^2, 1.25^3, after alignment.

    Scale and shift of each prediction are those of :func:`carafe_plugin.probes.losses.scale_and_shift`.
    Errors are taken image by image and averaged. Pixels of depth 0 do not count; images without others
    neither. FeatUp's released code has no RMSE and no such share: this is one reading of its table.
    """

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Align and compare each image."""
        for sample in data_samples:
            prediction = sample['pred_depth_map']['data'].reshape(1, -1, 1).double()
            target = sample['gt_depth_map']['data'].reshape(1, -1, 1).to(prediction)
            mask = target > 0
            if not mask.any():
                continue
            scale, shift = scale_and_shift(prediction, target, mask.to(target))
            aligned, target = (scale * prediction + shift)[mask].clamp_min(LEAST), target[mask]
            ratio = torch.maximum(aligned / target, target / aligned)
            shares = [(ratio < 1.25**power).double().mean().item() for power in (1, 2, 3)]
            self.results.append([(aligned - target).square().mean().sqrt().item(), *shares])

    def compute_metrics(self, results: list[list[float]]) -> dict[str, float]:
        """Average over the images."""
        means = torch.tensor(results, dtype=torch.float64).reshape(-1, 4).mean(0).tolist()
        return dict(zip(('rmse', 'd1', 'd2', 'd3'), means, strict=True))
