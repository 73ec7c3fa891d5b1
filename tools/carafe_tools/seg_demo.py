# SPDX-License-Identifier: Apache-2.0
"""What ``tools/demo.py`` does with a segmentation config."""

import inspect
from collections.abc import Sequence
from pathlib import Path

import mmcv
import numpy as np
import torch
from mmengine.dataset import Compose
from tqdm import tqdm

from carafe_plugin.runtime.config_parts import dataset_class, type_name, unwrap
from carafe_plugin.runtime.errors import UserError

from .drawing import label_sheet

SIDE = 480  # smaller images are enlarged to about this


def suffixes(dataset: dict) -> tuple[str, str]:
    """Ends of the names of a data set's images and label maps: its config's, or those of its class."""
    defaults = dict(img_suffix='.jpg', seg_map_suffix='.png')
    for cls in reversed(dataset_class(dataset).__mro__):
        parameters = inspect.signature(cls.__init__).parameters
        defaults |= {key: parameters[key].default for key in defaults if key in parameters}
    return tuple(dataset.get(key, default) for key, default in defaults.items())


def find_label_map(folder: Path, image: Path, ends: tuple[str, str]) -> Path:
    """The label map of an image: as the data set names it, or NAME.png; in the folder, or in the image's own.

    A city of Cityscapes is such a folder of its own.

    Raises:
        UserError: there is none.
    """
    name = image.name.removesuffix(ends[0]) + ends[1] if image.name.endswith(ends[0]) else None
    names = dict.fromkeys(filter(None, (name, image.stem + ends[1], f'{image.stem}.png')))
    files = [folder / inner / name for name in names for inner in ('', image.absolute().parent.name)]
    found = next((file for file in files if file.is_file()), None)
    if found is None:
        raise UserError(f'{files[0]}: no such label map, for {image}')
    return found


def read_truth(folder: Path, images: Sequence[Path], model: torch.nn.Module) -> list[np.ndarray]:
    """The label map of each image, as the model's classes.

    Raises:
        UserError: there is none, it is of another size than its image, or it has a label that the config's
            ``MapLabels`` does not know.
    """
    _, dataset = next(unwrap(model.cfg.test_dataloader.dataset, ''))
    ends = suffixes(dataset)
    mapping = [step for step in dataset.pipeline if type_name(step) == 'MapLabels']
    load = Compose([dict(type='LoadAnnotations'), *mapping])
    meta = {key: model.dataset_meta.get(key) for key in ('label_map', 'reduce_zero_label')}
    maps = []
    for image in images:
        file = find_label_map(folder, image, ends)
        try:
            loaded = load(dict(seg_map_path=str(file), seg_fields=[], **meta))
        except OSError as error:
            raise UserError(f'{file}: not a readable image') from error
        except ValueError as error:
            raise UserError(error) from error
        labels = loaded['gt_seg_map']
        size = mmcv.imread(image).shape[:2]
        if labels.shape != size:
            raise UserError(f'{file} has the shape {labels.shape}, its image {size}')
        maps.append(labels)
    return maps


def demo(model: torch.nn.Module, images: Sequence[Path], files: Sequence[Path], truth: Path | None) -> None:
    """Draw the prediction for each image; one sheet for all where all ``files`` are the same.

    Args:
        model: a segmentor of ``mmseg.apis.init_model``.
        images: what to segment.
        files: the picture to write for each.
        truth: folder of label maps, drawn between image and prediction.
    """
    from mmseg.apis import inference_model

    model.cfg.setdefault('test_pipeline', model.cfg.test_dataloader.dataset.pipeline)  # where mmseg looks
    meta = model.dataset_meta
    maps = read_truth(truth, images, model) if truth else []
    titles = ['image', *['ground truth'] * bool(maps), 'prediction']
    sheets: dict[Path, list] = {}
    for index, (path, file) in enumerate(zip(tqdm(images, desc='demo', unit='image'), files, strict=True)):
        predicted = inference_model(model, str(path)).pred_sem_seg.data.squeeze(0).cpu().numpy()
        row = [mmcv.imread(path, channel_order='rgb'), *maps[index : index + 1], predicted]
        factor = max(1, round(SIDE / max(predicted.shape)))
        row = [layer.repeat(factor, 0).repeat(factor, 1) for layer in row]
        sheets.setdefault(file, []).append(row)
        if file not in files[index + 1 :]:
            file.parent.mkdir(parents=True, exist_ok=True)
            label_sheet(sheets.pop(file), titles, meta['classes'], meta['palette']).save(file)
