# SPDX-License-Identifier: Apache-2.0
"""The generated quick-start data: shapes with fine outlines, as COCO instances and ADE20K-style label maps.

An image is painted object by object. What a later object covers is no longer part of an earlier one, so the
masks are disjoint and hold the visible part only, as in COCO. Colours and textures are drawn independently of
the category.
"""

import json
import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as mask_utils
from tqdm import tqdm

from .files import generate

CATEGORIES = ('star', 'gear', 'ring', 'cross', 'letter', 'crescent')
MIN_SIZE = 192
SUPERSAMPLING = 4
CROWD_RATE = 0.15
# Full colour resolution: the shapes are told from the ground by hue as often as by brightness.
JPEG = (
    cv2.IMWRITE_JPEG_QUALITY,
    95,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
)
# What later objects leave of an earlier one never falls below this share of it.
MIN_VISIBLE = 0.5

# A part is an outline in the unit circle, and whether it adds to the shape or cuts a hole.
Part = tuple[np.ndarray, bool]

# Strokes from corner to corner of a box with x and y in -1..1, y down.
GLYPHS = {
    'A': '-1 1 0 -1, 0 -1 1 1, -.5 .2 .5 .2',
    'E': '-.8 -1 -.8 1, -.8 -1 .8 -1, -.8 0 .6 0, -.8 1 .8 1',
    'F': '-.7 -1 -.7 1, -.7 -1 .8 -1, -.7 0 .5 0',
    'H': '-.8 -1 -.8 1, .8 -1 .8 1, -.8 0 .8 0',
    'K': '-.8 -1 -.8 1, -.8 .1 .8 -1, -.3 -.2 .8 1',
    'N': '-.8 -1 -.8 1, -.8 -1 .8 1, .8 -1 .8 1',
    'R': '-.7 -1 -.7 1, -.7 -1 .7 -.8, .7 -.8 .7 -.2, .7 -.2 -.7 0, -.2 0 .8 1',
    'Z': '-.8 -1 .8 -1, .8 -1 -.8 1, -.8 1 .8 1',
}


def _circle(radius: float, centre: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    angle = np.linspace(0, 2 * math.pi, 96, endpoint=False)
    return radius * np.stack([np.cos(angle), np.sin(angle)], 1) + centre


def _radial(radii: np.ndarray) -> np.ndarray:
    angle = np.linspace(0, 2 * math.pi, len(radii), endpoint=False)
    return radii[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)


def _stroke(start: np.ndarray, end: np.ndarray, width: float) -> np.ndarray:
    along = (end - start) / np.linalg.norm(end - start) * width / 2
    across = np.array([-along[1], along[0]])
    start, end = start - along, end + along
    return np.stack([start - across, start + across, end + across, end - across])


def _parts(category: str, rng: np.random.Generator) -> list[Part]:
    """Draws the outlines of one random member of a category."""
    if category == 'star':
        radii = np.ones(2 * rng.integers(4, 9))
        radii[1::2] = rng.uniform(0.25, 0.5)
        return [(_radial(radii), True)]
    if category == 'gear':
        tooth = [1.0, 1.0, 0.0, 0.0]
        radii = np.tile(tooth, rng.integers(7, 13)) * rng.uniform(0.2, 0.32)
        return [(_radial(radii + 1 - radii.max()), True), (_circle(rng.uniform(0.2, 0.42)), False)]
    if category == 'ring':
        return [(_circle(1), True), (_circle(rng.uniform(0.5, 0.78)), False)]
    if category == 'cross':
        width, tilt = rng.uniform(0.24, 0.44), rng.uniform(-0.35, 0.35)
        ends = np.array([[0.95, 0], [math.sin(tilt), math.cos(tilt)]])
        ends[1] *= rng.uniform(0.6, 0.95)
        return [(_stroke(-end, end, width), True) for end in ends]
    if category == 'letter':
        strokes = np.array([stroke.split() for stroke in rng.choice(list(GLYPHS.values())).split(',')], float)
        width = rng.uniform(0.22, 0.34)
        return [(_stroke(s[:2] * 0.7, s[2:] * 0.7, width), True) for s in strokes]
    shift = rng.uniform(0.35, 0.75)
    return [(_circle(1), True), (_circle(rng.uniform(0.75, 0.95), (shift, 0.0)), False)]


def _coverage(
    parts: list[Part], centre: np.ndarray, radius: float, size: int, rng: np.random.Generator
) -> np.ndarray:
    """Turns, squeezes and paints a shape; returns the share of each pixel that it covers."""
    turn, squeeze_axis = rng.uniform(-0.35, 0.35), rng.uniform(0, 2 * math.pi)
    rotations = [
        np.array([[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]]) for a in (turn, squeeze_axis)
    ]
    matrix = rotations[1] @ np.diag([1, rng.uniform(0.75, 1)]) @ rotations[0]
    canvas = np.zeros((size * SUPERSAMPLING, size * SUPERSAMPLING), np.uint8)
    for outline, solid in parts:
        points = (outline @ matrix.T * radius + centre) * SUPERSAMPLING * 16
        cv2.fillPoly(canvas, [np.round(points).astype(np.int32)], 255 * solid, shift=4)
    return cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def _texture(size: int, colours: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Blends two colours by noise of random grain, or by stripes or checks of random pitch and angle."""
    y, x = np.mgrid[:size, :size].astype(np.float32)
    angle, pitch = rng.uniform(0, math.pi), rng.uniform(6, 40)
    u = (x * math.cos(angle) + y * math.sin(angle)) * 2 * math.pi / pitch
    v = (y * math.cos(angle) - x * math.sin(angle)) * 2 * math.pi / pitch
    grain = rng.integers(3, size // 4)
    noise = cv2.resize(rng.random((grain, grain), np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
    kind = rng.integers(3)
    weight = (noise, (1 + np.sin(u + 4 * noise)) / 2, (1 + np.sign(np.sin(u) * np.sin(v))) / 2)[kind]
    weight = np.clip(weight, 0, 1)[..., None]
    return colours[0] * weight + colours[1] * (1 - weight)


def _place(
    category: str, radius: float, owner: np.ndarray, areas: list[int], rng: np.random.Generator
) -> np.ndarray:
    """Tries members of a category, smaller and smaller, until every earlier object keeps its share."""
    size = len(owner)
    while True:
        margin = 0.6 * radius
        coverage = _coverage(_parts(category, rng), rng.uniform(margin, size - margin, 2), radius, size, rng)
        left = np.bincount(owner[coverage < 0.5] + 1, minlength=len(areas) + 1)[1:]
        if (coverage >= 0.5).sum() >= 24 and np.all(left >= MIN_VISIBLE * np.array(areas)):
            return coverage
        radius = max(0.95 * radius, 0.05 * size)


def _crowd(category: str, size: int, rng: np.random.Generator) -> np.ndarray:
    """A cluster of tiny objects that an annotator would outline as one crowd."""
    middle = rng.uniform(0.2 * size, 0.8 * size, 2)
    members = []
    for _ in range(rng.integers(8, 15)):
        centre = np.clip(middle + rng.normal(0, 0.1 * size, 2), 0.05 * size, 0.95 * size)
        members.append(_coverage(_parts(category, rng), centre, rng.uniform(0.03, 0.045) * size, size, rng))
    return np.maximum.reduce(members)


class _Painter:
    """Paints the images of one split one after the other, dealing the categories in equal numbers.

    Args:
        size: Side of the square images, in pixels.
        rng: The only source of randomness.
    """

    def __init__(self, size: int, rng: np.random.Generator) -> None:
        self.size, self.rng = size, rng
        self.deck: list[int] = []

    def _deal(self) -> int:
        if not self.deck:
            self.deck = self.rng.permutation(len(CATEGORIES)).tolist()
        return self.deck.pop()

    def _paint_object(self, image: np.ndarray, coverage: np.ndarray) -> None:
        """Paints an object in random colours that differ from what lies under it."""
        behind = image[coverage >= 0.5].mean(0)
        colours = behind[None]
        while np.abs(colours.mean(0) - behind).max() < 70:
            hsv = self.rng.integers((0, 150, 110), (180, 256, 256))  # OpenCV's ranges
            vivid = cv2.cvtColor(hsv[None, None].astype(np.uint8), cv2.COLOR_HSV2BGR)[0, 0]
            colours = vivid + self.rng.normal(0, 12, (2, 3))
        texture = _texture(self.size, colours.astype(np.float32), self.rng)
        image += coverage[..., None] * (texture - image)

    def paint(self) -> tuple[np.ndarray, np.ndarray, list[int], bool]:
        """Paints one image.

        Returns:
            The BGR image; for each pixel the index of the object seen there, -1 for none; the objects'
            categories, 0-based; whether object 0 is a crowd.
        """
        rng, size = self.rng, self.size
        # Muted backgrounds, vivid objects: what is an object can be seen, which one it is takes its outline.
        colours = rng.uniform(40, 215) + rng.normal(0, 12, 3) + rng.normal(0, 25, (2, 1))
        image = _texture(size, colours.astype(np.float32), rng)
        owner = np.full((size, size), -1)
        categories: list[int] = []
        areas: list[int] = []

        def add(category: int, coverage: np.ndarray) -> None:
            self._paint_object(image, coverage)
            owner[coverage >= 0.5] = len(categories)
            categories.append(category)
            areas.append(int((coverage >= 0.5).sum()))

        has_crowd = rng.random() < CROWD_RATE
        if has_crowd:
            category = int(rng.integers(len(CATEGORIES)))
            add(category, _crowd(CATEGORIES[category], size, rng))
        count = rng.integers(3, 8)
        big = rng.random(count) < 0.12
        radii = np.where(
            big,
            rng.uniform(0.36, 0.52, count),
            np.exp(rng.uniform(np.log(0.09), np.log(0.22), count)),
        )
        # Mostly the smaller ones on top, else they would vanish.
        for radius in size * radii[np.argsort(-radii * rng.uniform(0.6, 1.4, count))]:
            category = self._deal()
            add(category, _place(CATEGORIES[category], radius, owner, areas, rng))
        image += rng.normal(0, 4, image.shape)
        return np.clip(np.round(image), 0, 255).astype(np.uint8), owner, categories, has_crowd


def _annotation(mask: np.ndarray, category: int, crowd: bool) -> dict[str, Any]:
    """A COCO annotation of one mask: compressed RLE, but for a crowd run lengths as in COCO's own files."""
    rle = mask_utils.encode(np.asfortranarray(mask, np.uint8))
    if crowd:
        runs = np.diff(
            np.flatnonzero(np.diff(mask.ravel('F'), prepend=False, append=~mask[-1, -1])), prepend=0
        )
        segmentation = dict(size=list(mask.shape), counts=runs.tolist())
    else:
        segmentation = dict(size=list(mask.shape), counts=rle['counts'].decode())
    return dict(
        category_id=category + 1,
        iscrowd=int(crowd),
        area=int(mask_utils.area(rle)),
        bbox=mask_utils.toBbox(rle).tolist(),
        segmentation=segmentation,
    )


def _write_image(path: Path, image: np.ndarray, *options: int) -> None:
    path.write_bytes(cv2.imencode(path.suffix, image, options)[1].tobytes())


def _write_split(root: Path, split: str, ade_split: str, count: int, painter: _Painter) -> None:
    folders = [
        root / split,
        root / 'ade' / 'images' / ade_split,
        root / 'ade' / 'annotations' / ade_split,
    ]
    for folder in folders:
        folder.mkdir(parents=True)
    images, annotations = [], []
    for index in tqdm(range(count), desc=split, unit='image', disable=None):
        image, owner, categories, has_crowd = painter.paint()
        name = f'{split}_{index:05d}'
        _write_image(folders[0] / f'{name}.png', image)
        _write_image(folders[1] / f'{name}.jpg', image, *JPEG)
        labels = np.array([0, *(category + 1 for category in categories)], np.uint8)
        _write_image(folders[2] / f'{name}.png', labels[owner + 1])
        images.append(dict(id=index + 1, file_name=f'{name}.png', width=painter.size, height=painter.size))
        for which, category in enumerate(categories):
            annotation = _annotation(owner == which, category, has_crowd and which == 0)
            annotations.append(dict(id=len(annotations) + 1, image_id=index + 1, **annotation))
    (root / 'annotations').mkdir(exist_ok=True)
    coco = dict(
        info=dict(description='Generated shapes'),
        licenses=[],
        images=images,
        annotations=annotations,
        categories=[dict(id=i + 1, name=name, supercategory='shape') for i, name in enumerate(CATEGORIES)],
    )
    (root / 'annotations' / f'instances_{split}.json').write_text(json.dumps(coco))


def make_shapes(out: str | Path, train: int, val: int, size: int = MIN_SIZE, seed: int = 0) -> bool:
    """Writes the shapes data set, or finds it there already.

    The folder appears complete or not at all::

        OUT/shapes.json                                      the parameters it was made with
        OUT/annotations/instances_{train,val}.json           COCO instances, category ids from 1
        OUT/{train,val}/*.png
        OUT/ade/images/{training,validation}/*.jpg           the same images
        OUT/ade/annotations/{training,validation}/*.png      0 = other, then the category ids

    Args:
        out: Folder to write.
        train: Number of training images.
        val: Number of validation images.
        size: Side of the square images, in pixels.
        seed: Equal seeds give equal files. The two splits draw from different streams of it.

    Returns:
        True where the data was generated, False where it was there.

    Raises:
        ValueError: A number is out of range.
        UserError: `out` holds anything else than this very data set.
    """
    for name, value, least in (
        ('train', train, 2),
        ('val', val, 2),
        ('size', size, MIN_SIZE),
        ('seed', seed, 0),
    ):
        if value < least:
            raise ValueError(f'{name} must be at least {least}, got {value}')

    def fill(root: Path) -> None:
        for stream, (split, ade_split, count) in enumerate(
            (('train', 'training', train), ('val', 'validation', val))
        ):
            painter = _Painter(size, np.random.default_rng([seed, stream]))
            _write_split(root, split, ade_split, count, painter)

    wanted = dict(version=1, train=train, val=val, size=size, seed=seed)
    return generate(out, 'shapes.json', wanted, fill)
