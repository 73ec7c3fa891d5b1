# SPDX-License-Identifier: Apache-2.0
"""What ``tools/demo.py`` does with a detection config. Needs mmdet."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

import mmcv
import numpy as np
import torch
from mmdet.apis import inference_detector
from mmdet.structures.mask import bitmap_to_polygon
from mmdet.visualization.palette import get_palette
from mmengine.structures import InstanceData
from mmengine.visualization import Visualizer
from PIL import Image
from pycocotools.coco import COCO
from tqdm import tqdm

from carafe_plugin.runtime.data_checks.coco import read_coco_file
from carafe_plugin.runtime.errors import UserError, notice

from .drawing import sheet

SIDE = 480  # smaller pictures are enlarged to about this, to show boundaries and labels
CROWD = (150, 150, 150)
LABEL = {'facecolor': 'black', 'alpha': 0.7, 'pad': 0.8, 'edgecolor': 'none'}


class GroundTruth:
    """Annotations of a COCO file, looked up by the path of an image.

    Args:
        file: The COCO json.
        images: The images that must be in it.
        classes: Names in the order of the model's labels; other categories are not drawn.

    Raises:
        UserError: The file is not COCO, lacks one of the images, or none of its categories is a class.
    """

    def __init__(self, file: Path, images: list[Path], classes: tuple[str, ...]) -> None:
        read_coco_file(str(file), '--ground-truth')
        with contextlib.redirect_stdout(None):  # pycocotools prints
            self.coco = COCO(file)
        ids = {Path(info['file_name']).parts: i for i, info in self.coco.imgs.items()}
        names = {category['name']: i for i, category in self.coco.cats.items()}
        self.classes = classes
        self.labels = {names[name]: label for label, name in enumerate(classes) if name in names}
        if not self.labels:
            known = ', '.join(classes)
            raise UserError(f'{file}: none of its categories is a class of the model ({known})')
        self.ids = {}
        for image in images:
            parts = image.resolve().parts
            found = [ids[parts[i:]] for i in range(len(parts)) if parts[i:] in ids]
            if not found:
                raise UserError(f'{image} is not listed in {file}')
            self.ids[image] = found[0]

    def __getitem__(self, image: Path) -> InstanceData:
        annotations = [
            a
            for a in self.coco.loadAnns(self.coco.getAnnIds(self.ids[image]))
            if a['category_id'] in self.labels
        ]
        crowds = [a.get('iscrowd', 0) for a in annotations]
        labels = [self.labels[a['category_id']] for a in annotations]
        boxes = np.array([a['bbox'] for a in annotations], dtype=np.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        instances = InstanceData(
            bboxes=torch.from_numpy(boxes),
            # The palette's entry after the last class is the crowds' grey.
            labels=torch.tensor(
                [len(self.classes) if crowd else label for label, crowd in zip(labels, crowds, strict=True)],
                dtype=torch.long,
            ),
            label_names=[
                self.classes[label] + ' (crowd)' * crowd for label, crowd in zip(labels, crowds, strict=True)
            ],
        )
        if any(a.get('segmentation') for a in annotations):
            masks = np.stack([self._mask(a) for a in annotations])
            instances.masks = torch.from_numpy(masks).bool()
        return instances

    def _mask(self, annotation: dict) -> np.ndarray:
        """The pixels of an annotation; none where it has a box alone."""
        if annotation.get('segmentation'):
            return self.coco.annToMask(annotation)
        image = self.coco.imgs[annotation['image_id']]
        return np.zeros((image['height'], image['width']), np.uint8)


def enlarge(instances: InstanceData, factor: int) -> InstanceData:
    """Instances of an image of ``factor`` times the size, on the CPU; every mask pixel becomes a block."""
    instances = instances.cpu()
    instances.bboxes = instances.bboxes * factor
    if 'masks' in instances:
        masks = instances.masks.repeat_interleave(factor, dim=1)
        instances.masks = masks.repeat_interleave(factor, dim=2)
    return instances


class Painter:
    """Draws instances in the colours of their categories, small images enlarged.

    Args:
        meta: ``classes`` and ``palette`` of the model.
        score_thr: Predictions of at most this score are not drawn.
        grey: Draw over the image without its colours (for where it stands beside).
    """

    def __init__(self, meta: dict, score_thr: float, grey: bool) -> None:
        self.classes = meta['classes']
        self.palette = [*get_palette(meta['palette'], len(self.classes))[: len(self.classes)], CROWD]
        self.score_thr = score_thr
        self.grey = grey
        self.visualizer = Visualizer()

    def row(self, path: Path, found: InstanceData, truth: InstanceData | None) -> list[np.ndarray]:
        """The picture of one image: itself, the truth if there is one, the prediction; RGB each."""
        image = mmcv.imread(path, channel_order='rgb')
        factor = max(1, round(SIDE / max(image.shape[:2])))
        image = mmcv.imrescale(image, float(factor), interpolation='bicubic')
        found = found[found.scores > self.score_thr]
        layers = [found] if truth is None else [truth, found]
        ground = mmcv.gray2rgb(mmcv.rgb2gray(image)) if self.grey else image
        return [image, *(self._draw(ground, enlarge(layer, factor)) for layer in layers)]

    def _draw(self, image: np.ndarray, instances: InstanceData) -> np.ndarray:
        if not len(instances):
            return image
        labels = instances.labels.tolist()
        colours = [tuple(self.palette[label]) for label in labels]
        texts = instances.get('label_names') or [self.classes[label] for label in labels]
        if 'scores' in instances:
            texts = [f'{t} {s:.2f}' for t, s in zip(texts, instances.scores.tolist(), strict=True)]
        unit = max(1, max(image.shape) / 640)
        visualizer = self.visualizer
        visualizer.set_image(image)
        if 'masks' in instances:
            masks = instances.masks.numpy()
            visualizer.draw_binary_masks(masks, colors=colours, alphas=0.5)
            for mask, colour in zip(masks, colours, strict=True):
                contours, _ = bitmap_to_polygon(mask)
                if not contours:
                    continue
                visualizer.draw_polygons(contours, edge_colors=colour, line_widths=1.5 * unit, alpha=1)
        # A box that ends beyond the last pixel would stretch the canvas.
        limits = torch.tensor(image.shape[1::-1] * 2) - 1
        boxes = instances.bboxes.clamp(min=0).minimum(limits)
        visualizer.draw_bboxes(boxes, edge_colors=colours, line_widths=unit)
        visualizer.draw_texts(texts, boxes[:, :2], font_sizes=8 * unit, colors='w', bboxes=LABEL)
        return visualizer.get_image()


def demo(
    model: torch.nn.Module,
    images: Sequence[Path],
    files: Sequence[Path],
    truth_file: Path | None,
    score_thr: float,
    grid: bool,
) -> None:
    """Draw what a detector finds in each image.

    Args:
        model: a detector of ``mmdet.apis.init_detector``.
        images: what to look at.
        files: the picture to write for each; the same one for all with ``grid``.
        truth_file: COCO annotations, drawn between image and prediction.
        score_thr: predictions of at most this score are not drawn.
        grid: one sheet for all images.
    """
    truth = None
    if truth_file:
        truth = GroundTruth(truth_file, images, model.dataset_meta['classes'])
    titles = ['image', 'ground truth', 'prediction'] if truth else ['image', 'prediction']
    painter = Painter(model.dataset_meta, score_thr, grey=bool(grid or truth))
    rows, best = [], {}
    for path, file in zip(tqdm(images, desc='demo', unit='image'), files, strict=True):
        found = inference_detector(model, str(path)).pred_instances
        if len(found):
            best[path] = found.scores.max().item()
        row = painter.row(path, found, truth[path] if truth else None)
        file.parent.mkdir(parents=True, exist_ok=True)
        if grid:
            rows.append(row)
        else:
            picture = sheet([row], titles) if truth else Image.fromarray(row[-1])
            picture.save(file)
    if grid:
        sheet(rows, titles).save(files[0])
    if not best:
        notice('nothing was found, at whatever score')
    elif (score := max(best.values())) <= score_thr:
        where = next(path for path in best if best[path] == score)
        notice(f'nothing scores above --score-thr {score_thr:g}: the best is {score:.2g}, in {where}')
