# SPDX-License-Identifier: Apache-2.0
"""Pictures of what was inpainted."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from PIL import Image

GAP = 6


def strip(sample: dict) -> np.ndarray:
    """Lay the image with a white hole, the result and the original side by side.

    Args:
        sample: what the model predicts for an image.

    Returns:
        RGB bytes (H, 3*W + 2*GAP, 3).
    """
    result, original = (sample[key].permute(1, 2, 0).cpu().numpy() for key in ('result', 'original'))
    hole = sample['hole'][0].cpu().numpy()[..., None] > 0
    gap = np.full((len(result), GAP, 3), 255, np.uint8)
    return np.concatenate([np.where(hole, np.uint8(255), original), gap, result, gap, original], 1)


@HOOKS.register_module()
class InpaintingVisualizationHook(Hook):
    """Draw image with its hole, result and original side by side, for every image of a test.

    Args:
        draw: whether to; ``tools/test.py --show-dir`` switches it on.
        test_out_dir: folder for the pictures, NAME_NUMBER.png.
    """

    def __init__(self, draw: bool = False, test_out_dir: str = 'pictures') -> None:
        self.draw, self.test_out_dir = draw, Path(test_out_dir)
        self._count = 0

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs: Sequence[dict] = ()
    ) -> None:
        if not self.draw:
            return
        self.test_out_dir.mkdir(parents=True, exist_ok=True)
        for sample in outputs:
            file = self.test_out_dir / f'{Path(sample["path"]).stem}_{self._count}.png'
            Image.fromarray(strip(sample)).save(file)
            self._count += 1
