# SPDX-License-Identifier: Apache-2.0
"""The generated data: deterministic, valid COCO, exact masks, and not to be solved by boxes alone."""

import hashlib
import json

import cv2
import numpy as np
import pytest
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from carafe_plugin.runtime.errors import UserError
from carafe_tools.shapes import CATEGORIES, make_shapes

SIZE, TRAIN, VAL = 192, 60, 40


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    out = tmp_path_factory.mktemp('data') / 'shapes'
    assert make_shapes(out, TRAIN, VAL, SIZE)
    return out


@pytest.fixture(scope='module')
def coco(root):
    return {split: COCO(root / 'annotations' / f'instances_{split}.json') for split in ('train', 'val')}


def digests(root):
    files = sorted(path for path in root.rglob('*') if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def annotations(coco, split, **query):
    return coco[split].loadAnns(coco[split].getAnnIds(**query))


def test_same_seed_same_bytes(tmp_path):
    for name, seed in (('a', 3), ('b', 3), ('c', 4)):
        make_shapes(tmp_path / name, 3, 2, seed=seed)
    first, again, other = (digests(tmp_path / name) for name in 'abc')
    assert first == again
    assert first.keys() == other.keys()
    assert not set(first.values()) & set(other.values())
    images = [digest for path, digest in first.items() if path.endswith(('.png', '.jpg'))]
    assert len(set(images)) == len(images)  # the splits share no image


@pytest.mark.parametrize('split', ['train', 'val'])
def test_contents(coco, split):
    single = annotations(coco, split, iscrowd=False)
    assert {a['category_id'] for a in single} == set(range(1, len(CATEGORIES) + 1))
    assert all(len(coco[split].getAnnIds(image, iscrowd=False)) >= 3 for image in coco[split].imgs)
    assert annotations(coco, split, iscrowd=True)
    areas = np.array([a['area'] for a in single])
    for low, high in ((0, 32**2), (32**2, 96**2), (96**2, SIZE**2)):
        assert ((areas >= low) & (areas < high)).any()
    assert np.median([max(a['bbox'][2:]) / 2 for a in single]) <= 0.15 * SIZE


@pytest.mark.parametrize('split, ade_split', [('train', 'training'), ('val', 'validation')])
def test_masks_are_the_visible_pixels(root, coco, split, ade_split):
    overlapping = 0
    for image in coco[split].loadImgs(coco[split].getImgIds()):
        labels = np.zeros((SIZE, SIZE), int)
        taken = np.zeros((SIZE, SIZE), int)
        boxes = []
        for annotation in annotations(coco, split, imgIds=image['id']):
            mask = coco[split].annToMask(annotation)
            y, x = np.nonzero(mask)
            box = [x.min(), y.min(), x.max() - x.min() + 1, y.max() - y.min() + 1]
            assert (annotation['area'], annotation['bbox']) == (mask.sum(), box)
            assert isinstance(annotation['segmentation']['counts'], list if annotation['iscrowd'] else str)
            boxes.append(box)
            labels[mask > 0] = annotation['category_id']
            taken += mask
        assert taken.max() == 1
        overlapping += (
            mask_utils.iou(np.array(boxes, float), np.array(boxes, float), [0] * len(boxes)) > 0
        ).sum()
        overlapping -= len(boxes)
        stem = image['file_name'].removesuffix('.png')
        semantic = cv2.imread(root / 'ade' / 'annotations' / ade_split / f'{stem}.png', cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(semantic, labels)
        pictures = [
            cv2.imread(root / split / f'{stem}.png'),
            cv2.imread(root / f'ade/images/{ade_split}/{stem}.jpg'),
        ]
        assert all(picture.shape == (SIZE, SIZE, 3) for picture in pictures)
        assert np.abs(pictures[0].astype(int) - pictures[1]).mean() < 8
    assert overlapping > len(coco[split].imgs)


def test_masks_follow_what_is_drawn(root, coco):
    """Colours jump across a mask's outline, more than they do inside it."""
    inside, across = [], []
    for image in coco['val'].loadImgs(coco['val'].getImgIds()):
        picture = cv2.imread(root / 'val' / image['file_name']).astype(float)
        step = np.abs(np.diff(picture, axis=1)).max(2)
        for annotation in annotations(coco, 'val', imgIds=image['id']):
            mask = coco['val'].annToMask(annotation).astype(int)
            across.append(np.median(step[np.diff(mask, axis=1) != 0]))
            inside.append(np.median(step[(mask[:, 1:] & mask[:, :-1]) == 1]))
    assert np.median(across) > 3 * np.median(inside)


def crop(coco, annotation):
    x, y, w, h = map(int, annotation['bbox'])
    return coco.annToMask(annotation)[y : y + h, x : x + w].astype(np.float32)


def test_mean_shape_detector_stays_far_below(coco):
    """True boxes and classes, filled with the category's mean mask, earn an AP of about 0.1."""
    mean = {}
    for category in coco['train'].cats:
        members = annotations(coco, 'train', catIds=[category], iscrowd=False)
        mean[category] = np.mean([cv2.resize(crop(coco['train'], a), (56, 56)) for a in members], 0)
    scores = []
    for threshold in (0.3, 0.4, 0.5):
        detections = []
        for annotation in annotations(coco, 'val', iscrowd=False):
            x, y, w, h = map(int, annotation['bbox'])
            mask = np.zeros((SIZE, SIZE), np.uint8, 'F')
            mask[y : y + h, x : x + w] = cv2.resize(mean[annotation['category_id']], (w, h)) >= threshold
            result = {key: annotation[key] for key in ('image_id', 'category_id')}
            detections.append(dict(result, score=1.0, segmentation=mask_utils.encode(mask)))
        scores.append(segm_ap(coco['val'], detections))
    assert 0 < max(scores) < 0.15, scores
    truth = [dict(a, score=1.0) for a in annotations(coco, 'val', iscrowd=False)]
    assert segm_ap(coco['val'], truth) == pytest.approx(1)


def segm_ap(truth, detections):
    evaluator = COCOeval(truth, truth.loadRes(detections), 'segm')
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    return evaluator.stats[0]


def test_existing_data_is_reused_or_refused(tmp_path):
    out = tmp_path / 'deep' / 'shapes'
    assert make_shapes(out, 2, 2)
    before = {path: path.stat().st_mtime_ns for path in out.rglob('*')}
    assert not make_shapes(out, 2, 2)
    with pytest.raises(UserError, match=r"'train': 2.*wanted.*'train': 3"):
        make_shapes(out, 3, 2)
    assert {path: path.stat().st_mtime_ns for path in out.rglob('*')} == before
    assert [path.name for path in out.parent.iterdir()] == ['shapes']

    foreign = tmp_path / 'foreign'
    foreign.mkdir()
    (foreign / 'thesis.tex').touch()
    with pytest.raises(UserError, match=r'exists and has no shapes\.json'):
        make_shapes(foreign, 2, 2)


def test_interrupted_run_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr('carafe_tools.shapes.json.dumps', interrupt)
    with pytest.raises(KeyboardInterrupt):
        make_shapes(tmp_path / 'shapes', 2, 2)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('argument', [dict(size=191), dict(train=1), dict(val=0), dict(seed=-1)])
def test_numbers_out_of_range(tmp_path, argument):
    ((name, value),) = argument.items()
    with pytest.raises(ValueError, match=f'{name} must be at least .* got {value}'):
        make_shapes(tmp_path / 'shapes', **dict(dict(train=2, val=2), **argument))
    assert not list(tmp_path.iterdir())


def test_record_names_the_parameters(root):
    assert json.loads((root / 'shapes.json').read_text()) == dict(
        version=1, train=TRAIN, val=VAL, size=SIZE, seed=0
    )
