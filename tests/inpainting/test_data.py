# SPDX-License-Identifier: Apache-2.0
"""Images of any kind come in, unreadable ones do not stop a run, and what is drawn can be drawn again."""

import os

import numpy as np
import pytest
import torch
from mmengine.registry import DATASETS
from PIL import Image

from carafe_plugin.inpainting import CropResize, PackInpainting
from carafe_plugin.inpainting.images import UnreadableImageError, list_images, read_image
from carafe_plugin.runtime.errors import UserError
from carafe_plugin.runtime.sampler import NumberedSampler

from .pictures import picture, write_pictures

PIPELINE = [
    dict(type='ReadImage'),
    dict(type='CropResize', size=16, crop=20),
    dict(type='RandomFlip', prob=0.5),
    dict(type='RandomHole', kind='strokes', area=(0.2, 0.4)),
    dict(type='PackInpainting'),
]


def build(root, **options):
    return DATASETS.build(
        dict(type='InpaintingDataset', data_root=str(root), **dict(pipeline=PIPELINE, **options))
    )


@pytest.mark.parametrize('suffix', ['png', 'bmp', 'tif', 'webp', 'PNG'])
def test_formats_without_loss_give_the_same_bytes(tmp_path, suffix):
    file = tmp_path / f'a.{suffix}'
    Image.fromarray(picture()).save(file, lossless=True)
    np.testing.assert_array_equal(read_image(file), picture())


@pytest.mark.parametrize('orientation', range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation):
    # What a camera stores for each orientation, so that every viewer shows the same picture.
    stored = {
        1: lambda p: p,
        2: lambda p: p[:, ::-1],
        3: lambda p: p[::-1, ::-1],
        4: lambda p: p[::-1],
        5: lambda p: p.swapaxes(0, 1),
        6: lambda p: np.rot90(p),
        7: lambda p: p[::-1, ::-1].swapaxes(0, 1),
        8: lambda p: np.rot90(p, -1),
    }[orientation](picture())
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / 'a.png', exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / 'a.png'), picture())


def test_grey_16_bit_palette_and_alpha(tmp_path):
    grey = picture()[..., 0]
    Image.fromarray(grey).save(tmp_path / 'grey.png')
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / 'deep.png')
    Image.fromarray(grey).convert('P').save(tmp_path / 'palette.png')
    for name in ('grey', 'deep', 'palette'):
        image = read_image(tmp_path / f'{name}.png')
        np.testing.assert_array_equal(image, np.stack([grey] * 3, 2), err_msg=name)
    alpha = np.full((24, 32), 255, np.uint8)
    alpha[:5], alpha[5:9] = 0, 51
    Image.fromarray(np.dstack([picture(), alpha])).save(tmp_path / 'alpha.png')
    opacity = alpha[..., None] / 255
    expected = picture() * opacity + 255 * (1 - opacity)
    np.testing.assert_allclose(read_image(tmp_path / 'alpha.png'), expected, atol=1)


def test_folders_are_nested_and_lists_name_files(tmp_path):
    write_pictures(tmp_path / 'b' / 'c', 1)
    write_pictures(tmp_path / 'a', 2)
    (tmp_path / 'a' / 'readme.txt').write_text('no image')
    assert list_images(tmp_path).tolist() == [b'a/0.png', b'a/1.png', b'b/c/0.png']
    (tmp_path / 'list.txt').write_text('/b/c/0.png\n\na/1.png\n')
    dataset = build(tmp_path, ann_file=str(tmp_path / 'list.txt'))
    assert [dataset[i]['data_samples']['paths'] for i in range(2)] == [
        str(tmp_path / name) for name in ('b/c/0.png', 'a/1.png')
    ]


@pytest.mark.parametrize('name', [b'caf\xc3\xa9.png', b'caf\xe9.png'])
def test_names_may_be_in_any_encoding(tmp_path, name):
    write_pictures(tmp_path, 1)
    os.rename(tmp_path / '0.png', tmp_path / os.fsdecode(name))
    assert list_images(tmp_path).tolist() == [name]
    path = build(tmp_path)[0]['data_samples']['paths']
    assert os.fsencode(os.path.basename(path)) == name


def test_crops_are_squares_of_the_image_at_its_own_scale():
    image = picture(30, 40)
    np.testing.assert_array_equal(
        CropResize(20, 20, random=False).transform(dict(img=image))['img'], image[5:25, 10:30]
    )
    corners = set()
    for _ in range(60):
        cut = CropResize(28, 28).transform(dict(img=image))['img']
        places = [(y, x) for y in range(3) for x in range(13) if (image[y : y + 28, x : x + 28] == cut).all()]
        assert len(places) == 1
        corners.add(places[0])
    assert len(corners) > 20  # of 39
    # Without a crop all of the short side is seen, at another scale.
    flat = np.zeros((30, 40, 3), np.uint8)
    flat[:15] = 200
    half = CropResize(10).transform(dict(img=flat))['img']
    np.testing.assert_array_equal(half[:, 0, 0], [200] * 5 + [0] * 5)


def test_crops_are_averaged_when_reduced_and_interpolated_by_cubics_when_enlarged():
    dots = np.zeros((40, 40, 3), np.uint8)
    dots[::4, ::4] = 160
    assert (CropResize(10).transform(dict(img=dots))['img'] == 10).all()
    step = np.full((8, 8, 3), 50, np.uint8)
    step[:, 4:] = 150
    enlarged = CropResize(32).transform(dict(img=step))['img']
    assert enlarged.min() < 50 and enlarged.max() > 150  # as cubics overshoot


def test_a_hole_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r'image of \(24, 32\) and hole of \(24, 31\) differ in size'):
        PackInpainting().transform(dict(img=picture(), hole=np.ones((24, 31), np.uint8)))


@pytest.mark.parametrize('kind', ['missing', 'empty', 'list'])
def test_no_image_is_an_error_at_the_start(tmp_path, kind):
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'list.txt').write_text('\n')
    options = dict(ann_file=str(tmp_path / 'list.txt')) if kind == 'list' else {}
    with pytest.raises(UserError, match=r'missing does not exist|holds no image'):
        build(tmp_path / (kind if kind != 'list' else 'empty'), **options)


def test_sizes_down_to_one_pixel(tmp_path):
    for i, (height, width) in enumerate([(1, 1), (1, 40), (200, 3), (16, 16), (300, 500)]):
        Image.fromarray(picture(height, width)).save(tmp_path / f'{i}.png')
    dataset = build(tmp_path)
    for i in range(5):
        item = dataset[i]
        assert item['inputs'].shape == (3, 16, 16) and item['data_samples']['holes'].shape == (1, 16, 16)
        assert item['inputs'].dtype == item['data_samples']['holes'].dtype == torch.uint8


def spoil(folder):
    content = (folder / '1.png').read_bytes()
    (folder / '1.png').write_bytes(content[: len(content) // 2])
    (folder / '3.png').write_bytes(b'')
    (folder / '4.png').write_text('<html>not found</html>')


def test_unreadable_images_are_skipped_with_a_count(tmp_path):
    spoil(write_pictures(tmp_path))
    for name in ('1.png', '3.png', '4.png', 'gone.png'):
        with pytest.raises(UnreadableImageError, match=name):
            read_image(tmp_path / name)
    dataset = build(tmp_path, test_mode=True)
    with pytest.warns(UserWarning, match='skipped') as record:
        items = [dataset[i] for i in range(6)]
    texts = [str(w.message) for w in record if 'skipped' in str(w.message)]
    assert [text.split(' ')[-3] for text in texts] == ['1', '2', '3', '4']  # 3.png has a bad neighbour
    assert '1.png: not a readable image' in texts[0]
    assert [item['data_samples']['skipped'] for item in items] == [False, True, False, True, True, False]

    training = build(tmp_path)
    with pytest.warns(UserWarning, match='skipped'):
        assert {training[i]['data_samples']['paths'][-5:] for i in range(6) for _ in range(9)} == {
            '0.png',
            '2.png',
            '5.png',
        }
    with pytest.warns(
        UserWarning, match='skipped'
    ):  # not always for the same one, which all would see more of
        assert len({training[4]['data_samples']['paths'] for _ in range(20)}) > 1


def test_nothing_but_unreadable_images_is_an_error(tmp_path):
    (tmp_path / 'a.png').write_bytes(b'')
    with (
        pytest.warns(UserWarning, match='skipped'),
        pytest.raises(UserError, match=r'cannot be read, .*a\.png'),
    ):
        build(tmp_path)[0]


def test_unreadable_images_are_counted_over_workers(tmp_path):
    spoil(write_pictures(tmp_path))
    dataset = build(tmp_path, test_mode=True)
    loader = torch.utils.data.DataLoader(dataset, num_workers=2, collate_fn=list, batch_size=2)
    assert len(list(loader)) == 3
    assert int(dataset._unreadable) == 4


def test_draws_repeat_and_differ(tmp_path):
    write_pictures(tmp_path)

    def take(dataset, indices):
        torch.manual_seed(0), np.random.seed(0)  # noqa: NPY002
        return [dataset[i] for i in indices]

    def same(a, b):
        holes = (item['data_samples']['holes'] for item in (a, b))
        return torch.equal(a['inputs'], b['inputs']) and torch.equal(*holes)

    test = build(tmp_path, test_mode=True)
    forward, backward = take(test, range(6)), take(test, range(5, -1, -1))
    assert all(same(a, b) for a, b in zip(forward, backward[::-1], strict=True))
    holes = [item['data_samples']['holes'] for item in forward]
    assert not any(torch.equal(hole, holes[0]) for hole in holes[1:])  # each image has its own
    training = build(tmp_path)
    draws = [draw for draw, _ in zip(NumberedSampler(training, seed=1), range(12), strict=False)]
    first, second = take(training, draws), take(training, draws[6:])
    assert all(same(a, b) for a, b in zip(first[6:], second, strict=True))
    by_image = {}
    for draw, item in zip(draws, first, strict=True):
        by_image.setdefault(int(draw), []).append(item)
    assert all(not same(*items) for items in by_image.values())  # the second pass draws anew
    state = np.random.get_state(legacy=False)  # noqa: NPY002
    training[draws[0]]
    np.testing.assert_equal(np.random.get_state(legacy=False), state)  # noqa: NPY002
