# SPDX-License-Identifier: Apache-2.0
"""Steps of the pipeline, to be mixed with mmcv's own; their randomness is numpy's global one."""

import os
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmengine.registry import TRANSFORMS

from carafe_plugin.ops.arguments import require_choice
from carafe_plugin.runtime.errors import UserError

from .images import SameNames, list_images, read_image
from .masks import POLARITIES, random_box, random_strokes, read_mask


def _generator() -> np.random.Generator:
    """A generator that follows from numpy's global state, which the data set seeds for each image."""
    return np.random.default_rng(np.random.randint(2**32, size=4, dtype=np.uint32))  # noqa: NPY002


@TRANSFORMS.register_module()
class ReadImage(BaseTransform):
    """Put the image at ``img_path`` into ``img``, see :func:`read_image`."""

    def transform(self, results: dict) -> dict:
        results['img'] = read_image(results['img_path'])
        return results


@TRANSFORMS.register_module()
class CropResize(BaseTransform):
    """Cut a square out of ``img`` and resize it, and ``hole`` with it where there is one already.

    Args:
        size: side of the result, in pixels.
        crop: side of the square, in pixels of the file; the short side of an image that is smaller, and
            of every image where this is None.
        random: the square is anywhere; else in the middle.
    """

    def __init__(self, size: int = 256, crop: int | None = None, random: bool = True) -> None:
        if size < 1 or (crop is not None and crop < 1):
            raise ValueError(f'size and crop must be at least 1, got {size} and {crop}')
        self.size, self.crop, self.random = size, crop, random

    def transform(self, results: dict) -> dict:
        image = results['img']
        side = min(*image.shape[:2], self.crop or max(image.shape[:2]))
        rooms = [extent - side for extent in image.shape[:2]]
        if self.random:
            rng = _generator()
            top, left = (int(rng.integers(room + 1)) for room in rooms)
        else:
            top, left = (room // 2 for room in rooms)
        methods = dict(img=cv2.INTER_AREA if side > self.size else cv2.INTER_CUBIC, hole=cv2.INTER_NEAREST)
        for key, method in methods.items():
            if key in results:
                part = results[key][top : top + side, left : left + side]
                if side != self.size:
                    part = cv2.resize(part, (self.size, self.size), interpolation=method)
                results[key] = part
        return results


@TRANSFORMS.register_module()
class RandomHole(BaseTransform):
    """Draw ``hole`` for ``img``.

    Args:
        kind: ``'box'`` or ``'strokes'``.
        **arguments: of :func:`random_box` or :func:`random_strokes`.
    """

    KINDS: ClassVar[dict] = dict(box=random_box, strokes=random_strokes)

    def __init__(self, kind: str, **arguments: Any) -> None:
        if kind not in self.KINDS:
            raise ValueError(f'kind must be one of {", ".join(self.KINDS)}, got {kind!r}')
        self.kind, self.arguments = kind, arguments

    def transform(self, results: dict) -> dict:
        height, width = results['img'].shape[:2]
        results['hole'] = self.KINDS[self.kind](height, width, _generator(), **self.arguments)
        return results


@TRANSFORMS.register_module()
class HoleFromFiles(BaseTransform):
    """Take ``hole`` from a folder of masks: one at random, resized to the image, or the image's own.

    Args:
        root: folder of mask images, subfolders included.
        hole: ``'white'`` or ``'black'``, which marks the hole.
        file_list: text file with a path relative to ``root`` in each line.
        by_name: take the mask that has the image's name, whatever its suffix, and the image's size; this step
            then comes before :class:`CropResize`, which cuts both.

    Raises:
        UserError: there is no mask; with ``by_name``, from an image, none of its name or size.
        ValueError: ``hole`` is neither.
    """

    def __init__(
        self, root: str, hole: str = 'white', file_list: str | None = None, by_name: bool = False
    ) -> None:
        self.root, self.hole = Path(root), require_choice('hole', hole, POLARITIES)
        self.names = list_images(root, file_list)
        self.own = SameNames(map(os.fsdecode, self.names)) if by_name else None

    def mask_of(self, image: str | Path) -> Path:
        """The mask that has an image's name.

        Raises:
            UserError: there is none.
        """
        assert self.own is not None
        name = self.own.find(image)
        if name is None:
            raise UserError(f'mask folder {self.root} holds none named as {image}')
        return self.root / name

    def transform(self, results: dict) -> dict:
        if self.own is not None:
            path = self.mask_of(results['img_path'])
            results['hole'] = read_mask(path, self.hole)
            sizes = [f'{array.shape[1]}x{array.shape[0]}' for array in (results['hole'], results['img'])]
            if sizes[0] != sizes[1]:
                raise UserError(
                    f'mask {path} is of {sizes[0]} pixels, its image of {sizes[1]}; HoleFromFiles with '
                    'by_name must come before CropResize'
                )
            return results
        name = os.fsdecode(self.names[_generator().integers(len(self.names))])
        mask = read_mask(self.root / name, self.hole)
        size = results['img'].shape[1::-1]
        results['hole'] = cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST)
        return results


@TRANSFORMS.register_module()
class PackInpainting(BaseTransform):
    """What the model takes: ``inputs`` (3, H, W) as bytes, and a dict ``data_samples``.

    It has ``holes`` (1, H, W) as bytes, the file as ``paths``, and ``skipped``, whether the image stands in
    for an unreadable one.
    """

    def transform(self, results: dict) -> dict:
        image, hole = results['img'], results['hole']
        if image.shape[:2] != hole.shape[:2]:
            raise ValueError(f'image of {image.shape[:2]} and hole of {hole.shape[:2]} differ in size')
        return dict(
            inputs=torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))),
            data_samples=dict(
                holes=torch.from_numpy(np.ascontiguousarray(hole))[None],
                paths=str(results['img_path']),
                skipped=results.get('skipped', False),
            ),
        )
