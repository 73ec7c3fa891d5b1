# SPDX-License-Identifier: Apache-2.0
"""Pictures of label maps: blended into the image, titled, with a legend of the classes that occur."""

from collections.abc import Sequence
from pathlib import Path

import mmcv
import numpy as np
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from PIL import Image, ImageDraw, ImageFont

GAP = 12  # pixels between pictures
LINE = 26  # height of a line of text


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


def legend(names: Sequence[str], colours: Sequence, width: int) -> Image.Image:
    """A swatch and a name for each class, in as many lines as ``width`` asks for."""
    font = ImageFont.load_default(size=16)
    places, x, y = [], GAP, 0
    for name in names:
        room = LINE + round(font.getlength(name)) + 2 * GAP
        if x > GAP and x + room > width:
            x, y = GAP, y + LINE
        places.append((x, y))
        x += room
    canvas = Image.new('RGB', (width, y + LINE + GAP), 'white')
    draw = ImageDraw.Draw(canvas)
    for (x, y), name, colour in zip(places, names, colours, strict=True):
        draw.rectangle((x, y + 4, x + 18, y + 22), fill=tuple(colour), outline='black')
        draw.text((x + LINE, y + LINE // 2), name, fill='black', font=font, anchor='lm')
    return canvas


def picture(
    rows: Sequence[Sequence[np.ndarray]], titles: Sequence[str], classes: Sequence[str], palette: Sequence
) -> Image.Image:
    """Lay images and their label maps out in columns, under titles and over one legend.

    Args:
        rows: an RGB image (H, W, 3) and label maps (H, W) each.
        titles: one for the image and for each map.
        classes: names in the order of the labels.
        palette: their colours.
    """
    columns = len(titles)
    width = max(row[0].shape[1] for row in rows)
    labels = np.unique(np.concatenate([np.unique(layer) for _, *layers in rows for layer in layers]))
    seen = [int(label) for label in labels if label < len(classes)]
    total = columns * width + (columns + 1) * GAP
    foot = legend([classes[i] for i in seen], [palette[i] for i in seen], total)
    height = LINE + GAP + sum(row[0].shape[0] + GAP for row in rows)
    canvas = Image.new('RGB', (total, height + foot.height), 'white')
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=18)
    for column, title in enumerate(titles):
        x = GAP + column * (width + GAP)
        draw.text((x + width // 2, LINE // 2 + GAP // 2), title, fill='black', font=font, anchor='mm')
        y = LINE + GAP
        for image, *layers in rows:
            shown = image if column == 0 else blend(image, layers[column - 1], palette)
            canvas.paste(Image.fromarray(shown), (x, y))
            y += image.shape[0] + GAP
    canvas.paste(foot, (0, height))
    return canvas


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
            drawn = picture([row], titles, meta['classes'], meta['palette'])
            drawn.save(self.out_dir / f'{Path(sample.img_path).stem}.png')
