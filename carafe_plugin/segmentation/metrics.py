# SPDX-License-Identifier: Apache-2.0
"""Boundary IoU (Cheng et al., CVPR 2021, https://arxiv.org/abs/2103.16562) of label maps, beside mIoU."""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log
from mmseg.registry import METRICS
from torch import Tensor


def boundary_region(labels: Tensor, distance: int, ignored: Tensor | None = None) -> Tensor:
    """Pixels that lie within ``distance`` of the contour of their own class, on its inside.

    A pixel belongs to it where the square of side 2 * distance + 1 around it leaves the image, as in the
    authors' code, or holds another class. Ignored pixels are no class: they belong to no region, and the line
    between a class and an ignored area is no contour.

    Args:
        labels: class of each pixel, (H, W).
        distance: width of the region in pixels, at least 1.
        ignored: pixels to ignore, (H, W) of bool.

    Returns:
        A mask (H, W) of bool.
    """
    ignored = torch.zeros_like(labels, dtype=torch.bool) if ignored is None else ignored
    values = labels.float()
    # One class fills the square where its largest and its smallest label are the pixel's own.
    same = _largest(values.masked_fill(ignored, -math.inf), distance) == values
    same &= -_largest((-values).masked_fill(ignored, -math.inf), distance) == values
    inner = torch.zeros_like(ignored)
    inner[distance:-distance, distance:-distance] = True
    return ~(same & inner) & ~ignored


@METRICS.register_module()
class BoundaryIoUMetric(BaseMetric):
    """Boundary IoU: the IoU of the parts of two masks that lie close to their contours, class by class.

    Intersections and unions are summed over the data set before they are divided, and ``mBIoU`` is the mean
    over the classes that occur, in percent with two decimals, all as in MMSegmentation's mIoU. Pixels
    labelled ``ignore_index`` count neither in the truth nor in the prediction; see :func:`boundary_region`.

    Args:
        dilation_ratio: width of the region as a share of the image diagonal, rounded to whole pixels, at
            least one. The paper takes 0.02 for COCO and LVIS, and 0.005 for Cityscapes' large images.
        ignore_index: label of the pixels to ignore.
        **kwargs: as :class:`mmengine.evaluator.BaseMetric`.

    Raises:
        ValueError: ``dilation_ratio`` is not in (0, 1].
    """

    def __init__(self, dilation_ratio: float = 0.02, ignore_index: int = 255, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 0 < dilation_ratio <= 1:
            raise ValueError(f'dilation_ratio must be in (0, 1], got {dilation_ratio}')
        self.dilation_ratio = dilation_ratio
        self.ignore_index = ignore_index

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Count the pixels of each image: intersection and union of the regions of each class."""
        classes = len(self.dataset_meta['classes'])
        for sample in data_samples:
            predicted = sample['pred_sem_seg']['data'].squeeze(0).long()
            truth = sample['gt_sem_seg']['data'].squeeze(0).to(predicted)
            distance = max(1, round(self.dilation_ratio * math.hypot(*truth.shape)))
            ignored = truth == self.ignore_index
            in_truth = boundary_region(truth, distance, ignored)
            in_prediction = boundary_region(predicted, distance, ignored)
            both = in_truth & in_prediction & (truth == predicted)
            areas = [
                torch.bincount(labels[region], minlength=classes)[:classes]
                for labels, region in ((truth, both), (truth, in_truth), (predicted, in_prediction))
            ]
            intersection, *sides = areas
            self.results.append(torch.stack([intersection, sum(sides) - intersection]).cpu())

    def compute_metrics(self, results: list[Tensor]) -> dict[str, float]:
        """Divide the sums, print the classes and average them."""
        intersection, union = torch.stack(results).sum(0).double()
        iou = (100 * intersection / union).tolist()  # nan where a class does not occur
        width = max(map(len, self.dataset_meta['classes']))
        rows = [
            f'{name:<{width}} {value:6.2f}'
            for name, value in zip(self.dataset_meta['classes'], iou, strict=True)
        ]
        print_log('boundary IoU per class:\n' + '\n'.join(rows), 'current')
        return dict(mBIoU=round(float(torch.tensor(iou).nanmean()), 2))


def _largest(values: Tensor, distance: int) -> Tensor:
    """Largest value in the square of side 2 * distance + 1 around each pixel, one axis after the other."""
    side = 2 * distance + 1
    rows = F.max_pool2d(values[None, None], (side, 1), 1, (distance, 0))
    return F.max_pool2d(rows, (1, side), 1, (0, distance))[0, 0]
