# SPDX-License-Identifier: Apache-2.0
"""The quick-start data: generated textures, and cut-outs of the photographs that scikit-image carries."""

import math
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from carafe_plugin.inpainting.images import read_image
from carafe_plugin.runtime.errors import UserError

from .files import generate

SIDE = 80
# No photograph, and neither of the two views of one scene, is in both splits.
PHOTOS = dict(
    train=(
        'brick.png',
        'coffee.png',
        'grass.png',
        'gravel.png',
        'hubble_deep_field.jpg',
        'motorcycle_left.png',
        'motorcycle_right.png',
        'retina.jpg',
        'rocket.jpg',
    ),
    val=('astronaut.png', 'camera.png', 'chelsea.png', 'coins.png'),
)


def draw_texture(rng: np.random.Generator, side: int = SIDE) -> np.ndarray:
    """Draw three or four regions of stripes, checks or soft noise with curved borders; RGB bytes."""
    y, x = np.mgrid[:side, :side].astype(np.float32)
    image = _region(rng, x, y)
    for _ in range(rng.integers(2, 4)):
        angle, shift = rng.uniform(0, 2 * math.pi), rng.uniform(-0.3, 0.3) * side
        u = (x - side / 2) * math.cos(angle) + (y - side / 2) * math.sin(angle) - shift
        v = (y - side / 2) * math.cos(angle) - (x - side / 2) * math.sin(angle)
        u += rng.uniform(-0.006, 0.006) * v**2
        image = np.where(u[..., None] > 0, _region(rng, x, y), image)
    image = cv2.GaussianBlur(image, (3, 3), 0) + rng.normal(0, 2, image.shape)
    return image.round().clip(0, 255).astype(np.uint8)


def _region(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    colours = rng.uniform(20, 235, 3) + rng.normal(0, 22, (2, 3))
    angle, pitch = rng.uniform(0, math.pi), rng.uniform(8, 24)
    u = (x * math.cos(angle) + y * math.sin(angle)) * 2 * math.pi / pitch
    v = (y * math.cos(angle) - x * math.sin(angle)) * 2 * math.pi / pitch
    soft = cv2.resize(rng.random((4, 4), np.float32), x.shape, interpolation=cv2.INTER_CUBIC)
    kinds = (
        soft,
        (1 + np.sin(u)) / 2,
        (1 + np.sign(np.sin(u))) / 2,
        (1 + np.sign(np.sin(u) * np.sin(v))) / 2,
    )
    weight = kinds[rng.integers(len(kinds))][..., None]
    return colours[0] * weight + colours[1] * (1 - weight)


def _cut_outs(file: Path, count: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Squares of a photograph at half its size or less."""
    image = read_image(file)
    cuts = []
    for _ in range(count):
        side = int(rng.integers(2 * SIDE, min(*image.shape[:2], 5 * SIDE)))
        top, left = (int(rng.integers(extent - side + 1)) for extent in image.shape[:2])
        cut = image[top : top + side, left : left + side]
        cuts.append(cv2.resize(cut, (SIDE, SIDE), interpolation=cv2.INTER_AREA))
    return cuts


def make_pictures(out: str | Path, textures: dict[str, int], cuts: dict[str, int], seed: int = 0) -> bool:
    """Write the data, or find it there already; the folder appears complete or not at all.

    Args:
        out: folder; pictures of ``SIDE`` pixels go to OUT/train and OUT/val.
        textures: number of generated pictures of ``train`` and ``val``.
        cuts: number of cut-outs of each photograph of ``train`` and ``val``; 0 needs no scikit-image.
        seed: equal seeds give equal pictures.

    Returns:
        True where it was written, False where it was there.

    Raises:
        UserError: ``out`` holds something else, or scikit-image is not there.
    """
    spec = find_spec('skimage')
    if any(cuts.values()) and spec is None:
        raise UserError("the photographs need scikit-image: pip install 'carafe-plugin[inpainting]'")

    def fill(root: Path) -> None:
        for stream, split in enumerate(('train', 'val')):
            rng = np.random.default_rng([seed, stream])
            (root / split).mkdir()
            for i in range(textures[split]):
                Image.fromarray(draw_texture(rng)).save(root / split / f'texture{i:04}.png')
            for name in PHOTOS[split] if cuts[split] else ():
                file = Path(spec.origin).parent / 'data' / name
                for i, cut in enumerate(_cut_outs(file, cuts[split], rng)):
                    Image.fromarray(cut).save(root / split / f'{file.stem}{i:02}.png')

    wanted = dict(version=1, textures=textures, cuts=cuts, seed=seed)
    return generate(out, 'pictures.json', wanted, fill)
