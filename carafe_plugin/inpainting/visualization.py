# SPDX-License-Identifier: Apache-2.0
"""Pictures of what was inpainted."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

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
        interval: draw every such image.
    """

    priority = 'NORMAL'

    def __init__(self, draw: bool = False, interval: int = 1) -> None:
        self.draw, self.interval = draw, interval
        self._count = 0

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs: Sequence[dict] = ()
    ) -> None:
        if not self.draw:
            return
        for sample in outputs:
            if self._count % self.interval == 0:
                runner.visualizer.add_image(Path(sample['path']).stem, strip(sample), step=self._count)
            self._count += 1
