# SPDX-License-Identifier: Apache-2.0
"""The square in the middle against torchvision's rules, and ADE20K with class 0."""

from pathlib import Path

import numpy as np
import pytest
from mmseg.datasets import ADE20KDataset
from PIL import Image

from carafe_plugin.probes import ADE20K151, DepthDataset, ResizeCenterCrop


@pytest.mark.parametrize('height, width, size', [(37, 53, 16), (53, 37, 16), (20, 31, 33), (16, 16, 16)])
def test_square_in_the_middle(height, width, size):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    labels, depth = rng.integers(0, 9, (height, width), dtype=np.uint8), rng.random((height, width))
    results = dict(
        img=image, gt_seg_map=labels, gt_depth_map=depth, seg_fields=['gt_seg_map', 'gt_depth_map']
    )
    out = ResizeCenterCrop(size)(results)
    short = min(height, width)
    resized = int(size * width / short), int(size * height / short)
    left, top = (round((side - size) / 2) for side in resized)
    box = (left, top, left + size, top + size)
    for key, source, rule in (
        ('img', image, Image.Resampling.BILINEAR),
        ('gt_seg_map', labels, Image.Resampling.NEAREST),
        ('gt_depth_map', depth.astype(np.float32), Image.Resampling.NEAREST),
    ):
        expected = np.asarray(Image.fromarray(source).resize(resized, rule).crop(box))
        np.testing.assert_array_equal(out[key].astype(expected.dtype), expected)
    assert out['img_shape'] == out['ori_shape'] == out['pad_shape'] == (size, size)


def test_size_is_a_positive_int():
    with pytest.raises(TypeError, match=r'size must be an int, got \(448, 448\)'):
        ResizeCenterCrop((448, 448))


def test_ade20k_with_class_0(tmp_path):
    meta = ADE20K151(data_root=str(tmp_path), lazy_init=True).metainfo
    assert len(meta['classes']) == len(meta['palette']) == 151
    assert meta['classes'][1:] == ADE20KDataset.METAINFO['classes']
    assert not meta['reduce_zero_label'] and meta['label_map'] is None


def test_depth_beside_any_images(tmp_path):
    for folder, suffix in (('images', 'jpg'), ('depth', 'png')):
        (tmp_path / folder).mkdir()
        for name in ('kitchen_1', '2'):
            (tmp_path / folder / f'{name}.{suffix}').touch()
    prefix = dict(img_path='images', depth_map_path='depth')
    data = DepthDataset(data_root=str(tmp_path), data_prefix=prefix)
    infos = [data.get_data_info(index) for index in range(len(data))]
    pairs = [(Path(info['img_path']).name, Path(info['depth_map_path']).name) for info in infos]
    assert pairs == [('2.jpg', '2.png'), ('kitchen_1.jpg', 'kitchen_1.png')]
    assert 'classes' not in data.metainfo
