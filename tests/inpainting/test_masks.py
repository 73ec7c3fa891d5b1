# SPDX-License-Identifier: Apache-2.0
"""Holes have the area, the place and the polarity that were asked for."""

import re

import numpy as np
import pytest
from mmengine.registry import TRANSFORMS
from PIL import Image

from carafe_plugin.inpainting.images import UnreadableImageError
from carafe_plugin.inpainting.masks import random_box, random_strokes, read_mask
from carafe_plugin.runtime.errors import UserError
from carafe_tools.inpaint_files import check_inpainting_dataset


@pytest.mark.parametrize('area', [(0.15, 0.65), (0.3, 0.3001), (0.0, 0.0), (1.0, 1.0), (0.9, 0.95)])
@pytest.mark.parametrize(('height', 'width'), [(256, 256), (100, 180)])
def test_strokes_keep_to_their_area(height, width, area):
    shares = []
    for seed in range(8):
        hole = random_strokes(height, width, np.random.default_rng(seed), area)
        assert hole.shape == (height, width) and hole.dtype == np.uint8
        assert set(np.unique(hole)) <= {0, 1}
        shares.append(hole.mean())
    assert area[0] <= min(shares) and max(shares) <= area[1]
    assert area[1] - area[0] < 0.1 or max(shares) - min(shares) > 0.1


def test_strokes_are_drawn_anywhere_and_repeat_by_seed():
    holes = [random_strokes(64, 64, np.random.default_rng(seed), (0.1, 0.3)) for seed in range(150)]
    coverage = np.mean(holes, 0)
    assert coverage.min() > 0.02 and coverage.max() < 0.6
    np.testing.assert_array_equal(holes[3], random_strokes(64, 64, np.random.default_rng(3), (0.1, 0.3)))


@pytest.mark.parametrize(('height', 'width'), [(256, 256), (64, 64), (100, 180)])
def test_strokes_grow_with_the_short_side_of_the_image(height, width):
    class Least(np.random.Generator):
        """Draws the smallest number where it draws whole ones, so that one dot will do."""

        def integers(self, low, high):
            return low

    sides = []
    for seed in range(20):
        dot = dict(vertices=(1, 1), length=(0, 0), brush=(40, 40), area=(1e-9, 0.9))
        hole = random_strokes(height, width, Least(np.random.PCG64(seed)), **dot)
        sides.append(max(hole.any(0).sum(), hole.any(1).sum()))
    assert max(sides) == pytest.approx(40 * min(height, width) / 256, abs=2)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(area=(0.5, 0.4)), 'area must be a range'),
        (dict(area=(0.5, 1.4)), 'area must hold'),
        (dict(area=(0.15, 0.16)), 'area must hold a number of 9 pixels'),
        (dict(brush=(-1, 4)), 'brush must be a range'),
    ],
)
def test_strokes_refuse_what_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        random_strokes(3, 3, np.random.default_rng(0), **options)


def test_box_is_one_box_within_its_margins():
    sides, first, last = [], [], []
    for seed in range(300):
        hole = random_box(64, 80, np.random.default_rng(seed), side=30, shrink=10, margin=5)
        rows, columns = hole.any(1).nonzero()[0], hole.any(0).nonzero()[0]
        assert hole.sum() == len(rows) * len(columns)
        assert rows[0] >= 5 and rows[-1] < 59 and columns[0] >= 5 and columns[-1] < 75
        sides += [len(rows), len(columns)]
        first.append((rows[0], columns[0]))
        last.append((rows[-1], columns[-1]))
    assert (min(sides), max(sides)) == (20, 30)
    # Every place between the margins can be taken.
    assert np.min(first, 0).tolist() == [5, 5] and np.max(last, 0).tolist() == [58, 74]
    assert random_box(20, 20, np.random.default_rng(0), margin=5).sum() == 100  # what the margins leave
    with pytest.raises(ValueError, match='no pixel beyond a margin of 20'):
        random_box(1, 1, np.random.default_rng(0))


def test_half_brightness_and_more_is_white(tmp_path):
    """Of the mean of a pixel's colours."""
    colours = [(0, 0, 0), (127, 127, 127), (128, 127, 127), (128, 128, 127), (128, 128, 128), (255, 255, 0)]
    Image.fromarray(np.array([colours], np.uint8)).save(tmp_path / 'mask.png')
    assert read_mask(tmp_path / 'mask.png').tolist() == [[0, 0, 0, 1, 1, 1]]


def test_mask_files_have_a_polarity(tmp_path):
    mask = np.zeros((8, 6), np.uint8)
    mask[2:5, 1:4] = 255
    Image.fromarray(mask).save(tmp_path / 'mask.png')
    np.testing.assert_array_equal(read_mask(tmp_path / 'mask.png'), mask // 255)
    np.testing.assert_array_equal(read_mask(tmp_path / 'mask.png', 'black'), 1 - mask // 255)
    with pytest.raises(ValueError, match='white, black'):
        read_mask(tmp_path / 'mask.png', 'grey')
    with pytest.raises(ValueError, match='white, black'):
        TRANSFORMS.build(dict(type='HoleFromFiles', root=str(tmp_path), hole='grey'))
    enlarged = (mask // 255).repeat(2, 0).repeat(2, 1)
    for polarity, expected in (('white', enlarged), ('black', 1 - enlarged)):
        hole = TRANSFORMS.build(dict(type='HoleFromFiles', root=str(tmp_path), hole=polarity))
        result = hole(dict(img=np.zeros((16, 12, 3), np.uint8)))['hole']
        np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize('values', [(0, 1), (0, 127), (3, 90), (128, 255), (254, 255)])
def test_masks_without_black_and_white_are_refused(tmp_path, values):
    mask = np.full((8, 6), values[0], np.uint8)
    mask[2:5, 1:4] = values[1]
    Image.fromarray(mask).save(tmp_path / 'mask.png')
    for hole in ('white', 'black'):
        with pytest.raises(UnreadableImageError, match=f'values are {values[0]} to {values[1]}; black is 0'):
            read_mask(tmp_path / 'mask.png', hole)


def test_deep_and_binary_files_are_masks(tmp_path):
    mask = np.zeros((8, 6), bool)
    mask[2:5, 1:4] = True
    Image.fromarray(mask).save(tmp_path / 'bits.png')
    Image.fromarray(mask.astype(np.uint16) * 65535).save(tmp_path / 'deep.png')
    Image.fromarray(mask.astype(np.uint16) * 255).save(tmp_path / 'dark.png')
    for name in ('bits', 'deep'):
        np.testing.assert_array_equal(read_mask(tmp_path / f'{name}.png'), mask)
    with pytest.raises(UnreadableImageError, match='its values are 0 to 1'):  # bytes in a file of 16 bits
        read_mask(tmp_path / 'dark.png')


@pytest.mark.parametrize('value', [0, 255])
def test_masks_of_one_colour_are_what_they_are(tmp_path, value):
    Image.fromarray(np.full((8, 6), value, np.uint8)).save(tmp_path / 'mask.png')
    assert (read_mask(tmp_path / 'mask.png') == value // 255).all()


def check_folder(folder, *masks):
    for index, mask in enumerate(masks):
        Image.fromarray(np.array(mask, np.uint8).reshape(2, 2)).save(folder / f'{index}.png')
    step = dict(type='HoleFromFiles', root=str(folder))
    dataset = dict(type='InpaintingDataset', data_root=str(folder), pipeline=[dict(type='ReadImage'), step])
    check_inpainting_dataset(dataset, 'train_dataloader.dataset')


GOOD, BLACK, WHITE, DARK = [0, 0, 0, 255], [0] * 4, [255] * 4, [0, 0, 0, 1]


@pytest.mark.parametrize(
    ('masks', 'message'),
    [
        (
            [DARK, DARK],
            r'none of 2 masks can be used \(train_.*0.png: not a mask, its values are 0 to 1; black',
        ),
        ([BLACK, BLACK], r'none of 2 masks can be used .*0.png marks no pixel, the hole is white'),
        ([WHITE, BLACK, DARK], r'none of 3 masks can be used .*0.png marks every pixel, the hole is white'),
    ],
)
def test_a_folder_without_a_hole_is_refused(tmp_path, masks, message):
    with pytest.raises(UserError, match=message):
        check_folder(tmp_path, *masks)


def test_a_folder_with_some_bad_masks_is_told_of(tmp_path, capfd):
    check_folder(tmp_path, GOOD, GOOD)
    assert capfd.readouterr().err == ''
    check_folder(tmp_path, GOOD, DARK, BLACK)
    assert re.search(r'note: 2 of 3 masks cannot be used \(train_.*1.png: not a mask', capfd.readouterr().err)


def test_masks_of_the_images_own_names(tmp_path):
    for name in ('a/1.png', 'b/1.png', '2.jpg'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((6, 4), 255, np.uint8)).save(tmp_path / name)
    step = TRANSFORMS.build(dict(type='HoleFromFiles', root=str(tmp_path), by_name=True))
    found = {image: step.mask_of(image) for image in ('x/a/1.jpg', 'x/b/1.webp', 'x/a/2.png', '2.png')}
    assert found == {
        'x/a/1.jpg': tmp_path / 'a' / '1.png',
        'x/b/1.webp': tmp_path / 'b' / '1.png',
        'x/a/2.png': tmp_path / '2.jpg',
        '2.png': tmp_path / '2.jpg',
    }
    with pytest.raises(UserError, match=r'mask folder \S+ holds none named as x/c/1.jpg'):
        step.mask_of('x/c/1.jpg')
    with pytest.raises(UserError, match=r'2.jpg is of 4x6 pixels, its image of 6x4; .* before CropResize'):
        step(dict(img=np.zeros((4, 6, 3), np.uint8), img_path='2.jpg'))
    (tmp_path / '2.png').touch()
    with pytest.raises(UserError, match=r'2.jpg and 2.png are both for the same image'):
        TRANSFORMS.build(dict(type='HoleFromFiles', root=str(tmp_path), by_name=True))


def test_a_hole_is_cropped_with_its_image():
    image = np.arange(8 * 12, dtype=np.uint8).reshape(8, 12, 1).repeat(3, 2)
    hole = (image[..., 0] % 5 == 0).astype(np.uint8)
    np.random.seed(3)  # noqa: NPY002
    cut = TRANSFORMS.build(dict(type='CropResize', size=4, crop=4))(dict(img=image, hole=hole))
    assert cut['hole'].shape == (4, 4)
    np.testing.assert_array_equal(cut['hole'], cut['img'][..., 0] % 5 == 0)
    whole = TRANSFORMS.build(dict(type='CropResize', size=4, random=False))(dict(img=image, hole=hole))
    assert set(np.unique(whole['hole'])) <= {0, 1}
    np.testing.assert_array_equal(whole['hole'], hole[::2, 2:10:2])
