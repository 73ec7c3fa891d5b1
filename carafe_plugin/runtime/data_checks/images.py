# SPDX-License-Identifier: Apache-2.0
"""Sizes of images as the loader of a data set sees them."""

from typing import Any

import numpy as np
from mmengine.registry import TRANSFORMS
from PIL import ExifTags, Image

from carafe_plugin.runtime.config_parts import find_step
from carafe_plugin.runtime.errors import UserError

SAMPLE = 200  # files that are opened, spread evenly over a data set: a second or two
DECODED = 20  # of these, how many are decoded to see whether the loader turns them


def spread(length: int, count: int = SAMPLE) -> list[int]:
    """At most ``count`` indices, spread evenly over ``length`` entries."""
    return np.unique(np.linspace(0, length - 1, min(count, length)).round().astype(int)).tolist()


def build_step(cfg: dict, where: str) -> Any:
    """Build a transform.

    Raises:
        UserError: its arguments are wrong.
    """
    try:
        return TRANSFORMS.build(cfg)
    except (TypeError, ValueError) as error:
        raise UserError(f'{where}: {error}') from error


class SizeReader:
    """Reads sizes from the heads of files, which takes no time.

    Only a file whose EXIF data turn it is given to the data set's own ``LoadImageFromFile``: whether that one
    turns it depends on backend and flags. After :data:`DECODED` of those the rest is left unread.

    Args:
        dataset: dataset config; without that step in its pipeline no size is known.
        where: its name in the config, for messages.
    """

    def __init__(self, dataset: dict, where: str) -> None:
        step = find_step(dataset, 'LoadImageFromFile')
        self._load = build_step(step, where) if step else None
        self._left = DECODED

    def read(self, path: str) -> tuple[int, int] | None:
        """Width and height of what the pipeline gets, None where that is not known.

        Raises:
            UserError: the file cannot be read.
        """
        if self._load is None:
            return None
        try:
            with Image.open(path) as file:
                has_exif = 'exif' in file.info or file.format == 'TIFF'
                turned = has_exif and file.getexif().get(ExifTags.Base.Orientation, 1) != 1
                if not turned:
                    return file.size
        except OSError:
            pass  # a format of which the loader may know more
        if not self._left:
            return None
        self._left -= 1
        try:
            return self._load.transform(dict(img_path=path))['img_shape'][::-1]
        except Exception as error:  # each backend has its own
            raise UserError(f'{path} is not a readable image') from error
