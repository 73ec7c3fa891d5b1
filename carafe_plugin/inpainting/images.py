# SPDX-License-Identifier: Apache-2.0
"""Images of any kind as RGB bytes, and the files of a folder or a list."""

import os
import struct
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from carafe_plugin.runtime.errors import UserError

SUFFIXES = ('.bmp', '.gif', '.jpeg', '.jpg', '.png', '.ppm', '.tif', '.tiff', '.webp')


class UnreadableImageError(UserError, ValueError):
    """A file that is no whole image."""


def read_image(path: str | Path) -> np.ndarray:
    """Read a file as RGB bytes (H, W, 3).

    The EXIF orientation is applied, grey becomes three equal channels, 16 bits become 8, and what is
    transparent shows white. Of several frames the first counts.

    Raises:
        UnreadableImageError: the file does not exist, is cut off, or is no image.
    """
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
            if image.mode.startswith('I;16') or image.mode == 'I':
                return np.repeat(
                    (np.asarray(image) / 257).round().clip(0, 255).astype(np.uint8)[..., None], 3, 2
                )
            if image.has_transparency_data:
                image = image.convert('RGBA')
                image = Image.alpha_composite(Image.new('RGBA', image.size, 'white'), image)
            return np.asarray(image.convert('RGB'))
    except (OSError, ValueError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise UnreadableImageError(f'{path}: not a readable image ({error})') from error


def list_images(root: str | Path, file_list: str | Path | None = None) -> np.ndarray:
    """Name the images of a folder and its subfolders, sorted, or those of a list.

    Args:
        root: the folder.
        file_list: text file with a path relative to ``root`` in each line; empty lines do not count.

    Returns:
        Paths relative to ``root`` as an array of bytes, for ``os.fsdecode``: millions of them fit into
        memory, and worker processes share it.

    Raises:
        UserError: the folder or the list does not exist or names no image.
    """
    if not Path(root).is_dir():
        raise UserError(f'image folder {root} does not exist')
    if file_list is not None:
        if not Path(file_list).is_file():
            raise UserError(f'list of images {file_list} does not exist')
        lines = Path(file_list).read_text().splitlines()
        names = [line.strip().lstrip('/') for line in lines if line.strip()]
        where = f'list of images {file_list}'
    else:
        names = sorted(
            os.path.relpath(os.path.join(folder, file), root)
            for folder, _, files in os.walk(root, followlinks=True)
            for file in files
            if file.lower().endswith(SUFFIXES)
        )
        where = f'image folder {root}'
    if not names:
        raise UserError(f'{where} holds no image ({", ".join(SUFFIXES)})')
    return np.array([os.fsencode(name) for name in names])
