# SPDX-License-Identifier: Apache-2.0
"""Fillings that learn nothing, to compare with. Images are RGB bytes (H, W, 3), holes (H, W) of 0 and 1."""

import cv2
import numpy as np


def fill_mean(image: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Fill a hole with the mean colour of the rest of the image; mid-grey where there is no rest."""
    known = image[hole == 0]
    filled = image.copy()
    filled[hole > 0] = known.mean(0).round() if len(known) else 128
    return filled


def fill_telea(image: np.ndarray, hole: np.ndarray, radius: float = 3) -> np.ndarray:
    """Fill a hole from its border inwards by OpenCV's ``INPAINT_TELEA``.

    Args:
        image: the image.
        hole: where to fill.
        radius: neighbourhood of a point that counts, in pixels.

    Reference: Telea, An Image Inpainting Technique Based on the Fast Marching Method, 2004.
    """
    return cv2.inpaint(image, hole, radius, cv2.INPAINT_TELEA)


BASELINES = dict(mean=fill_mean, telea=fill_telea)
