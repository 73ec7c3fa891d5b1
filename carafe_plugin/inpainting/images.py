# SPDX-License-Identifier: Apache-2.0
"""Images of any kind as RGB bytes, and the files of a folder or a list."""

import os
import struct
from collections.abc import Iterable, Iterator
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


def walk_images(root: str | Path) -> Iterator[str]:
    """Paths of the images in a folder and its subfolders, relative to it, in no order."""
    for folder, _, files in os.walk(root, followlinks=True):
        for file in files:
            if file.lower().endswith(SUFFIXES):
                yield os.path.relpath(os.path.join(folder, file), root)


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
    require_images(root, file_list)
    names = sorted(walk_images(root)) if file_list is None else _read_list(file_list)
    return np.array([os.fsencode(name) for name in names])


def require_images(root: str | Path, file_list: str | Path | None = None) -> None:
    """Make sure that :func:`list_images` has what to list, at the cost of finding one.

    Raises:
        UserError: the folder or the list does not exist or names no image.
    """
    if not Path(root).is_dir():
        raise UserError(f'image folder {root} does not exist')
    if file_list is not None and not Path(file_list).is_file():
        raise UserError(f'list of images {file_list} does not exist')
    if not any(True for _ in (walk_images(root) if file_list is None else _read_list(file_list))):
        where = f'image folder {root}' if file_list is None else f'list of images {file_list}'
        raise UserError(f'{where} holds no image ({", ".join(SUFFIXES)})')


def _read_list(file: str | Path) -> list[str]:
    lines = Path(file).read_text().splitlines()
    return [line.strip().lstrip('/') for line in lines if line.strip()]


class SameNames:
    """Files looked up by another file of the same name but for the suffix, as the mask of an image is.

    Of the folders above both as many must agree as the listed name has: ``a/1.png`` is for ``.../a/1.jpg``.

    Args:
        names: paths, relative to any folder.

    Raises:
        UserError: two of them differ in their suffix alone.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names: dict[tuple[str, ...], str] = {}
        for name in names:
            other = self._names.setdefault(Path(name).with_suffix('').parts, name)
            if other != name:
                raise UserError(f'{other} and {name} are both for the same image')

    def find(self, path: str | Path) -> str | None:
        """The name for a file; the one that agrees in most folders, None where there is none."""
        parts = Path(path).absolute().with_suffix('').parts
        tails = (parts[i:] for i in range(len(parts)))
        return next((self._names[tail] for tail in tails if tail in self._names), None)
