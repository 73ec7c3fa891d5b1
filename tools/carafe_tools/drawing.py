# SPDX-License-Identifier: Apache-2.0
"""Sheets of pictures under titles; label maps are blended into their image, over a legend."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import mmcv
import numpy as np
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from PIL import Image, ImageDraw, ImageFont, UnidentifiedImageError

from carafe_plugin.runtime.errors import UserError

GAP = 12  # pixels between pictures
LINE = (
    26  # height of a line of text, and as all that belongs to it for pictures of at most PLAIN pixels across
)
PLAIN = 640


def require_image(path: Path) -> None:
    """Make sure that the toolboxes' loader can read an image, to its end.

    Raises:
        UserError: it does not exist, or is cut off, or no image.
    """
    if not path.exists():
        raise UserError(f'{path}: no such file')
    try:
        whole = mmcv.imread(path) is not None
        with Image.open(path) as file:
            file.load()  # OpenCV makes up what is missing of a JPEG
    except UnidentifiedImageError:
        pass  # OpenCV knows formats that Pillow does not
    except (OSError, SyntaxError, cv2.error):
        whole = False
    if not whole:
        raise UserError(f'{path}: not a readable image')


def blend(image: np.ndarray, labels: np.ndarray, palette: Sequence, alpha: float = 0.6) -> np.ndarray:
    """Colour each pixel of the grey image by its class; those of no class, or ignored, are darkened.

    Args:
        image: RGB, (H, W, 3) of uint8.
        labels: class of each pixel, (H, W).
        palette: RGB of each class.
        alpha: share of the colour.
    """
    colours = np.zeros((max(256, int(labels.max()) + 1), 3), np.float32)
    colours[: len(palette)] = palette
    grey = mmcv.gray2rgb(mmcv.rgb2gray(image))
    return np.round(grey * (1 - alpha) + colours[labels] * alpha).astype(np.uint8)


def text_scale(width: int) -> float:
    """How much larger than plain text is drawn beside pictures of this width, so that it can be read."""
    return max(1.0, width / PLAIN)


def legend(names: Sequence[str], colours: Sequence, width: int, scale: float = 1.0) -> Image.Image:
    """A swatch and a name for each class, in as many lines as ``width`` asks for, ``scale`` times larger."""
    font = ImageFont.load_default(size=16 * scale)
    line, gap, inset = (round(scale * size) for size in (LINE, GAP, 4))
    places, x, y = [], gap, 0
    for name in names:
        room = line + round(font.getlength(name)) + 2 * gap
        if x > gap and x + room > width:
            x, y = gap, y + line
        places.append((x, y))
        x += room
    canvas = Image.new('RGB', (width, y + line + gap), 'white')
    draw = ImageDraw.Draw(canvas)
    for (x, y), name, colour in zip(places, names, colours, strict=True):
        side = line - 2 * inset
        draw.rectangle((x, y + inset, x + side, y + inset + side), fill=tuple(colour), outline='black')
        draw.text((x + line, y + line // 2), name, fill='black', font=font, anchor='lm')
    return canvas


def sheet(
    rows: Sequence[Sequence[np.ndarray]], titles: Sequence[str], foot: Image.Image | None = None
) -> Image.Image:
    """Lay RGB pictures (H, W, 3) out in columns, each under its title, over a foot."""
    widths = [max(picture.shape[1] for picture in column) for column in zip(*rows, strict=True)]
    heights = [max(picture.shape[0] for picture in row) for row in rows]
    scale = text_scale(max(widths))
    font = ImageFont.load_default(size=24 * scale)
    head = round(24 * scale) + 2 * GAP
    total = head + sum(heights) + GAP * len(heights)
    canvas = Image.new('RGB', (_across(widths), total + (foot.height if foot else 0)), 'white')
    draw, x = ImageDraw.Draw(canvas), GAP
    for width, title, column in zip(widths, titles, zip(*rows, strict=True), strict=True):
        draw.text((x + width // 2, head // 2), title, fill='black', font=font, anchor='mm')
        y = head
        for height, picture in zip(heights, column, strict=True):
            canvas.paste(Image.fromarray(picture), (x, y))
            y += height + GAP
        x += width + GAP
    if foot:
        canvas.paste(foot, (0, total))
    return canvas


def _across(widths: Sequence[int]) -> int:
    return sum(widths) + GAP * (len(widths) + 1)


def label_sheet(
    rows: Sequence[Sequence[np.ndarray]], titles: Sequence[str], classes: Sequence[str], palette: Sequence
) -> Image.Image:
    """Lay images and their label maps out in columns, over one legend of the classes that occur.

    Args:
        rows: an RGB image (H, W, 3) and label maps (H, W) each.
        titles: one for the image and for each map.
        classes: names in the order of the labels.
        palette: their colours.
    """
    pictures = [[image, *(blend(image, layer, palette) for layer in layers)] for image, *layers in rows]
    labels = np.unique(np.concatenate([np.unique(layer) for _, *layers in rows for layer in layers]))
    seen = [int(label) for label in labels if label < len(classes)]
    widest = max(row[0].shape[1] for row in rows)
    width, scale = _across([widest] * len(titles)), text_scale(widest)
    foot = legend([classes[i] for i in seen], [palette[i] for i in seen], width, scale)
    return sheet(pictures, titles, foot)


@HOOKS.register_module()
class OverlayHook(Hook):
    """Draw the prediction for each test image, and the truth where it is known, into ``out_dir``/NAME.png.

    Args:
        out_dir: folder for the pictures; two images of one name in different folders overwrite each other.
    """

    def __init__(self, out_dir: str) -> None:
        self.out_dir = Path(out_dir)

    def after_test_iter(self, runner, batch_idx: int, data_batch: dict, outputs: Sequence) -> None:
        """Draw one batch."""
        meta = runner.test_dataloader.dataset.metainfo
        self.out_dir.mkdir(parents=True, exist_ok=True)
        for sample in outputs:
            row, titles = [mmcv.imread(sample.img_path, channel_order='rgb')], ['image']
            for name, field in (('ground truth', 'gt_sem_seg'), ('prediction', 'pred_sem_seg')):
                if field in sample:
                    row.append(sample.get(field).data.squeeze(0).cpu().numpy())
                    titles.append(name)
            drawn = label_sheet([row], titles, meta['classes'], meta['palette'])
            drawn.save(self.out_dir / f'{Path(sample.img_path).stem}.png')
