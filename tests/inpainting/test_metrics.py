# SPDX-License-Identifier: Apache-2.0
"""Metrics against scikit-image, or against arithmetic where it has none."""

import numpy as np
import pytest
import torch

from carafe_plugin.inpainting import InpaintingMetric

metrics = pytest.importorskip('skimage.metrics', reason='scikit-image (extra `inpainting`) is not installed')


def sample(seed=0, size=(40, 50), hole=None, noise=40, **options):
    rng = np.random.default_rng(seed)
    original = rng.integers(0, 256, (3, *size), dtype=np.uint8) // 4 * 2 + 60
    if hole is None:
        hole = np.zeros(size, np.uint8)
        hole[size[0] // 4 : -size[0] // 4, 5:-9] = 1
    change = rng.integers(-noise, noise + 1, original.shape) * hole
    result = np.clip(original + change, 0, 255).astype(np.uint8)
    tensors = dict(result=result, original=original, hole=hole[None])
    return dict(skipped=False, **{k: torch.from_numpy(v) for k, v in tensors.items()}, **options)


def evaluate(*samples):
    metric = InpaintingMetric()
    metric.process(None, samples)
    return metric.evaluate(len(samples))


def test_against_scikit_image():
    samples = [sample(seed) for seed in range(3)]
    expected = {}
    for s in samples:
        a, b, hole = (s[key].numpy() for key in ('result', 'original', 'hole'))
        similarity, values = metrics.structural_similarity(
            a,
            b,
            channel_axis=0,
            gaussian_weights=True,
            use_sample_covariance=False,
            data_range=255,
            full=True,
        )
        inner = (slice(None), slice(5, -5), slice(5, -5))
        where = np.broadcast_to(hole > 0, a.shape)
        row = dict(
            L1=np.abs(a.astype(float) - b).mean() / 2.55,
            PSNR=metrics.peak_signal_noise_ratio(b, a),
            SSIM=similarity,
            hole_L1=np.abs(a[where].astype(float) - b[where]).mean() / 2.55,
            hole_PSNR=metrics.peak_signal_noise_ratio(b[where], a[where]),
            hole_SSIM=values[inner][where[inner]].mean(),
        )
        for name, value in row.items():
            expected.setdefault(name, []).append(value)
    found = evaluate(*samples)
    assert found == pytest.approx({name: np.mean(values) for name, values in expected.items()}, rel=1e-9)
    assert found['hole_PSNR'] < found['PSNR'] and found['hole_SSIM'] < found['SSIM'] < 1


def test_images_that_do_not_count():
    unharmed = sample(1, hole=np.zeros((40, 50), np.uint8))
    assert evaluate(sample(0), unharmed, {**sample(2), 'skipped': True}) == evaluate(sample(0))
    metric = InpaintingMetric()
    metric.process(None, [sample(0), unharmed, sample(1)])
    assert len(metric.results) == 3  # or processes that merge theirs would take padding for images
    with pytest.raises(ValueError, match='no image with a hole'):
        evaluate(unharmed)


def test_defined_at_the_limits():
    assert evaluate(sample(noise=0)) == pytest.approx(
        dict(L1=0, PSNR=100, SSIM=1, hole_L1=0, hole_PSNR=100, hole_SSIM=1)
    )
    pixel = evaluate(sample(size=(1, 1), hole=np.ones((1, 1), np.uint8)))
    assert np.isnan([pixel['SSIM'], pixel['hole_SSIM']]).all()
    assert pixel['L1'] == pixel['hole_L1']
    corner = np.zeros((40, 50), np.uint8)
    corner[:3, :3] = 1
    found = evaluate(sample(hole=corner), sample(1))
    assert found['hole_SSIM'] == pytest.approx(evaluate(sample(1))['hole_SSIM'])
