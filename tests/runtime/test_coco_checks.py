# SPDX-License-Identifier: Apache-2.0
"""COCO files whose labels, boxes or masks would train or score something else are refused in one line."""

import copy
import json
import re

import cv2
import numpy as np
import pytest
from mmdet.datasets import CocoDataset, LVISV1Dataset  # noqa: F401  (registered)
from mmdet.datasets.api_wrappers import COCO, COCOeval
from mmengine.registry import DefaultScope
from PIL import Image

from carafe_plugin.runtime.data_checks import coco
from carafe_plugin.runtime.errors import UserError

CLASSES = ('star', 'gear', 'ring')
LOAD = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True, with_mask=True)]


def content():
    """Two images of 100 x 80 pixels, three objects in each."""
    boxes = {'star': [10, 10, 20, 30], 'gear': [50, 40, 30, 20], 'ring': [60, 5, 39, 30]}
    annotations = []
    for image in (0, 1):
        for category, (x, y, w, h) in enumerate(boxes.values(), 7):
            annotations.append(
                dict(id=len(annotations) + 1, image_id=image, category_id=category, iscrowd=0)
                | dict(bbox=[x, y, w, h], area=w * h)
                | dict(segmentation=[[x, y, x + w, y, x + w, y + h, x, y + h]])
            )
    images = [dict(id=i, file_name=f'{i}.jpg', width=100, height=80) for i in (0, 1)]
    return dict(
        images=images,
        annotations=annotations,
        categories=[dict(id=i, name=name) for i, name in enumerate(boxes, 7)],
    )


@pytest.fixture
def folder(tmp_path):
    for i in (0, 1):
        Image.new('RGB', (100, 80)).save(tmp_path / f'{i}.jpg')
    yield tmp_path
    coco.forget_coco_file()


def check(folder, what, metric=('bbox', 'segm'), **changes):
    (folder / 'file.json').write_text(json.dumps(what))
    coco.forget_coco_file()
    dataset = dict(type='CocoDataset', data_root=str(folder), ann_file='file.json', pipeline=LOAD)
    dataset |= dict(data_prefix=dict(img=''), metainfo=dict(classes=CLASSES)) | changes
    wrapped = dict(type='RepeatDataset', times=2, dataset=dict(type='ConcatDataset', datasets=[dataset]))
    with DefaultScope.overwrite_default_scope('mmdet'):
        coco.check_coco_dataset(wrapped, 'train', train=True)
        if metric:
            evaluator = dict(type='CocoMetric', ann_file=str(folder / 'file.json'), metric=list(metric))
            coco.check_coco_metric(evaluator, 'val_evaluator', dataset['metainfo']['classes'])


def test_good_data_pass_without_a_word(folder, capfd):
    check(folder, content())
    check(folder, content(), metainfo=dict(classes=['star', 'gear', 'ring']), filter_cfg=dict(min_size=32))
    crowd = content()
    crowd['annotations'][0] |= dict(iscrowd=1, segmentation=dict(size=[80, 100], counts=[8000]))
    check(folder, crowd)
    # What only a test of masks needs, a detector of boxes does not.
    boxes = content()
    for annotation in boxes['annotations']:
        del annotation['segmentation']
    check(folder, boxes, metric=['bbox'], pipeline=[LOAD[0], dict(type='LoadAnnotations', with_bbox=True)])
    assert capfd.readouterr().err == ''


def each(**changes):
    def change(what):
        for annotation in what['annotations']:
            annotation.update(changes)

    return change


def without(key, entries='annotations'):
    return lambda what: [entry.pop(key) for entry in what[entries]]


def boxes(function):
    def change(what):
        for annotation in what['annotations']:
            annotation['bbox'] = function(*annotation['bbox'])

    return change


def twice_as_large(what):
    boxes(lambda x, y, w, h: [2 * x, 2 * y, 2 * w, 2 * h])(what)
    for image in what['images']:
        image.update(width=200, height=160)


def rename(old, new):
    def change(what):
        category = next(category for category in what['categories'] if category['name'] == old)
        category['name'] = new

    return change


BAD = {
    'categories in another order': (
        lambda what: what['categories'].reverse(),
        "categories and classes differ in order .*file.json .*number 0 is 'ring' where .* has 'star'",
    ),
    'a misspelt class': (rename('star', 'stra'), "class 'star' is no category of .*; 'stra' is"),
    'a class in capitals': (rename('ring', 'Ring'), "class 'ring' is no category of .*; 'Ring' is"),
    'a class less, before others': (
        rename('star', 'moon'),
        "class 'star' is no category in .*number 0 is 'gear' where metainfo.classes has 'star'",
    ),
    'a class less, the last': (
        rename('ring', 'moon'),
        '1 of the 3 classes are no category of .*: ring; CocoM',
    ),
    'no class at all': (
        lambda what: [category.update(name='moon') for category in what['categories']],
        'no category is a class in .*: moon, moon, moon there, classes: star, gear, ring',
    ),
    'a category twice': (
        lambda what: what['categories'].append(dict(id=99, name='ring')),
        "category 'ring' stands twice in",
    ),
    'category ids not unique': (
        lambda what: what['categories'][1].update(id=7),
        '2 categories have the same id 7 in',
    ),
    'twice the size': (twice_as_large, r'0.jpg is loaded with 100 x 80 pixels, \S+file.json says 200 x 160'),
    'twice the size, the images right': (
        boxes(lambda x, y, w, h: [2 * x, 2 * y, 2 * w, 2 * h]),
        'boxes and images differ in scale: 4 of the 6 boxes end outside their image in',
    ),
    'corners': (
        boxes(lambda x, y, w, h: [x, y, x + w, y + h]),
        'must be x, y, width, height and looks like x1, y1, x2, y2: 4 of the 6 boxes end outside',
    ),
    'shares of the image': (
        boxes(lambda x, y, w, h: [x / 100, y / 80, w / 100, h / 80]),
        'no annotation can be used, 6 of 6 have a box of less than a pixel',
    ),
    'texts': (boxes(lambda *box: list(map(str, box))), r"bbox must be four numbers, got \['10', "),
    'nan': (boxes(lambda x, y, w, h: [x, y, w, float('nan')]), r'got \[10.0, 10.0, 20.0, nan\]'),
    'three numbers': (boxes(lambda *box: box[:3]), r'bbox must be four numbers, got \[10, 10, 20\]'),
    'ids from 0': (
        lambda what: [annotation.update(id=i) for i, annotation in enumerate(what['annotations'])],
        'annotation id 0 in .*pycocotools counts that object as missed',
    ),
    'ids not unique': (each(id=4), '6 annotations have the same id 4 in'),
    'image ids not unique': (
        lambda what: [image.update(id=3) for image in what['images']],
        '2 images have the same id 3',
    ),
    'image ids as text': (
        lambda what: [a.update(image_id=str(a['image_id'])) for a in what['annotations']],
        'no annotation can be used, 6 of 6 have an image_id that no image has',
    ),
    'areas of 0': (each(area=0), 'no annotation can be used, 6 of 6 have an area of 0'),
    'other category ids': (each(category_id=1), '6 of 6 have a category_id that no category has'),
    'no iscrowd': (
        without('iscrowd'),
        '6 of the 6 annotations have no "iscrowd" in .*val_evaluator.ann_file',
    ),
    'no area': (without('area'), '6 of the 6 annotations have no "area"'),
    'no bbox': (without('bbox'), '6 of the 6 annotations have no "bbox"'),
    'no image size': (without('width', 'images'), '2 of the 2 images have no "width"'),
    'no segmentation': (
        without('segmentation'),
        '6 of the 6 objects have no segmentation .*with_mask=True needs',
    ),
    'an empty segmentation': (
        lambda what: what['annotations'][4].update(segmentation=[]),
        '1 of the 6 objects have no segmentation .* the first is annotation 5, and LoadAnnotations with_mask',
    ),
    'a flat polygon': (
        each(segmentation=[1, 1, 9, 1, 9, 9]),
        r'annotation 1: the segmentation must be a list of polygons .* got \[1, 1, 9',
    ),
    'two corners': (each(segmentation=[[1, 1, 2, 2]]), '6 of the 6 objects have less than three corners'),
    'a mask of another size': (
        each(segmentation=dict(size=[100, 80], counts=[8000])),
        r'annotation 1: .* size \[80, 100\] of its image, got size \[100, 80\]',
    ),
}


@pytest.mark.parametrize(('change', 'message'), BAD.values(), ids=BAD.keys())
def test_bad_data_are_refused(folder, change, message):
    what = content()
    change(what)
    with pytest.raises(UserError, match=message):
        check(folder, what)


def test_masks_are_needed_where_they_are_scored(folder):
    what = content()
    without('segmentation')(what)
    pipeline = [LOAD[0], dict(type='LoadAnnotations', with_bbox=True)]
    with pytest.raises(UserError, match=r'no segmentation .*val_evaluator.* metric="segm" needs'):
        check(folder, what, pipeline=pipeline)


@pytest.mark.parametrize(
    ('meta', 'message'),
    [
        (dict(classes='star'), 'metainfo.classes must be a list of names .* got .star.; a tuple of one name'),
        (dict(CLASSES=CLASSES), "metainfo has 'CLASSES', which nothing reads; its name is 'classes'"),
    ],
)
def test_classes_that_are_none(folder, meta, message):
    with pytest.raises(UserError, match=message):
        check(folder, content(), metric=(), metainfo=meta)


def spoil_one_in_two(key, value):
    return lambda what: [a.update({key: value}) for a in what['annotations'][::2]]


@pytest.mark.parametrize(
    ('change', 'classes', 'message'),
    [
        (
            lambda what: None,
            ('star', 'gear'),
            '1 categories, 2 objects, are of no class in .*file.json .*: ring',
        ),
        (each(category_id=7), CLASSES, '2 of the 3 classes have no object in .*file.json .*: gear, ring'),
        (
            spoil_one_in_two('area', 0),
            CLASSES,
            '3 of the 6 annotations are left out in .*: 3 have an area of 0',
        ),
        (
            spoil_one_in_two('segmentation', [[1, 1]]),
            CLASSES,
            '3 of the 6 objects have less than three corners',
        ),
        (spoil_one_in_two('bbox', [90, 70, 30, 30]), CLASSES, '3 of the 6 boxes end outside their image'),
    ],
    ids=['category of no class', 'class without objects', 'areas of 0', 'two corners', 'amodal boxes'],
)
def test_doubtful_data_are_told_once(folder, capfd, change, classes, message):
    what = content()
    change(what)
    check(folder, what, metric=(), metainfo=dict(classes=classes))
    err = capfd.readouterr().err
    assert err.count('note: ') >= 1
    assert len([line for line in err.splitlines() if re.search(message, line)]) == 1, err


def test_pycocotools_scores_ids_from_0_wrongly(folder):
    """Why those are refused: perfect boxes, and one of them counts as missed."""
    scores = []
    for first in (0, 1):
        what = content()
        for i, annotation in enumerate(what['annotations']):
            annotation['id'] = i + first
        (folder / 'file.json').write_text(json.dumps(what))
        truth = COCO(str(folder / 'file.json'))
        perfect = [dict(copy.deepcopy(annotation), score=1.0) for annotation in what['annotations']]
        run = COCOeval(truth, truth.loadRes(perfect), 'bbox')
        run.evaluate()
        run.accumulate()
        run.summarize()
        scores.append(run.stats[0])
    assert scores[0] < 0.9 and scores[1] == 1


def write_turned(path, width, height):
    """A JPEG of width x height pixels that its EXIF data turn by a quarter."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new('RGB', (width, height)).save(path, exif=exif)


@pytest.mark.parametrize(
    ('flags', 'loaded'),
    [
        (dict(), (100, 80)),
        (dict(imdecode_backend='pillow'), (100, 80)),
        (dict(color_type='color_ignore_orientation'), (80, 100)),
        (dict(color_type='unchanged'), (80, 100)),
    ],
)
def test_sizes_are_those_of_the_loader(folder, flags, loaded):
    write_turned(folder / '1.jpg', 80, 100)
    load = dict(type='LoadImageFromFile', **flags)
    what = content()
    for width, height in ((100, 80), (80, 100)):
        what['images'][1].update(width=width, height=height)
        for annotation in what['annotations']:
            annotation.update(bbox=[5, 5, 40, 40])
        options = dict(metric=(), pipeline=[load, dict(type='LoadAnnotations', with_bbox=True)])
        if (width, height) == loaded:
            check(folder, what, **options)
        else:
            with pytest.raises(UserError, match=rf'1.jpg is loaded with {loaded[0]} x {loaded[1]} pixels'):
                check(folder, what, **options)


def test_an_unreadable_image_is_named(folder):
    (folder / '1.jpg').write_bytes(b'')
    with pytest.raises(UserError, match=r'1.jpg is not a readable image'):
        check(folder, content())


def test_a_format_of_opencv_alone_is_read(folder):
    what = content()
    what['images'][1]['file_name'] = '1.hdr'
    cv2.imwrite(str(folder / '1.hdr'), np.ones((80, 100, 3), np.float32))
    check(folder, what)


def test_classes_that_read_the_file_in_their_own_way_are_left_alone(folder, capfd):
    """LVIS takes the order of the categories from their ids, and its images have no file name."""
    what = content()
    without('file_name', 'images')(what)
    without('iscrowd')(what)
    check(folder, what, metric=(), type='LVISV1Dataset', metainfo=dict(classes=CLASSES[::-1]))
    assert capfd.readouterr().err == ''


def test_panoptic_files_are_left_alone(folder, capfd):
    what = content()
    what['annotations'] = [dict(image_id=0, file_name='0.png', segments_info=[])]
    check(folder, what, metric=(), type='CocoPanopticDataset', metainfo=dict())
    assert capfd.readouterr().err == ''
