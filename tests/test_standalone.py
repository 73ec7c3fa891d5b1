# SPDX-License-Identifier: Apache-2.0
"""The operators and upsamplers need torch alone."""

import subprocess
import sys

BLOCK = """
import sys
BLOCKED = ('mmcv', 'mmengine', 'mmdet', 'mmseg', 'numpy', 'pycocotools', 'cv2', 'matplotlib', 'tqdm')
for name in BLOCKED:
    sys.modules[name] = None  # an import of it raises ImportError
import torch
import carafe_plugin
out = carafe_plugin.build_upsampler(dict(type='carafe'), 8)(torch.rand(1, 8, 4, 4))
assert out.shape == (1, 8, 8, 8)
"""


def test_carafe_without_openmmlab():
    subprocess.run([sys.executable, '-W', 'ignore', '-c', BLOCK], check=True)
