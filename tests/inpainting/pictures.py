# SPDX-License-Identifier: Apache-2.0
"""Image files of all kinds, and a tiny inpainting config, for the tests."""

from pathlib import Path

import numpy as np
from PIL import Image


def picture(height: int = 24, width: int = 32, seed: int = 0) -> np.ndarray:
    """Smooth colours and an edge."""
    y, x = np.mgrid[:height, :width] / max(height, width)
    phase = np.random.default_rng(seed).uniform(0, 6, 3)
    image = 128 + 90 * np.sin(4 * x[..., None] + 3 * y[..., None] + phase)
    image[:, width // 2 :] *= 0.6
    return image.round().astype(np.uint8)


def write_pictures(folder: Path, count: int = 6, height: int = 40, width: int = 48) -> Path:
    """Write PNG files; return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed in range(count):
        Image.fromarray(picture(height, width, seed)).save(folder / f'{seed}.png')
    return folder
