# SPDX-License-Identifier: Apache-2.0
"""The pictures that the probe papers show their networks, ADE20K with class 0, depth beside any images."""

import mmcv
import numpy as np
from mmcv.transforms import BaseTransform
from mmseg.datasets import ADE20KDataset, BaseSegDataset, NYUDataset
from mmseg.registry import DATASETS, TRANSFORMS

from carafe_plugin.ops.arguments import require_positive_int


@TRANSFORMS.register_module()
class ResizeCenterCrop(BaseTransform):
    """Resize the short side and cut the square in the middle, as torchvision's two transforms do.

    Images are resized bilinearly with smoothing (Pillow), label and depth maps by nearest interpolation. The
    square takes the place of the image: predictions are compared at its size.

    Args:
        size: side of the square, in pixels.

    Raises:
        TypeError, ValueError: ``size`` is not a positive int.
    """

    def __init__(self, size: int) -> None:
        self.size = require_positive_int('size', size)

    def transform(self, results: dict) -> dict:
        height, width = results['img'].shape[:2]
        short = min(height, width)
        size = [int(self.size * side / short) for side in (height, width)]
        top, left = (round((side - self.size) / 2) for side in size)
        image = mmcv.imresize(results['img'], size[::-1], interpolation='bilinear', backend='pillow')
        results['img'] = image[top : top + self.size, left : left + self.size]
        for key in results.get('seg_fields', ()):
            rows, columns = (
                ((first + np.arange(self.size) + 0.5) * side / resized).astype(int)
                for first, side, resized in zip((top, left), (height, width), size, strict=True)
            )
            results[key] = results[key][rows[:, None], columns]
        results['img_shape'] = results['ori_shape'] = results['pad_shape'] = (self.size, self.size)
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(size={self.size})'


@DATASETS.register_module()
class ADE20K151(BaseSegDataset):
    """ADE20K with its label 0, all that is none of the 150 classes, as one more class."""

    METAINFO = dict(  # noqa: RUF012  (as every data set of mmseg)
        classes=('other', *ADE20KDataset.METAINFO['classes']),
        palette=[[0, 0, 0], *ADE20KDataset.METAINFO['palette']],
    )

    def __init__(self, **kwargs: object) -> None:
        super().__init__(**(dict(img_suffix='.jpg', seg_map_suffix='.png') | kwargs))


@DATASETS.register_module()
class DepthDataset(NYUDataset):
    """Images and a depth map of the same name for each, without NYU's rooms as classes."""

    METAINFO: dict = {}  # noqa: RUF012  (as above)

    def _get_category_id_from_filename(self, image_fname: str) -> int:
        return -1
