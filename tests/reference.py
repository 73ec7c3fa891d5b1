# SPDX-License-Identifier: Apache-2.0
"""Independent float64 definitions, written with loops; they never call the package."""

import functools

import numpy as np


def carafe_loops(features, masks, kernel_size, group_size, scale_factor):
    """One output pixel at a time; features (N, C, H, W), masks (N, G*k*k, s*H, s*W)."""
    k, s, r = kernel_size, scale_factor, kernel_size // 2
    n, c, h, w = features.shape
    padded = np.zeros((n, c, h + 2 * r, w + 2 * r))
    padded[:, :, r : r + h, r : r + w] = features
    out = np.zeros((n, c, h * s, w * s))
    channels = c // group_size
    for image, channel, row, column in np.ndindex(out.shape):
        top, left, group = row // s, column // s, channel // channels
        for a, b in np.ndindex(k, k):
            weight = masks[image, (group * k + a) * k + b, row, column]
            out[image, channel, row, column] += weight * padded[image, channel, top + a, left + b]
    return out


def kernels_from_logits(logits, kernel_size, group_size, scale_factor):
    """Softmax kernels (N, G*k*k, s*H, s*W) of encoder logits (N, G*k*k*s*s, H, W)."""
    entries, s = kernel_size**2, scale_factor
    n, _, h, w = logits.shape
    masks = np.zeros((n, group_size * entries, h * s, w * s))
    for image, group, row, column in np.ndindex(n, group_size, h * s, w * s):
        channels = [((group * entries + t) * s + row % s) * s + column % s for t in range(entries)]
        values = np.exp(logits[image, channels, row // s, column // s])
        masks[image, group * entries : (group + 1) * entries, row, column] = values / values.sum()
    return masks


@functools.cache
def carafe_case(shape, kernel_size, group_size, scale_factor):
    """Seeded (features, logits, masks, expected output) of one setting, as float64 arrays."""
    rng = np.random.default_rng(kernel_size * 100 + group_size * 10 + scale_factor)
    n, _, h, w = shape
    features = rng.standard_normal(shape)
    logits = rng.standard_normal((n, group_size * (kernel_size * scale_factor) ** 2, h, w))
    masks = kernels_from_logits(logits, kernel_size, group_size, scale_factor)
    return (
        features,
        logits,
        masks,
        carafe_loops(features, masks, kernel_size, group_size, scale_factor),
    )
