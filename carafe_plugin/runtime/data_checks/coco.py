# SPDX-License-Identifier: Apache-2.0
"""Check COCO files: that they are there, say what the loader takes them to say, and fit their images."""

import difflib
import functools
import itertools
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from carafe_plugin.runtime.config_parts import dataset_class, find_step, unwrap
from carafe_plugin.runtime.errors import UserError, notice

from .classes import class_names, some
from .images import SizeReader, spread

LEFT_OUT = 0.01  # COCO itself has a few boxes without an area, of which nobody need hear
BEYOND = 0.05  # amodal boxes, which end outside, are told of from this share on


def check_coco_dataset(cfg: dict, where: str, train: bool = False, annotated: bool = True) -> None:
    """Check a dataset config, through wrappers: annotation file, its classes and objects, its images.

    Only MMDetection's CocoDataset and its kin are looked at, local files only; of a class that reads the file
    in its own way (LVIS, panoptic), that it is COCO's and no more. A folder is listed once, however many
    images it holds; at most :data:`.images.SAMPLE` images are opened.

    Args:
        cfg: dataset config.
        where: its name in the config, for messages.
        train: say which classes have no object.
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
        path = os.path.join(root, ann_file)
        content = read_coco_file(path, f'{name}.ann_file', annotated)
        plain = cls.parse_data_info is coco.parse_data_info and cls.load_data_list is coco.load_data_list
        if not content or not plain:
            continue
        file = f'{path} ({name}.ann_file)'
        _require(content['images'], 'images', ('id', 'file_name', 'width', 'height'), file)
        _check_unique(content['images'], 'images', file)
        for image in content['images']:
            if not all(isinstance(image[side], (int, float)) for side in ('width', 'height')):
                raise UserError(
                    f'width and height must be numbers, image {image["id"]} has others, in {file}'
                )
        classes = class_names(dataset, name) or ()
        _check_categories(content, classes, file)
        if annotated:
            load = find_step(dataset, 'LoadAnnotations')
            _check_objects(content, classes, file, train, masks=bool(load and load.get('with_mask')))
        prefix = (dataset.get('data_prefix') or {}).get('img')
        # Which images a subset takes, its own loader finds out.
        if isinstance(prefix, str) and '://' not in prefix and dataset.get('indices') is None:
            _check_images(os.path.join(root, prefix), content['images'], path, SizeReader(dataset, name))


def check_coco_metric(cfg: dict, where: str, classes: Sequence[str] | None, annotated: bool = True) -> None:
    """Check the annotation file of a CocoMetric: pycocotools scores it, and rightly.

    Args:
        cfg: evaluator config; a file that is not local is left alone.
        where: its name in the config, for messages.
        classes: names of the labels that are evaluated; None where they are not known.
        annotated: the file must hold annotations.

    Raises:
        UserError: names what is wrong.
    """
    path = cfg.get('ann_file')
    if not isinstance(path, str) or cfg.get('backend_args'):
        return
    content = read_coco_file(path, f'{where}.ann_file', annotated)
    if not content:
        return
    file = f'{path} ({where}.ann_file)'
    if classes is not None and not cfg.get('sort_categories'):
        _check_categories(content, classes, file)
        if absent := sorted(set(classes) - {category['name'] for category in content['categories']}):
            raise UserError(
                f'{len(absent)} of the {len(classes)} classes are no category of {file}: {some(absent)}; '
                'CocoMetric cannot number what is found of them'
            )
    if not annotated:
        return
    annotations = content['annotations']
    _require(annotations, 'annotations', ('id', 'image_id', 'category_id', 'bbox', 'area', 'iscrowd'), file)
    _check_unique(annotations, 'annotations', file)
    if any(annotation['id'] == 0 for annotation in annotations):
        raise UserError(
            f'annotation id 0 in {file}: pycocotools counts that object as missed whatever is found; '
            'number the annotations from 1'
        )
    if 'segm' in (cfg.get('metric') or ()):
        _check_masks(annotations, _sizes(content), file, 'metric="segm"')


@functools.lru_cache(maxsize=1)
def _parse(path: str) -> Any:
    with open(path, encoding='utf-8') as file:
        return json.load(file)


#: Forget the file that was read last: COCO's takes more than a gigabyte of memory.
forget_coco_file = _parse.cache_clear


def read_coco_file(path: str, where: str, annotated: bool = True) -> dict:
    """Read a COCO annotation file, or take it from the call before; an empty dict for one that is not local.

    Raises:
        UserError: it is missing, no JSON, or lacks one of COCO's lists.
    """
    if '://' in path:
        return {}
    if not os.path.isfile(path):
        raise UserError(f'annotation file {path} does not exist ({where})')
    try:
        content = _parse(path)
    except ValueError as error:
        raise UserError(f'annotation file {path} is not JSON: {error} ({where})') from error
    for key in ('images', 'annotations', 'categories') if annotated else ('images', 'categories'):
        entries = content.get(key) if isinstance(content, dict) else None
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise UserError(f'annotation file {path} is not COCO: it has no list "{key}" ({where})')
    _require(content['categories'], 'categories', ('id', 'name'), f'{path} ({where})')
    return content


def _require(entries: list[dict], what: str, keys: tuple[str, ...], file: str) -> None:
    wanted = set(keys)
    if all(wanted <= entry.keys() for entry in entries):
        return
    key, count = Counter(key for entry in entries for key in keys if key not in entry).most_common(1)[0]
    raise UserError(f'{count} of the {len(entries)} {what} have no "{key}" in {file}')


def _check_unique(entries: list[dict], what: str, file: str) -> None:
    counts = Counter(entry['id'] for entry in entries)
    if len(counts) < len(entries):
        number, count = counts.most_common(1)[0]
        raise UserError(f'{count} {what} have the same id {number} in {file}')


def _check_categories(content: dict, classes: Sequence[str], file: str) -> None:
    """The loader numbers the categories that are classes as the file orders them, not the classes."""
    _check_unique(content['categories'], 'categories', file)
    names = [category['name'] for category in content['categories']]
    found = [name for name in names if name in classes]
    if not found:
        raise UserError(f'no category is a class in {file}: {some(names)} there, classes: {some(classes)}')
    if len(set(found)) < len(found):
        raise UserError(f'category {Counter(found).most_common(1)[0][0]!r} stands twice in {file}')
    absent = [name for name in classes if name not in found]
    near = {name.casefold(): name for name in names if name not in classes}
    for name in absent:
        if close := difflib.get_close_matches(name.casefold(), near, n=1, cutoff=0.75):
            raise UserError(f'class {name!r} is no category of {file}; {near[close[0]]!r} is')
    for label, (given, meant) in enumerate(zip(found, classes, strict=False)):
        if given != meant:
            cause = (
                f'class {absent[0]!r} is no category' if absent else 'categories and classes differ in order'
            )
            raise UserError(
                f'{cause} in {file}: labels follow the file, whose number {label} is {given!r} where '
                f'metainfo.classes has {meant!r}; list the classes as the file does'
            )


def _sizes(content: dict) -> dict:
    return {image['id']: (image.get('width'), image.get('height')) for image in content['images']}


def _check_objects(content: dict, classes: Sequence[str], file: str, train: bool, masks: bool) -> None:
    annotations = content['annotations']
    _require(annotations, 'annotations', ('id', 'image_id', 'category_id', 'bbox', 'area'), file)
    _check_unique(annotations, 'annotations', file)
    sizes = _sizes(content)
    boxes = _boxes(annotations, file)
    extents = np.array([sizes.get(a['image_id'], (0, 0)) for a in annotations], float).reshape(-1, 2)
    _check_boxes(boxes[extents[:, 0] > 0], extents[extents[:, 0] > 0], file)
    category_names = {category['id']: category['name'] for category in content['categories']}
    names: list = [category_names.get(annotation['category_id']) for annotation in annotations]
    corners = boxes[:, 2:] + boxes[:, :2]
    # What MMDetection's loader skips without a word.
    left_out = {
        'have an image_id that no image has': extents[:, 0] == 0,
        'have a box outside the image': (np.minimum(corners, extents) <= np.maximum(boxes[:, :2], 0)).any(1),
        'have a box of less than a pixel': (boxes[:, 2:] < 1).any(1),
        'have an area of 0': np.array([a['area'] for a in annotations], float) <= 0,
        'have a category_id that no category has': np.array([name is None for name in names], bool),
    }
    reasons = np.select(list(left_out.values()), range(len(left_out)), default=-1)
    counts = Counter({text: int((reasons == i).sum()) for i, text in enumerate(left_out)})
    kept = (reasons < 0).tolist()
    if counts.total() and not any(kept):
        reason, count = counts.most_common(1)[0]
        raise UserError(f'no annotation can be used, {count} of {len(annotations)} {reason}, in {file}')
    if counts.total() > LEFT_OUT * len(annotations):
        causes = ', '.join(f'{count} {reason}' for reason, count in counts.most_common() if count)
        notice(f'{counts.total()} of the {len(annotations)} annotations are left out in {file}: {causes}')
    if masks:
        wanted = set(classes)
        used = [a for a, name, keep in zip(annotations, names, kept, strict=True) if keep and name in wanted]
        _check_masks([a for a in used if not a.get('ignore')], sizes, file, 'LoadAnnotations with_mask=True')
    if train:
        objects: Counter[str] = Counter(itertools.compress(names, kept))
        _tell_of_classes(objects, category_names.values(), classes, file)


def _tell_of_classes(
    objects: Counter[str], categories: Iterable[str], classes: Sequence[str], file: str
) -> None:
    others = [name for name in categories if name not in classes]
    if count := sum(objects[name] for name in others):
        notice(f'{len(others)} categories, {count} objects, are of no class in {file}: {some(others)}')
    if absent := [name for name in classes if not objects[name]]:
        notice(f'{len(absent)} of the {len(classes)} classes have no object in {file}: {some(absent)}')


def _boxes(annotations: list[dict], file: str) -> np.ndarray:
    for annotation in annotations:
        box = annotation['bbox']
        if not isinstance(box, list) or len(box) != 4 or not {*map(type, box)} <= {int, float}:
            raise UserError(f'bbox must be four numbers, got {box!r}, in {file}')
    boxes = np.array([annotation['bbox'] for annotation in annotations], float).reshape(-1, 4)
    if wrong := boxes[~np.isfinite(boxes).all(1)].tolist():
        raise UserError(f'bbox must be four numbers, got {wrong[0]}, in {file}')
    return boxes


def _check_boxes(boxes: np.ndarray, extents: np.ndarray, file: str) -> None:
    if not len(boxes):
        return
    limits = 1.02 * extents + 1
    beyond = (boxes[:, :2] + boxes[:, 2:] > limits).any(1)
    as_corners = (boxes[:, 2:] > boxes[:, :2]).all(1) & (boxes[:, 2:] <= limits).all(1)
    found = f'{beyond.sum()} of the {len(boxes)} boxes end outside their image in {file}'
    if beyond.mean() > BEYOND and as_corners.mean() > 0.99:
        raise UserError(f'bbox must be x, y, width, height and looks like x1, y1, x2, y2: {found}')
    if beyond.mean() > 0.5:
        raise UserError(f'boxes and images differ in scale: {found}')
    if beyond.mean() > BEYOND:
        notice(found)


def _check_masks(annotations: list[dict], sizes: dict, file: str, why: str) -> None:
    """Each object has a mask that pycocotools can draw at the size of its image."""
    absent = [a for a in annotations if not a.get('segmentation')]
    if absent:
        raise UserError(
            f'{len(absent)} of the {len(annotations)} objects have no segmentation in {file}, the first is '
            f'annotation {absent[0]["id"]}, and {why} needs one of each'
        )
    thin = 0
    for annotation in annotations:
        mask = annotation['segmentation']
        if isinstance(mask, dict):
            width, height = sizes.get(annotation['image_id'], (None, None))
            if list(mask.get('size') or ()) != [height, width] or not mask.get('counts'):
                raise UserError(
                    f'annotation {annotation["id"]}: the segmentation must have counts and the size '
                    f'{[height, width]} of its image, got size {mask.get("size")}, in {file}'
                )
        elif not isinstance(mask, list) or {*map(type, mask)} != {list}:
            raise UserError(
                f'annotation {annotation["id"]}: the segmentation must be a list of polygons '
                f'[[x, y, x, y, ...], ...], got {str(mask)[:40]}, in {file}'
            )
        else:
            thin += all(len(polygon) < 6 or len(polygon) % 2 for polygon in mask)
    found = f'{thin} of the {len(annotations)} objects have less than three corners in {file}'
    if thin == len(annotations) > 0:
        raise UserError(found)
    if thin > LEFT_OUT * len(annotations):
        notice(found)


def _missing(folder: str, images: list[dict]) -> Iterator[Path]:
    listings: dict[Path, frozenset[str]] = {}
    for image in images:
        path = Path(folder, image['file_name'])
        if path.parent not in listings:
            present = os.listdir(path.parent) if path.parent.is_dir() else ()
            listings[path.parent] = frozenset(present)
        if path.name not in listings[path.parent]:
            yield path


def _check_images(folder: str, images: list[dict], path: str, sizes: SizeReader) -> None:
    if missing := list(_missing(folder, images)):
        raise UserError(
            f'image {missing[0]} does not exist, {len(missing)} of the {len(images)} images '
            f'listed in {path} are absent'
        )
    for index in spread(len(images)):
        image = images[index]
        file = os.path.join(folder, image['file_name'])
        size = sizes.read(file)
        if size is not None and size != (image['width'], image['height']):
            raise UserError(
                f'image {file} is loaded with {size[0]} x {size[1]} pixels, {path} says '
                f'{image["width"]} x {image["height"]}'
            )
