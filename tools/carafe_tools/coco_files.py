# SPDX-License-Identifier: Apache-2.0
"""Check the COCO files that a config names, before anything is built from them."""

import json
import os
from pathlib import Path

from carafe_plugin.runtime.config_parts import dataset_class, unwrap
from carafe_plugin.runtime.errors import UserError


def check_coco_dataset(cfg: dict, where: str, annotated: bool = True) -> None:
    """Check a dataset config, through wrappers: the annotation file is COCO's, its images are there.

    Only MMDetection's CocoDataset and its kin are looked at, local files only. A folder is listed once,
    however many images it holds.

    Args:
        cfg: dataset config.
        where: its name in the config, for messages.
        annotated: the file must hold annotations; False for test images without.

    Raises:
        UserError: names what is wrong.
    """
    for name, dataset in unwrap(cfg, where):
        cls = dataset_class(dataset)
        coco = next((base for base in cls.__mro__ if base.__name__ == 'CocoDataset'), None)
        ann_file = dataset.get('ann_file')
        if coco is None or not isinstance(ann_file, str) or dataset.get('backend_args'):
            continue
        root = dataset.get('data_root') or ''
        ann_file = os.path.join(root, ann_file)
        file_names = check_coco_file(ann_file, f'{name}.ann_file', annotated)
        # A class that finds its images in another way, and a subset, are left to their own loaders.
        plain = cls.parse_data_info is coco.parse_data_info and cls.load_data_list is coco.load_data_list
        prefix = (dataset.get('data_prefix') or {}).get('img')
        if plain and isinstance(prefix, str) and dataset.get('indices') is None:
            _check_images(os.path.join(root, prefix), file_names, ann_file)


def check_coco_file(path: str, where: str, annotated: bool = True) -> tuple[str, ...]:
    """Check that ``path`` is a COCO annotation file; return the file names of its images.

    Raises:
        UserError: it is missing, no JSON, or lacks one of COCO's lists.
    """
    if '://' in path:
        return ()
    if not os.path.isfile(path):
        raise UserError(f'annotation file {path} does not exist ({where})')
    try:
        with open(path, encoding='utf-8') as file:
            content = json.load(file)
    except ValueError as error:
        raise UserError(f'annotation file {path} is not JSON: {error} ({where})') from error
    for key in ('images', 'annotations', 'categories') if annotated else ('images', 'categories'):
        entries = content.get(key) if isinstance(content, dict) else None
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise UserError(f'annotation file {path} is not COCO: it has no list "{key}" ({where})')
    return tuple(image['file_name'] for image in content['images'] if 'file_name' in image)


def _check_images(folder: str, file_names: tuple[str, ...], ann_file: str) -> None:
    if '://' in folder:
        return
    listings: dict[Path, frozenset[str]] = {}
    missing = []
    for file_name in file_names:
        path = Path(folder, file_name)
        if path.parent not in listings:
            present = os.listdir(path.parent) if path.parent.is_dir() else ()
            listings[path.parent] = frozenset(present)
        if path.name not in listings[path.parent]:
            missing.append(path)
    if missing:
        raise UserError(
            f'image {missing[0]} does not exist, {len(missing)} of the {len(file_names)} images '
            f'listed in {ann_file} are absent'
        )
