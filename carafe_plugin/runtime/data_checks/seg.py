# SPDX-License-Identifier: Apache-2.0
"""Check the images and label maps that a segmentation config names, before the Runner is made."""

import os

import mmcv
import mmengine.fileio
import numpy as np
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS

from carafe_plugin.runtime.config_parts import dataset_class, find_step, steps, type_name, unwrap
from carafe_plugin.runtime.errors import UserError, notice

from .classes import class_names, some
from .images import SizeReader, build_step, spread


def check_seg_dataset(cfg: dict, where: str, train: bool = False) -> None:
    """Check a dataset config, through wrappers: every image has a label map, and their contents fit.

    Only MMSegmentation's BaseSegDataset and its kin are looked at, local files only. That the files are there
    is checked of all of them, size and label values of at most :data:`.images.SAMPLE`, evenly spread, read
    as the pipeline reads them.

    Args:
        cfg: dataset config.
        where: its name in the config, for messages.
        train: labels that teach a single class are an error; else that is told.

    Raises:
        UserError: names the file, the label or the entry of a label map that is wrong.
    """
    seen: set[int] = set()
    looked = total = 0
    classes: tuple[str, ...] = ()
    for name, inner in unwrap(cfg, where):
        cls = dataset_class(inner)
        if not any(base.__name__ == 'BaseSegDataset' for base in cls.__mro__) or inner.get('backend_args'):
            continue
        classes = class_names(inner, name) or ()
        dataset = _build(inner, name)
        images = [info['img_path'] for info in dataset.data_list]
        if not images:
            folder = dataset.data_prefix.get('img_path')
            raise UserError(f'no image *{dataset.img_suffix} in {folder} ({name})')
        _check_present(images, 'image', name)
        load = find_step(inner, 'LoadAnnotations')
        if load is None:
            continue
        labels = [info['seg_map_path'] for info in dataset.data_list]
        _check_present(labels, 'label map', name)
        if load.get('reduce_zero_label') not in (None, dataset.reduce_zero_label):
            raise UserError(
                f'reduce_zero_label is {load["reduce_zero_label"]} in LoadAnnotations and '
                f'{dataset.reduce_zero_label} in the data set ({name})'
            )
        reader = _LabelReader(inner, dataset, name)
        chosen = spread(len(images))
        for index in chosen:
            seen |= reader.read(images[index], labels[index])
        looked, total = looked + len(chosen), total + len(images)
    if looked and len(classes) > 1:
        _check_seen(seen, classes, looked, total, where, train)


def _check_seen(
    seen: set[int], classes: tuple[str, ...], looked: int, total: int, where: str, train: bool
) -> None:
    maps = f'{looked} label maps ({where})'
    if len(seen) < 2:
        found = f'is {classes[min(seen)]!r} or ignored' if seen else 'is ignored'
        text = f'every pixel {found} in {maps}, of {len(classes)} classes: {some(classes)}'
        if train:
            raise UserError(f'{text}; nothing can be learnt from them')
        notice(text)
    elif train and looked == total and (absent := set(range(len(classes))) - seen):
        notice(
            f'{len(absent)} of the {len(classes)} classes have no pixel in the {maps}: '
            f'{some(classes[label] for label in sorted(absent))}'
        )


def _build(cfg: dict, name: str) -> BaseDataset:
    """The data set with its lists and without a pipeline."""
    try:
        return DATASETS.build(dict(cfg, pipeline=[], serialize_data=False, lazy_init=False))
    except (AssertionError, OSError, TypeError, ValueError) as error:
        path = os.path.join(cfg.get('data_root') or '', cfg.get('ann_file') or '')
        cause = str(error) or f'{path} does not exist'
        raise UserError(f'{name} cannot be built: {cause}') from error


def _check_present(paths: list[str], what: str, name: str) -> None:
    folders = filter(os.path.isdir, {os.path.dirname(path) for path in paths})
    present = {os.path.join(folder, file) for folder in folders for file in os.listdir(folder)}
    missing = [path for path in paths if path not in present]
    if missing:
        raise UserError(
            f'{what} {missing[0]} does not exist, {len(missing)} of the {len(paths)} are absent ({name})'
        )


class _LabelReader:
    """Reads label maps as the pipeline does, and says what is wrong with one."""

    def __init__(self, cfg: dict, dataset: BaseDataset, where: str) -> None:
        load = find_step(cfg, 'LoadAnnotations') or {}
        self._sizes = SizeReader(cfg, where)
        self._backend = load.get('imdecode_backend', 'pillow')
        self._mapping = [build_step(step, where) for step in steps(cfg) if type_name(step) == 'MapLabels']
        self._dataset = dataset

    def read(self, image: str, label: str) -> set[int]:
        """The classes in a label map.

        Raises:
            UserError: it does not fit its image, or has labels that mean nothing.
        """
        size = self._sizes.read(image)
        try:
            content = mmengine.fileio.get(label)
            values = mmcv.imfrombytes(content, flag='unchanged', backend=self._backend).squeeze()
        except Exception as error:  # each backend has its own
            raise UserError(f'{label} is not a readable image') from error
        if values.ndim != 2:
            raise UserError(f'label map {label} has {values.shape[-1]} channels, a label map has one')
        if values.dtype.kind not in 'bui' or values.min() < 0:
            raise UserError(f'label map {label} must hold whole numbers from 0 on, got {values.dtype}')
        if size is not None and values.shape[::-1] != size:
            raise UserError(
                f'label map {label} is of {values.shape[1]} x {values.shape[0]} pixels, its image of '
                f'{size[0]} x {size[1]}'
            )
        found = np.flatnonzero(np.bincount(values.ravel()))
        self._check_labels(label, found)
        return self._classes(found)

    def _check_labels(self, label: str, found: np.ndarray) -> None:
        for transform in self._mapping:
            if missing := transform.unmapped(found):
                raise UserError(
                    f'label map {label}: label_map leaves label {missing[0]} unmapped, it has '
                    f'{len(transform.label_map)} entries'
                )
        # As LoadAnnotations shifts them, 0 being ignored; a table maps every label that it reaches.
        dataset = self._dataset
        first = 1 if dataset.reduce_zero_label else 0
        known = dataset.label_map or range(len(dataset.metainfo.get('classes') or ()))
        legal = {*range(first), *(value + first for value in known), dataset.ignore_index}
        wrong = [int(value) for value in found if value not in legal]
        if wrong and not self._mapping and len(known):
            raise UserError(
                f'label map {label} holds label {wrong[0]}; the data set has {len(known)} classes, '
                f'{first} to {len(known) - 1 + first}, and {dataset.ignore_index} to ignore'
            )

    def _classes(self, found: np.ndarray) -> set[int]:
        values = found.astype(np.uint8)
        if self._dataset.reduce_zero_label:
            values = np.where(values == 0, 255, values - 1)
        labels = [(self._dataset.label_map or {}).get(int(value), int(value)) for value in values]
        for transform in self._mapping:
            labels = [
                transform.label_map[label] if label < len(transform.label_map) else label for label in labels
            ]
        return {label for label in labels if label < len(self._dataset.metainfo.get('classes') or ())}
