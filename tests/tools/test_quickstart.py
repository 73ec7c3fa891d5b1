# SPDX-License-Identifier: Apache-2.0
"""The figures that `make demo` prints, on objects whose IoUs are known."""

import json

import numpy as np
import pytest
from pycocotools import mask as mask_utils

from tests.runtime.helpers import load_tool

quickstart = load_tool('quickstart')


def rle(rows, columns):
    mask = np.zeros((64, 64), np.uint8, 'F')
    mask[slice(*rows), slice(*columns)] = 1
    encoded = mask_utils.encode(mask)
    return dict(encoded, counts=encoded['counts'].decode())


def entry(segmentation, **more):
    box = mask_utils.toBbox(segmentation).tolist()
    area = int(mask_utils.area(segmentation))
    return dict(image_id=1, category_id=1, segmentation=segmentation, bbox=box, area=area, **more)


@pytest.fixture
def results(tmp_path, monkeypatch):
    """Three objects and a crowd; found: one exactly, one by its half, one with too low a score."""
    objects = [rle((0, 10), (0, 10)), rle((20, 30), (0, 20)), rle((40, 50), (0, 10)), rle((0, 64), (40, 64))]
    truth = dict(
        images=[dict(id=1, width=64, height=64, file_name='1.png')],
        categories=[dict(id=1, name='star')],
        annotations=[entry(o, id=i + 1, iscrowd=int(i == 3)) for i, o in enumerate(objects)],
    )
    (tmp_path / 'truth.json').write_text(json.dumps(truth))
    monkeypatch.setattr(quickstart, 'TRUTH', tmp_path / 'truth.json')
    found = [
        entry(objects[0], score=0.9),
        entry(rle((20, 30), (0, 10)), score=0.8),
        entry(objects[2], score=quickstart.SCORE_THR - 0.01),
    ]
    for kind in ('bbox', 'segm'):
        (tmp_path / f'results.{kind}.json').write_text(json.dumps(found))
    return tmp_path / 'results'


def test_mean_mask_iou(results):
    evaluation = quickstart.evaluate(results.with_name('results.segm.json'), 'segm')
    assert quickstart.mean_mask_iou(evaluation) == pytest.approx((1 + 0.5 + 0) / 3)


def test_pictures_are_those_of_fixed_places(results):
    truth = json.loads(quickstart.TRUTH.read_text())
    found = json.loads(results.with_name('results.segm.json').read_text())
    # Images 2 to 9 hold the first object, found in its first 2 to 9 rows; image 10 a crowd alone.
    for image in range(2, 11):
        truth['images'].append(dict(truth['images'][0], id=image, file_name=f'{image}.png'))
        thing = dict(truth['annotations'][0], id=100 + image, image_id=image, iscrowd=int(image == 10))
        truth['annotations'].append(thing)
        found.append(dict(entry(rle((0, image), (0, 10)), score=0.9), image_id=image))
    quickstart.TRUTH.write_text(json.dumps(truth))
    results.with_name('results.segm.json').write_text(json.dumps(found))
    places = quickstart.shown(quickstart.evaluate(results.with_name('results.segm.json'), 'segm'))
    # In order of IoU: 9 8 7 6 5 (0.5, as image 1, which stands before it) 4 3 2.
    assert {name: (file.name, round(iou, 6)) for name, (file, iou) in places.items()} == {
        'best': ('9.png', 0.9),
        'upper quartile': ('7.png', 0.7),
        'median': ('1.png', 0.5),
        'worst': ('2.png', 0.2),
    }


def test_table_has_cocoevals_figures(results):
    rows = [line.split() for line in quickstart.table(results).splitlines()]
    assert [row[0] for row in rows[1:]] == ['box', 'mask']
    # At an IoU of 0.5 the half counts, above it does not: precision 1 up to recall 1, then 1 and 2 of 3.
    assert rows[2][-1] == '50.0'
    assert float(rows[2][2]) == pytest.approx(100, abs=0.1)
    assert 0 < float(rows[2][3]) < 70


def test_a_foreign_work_dir_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'config.py').write_text('a = 1')
    (tmp_path / 'shapes.json').write_text('{}')
    monkeypatch.setattr(quickstart, 'CONFIG', 'config.py')
    monkeypatch.setattr(quickstart, 'DATA', tmp_path)
    quickstart.claim(tmp_path / 'demo')
    quickstart.claim(tmp_path / 'demo')  # goes on
    (tmp_path / 'config.py').write_text('a = 2')
    with pytest.raises(SystemExit, match='holds something else'):
        quickstart.claim(tmp_path / 'demo')


def test_nothing_found(results):
    """Which pycocotools cannot load."""
    for kind in ('bbox', 'segm'):
        results.with_name(f'results.{kind}.json').write_text('[]')
    for row in quickstart.table(results).splitlines()[1:]:
        # There are no medium or large stars: no figure, as COCOeval says it.
        figures = [float(figure) for figure in row.split()[1:]]
        assert figures[:4] == [0, 0, 0, 0] and figures[-1] == 0
