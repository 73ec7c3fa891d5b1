# SPDX-License-Identifier: Apache-2.0
"""VOC files whose objects would be dropped without a word, or do not fit their images."""

import pytest
from mmengine.registry import DefaultScope
from PIL import Image

from carafe_plugin.runtime.data_checks.voc import check_voc_dataset
from carafe_plugin.runtime.errors import UserError

OBJECT = (
    '<object><name>{}</name><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox>'
    '</object>'
)


def write(folder, stem, *objects, size=(60, 40)):
    for name in ('JPEGImages', 'Annotations'):
        (folder / name).mkdir(exist_ok=True)
    Image.new('RGB', (60, 40)).save(folder / 'JPEGImages' / f'{stem}.jpg')
    text = ''.join(OBJECT.format(*entry) for entry in objects)
    shape = f'<size><width>{size[0]}</width><height>{size[1]}</height></size>'
    (folder / 'Annotations' / f'{stem}.xml').write_text(f'<annotation>{shape}{text}</annotation>')


@pytest.fixture
def folder(tmp_path):
    write(tmp_path, 'a', ('star', 1, 1, 20, 20), ('gear', 5, 5, 60, 40))
    write(tmp_path, 'b', ('gear', 1, 1, 9, 9))
    (tmp_path / 'list.txt').write_text('a\nb\n')
    return tmp_path


def check(folder, classes=('star', 'gear'), **changes):
    dataset = dict(
        type='VOCDataset', data_root=str(folder), ann_file='list.txt', metainfo=dict(classes=classes)
    )
    dataset |= dict(data_prefix=dict(sub_data_root=''), pipeline=[dict(type='LoadImageFromFile')]) | changes
    with DefaultScope.overwrite_default_scope('mmdet'):
        check_voc_dataset(dict(type='RepeatDataset', times=2, dataset=dataset), 'train', train=True)


def test_good_data_pass_without_a_word(folder, capfd):
    check(folder)
    check(folder, classes=('moon', 'star', 'gear'))  # a rare class may lie outside the sample
    assert capfd.readouterr().err == ''


def test_objects_of_no_class_are_told(folder, capfd):
    check(folder, classes=('star',))
    assert 'note: 2 objects in ' in (err := capfd.readouterr().err) and 'are of no class: gear' in err


@pytest.mark.parametrize('name', ['Star', 'sttar'])
def test_a_misspelt_class_is_named(folder, name):
    with pytest.raises(UserError, match=f"class '{name}' names no object in .*Annotations; 'star' does"):
        check(folder, classes=(name, 'gear'))


def test_no_object_of_a_class(folder):
    with pytest.raises(UserError, match=r'no object in .* is of a class: star, gear there'):
        check(folder, classes=('moon', 'sun'))


def test_another_size_is_named(folder):
    write(folder, 'b', ('gear', 1, 1, 9, 9), size=(40, 60))
    with pytest.raises(UserError, match=r'b.jpg is loaded with 60 x 40 pixels, \S*b.xml says 40 x 60'):
        check(folder)


def test_width_and_height_are_no_corner(folder):
    write(folder, 'b', ('gear', 30, 20, 9, 9))
    with pytest.raises(UserError, match=r"bndbox of 'gear' in .*b.xml must go from .* got 30, 20, 9, 9"):
        check(folder)


@pytest.mark.parametrize('text', ['<annotation>', '<annotation><object></object></annotation>'])
def test_what_is_not_voc_is_named(folder, text):
    (folder / 'Annotations' / 'b.xml').write_text(text)
    with pytest.raises(UserError, match=r'b.xml is not of VOC'):
        check(folder)


@pytest.mark.parametrize('file', ['list.txt', 'Annotations/b.xml', 'JPEGImages/b.jpg'])
def test_a_missing_file_is_named(folder, file):
    (folder / file).unlink()
    with pytest.raises(UserError, match=rf'{file} does not exist'):
        check(folder)
