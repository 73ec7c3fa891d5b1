# SPDX-License-Identifier: Apache-2.0
"""What is wrong with images and label maps is told in one line before a run, naming the file or the label."""

import re

import numpy as np
import pytest
from mmengine.registry import DefaultScope
from PIL import Image

import carafe_plugin.segmentation  # noqa: F401
from carafe_plugin.runtime.data_checks.seg import check_seg_dataset
from carafe_plugin.runtime.errors import UserError

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


def check(data, pipeline=(), load=LOAD, train=True, **changes):
    cfg = dict(
        type='BaseSegDataset',
        data_root=str(data),
        data_prefix=dict(img_path='images', seg_map_path='labels'),
        metainfo=dict(classes=('x', 'y', 'z')),
        pipeline=[*load, *pipeline],
    )
    cfg |= changes
    with DefaultScope.overwrite_default_scope('mmseg'):
        check_seg_dataset(dict(type='RepeatDataset', times=2, dataset=cfg), 'train_dataloader.dataset', train)


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


def write_label(data, name, values):
    Image.fromarray(np.resize(np.array(values, np.uint8), (8, 12))).save(data / 'labels' / f'{name}.png')


@pytest.mark.parametrize(
    'values, changes',
    [
        ([0, 255], {}),  # a mask drawn in black and white
        ([0, 1], dict(reduce_zero_label=True)),  # the ground is dropped, the rest is all there is
        ([1, 2], dict(pipeline=[dict(type='MapLabels', label_map=[0, 1, 1], num_classes=2)])),
    ],
)
def test_labels_of_one_class_teach_nothing(data, capfd, values, changes):
    for name in 'abc':
        write_label(data, name, values)
    options = dict(metainfo=dict(classes=('ground', 'shape'))) | changes
    only = 'shape' if 'pipeline' in changes else 'ground'
    message = f"every pixel is '{only}' or ignored in 3 label maps .train_dataloader.dataset., of 2 classes"
    with pytest.raises(UserError, match=message):
        check(data, **options)
    check(data, train=False, **options)  # a small validation set may be so
    assert re.search(f'note: {message}', capfd.readouterr().err)
    write_label(data, 'c', [0, 1, 2, 255] if 'pipeline' in changes else [1, 2] if changes else [0, 1])
    check(data, **options)
    assert capfd.readouterr().err == ''


def test_labels_that_are_all_ignored_teach_nothing(data):
    for name in 'abc':
        write_label(data, name, [255])
    with pytest.raises(UserError, match='every pixel is ignored in 3 label maps'):
        check(data)


def test_a_class_without_a_pixel_is_told(data, capfd):
    check(data, metainfo=dict(classes=('x', 'y', 'z', 'far')))
    assert 'note: 1 of the 4 classes have no pixel in the 3 label maps' in capfd.readouterr().err


def test_parts_of_a_data_set_may_have_one_class_each(data):
    """Pictures without any object, beside those with one."""
    parts = []
    for name, values in (('without', [0]), ('with', [1])):
        (data / name).mkdir()
        for stem in 'abc':
            label = np.full((8, 12), values[0], np.uint8)
            Image.fromarray(label).save(data / name / f'{stem}.png')
        parts.append(
            dict(
                type='BaseSegDataset',
                data_root=str(data),
                data_prefix=dict(img_path='images', seg_map_path=name),
                metainfo=dict(classes=('ground', 'shape')),
                pipeline=LOAD,
            )
        )
    with DefaultScope.overwrite_default_scope('mmseg'):
        check_seg_dataset(dict(type='ConcatDataset', datasets=parts), 'train', train=True)
        with pytest.raises(UserError, match="every pixel is 'shape'"):
            check_seg_dataset(parts[1], 'train', train=True)


@pytest.mark.parametrize('flag, turned', [('color', True), ('color_ignore_orientation', False)])
def test_sizes_are_those_of_the_loader(data, flag, turned):
    """An image that its EXIF data turn has the size of what the network sees; a label map is never turned."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new('RGB', (8, 12)).save(data / 'images' / 'b.jpg', exif=exif)
    load = [dict(type='LoadImageFromFile', color_type=flag), LOAD[1]]
    upright = np.resize(np.array([0, 1, 2, 255], np.uint8), (8, 12))
    for label, fits in ((upright, turned), (upright.T, not turned)):
        Image.fromarray(np.ascontiguousarray(label)).save(data / 'labels' / 'b.png')
        if fits:
            check(data, load=load)
        else:
            with pytest.raises(UserError, match=r'labels/b.png is of .* pixels, its image of'):
                check(data, load=load)


def test_palette_label_maps_are_read_as_the_pipeline_reads_them(data):
    """Pillow gives their indices, OpenCV their colours."""
    for name in 'abc':
        label = Image.open(data / 'labels' / f'{name}.png')
        label.putpalette(range(256))
        label.save(data / 'labels' / f'{name}.png')
    check(data)
    load = [LOAD[0], dict(type='LoadAnnotations', imdecode_backend='cv2')]
    with pytest.raises(UserError, match=r'labels/a.png has 3 channels'):
        check(data, load=load)


def test_two_minds_about_the_zero_label_are_told(data):
    load = [LOAD[0], dict(type='LoadAnnotations', reduce_zero_label=True)]
    with pytest.raises(UserError, match='is True in LoadAnnotations and False in the data set'):
        check(data, load=load)


def test_fractions_are_no_labels(data):
    Image.fromarray(np.zeros((8, 12), np.float32)).save(data / 'labels' / 'a.tif')
    for name in 'bc':
        Image.fromarray(np.zeros((8, 12), np.float32)).save(data / 'labels' / f'{name}.tif')
    with pytest.raises(UserError, match=r'labels/a.tif must hold whole numbers from 0 on, got float32'):
        check(data, seg_map_suffix='.tif')
