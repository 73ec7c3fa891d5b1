# SPDX-License-Identifier: Apache-2.0
"""MapLabels: what it maps, and what it says of a table or a label map that does not fit."""

import numpy as np
import pytest

from carafe_plugin.segmentation import MapLabels


def test_maps_each_label_and_keeps_the_ignored():
    labels = np.array([[0, 1, 2], [255, 2, 0]], np.uint8)
    results = dict(gt_seg_map=labels, seg_fields=['gt_seg_map'])
    out = MapLabels([1, 255, 0], 2).transform(results)['gt_seg_map']
    assert out.dtype == np.uint8
    assert out.tolist() == [[1, 255, 0], [255, 0, 1]]


def test_another_label_can_be_the_ignored_one():
    transform = MapLabels([1, 7, 0], 2, ignore_index=7)
    labels = np.array([[0, 1, 2, 7]], np.uint8)
    assert transform.unmapped(labels) == []
    results = dict(gt_seg_map=labels, seg_fields=['gt_seg_map'])
    assert transform.transform(results)['gt_seg_map'].tolist() == [[1, 7, 0, 7]]
    assert transform.unmapped(np.array([[255]], np.uint8)) == [255]
    with pytest.raises(ValueError, match=r'send label 0 to 0..1 or 7, got 255'):
        MapLabels([255], 2, ignore_index=7)


def test_an_unmapped_label_is_named_with_its_file():
    labels = np.array([[0, 7]], np.uint8)
    results = dict(gt_seg_map=labels, seg_fields=['gt_seg_map'], seg_map_path='folder/a.png')
    with pytest.raises(ValueError, match=r'folder/a.png: label_map leaves label 7 unmapped, it has 3'):
        MapLabels([0, 1, 255], 2).transform(results)


def test_an_image_alone_passes():
    assert MapLabels([0], 1).transform(dict(img=1)) == dict(img=1)


@pytest.mark.parametrize(
    'error, match, label_map',
    [
        (ValueError, r'send label 2 to 0..1 or 255, got 2', [0, 1, 2]),
        (ValueError, r'send label 1 to 0..1 or 255, got -1', [0, -1]),
        (TypeError, 'list of ints, got', [0, None, 1]),
        (TypeError, 'list of ints, got', {0: 1}),
    ],
)
def test_bad_tables(error, match, label_map):
    with pytest.raises(error, match=match):
        MapLabels(label_map, 2)
