# SPDX-License-Identifier: Apache-2.0
"""Holes: arrays (H, W) of bytes, 1 in the hole and 0 elsewhere."""

import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from carafe_plugin.ops.arguments import require_choice

from .images import UnreadableImageError, read_image

POLARITIES = ('white', 'black')


def random_box(
    height: int, width: int, rng: np.random.Generator, side: int = 128, shrink: int = 40, margin: int = 20
) -> np.ndarray:
    """Cut out one box.

    Args:
        height: of the image, in pixels.
        width: of the image, in pixels.
        rng: source of randomness.
        side: longest side of the box, in pixels; at most what the margins leave.
        shrink: each side is this many pixels shorter at most.
        margin: least distance from the border, in pixels.

    Raises:
        ValueError: ``side`` or ``margin`` is out of range, or the margins leave no pixel.
    """
    if side < 1 or shrink < 0 or margin < 0:
        raise ValueError(f'side >= 1, shrink >= 0, margin >= 0 is needed, got {side}, {shrink}, {margin}')
    if min(height, width) <= 2 * margin:
        raise ValueError(f'an image of {height}x{width} has no pixel beyond a margin of {margin}')
    hole = np.zeros((height, width), np.uint8)
    box = []
    for extent in (height, width):
        room = extent - 2 * margin
        length = min(side - int(rng.integers(min(shrink, side - 1) + 1)), room)
        start = margin + int(rng.integers(room - length + 1))
        box.append(slice(start, start + length))
    hole[tuple(box)] = 1
    return hole


def random_strokes(
    height: int,
    width: int,
    rng: np.random.Generator,
    area: Sequence[float] = (0.15, 0.65),
    vertices: Sequence[int] = (4, 10),
    length: Sequence[float] = (20, 128),
    brush: Sequence[float] = (10, 45),
) -> np.ndarray:
    """Paint free-form strokes until the hole has an area drawn from a range.

    A stroke that would leave the range is painted again, thinner and shorter, so that the range always
    holds.

    Args:
        height: of the image, in pixels.
        width: of the image, in pixels.
        rng: source of randomness.
        area: least and largest share of the image.
        vertices: least and largest number of vertices of a stroke.
        length: least and largest distance of two vertices, in pixels of an image of 256.
        brush: least and largest width of a stroke, in pixels of an image of 256.

    Raises:
        ValueError: a range is no range, ``area`` leaves [0, 1], or no number of pixels lies in it.
    """
    for name, (low, high) in (('area', area), ('vertices', vertices), ('length', length), ('brush', brush)):
        if not 0 <= low <= high:
            raise ValueError(f'{name} must be a range of positive numbers, got {(low, high)}')
    pixels = height * width
    least, most = math.ceil(area[0] * pixels), math.floor(area[1] * pixels)
    if area[1] > 1 or least > most:
        raise ValueError(f'area must hold a number of {pixels} pixels within [0, 1], got {tuple(area)}')
    target = int(rng.integers(least, most + 1))
    unit = min(height, width) / 256
    hole, size = np.zeros((height, width), np.uint8), 1.0
    while (count := int(hole.sum())) < target:
        painted = hole.copy()
        _paint_stroke(
            painted, rng, vertices, np.multiply(length, unit * size), np.multiply(brush, unit * size)
        )
        if painted.sum() <= most:
            hole = painted
        elif size < 1e-3:  # as short and thin as it gets: fill the rest pixel by pixel
            free = np.flatnonzero(hole.ravel() == 0)
            hole.ravel()[rng.choice(free, target - count, replace=False)] = 1
        else:
            size *= 0.7
    return hole


def _paint_stroke(
    hole: np.ndarray, rng: np.random.Generator, vertices: Sequence[int], length: np.ndarray, brush: np.ndarray
) -> None:
    height, width = hole.shape
    point = rng.uniform(0, (width, height))
    thickness = max(round(rng.uniform(*brush)), 1)
    angle = rng.uniform(0, 2 * math.pi)
    for _ in range(rng.integers(vertices[0], vertices[1] + 1)):
        angle += math.pi + rng.uniform(-1.2, 1.2)  # to and fro, as one scribbles
        step = rng.uniform(*length) * np.array([math.cos(angle), math.sin(angle)])
        end = np.clip(point + step, 0, (width - 1, height - 1))
        here, there = (tuple(map(int, p)) for p in (point, end))
        cv2.line(hole, here, there, 1, thickness)
        cv2.circle(hole, there, thickness // 2, 1, -1)
        point = end


def read_mask(path: str | Path, hole: str = 'white') -> np.ndarray:
    """Read a mask from an image file; pixels of half brightness and more are white.

    A mask whose values all lie in one half, as 0 and 1 do, marks nothing and everything: it is refused. One
    that is quite black or quite white is what it is.

    Args:
        path: the file; colours count by their mean, alpha as in :func:`read_image`.
        hole: ``'white'`` or ``'black'``, which of the two marks the hole.

    Raises:
        UnreadableImageError: the file cannot be read, or holds no black and white.
        ValueError: ``hole`` is neither.
    """
    require_choice('hole', hole, POLARITIES)
    brightness = read_image(path).mean(2)
    low, high = brightness.min(), brightness.max()
    white = brightness >= 127.5
    if high > 0 and low < 255 and white.all() == white.any():
        raise UnreadableImageError(
            f'{path}: not a mask, its values are {low:g} to {high:g}; black is 0 and white is 255'
        )
    return (white if hole == 'white' else ~white).astype(np.uint8)
