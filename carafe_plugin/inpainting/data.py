# SPDX-License-Identifier: Apache-2.0
"""Images of a folder as a data set that unreadable files cannot stop."""

import os
import random
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from mmengine.dataset import Compose
from mmengine.registry import DATASETS
from torch.utils.data import Dataset

from carafe_plugin.runtime.errors import UserError

from .images import UnreadableImageError, list_images

PATIENCE = 100


@DATASETS.register_module()
class InpaintingDataset(Dataset):
    """Images of any size and kind, in nested folders or named by a list.

    What a pipeline draws for an image, its hole above all, follows from the image's number in a test, and
    in a training with :class:`carafe_plugin.runtime.NumberedSampler` from the number of the draw: whoever
    loads it, before or after a resume, draws the same.

    Args:
        data_root: folder of the images.
        pipeline: transforms; they start from ``img_path``.
        ann_file: text file with a path relative to ``data_root`` in each line; None takes every image.
        test_mode: see above; and an image that stands in for an unreadable one is marked, so that no
            metric counts it.

    Raises:
        UserError: there is no image; or, from an item, a hundred in a row cannot be read.
    """

    metainfo: ClassVar[dict] = dict(task='inpainting')

    def __init__(
        self, data_root: str, pipeline: Sequence, ann_file: str | None = None, test_mode: bool = False
    ) -> None:
        self.data_root, self.test_mode = Path(data_root), test_mode
        self.names = list_images(data_root, ann_file)
        self.pipeline = Compose(pipeline)
        self._unreadable = torch.zeros(1, dtype=torch.long).share_memory_()  # one count for all workers

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> dict:
        entropy = (0, int(index)) if self.test_mode else getattr(index, 'entropy', None)
        with _seeded(entropy):
            for attempt in range(min(PATIENCE, len(self)) if self.test_mode else PATIENCE):
                # The neighbours in a test; in a training no image should stand in for the one before it.
                step = attempt if self.test_mode or not attempt else np.random.randint(len(self))  # noqa: NPY002
                path = self.data_root / os.fsdecode(self.names[(index + step) % len(self)])
                try:
                    return self.pipeline(dict(img_path=str(path), skipped=attempt > 0))
                except UnreadableImageError as error:
                    self._unreadable += 1
                    warnings.warn(f'{error}: skipped, {int(self._unreadable)} so far', stacklevel=2)
        raise UserError(f'{attempt + 1} images of {self.data_root} in a row cannot be read, {path} the last')


@contextmanager
def _seeded(entropy: Sequence[int] | None) -> Iterator[None]:
    """Let the global generators follow from ``entropy`` for a while; None leaves them alone."""
    if entropy is None:
        yield
        return
    states = random.getstate(), np.random.get_state()  # noqa: NPY002
    seed = np.random.SeedSequence(entropy).generate_state(4)
    random.seed(int(seed[0]))
    np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
