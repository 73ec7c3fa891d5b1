# SPDX-License-Identifier: Apache-2.0
"""Probe heads, their losses and the depth metric against forms written a second time."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from carafe_plugin.probes import AlignedDepthMetric, ProbeDepthBinsHead, ProbeDepthHead, ProbeHead
from carafe_plugin.probes.losses import SigLoss, scale_and_shift, scale_and_shift_invariant


def samples(field, maps):
    found = []
    for index, data in enumerate(maps):
        size = tuple(data.shape)
        meta = dict(img_shape=size, ori_shape=size, seg_map_path=f'{index}.png')
        found.append(SegDataSample(metainfo=meta, **{field: PixelData(data=data[None])}))
    return found


def labelled(size=(6, 8), classes=5, seed=0):
    torch.manual_seed(seed)
    labels = torch.randint(classes, (2, *size))
    labels[0, 0], labels[1, :, 2] = 255, 255
    return labels


@pytest.mark.parametrize('at_features', [False, True])
def test_segmentation_loss_and_prediction(at_features):
    torch.manual_seed(1)
    head, features, labels = ProbeHead(4, 5, at_features), torch.randn(2, 4, 3, 4), labelled()
    data = samples('gt_sem_seg', labels)
    losses = head.loss([None, features], data, None)
    weight, bias = head.conv_seg.parameters()
    logits = torch.einsum('oi,nihw->nohw', weight[:, :, 0, 0], features) + bias[:, None, None]
    if at_features:
        labels = labels[:, ::2, ::2]
        predicted = logits.argmax(1).repeat_interleave(2, 1).repeat_interleave(2, 2)
    else:
        logits = F.interpolate(logits, (6, 8), mode='bilinear', align_corners=False)
        predicted = logits.argmax(1)
    scores = logits.log_softmax(1).permute(0, 2, 3, 1)
    kept = labels != 255
    expected = -scores[kept].gather(1, labels[kept][:, None]).mean()
    torch.testing.assert_close(losses['loss_ce'], expected)
    metas = [sample.metainfo for sample in data]
    assert torch.equal(head.predict([features], metas, None).argmax(1), predicted)


def test_a_batch_without_labels_gives_zero():
    head = ProbeHead(4, 5)
    loss = head.loss([torch.randn(1, 4, 3, 4)], samples('gt_sem_seg', torch.full((1, 6, 8), 255)), None)
    loss['loss_ce'].backward()
    assert loss['loss_ce'] == 0 and not head.conv_seg.weight.grad.any()


def test_a_label_outside_the_classes():
    labels = labelled()
    labels[1, 3, 3] = 5
    with pytest.raises(ValueError, match=r'^1\.png: label 5 is none of the 5 classes, 0 to 4, nor ignore_in'):
        ProbeHead(4, 5).loss([torch.randn(2, 4, 3, 4)], samples('gt_sem_seg', labels), None)


def depth_case(seed=0):
    """Prediction, target and mask (2, 9, 11) in float64."""
    rng = np.random.default_rng(seed)
    prediction, target = rng.normal(size=(2, 9, 11)), rng.uniform(1, 5, (2, 9, 11))
    return prediction, target, (rng.random((2, 9, 11)) < 0.8).astype(float)


def aligned(prediction, target, mask):
    """By least squares of numpy, image by image."""
    out = np.empty_like(prediction)
    for p, t, m, o in zip(prediction, target, mask, out, strict=True):
        rows = np.stack((p[m > 0], np.ones((m > 0).sum())), 1)
        scale, shift = np.linalg.lstsq(rows, t[m > 0], rcond=None)[0]
        o[:] = scale * p + shift
    return out


def test_scale_and_shift_invariant_loss():
    prediction, target, mask = depth_case()
    error = aligned(prediction, target, mask) - target
    expected = (mask * error**2).sum() / (2 * mask.sum())
    for step in (1, 2, 4, 8):
        e, m = error[:, ::step, ::step], mask[:, ::step, ::step]
        total = 0
        for n, i, j in np.ndindex(e.shape):
            for below, right in ((1, 0), (0, 1)):
                if i + below < e.shape[1] and j + right < e.shape[2]:
                    both = m[n, i, j] * m[n, i + below, j + right]
                    total += both * abs(e[n, i + below, j + right] - e[n, i, j])
        expected += 0.5 * total / m.sum()
    args = [torch.tensor(value) for value in (prediction, target, mask)]
    loss = scale_and_shift_invariant(*args)
    assert loss.item() == pytest.approx(expected)
    assert scale_and_shift_invariant(3 * args[0] - 2, *args[1:]).item() == pytest.approx(expected)
    args[0].requires_grad_()
    assert torch.autograd.gradcheck(scale_and_shift_invariant, args)


def test_a_constant_prediction_has_no_scale():
    target = torch.rand(1, 3, 4)
    scale, shift = scale_and_shift(torch.zeros(1, 3, 4), target, torch.ones(1, 3, 4))
    assert scale.item() == shift.item() == 0
    assert scale_and_shift_invariant(torch.zeros(1, 3, 4), target, torch.zeros(1, 3, 4)) == 0


def test_sig_loss_warms_up():
    torch.manual_seed(0)
    prediction, target = 10 * torch.rand(2, 1, 4, 5), 12 * torch.rand(2, 1, 4, 5)
    target[0, 0, 0] = 0
    counted = (target > 0) & (target <= 10)
    error = (torch.log(prediction + 0.001) - torch.log(target + 0.001))[counted]
    loss = SigLoss(warm_up=2)
    mean = 0.15 * error.mean() ** 2
    for expected in (mean, mean, mean + error.var()):
        torch.testing.assert_close(loss(prediction, target), expected.sqrt())
    assert loss(prediction, torch.zeros_like(target)) == 0


def test_bins_head():
    torch.manual_seed(0)
    head = ProbeDepthBinsHead(4)
    token, features = torch.randn(2, 4), torch.randn(2, 4, 3, 5)
    depth = head([token, features])
    weight, bias = head.conv_seg.weight[:, :, 0, 0], head.conv_seg.bias
    for n, i, j in np.ndindex(2, 3, 5):
        vector = torch.cat((features[n, :, i, j], token[n] / token[n].norm()))
        share = (weight @ vector + bias).clamp(min=0) + 0.1
        bins = torch.tensor(np.linspace(0.001, 10, 256), dtype=torch.float32)
        torch.testing.assert_close(depth[n, 0, i, j], (share / share.sum() * bins).sum())
    data = samples('gt_depth_map', torch.rand(2, 6, 10))
    loss = head.loss([token, features], data, None)['loss_sig']
    resized = F.interpolate(depth, (6, 10), mode='bilinear', align_corners=False)
    target = torch.stack([sample.gt_depth_map.data for sample in data])
    torch.testing.assert_close(loss, SigLoss()(resized, target))
    with pytest.raises(ValueError, match=r'set backbone\.output_cls_token=True'):
        head([features])


def test_depth_head():
    torch.manual_seed(0)
    head, features = ProbeDepthHead(4), torch.randn(2, 4, 3, 5)
    target = torch.rand(2, 6, 10)
    target[0, :2] = 0
    loss = head.loss([features], samples('gt_depth_map', target), None)['loss_ssi']
    small = target[:, ::2, ::2]
    expected = scale_and_shift_invariant(head([features])[:, 0], small, (small > 0).float())
    torch.testing.assert_close(loss, expected)


def test_depth_metric():
    prediction, target, mask = depth_case()
    target = target * mask
    metric = AlignedDepthMetric()
    for n in range(2):
        sample = dict(
            pred_depth_map=dict(data=torch.tensor(prediction[n : n + 1])),
            gt_depth_map=dict(data=torch.tensor(target[n : n + 1])),
        )
        metric.process({}, [sample])
    metric.process({}, [dict(sample, gt_depth_map=dict(data=torch.zeros(1, 9, 11)))])  # has no depth
    found = metric.compute_metrics(metric.results)
    close = np.maximum(aligned(prediction, target, mask), 0.001)
    rmse, shares = [], []
    for n in range(2):
        here = mask[n] > 0
        ratio = np.maximum(close[n] / np.where(here, target[n], 1), target[n] / close[n])[here]
        rmse.append(math.sqrt(((close[n] - target[n])[here] ** 2).mean()))
        shares.append([(ratio < 1.25**power).mean() for power in (1, 2, 3)])
    assert found['rmse'] == pytest.approx(np.mean(rmse))
    assert [found['d1'], found['d2'], found['d3']] == pytest.approx(np.mean(shares, 0).tolist())
