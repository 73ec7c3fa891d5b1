# SPDX-License-Identifier: Apache-2.0
"""Labels of one protocol turned into those of another, as the 27-class ones of COCO-Stuff and Cityscapes."""

from collections.abc import Sequence

import numpy as np
from mmcv.transforms import BaseTransform
from mmseg.registry import TRANSFORMS


@TRANSFORMS.register_module()
class MapLabels(BaseTransform):
    """Replace each label of the label maps; comes right behind ``LoadAnnotations``.

    Pixels of ``ignore_index`` stay what they are, unless the table has an entry for that label.

    Args:
        label_map: the new label of label 0, 1, 2, ...; ``ignore_index`` drops one.
        num_classes: number of new labels.
        ignore_index: label of the pixels to ignore.

    Raises:
        TypeError, ValueError: ``label_map`` is no list of whole numbers, or one is not a label. While
            loading, a ValueError names the file and the label that the table does not reach.
    """

    def __init__(self, label_map: Sequence[int], num_classes: int, ignore_index: int = 255) -> None:
        if not isinstance(label_map, (list, tuple)) or not all(type(label) is int for label in label_map):
            raise TypeError(f'label_map must be a list of ints, got {label_map!r}')
        for old, new in enumerate(label_map):
            if not 0 <= new < num_classes and new != ignore_index:
                raise ValueError(
                    f'label_map must send label {old} to 0..{num_classes - 1} or {ignore_index}, got {new}'
                )
        self.label_map = tuple(label_map)
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self._table = np.full(256, -1, np.int16)
        self._table[ignore_index] = ignore_index
        self._table[: len(label_map)] = label_map

    def unmapped(self, labels: np.ndarray) -> list[int]:
        """The labels in a map for which the table has no entry."""
        found = np.flatnonzero(np.bincount(labels.ravel(), minlength=256))
        return [int(label) for label in found if label > 255 or self._table[label] < 0]

    def transform(self, results: dict) -> dict:
        for key in results.get('seg_fields', ()):  # none where an image alone is segmented
            if missing := self.unmapped(results[key]):
                raise ValueError(
                    f'{results.get("seg_map_path", key)}: label_map leaves label {missing[0]} unmapped, '
                    f'it has {len(self.label_map)} entries'
                )
            results[key] = self._table[results[key]].astype(np.uint8)
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}({len(self.label_map)} labels to {self.num_classes} classes)'
