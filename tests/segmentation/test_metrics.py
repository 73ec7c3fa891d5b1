# SPDX-License-Identifier: Apache-2.0
"""Boundary IoU against a definition by loops, class by class, and by hand."""

import math

import numpy as np
import pytest
import torch

from carafe_plugin.segmentation.metrics import BoundaryIoUMetric, boundary_region

IGNORE = 255


def region_by_loops(labels, cls, distance, ignored):
    """The mask of one class less its erosion; outside the image is background, an ignored pixel is not."""
    height, width = labels.shape
    region = np.zeros((height, width), bool)
    for i in range(height):
        for j in range(width):
            if labels[i, j] != cls or ignored[i, j]:
                continue
            for a in range(i - distance, i + distance + 1):
                for b in range(j - distance, j + distance + 1):
                    inside = 0 <= a < height and 0 <= b < width
                    if not inside or (not ignored[a, b] and labels[a, b] != cls):
                        region[i, j] = True
    return region


def score_by_loops(pairs, classes, ratio, ignore_index):
    ious = []
    for cls in range(classes):
        intersection = union = 0
        for predicted, truth in pairs:
            distance = max(1, round(ratio * math.sqrt(truth.shape[0] ** 2 + truth.shape[1] ** 2)))
            ignored = truth == ignore_index
            a = region_by_loops(truth, cls, distance, ignored)
            b = region_by_loops(predicted, cls, distance, ignored)
            intersection += (a & b).sum()
            union += (a | b).sum()
        if union:
            ious.append(100 * intersection / union)
    return sum(ious) / len(ious)


def label_map(rng, height, width, classes):
    """Blocks of labels with some noise."""
    blocks = rng.integers(0, classes, (height // 5 + 1, width // 7 + 1)).repeat(5, 0).repeat(7, 1)
    labels = blocks[:height, :width]
    noise = rng.random((height, width)) < 0.02
    return np.where(noise, rng.integers(0, classes, (height, width)), labels)


def evaluate(pairs, classes, **kwargs):
    metric = BoundaryIoUMetric(**kwargs)
    metric.dataset_meta = dict(classes=[f'class {i}' for i in range(classes)])
    for predicted, truth in pairs:
        maps = [torch.from_numpy(labels)[None] for labels in (predicted, truth)]
        metric.process({}, [dict(pred_sem_seg=dict(data=maps[0]), gt_sem_seg=dict(data=maps[1]))])
    return metric.evaluate(len(pairs))


@pytest.mark.parametrize('ratio, ignore_index', [(0.001, IGNORE), (0.06, IGNORE), (0.2, IGNORE), (0.06, 2)])
def test_equals_the_definition_by_loops(ratio, ignore_index):
    """Class 2 is predicted, too, where it is the one to ignore in the truth."""
    rng = np.random.default_rng(0)
    pairs = []
    for height, width in ((23, 31), (17, 12)):
        truth = label_map(rng, height, width, 4)
        predicted = np.where(rng.random(truth.shape) < 0.15, rng.integers(0, 4, truth.shape), truth)
        truth = np.where(label_map(rng, height, width, 3) == 0, ignore_index, truth)
        pairs.append((predicted, truth))
    for classes in (6, 3):  # 4 and 5 do not occur; a label without a class, 3, has a contour but no score
        expected = score_by_loops(pairs, classes, ratio, ignore_index)
        score = evaluate(pairs, classes, dilation_ratio=ratio, ignore_index=ignore_index)
        assert score == {'mBIoU': pytest.approx(expected, abs=0.006)}


def test_a_shifted_square_by_hand():
    """A 6 x 6 square one pixel too far right: rings of 20 pixels of which 10 coincide, so 10 of 30."""
    truth = np.zeros((40, 40), np.int64)
    truth[10:16, 10:16] = 1
    predicted = np.roll(truth, 1, 1)
    ring = boundary_region(torch.from_numpy(truth), 1) & (torch.from_numpy(truth) == 1)
    assert ring.sum() == 20
    metric = BoundaryIoUMetric(dilation_ratio=0.001)
    metric.dataset_meta = dict(classes=['ground', 'square'])
    metric.process(
        {},
        [
            dict(
                pred_sem_seg=dict(data=torch.from_numpy(predicted)[None]),
                gt_sem_seg=dict(data=torch.from_numpy(truth)[None].to(torch.uint8)),
            )
        ],
    )
    assert metric.results[0][:, 1].tolist() == [10, 30]


def test_ignored_pixels_have_no_say():
    """Whatever is predicted there, and no contour runs along them."""
    rng = np.random.default_rng(1)
    truth = np.zeros((30, 30), np.int64)
    truth[:, 12:18] = IGNORE
    truth[:, 18:] = 1
    right = np.where(truth == IGNORE, 0, truth)
    noisy = np.where(truth == IGNORE, rng.integers(0, 2, truth.shape), truth)
    assert evaluate([(right, truth)], 2) == evaluate([(noisy, truth)], 2) == {'mBIoU': 100.0}
    region = boundary_region(torch.from_numpy(right), 2, torch.from_numpy(truth == IGNORE))
    assert not region[2:-2, 2:-2].any()


@pytest.mark.parametrize('ratio', [0, -0.1, 2])
def test_bad_ratio(ratio):
    with pytest.raises(ValueError, match=r'dilation_ratio must be in \(0, 1\], got'):
        BoundaryIoUMetric(dilation_ratio=ratio)
