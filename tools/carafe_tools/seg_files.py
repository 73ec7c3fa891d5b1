# SPDX-License-Identifier: Apache-2.0
"""Check the images and label maps that a segmentation config names, before the Runner is made."""

import os
from collections.abc import Iterator
from itertools import chain

import numpy as np
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS, TRANSFORMS
from PIL import Image

from carafe_plugin.runtime.config_parts import dataset_class, type_name, unwrap
from carafe_plugin.runtime.errors import UserError

SAMPLE = 200  # label maps that are opened, spread evenly over a data set: a second or two


def check_seg_dataset(cfg: dict, where: str) -> None:
    """Check a dataset config, through wrappers: every image has a label map, and their contents fit.

    Only MMSegmentation's BaseSegDataset and its kin are looked at, local files only. That the files are there
    is checked of all of them, size and label values of at most :data:`SAMPLE`, evenly spread.

    Args:
        cfg: dataset config.
        where: its name in the config, for messages.

    Raises:
        UserError: names the file, the label or the entry of a label map that is wrong.
    """
    for name, inner in unwrap(cfg, where):
        cls = dataset_class(inner)
        if not any(base.__name__ == 'BaseSegDataset' for base in cls.__mro__) or inner.get('backend_args'):
            continue
        pipeline = list(_steps(inner.get('pipeline') or []))
        dataset = _build(inner, name)
        images = [info['img_path'] for info in dataset.data_list]
        if not images:
            folder = dataset.data_prefix.get('img_path')
            raise UserError(f'no image *{dataset.img_suffix} in {folder} ({name})')
        _check_present(images, 'image', name)
        if any(type_name(step) == 'LoadAnnotations' for step in pipeline):
            labels = [info['seg_map_path'] for info in dataset.data_list]
            _check_present(labels, 'label map', name)
            mapping = [_transform(step, name) for step in pipeline if type_name(step) == 'MapLabels']
            chosen = np.unique(np.linspace(0, len(images) - 1, SAMPLE).round().astype(int))
            for index in chosen:
                _check_pair(images[index], labels[index], dataset, mapping)


def _steps(pipeline: list) -> Iterator[dict]:
    """The transforms of a pipeline, those inside others included (test-time augmentation)."""
    for step in pipeline:
        if isinstance(step, dict):
            yield step
            yield from _steps(step.get('transforms') or [])
        elif isinstance(step, (list, tuple)):
            yield from _steps(step)


def _build(cfg: dict, name: str) -> BaseDataset:
    """The data set with its lists and without a pipeline."""
    try:
        return DATASETS.build(dict(cfg, pipeline=[], serialize_data=False, lazy_init=False))
    except (AssertionError, OSError, TypeError, ValueError) as error:
        path = os.path.join(cfg.get('data_root') or '', cfg.get('ann_file') or '')
        cause = str(error) or f'{path} does not exist'
        raise UserError(f'{name} cannot be built: {cause}') from error


def _transform(cfg: dict, name: str) -> object:
    try:
        return TRANSFORMS.build(cfg)
    except (TypeError, ValueError) as error:
        raise UserError(f'{name}: {error}') from error


def _check_present(paths: list[str], what: str, name: str) -> None:
    folders = filter(os.path.isdir, {os.path.dirname(path) for path in paths})
    present = {os.path.join(folder, file) for folder in folders for file in os.listdir(folder)}
    missing = [path for path in paths if path not in present]
    if missing:
        raise UserError(
            f'{what} {missing[0]} does not exist, {len(missing)} of the {len(paths)} are absent ({name})'
        )


def _check_pair(image: str, label: str, dataset: BaseDataset, mapping: list) -> None:
    size, _ = _read(image, pixels=False)
    label_size, values = _read(label)
    if label_size != size:
        raise UserError(
            f'label map {label} is of {label_size[0]} x {label_size[1]} pixels, its image of '
            f'{size[0]} x {size[1]}'
        )
    if values.ndim != 2:
        raise UserError(f'label map {label} has {values.shape[-1]} channels, a label map has one')
    found = np.flatnonzero(np.bincount(values.ravel()))
    for transform in mapping:
        if missing := transform.unmapped(found):
            raise UserError(
                f'label map {label}: label_map leaves label {missing[0]} unmapped, it has '
                f'{len(transform.label_map)} entries'
            )
    # As LoadAnnotations shifts them, 0 being ignored; a table maps every label that it reaches.
    first = 1 if dataset.reduce_zero_label else 0
    known = dataset.label_map or range(len(dataset.metainfo.get('classes') or ()))
    legal = set(chain(range(first), (value + first for value in known), (dataset.ignore_index,)))
    wrong = [int(value) for value in found if value not in legal]
    if wrong and not mapping and len(known):
        raise UserError(
            f'label map {label} holds label {wrong[0]}; the data set has {len(known)} classes, '
            f'{first} to {len(known) - 1 + first}, and {dataset.ignore_index} to ignore'
        )


def _read(path: str, pixels: bool = True) -> tuple[tuple[int, int], np.ndarray | None]:
    """Width and height of an image file, and its values where they are asked for."""
    try:
        with Image.open(path) as opened:
            return opened.size, np.array(opened) if pixels else None
    except OSError as error:  # cut off, or no image at all
        raise UserError(f'{path} is not a readable image') from error
