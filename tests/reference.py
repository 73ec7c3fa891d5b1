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
    output = np.zeros((n, c, h * s, w * s))
    channels = c // group_size
    for image, channel, row, column in np.ndindex(output.shape):
        top, left, group = row // s, column // s, channel // channels
        for a, b in np.ndindex(k, k):
            weight = masks[image, (group * k + a) * k + b, row, column]
            output[image, channel, row, column] += weight * padded[image, channel, top + a, left + b]
    return output


def masks_from_logits(logits, kernel_size, group_size, scale_factor):
    """Softmax masks (N, G*k*k, s*H, s*W) of encoder logits (N, G*k*k*s*s, H, W)."""
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
    masks = masks_from_logits(logits, kernel_size, group_size, scale_factor)
    return (
        features,
        logits,
        masks,
        carafe_loops(features, masks, kernel_size, group_size, scale_factor),
    )


def _taps(shape, kernel_size, scale_factor, down):
    """For each tap, the rows and columns of the zero-padded map that each output pixel reads."""
    h, w = shape
    if down:
        rows, columns = (np.arange(-(-size // scale_factor)) * scale_factor for size in (h, w))
    else:
        rows, columns = (np.arange(size * scale_factor) // scale_factor for size in (h, w))
    for a, b in np.ndindex(kernel_size, kernel_size):
        yield a * kernel_size + b, (rows + a)[:, None], (columns + b)[None, :]


def _pad(features, radius):
    return np.pad(features, ((0, 0), (0, 0), (radius, radius), (radius, radius)))


def reassemble(features, masks, k, groups, s, down=False):
    """One tap at a time; equals :func:`carafe_loops` where both are defined."""
    padded, output = _pad(features, k // 2), 0
    repeat = features.shape[1] // groups
    for tap, rows, columns in _taps(features.shape[2:], k, s, down):
        weight = masks[:, tap :: k * k].repeat(repeat, axis=1)
        output = output + weight * padded[:, :, rows, columns]
    return output


def correlate(output, features, k, groups, s, down=False):
    """The gradient of :func:`reassemble` for its masks, where ``output`` is that of its output."""
    n, c, h, w = output.shape
    padded, masks = _pad(features, k // 2), np.zeros((n, groups * k * k, h, w))
    for tap, rows, columns in _taps(features.shape[2:], k, s, down):
        product = output * padded[:, :, rows, columns]
        masks[:, tap :: k * k] = product.reshape(n, groups, c // groups, h, w).sum(2)
    return masks


def scatter(output, masks, height, width, k, groups, s, down=False):
    """The gradient of :func:`reassemble` for its features, where ``output`` is that of its output."""
    n, c = output.shape[:2]
    padded, r = np.zeros((n, c, height + k - 1, width + k - 1)), k // 2
    for tap, rows, columns in _taps((height, width), k, s, down):
        weight = masks[:, tap :: k * k].repeat(c // groups, axis=1)
        np.add.at(padded, (slice(None), slice(None), rows, columns), weight * output)
    return padded[:, :, r : r + height, r : r + width]


def shuffle(logits, s):
    """Channels (M*s*s, H, W) to pixels (M, s*H, s*W)."""
    n, m, h, w = logits.shape
    return (
        logits.reshape(n, m // s**2, s, s, h, w)
        .transpose(0, 1, 4, 2, 5, 3)
        .reshape(n, m // s**2, h * s, w * s)
    )


def unshuffle(masks, s):
    n, m, h, w = masks.shape
    return (
        masks.reshape(n, m, h // s, s, w // s, s)
        .transpose(0, 1, 3, 5, 2, 4)
        .reshape(n, m * s * s, h // s, w // s)
    )


def softmax(masks, k, groups):
    n, _, h, w = masks.shape
    values = masks.reshape(n, groups, k * k, h, w)
    values = np.exp(values - values.max(2, keepdims=True))
    return (values / values.sum(2, keepdims=True)).reshape(masks.shape)


def softmax_backward(probability, gradient, k, groups):
    n, _, h, w = probability.shape
    p, g = (x.reshape(n, groups, k * k, h, w) for x in (probability, gradient))
    return (p * (g - (p * g).sum(2, keepdims=True))).reshape(probability.shape)
