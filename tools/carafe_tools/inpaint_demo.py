# SPDX-License-Identifier: Apache-2.0
"""What ``tools/demo.py`` does for an inpainting config: fill a hole of each image and draw a strip."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from PIL import Image

from carafe_plugin.inpainting.images import read_image
from carafe_plugin.inpainting.masks import random_strokes, read_mask
from carafe_plugin.inpainting.transforms import HoleFromFiles
from carafe_plugin.inpainting.visualization import strip
from carafe_plugin.runtime.errors import UserError

from .preflight import building
from .weights import check_weights, read_weights


def load_inpainter(cfg: Config, checkpoint: str, device: str) -> torch.nn.Module:
    """Build the model of a config and load its weights, all of them.

    Raises:
        UserError: the device does not exist, or the checkpoint cannot be read or is of another model.
    """
    stored = read_weights(checkpoint, str(Path(checkpoint).parent))
    with building():
        model = MODELS.build(cfg.model)
    try:
        model.to(device)
    except (AssertionError, RuntimeError) as error:
        raise UserError(f'--device {device}: {error}') from error
    check_weights(model, stored, checkpoint, cfg.filename)
    return model.eval()


def choose_hole(image: np.ndarray, mask: Path | None, polarity: str, seed: int) -> np.ndarray:
    """Read the hole of an image from a file, or draw one.

    Raises:
        UserError: the mask cannot be read, has another size, or marks no pixel or every pixel.
    """
    if mask is None:
        area = (0.1, 0.3) if image.shape[0] * image.shape[1] >= 10 else (0.0, 1.0)
        return random_strokes(*image.shape[:2], np.random.default_rng(seed), area)
    hole = read_mask(mask, polarity)
    sizes = [f'{a.shape[1]}x{a.shape[0]}' for a in (hole, image)]
    if sizes[0] != sizes[1]:
        raise UserError(f'mask {mask} is of {sizes[0]} pixels, its image of {sizes[1]}')
    if not hole.any() or hole.all():
        found = 'every' if hole.all() else 'no'
        raise UserError(f'mask {mask} is of one colour: with {polarity} as the hole it marks {found} pixel')
    return hole


@torch.no_grad()
def inpaint(model: torch.nn.Module, image: np.ndarray, hole: np.ndarray) -> dict:
    """Fill the hole (H, W) of an image of RGB bytes (H, W, 3), of any size; the model's prediction."""
    data = dict(
        inputs=[torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))],
        data_samples=dict(holes=[torch.from_numpy(hole)[None]]),
    )
    return model.test_step(data)[0]


def draw(
    cfg: Config,
    checkpoint: str,
    images: Sequence[Path],
    files: Sequence[Path],
    mask: Path | None = None,
    polarity: str = 'white',
    device: str = 'cpu',
) -> None:
    """Write masked image, result and original side by side, and the result alone as NAME.result.png.

    Args:
        cfg: an inpainting config.
        checkpoint: its weights.
        images: what to inpaint.
        files: picture to write for each of them.
        mask: file that marks the hole of every image, or folder with a mask of each image's name; None draws
            strokes, the n-th image's always alike.
        polarity: ``'white'`` or ``'black'``, what marks the hole.
        device: where to run.

    Raises:
        UserError: an input cannot be used; nothing was written then.
    """
    model = load_inpainter(cfg, checkpoint, device)
    folder = HoleFromFiles(str(mask), polarity, by_name=True) if mask and mask.is_dir() else None
    pairs = []
    for seed, path in enumerate(images):
        image = read_image(path)
        own = folder.mask_of(path) if folder else mask
        pairs.append((image, choose_hole(image, own, polarity, seed)))
    for (image, hole), file in zip(pairs, files, strict=True):
        sample = inpaint(model, image, hole)
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(strip(sample)).save(file)
        result = sample['result'].permute(1, 2, 0).cpu().numpy()
        Image.fromarray(result).save(file.with_name(f'{file.stem}.result.png'))
