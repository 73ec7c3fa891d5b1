# SPDX-License-Identifier: Apache-2.0
"""Check the XML annotations of Pascal VOC's layout."""

import difflib
import os
import xml.etree.ElementTree as ET
from collections import Counter

from carafe_plugin.runtime.config_parts import dataset_class, unwrap
from carafe_plugin.runtime.errors import UserError, notice

from .classes import class_names, some
from .images import SizeReader, spread


def check_voc_dataset(cfg: dict, where: str, train: bool = False) -> None:
    """Check a dataset config, through wrappers: its objects are of its classes and lie in their images.

    Only MMDetection's XMLDataset and its kin are looked at, local files only; at most
    :data:`.images.SAMPLE` of the annotations are read, evenly spread.

    Args:
        cfg: dataset config.
        where: its name in the config, for messages.
        train: say which objects are of no class.

    Raises:
        UserError: names what is wrong.
    """
    for name, dataset in unwrap(cfg, where):
        cls = dataset_class(dataset)
        voc = next((base for base in cls.__mro__ if base.__name__ == 'XMLDataset'), None)
        if voc is None or cls.load_data_list is not voc.load_data_list or dataset.get('backend_args'):
            continue
        _check(dataset, name, train)


def _check(dataset: dict, name: str, train: bool) -> None:
    root = dataset.get('data_root') or ''
    folder = os.path.join(root, (dataset.get('data_prefix') or {}).get('sub_data_root', ''))
    ann_file = os.path.join(root, dataset.get('ann_file') or '')
    if not os.path.isfile(ann_file):
        raise UserError(f'list of images {ann_file} does not exist ({name}.ann_file)')
    with open(ann_file, encoding='utf-8') as file:
        stems = file.read().split('\n')
    stems = [stem for stem in stems if stem]
    annotations = os.path.join(folder, dataset.get('ann_subdir', 'Annotations'))
    images = os.path.join(folder, dataset.get('img_subdir', 'JPEGImages'))
    sizes = SizeReader(dataset, name)
    counts: Counter[str] = Counter()
    for index in spread(len(stems)):
        counts.update(
            _check_file(
                os.path.join(annotations, f'{stems[index]}.xml'),
                os.path.join(images, f'{stems[index]}.jpg'),
                sizes,
            )
        )
    classes = class_names(dataset, name) or ()
    others = {label: count for label, count in counts.items() if label not in classes}
    for label in classes:
        near = {other.casefold(): other for other in others}
        if label not in counts and (
            close := difflib.get_close_matches(label.casefold(), near, n=1, cutoff=0.75)
        ):
            raise UserError(
                f'class {label!r} names no object in {annotations}; {near[close[0]]!r} does ({name})'
            )
    if others and len(others) == len(counts):
        raise UserError(f'no object in {annotations} is of a class: {some(others)} there ({name})')
    if others and train:
        notice(f'{sum(others.values())} objects in {annotations} are of no class: {some(others)} ({name})')


def _check_file(path: str, image: str, sizes: SizeReader) -> list[str]:
    """Names of the objects in a file."""
    if not os.path.isfile(path):
        raise UserError(f'annotation file {path} does not exist')
    try:
        root = ET.parse(path).getroot()
        size = root.find('size')
        sides = ('width', 'height')
        stated = None if size is None else tuple(int(size.findtext(side, '')) for side in sides)
        objects = [
            (
                element.findtext('name', ''),
                [float(element.findtext(f'bndbox/{side}', '')) for side in ('xmin', 'ymin', 'xmax', 'ymax')],
            )
            for element in root.findall('object')
        ]
    except (ET.ParseError, ValueError) as error:
        raise UserError(f'annotation file {path} is not of VOC: {error}') from error
    if not os.path.isfile(image):
        raise UserError(f'image {image} does not exist')
    loaded = sizes.read(image)
    if loaded and stated and loaded != stated:
        raise UserError(
            f'image {image} is loaded with {loaded[0]} x {loaded[1]} pixels, {path} says '
            f'{stated[0]} x {stated[1]}'
        )
    for label, (left, top, right, bottom) in objects:
        if not label:
            raise UserError(f'annotation file {path} is not of VOC: an object has no name')
        if not (left <= right and top <= bottom):
            raise UserError(
                f'bndbox of {label!r} in {path} must go from xmin, ymin to xmax, ymax, got '
                f'{left:g}, {top:g}, {right:g}, {bottom:g}'
            )
    return [label for label, _ in objects]
