# SPDX-License-Identifier: Apache-2.0
"""What is wrong with images and label maps is told in one line before a run, naming the file or the label."""

import numpy as np
import pytest
from mmengine.registry import DefaultScope
from PIL import Image

import carafe_plugin.segmentation  # noqa: F401
from carafe_plugin.runtime.errors import UserError
from carafe_plugin.runtime.data_checks.seg import check_seg_dataset

LOAD = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]


@pytest.fixture
def data(tmp_path):
    """Three pairs of 12 x 8 pixels, labels 0 to 2 and 255."""
    labels = np.tile(np.array([0, 1, 2, 255], np.uint8), 24).reshape(8, 12)
    for folder in ('images', 'labels'):
        (tmp_path / folder).mkdir()
    for name in 'abc':
        Image.new('RGB', (12, 8)).save(tmp_path / 'images' / f'{name}.jpg')
        Image.fromarray(labels).save(tmp_path / 'labels' / f'{name}.png')
    return tmp_path


def check(data, pipeline=(), **changes):
    cfg = dict(
        type='BaseSegDataset',
        data_root=str(data),
        data_prefix=dict(img_path='images', seg_map_path='labels'),
        metainfo=dict(classes=('x', 'y', 'z')),
        pipeline=[*LOAD, *pipeline],
    )
    cfg |= changes
    with DefaultScope.overwrite_default_scope('mmseg'):
        check_seg_dataset(dict(type='RepeatDataset', times=2, dataset=cfg), 'train_dataloader.dataset')


def test_good_data_pass(data):
    check(data)
    check(data, [dict(type='MapLabels', label_map=[0, 0, 1], num_classes=2)])
    check(data, reduce_zero_label=True)


def test_a_missing_label_map_is_named(data):
    (data / 'labels' / 'b.png').unlink()
    with pytest.raises(UserError, match=r'label map \S*labels/b.png does not exist, 1 of the 3 are absent'):
        check(data)


def test_a_missing_folder_is_named(data):
    with pytest.raises(UserError, match=r'train_dataloader.dataset.dataset cannot be built.*nowhere'):
        check(data, data_root=None, data_prefix=dict(img_path=str(data / 'nowhere'), seg_map_path=''))


def test_a_folder_without_images_is_named(data):
    with pytest.raises(UserError, match=r'no image \*.bmp in \S*images'):
        check(data, img_suffix='.bmp')


def test_another_size_is_named(data):
    Image.new('L', (8, 12)).save(data / 'labels' / 'c.png')
    with pytest.raises(UserError, match=r'labels/c.png is of 8 x 12 pixels, its image of 12 x 8'):
        check(data)


@pytest.mark.parametrize('reduce, label, legal', [(False, 3, '0 to 2'), (True, 4, '1 to 3')])
def test_a_label_out_of_range_is_named(data, reduce, label, legal):
    Image.new('L', (12, 8), label).save(data / 'labels' / 'b.png')
    with pytest.raises(UserError, match=rf'labels/b.png holds label {label}; .* 3 classes, {legal}, and 255'):
        check(data, reduce_zero_label=reduce)


def test_an_unmapped_label_is_named(data):
    with pytest.raises(UserError, match=r'labels/a.png: label_map leaves label 2 unmapped, it has 2 entries'):
        check(data, [dict(type='MapLabels', label_map=[0, 1], num_classes=2)])


def test_a_table_that_leaves_the_classes_is_told(data):
    with pytest.raises(UserError, match=r'must send label 1 to 0..1 or 255, got 2'):
        check(data, [dict(type='MapLabels', label_map=[0, 2, 1], num_classes=2)])


@pytest.mark.parametrize('file', ['images/b.jpg', 'labels/b.png'])
def test_an_unreadable_file_is_named(data, file):
    (data / file).write_bytes((data / file).read_bytes()[:20])
    with pytest.raises(UserError, match=rf'{file} is not a readable image'):
        check(data)


def test_a_colour_picture_is_no_label_map(data):
    Image.new('RGB', (12, 8)).save(data / 'labels' / 'a.png')
    with pytest.raises(UserError, match=r'labels/a.png has 3 channels, a label map has one'):
        check(data)
