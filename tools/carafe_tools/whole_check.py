# SPDX-License-Identifier: Apache-2.0
"""Whether an exported whole model finds what PyTorch finds, from an image's file to results in its pixels."""

import copy
import tempfile
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from mmengine.dataset import Compose
from mmengine.structures import InstanceData
from torch import nn

from carafe_plugin.runtime.errors import UserError, notice
from infer_onnx import UserError as InferenceError
from infer_onnx import load, prepare, read_image, restore

from .drawing import label_sheet, sheet

ZOOMS = (1.0, 1.25)  # of the size that the config asks for
SCORE = 0.05  # boxes below do not count
EDGE = 1e-3  # nor do those that so small a difference of scores may have lifted above it
DISTANCE = 0.5  # pixels
SCORES = 0.01
MASK_IOU = 0.99
PIXELS = 0.999
DRAWN = 0.5  # boxes above this score are drawn
SIDE = 384  # smaller label maps are enlarged to about this


def check(
    file: Path,
    model: nn.Module,
    meta: dict,
    geometry: list[dict],
    images: Sequence[Path],
    picture: Path | None,
) -> None:
    """Compare at two sizes, a line for each; optionally draw both.

    Args:
        file: the ONNX file.
        model: what it was made from.
        meta: its description.
        geometry: steps of the test pipeline that resize and pad.
        images: what to look at, all readable; an image of noise where there is none.
        picture: where to draw PyTorch's results beside those of the file.

    Raises:
        UserError: the file does not run, or it finds something else.
    """
    with tempfile.TemporaryDirectory() as folder:
        if not images:
            notice('no image of the test data is here: the file is checked on one of noise')
            noise = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
            images = [Path(folder, 'noise.png')]
            cv2.imwrite(str(images[0]), cv2.resize(noise, (320, 240), interpolation=cv2.INTER_CUBIC))
        try:
            run = load(file, 'onnxruntime', None)
            for zoom in ZOOMS:
                rows = [_compare(run, model, meta, zoomed(geometry, zoom), path) for path in images]
                if picture and zoom == 1:
                    _draw(rows, images, meta, picture)
        except InferenceError as error:
            raise UserError(error) from error


def zoomed(geometry: list[dict], factor: float) -> list[dict]:
    """The same steps for images ``factor`` times the size."""
    geometry = copy.deepcopy(geometry)
    resize = geometry[0]
    if resize.get('scale_factor'):
        resize['scale_factor'] *= factor
    else:
        resize['scale'] = tuple(round(side * factor) for side in resize['scale'])
    return geometry


def _compare(run, model: nn.Module, meta: dict, geometry: list[dict], path: Path) -> tuple[dict, dict]:
    exact = predict(model, meta, geometry, path)
    image = read_image(path)
    rule = {key: value for key, value in geometry[0].items() if key != 'type'}
    images, factors = prepare(image, meta | dict(resize=meta['resize'] | rule))
    try:
        outputs = run(images)
    except Exception as error:  # onnxruntime's errors have no common class
        raise UserError(f'the file does not run at {tuple(images.shape)}: {error}'[:400]) from error
    size = image.shape[:2]
    if meta['task'] == 'segmentation':  # at the size of the network, where no enlarging follows
        size, factors = images.shape[2:], (1.0, 1.0)
    found = restore(outputs, meta, size, factors)
    where = f'{path.name} at {images.shape[2]} x {images.shape[3]}'
    if meta['task'] == 'segmentation':
        share = (found['labels'] == exact['labels']).mean()
        print(f'{where}: {100 * share:.3f} % of the pixels have the same class', flush=True)
        if not share >= PIXELS:
            raise UserError(
                f'{where}: only {100 * share:.3f} % of the pixels have the class that PyTorch gives'
            )
    else:
        try:
            count, differences = match(found, exact)
        except UserError as error:
            raise UserError(
                f'{where}: {error}; of a model that has hardly learned, scores are nearly equal and rounding '
                'decides which boxes stay: --no-check writes the file all the same'
            ) from None
        print(f'{where}: {count} boxes of score {SCORE} and more{differences}', flush=True)
    return exact, found


def predict(model: nn.Module, meta: dict, geometry: list[dict], path: Path) -> dict:
    """What the model itself finds in an image, by its toolbox's own way, as ``restore`` tells it."""
    segments = meta['task'] == 'segmentation'
    keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')
    pack = dict(type='PackSegInputs' if segments else 'PackDetInputs', meta_keys=keys[segments:])
    pipeline = Compose([dict(type='LoadImageFromFile'), *copy.deepcopy(geometry), pack])
    data = pipeline(dict(img_path=str(path), img_id=0))
    sample = data['data_samples']
    if segments:
        sample.set_metainfo(dict(ori_shape=sample.img_shape))
    with torch.no_grad():
        result = model.test_step(dict(inputs=[data['inputs']], data_samples=[sample]))[0]
    if segments:
        return dict(labels=result.pred_sem_seg.data[0].numpy())
    found = result.pred_instances
    return {
        name: found[field].numpy()
        for name, field in (
            ('boxes', 'bboxes'),
            ('scores', 'scores'),
            ('labels', 'labels'),
            ('masks', 'masks'),
        )
        if field in found
    }


def match(found: dict, exact: dict) -> tuple[int, str]:
    """Pair the boxes that count, both ways.

    Returns:
        How many they are, and the largest differences in words.

    Raises:
        UserError: a number is not finite, a box has no partner, or scores or masks differ.
    """
    for key, value in found.items():
        if not np.isfinite(value).all():
            raise UserError(f'{key} of the file are not all finite')
    distance = score = 0.0
    iou = 1.0
    counting = [
        (first, second, name, index)
        for first, second, name in ((exact, found, 'PyTorch'), (found, exact, 'the file'))
        for index in np.flatnonzero(first['scores'] >= SCORE + EDGE)
    ]
    for first, second, name, index in counting:
        label, box = first['labels'][index], first['boxes'][index]
        partners = np.flatnonzero(second['labels'] == label)
        # Of boxes on the same place the one with the same score.
        apart = np.abs(second['boxes'][partners] - box).max(1) + np.abs(
            second['scores'][partners] - first['scores'][index]
        )
        near = partners[apart.argmin()] if len(partners) else None
        if near is None or not np.abs(second['boxes'][near] - box).max() <= DISTANCE:
            values = ', '.join(f'{value:.1f}' for value in box)
            raise UserError(
                f'{name} alone finds label {label} at {values} with a score of {first["scores"][index]:.3f}'
            )
        distance = max(distance, float(np.abs(second['boxes'][near] - box).max()))
        score = max(score, float(abs(second['scores'][near] - first['scores'][index])))
        if 'masks' in exact:
            one, other = first['masks'][index], second['masks'][near]
            union = (one | other).sum()
            iou = min(iou, float((one & other).sum() / union) if union else 1.0)
    if not (score <= SCORES and iou >= MASK_IOU):
        raise UserError(
            f'scores differ by {score:.3g} (allowed {SCORES}), least IoU of masks {iou:.3f} ({MASK_IOU})'
        )
    count = int((exact['scores'] >= SCORE + EDGE).sum())
    words = f', within {distance:.2g} px, scores within {score:.1g}' if counting else ''
    return count, words + (f', least IoU of masks {iou:.4f}' if 'masks' in exact and counting else '')


def _draw(rows: Sequence[tuple[dict, dict]], images: Sequence[Path], meta: dict, picture: Path) -> None:
    titles = ['PyTorch', 'ONNX file']
    if meta['task'] == 'segmentation':
        columns = []
        for path, pair in zip(images, rows, strict=True):
            size = pair[0]['labels'].shape
            layers = [cv2.resize(read_image(path)[..., ::-1], size[::-1]), *(x['labels'] for x in pair)]
            factor = max(1, round(SIDE / max(size)))
            columns.append([layer.repeat(factor, 0).repeat(factor, 1) for layer in layers])
        drawn = label_sheet(columns, ['image', *titles], meta['classes'], meta['palette'])
    else:
        from .det_demo import Painter

        painter = Painter(meta, DRAWN, grey=False)
        drawn = sheet(
            [
                [painter.row(path, _instances(result), None)[-1] for result in pair]
                for path, pair in zip(images, rows, strict=True)
            ],
            titles,
        )
    drawn.save(picture, quality=85)
    print(picture)


def _instances(result: dict) -> InstanceData:
    fields = {
        'bboxes' if name == 'boxes' else name: torch.from_numpy(value) for name, value in result.items()
    }
    return InstanceData(**fields)
