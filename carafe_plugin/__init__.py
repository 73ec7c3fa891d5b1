# SPDX-License-Identifier: Apache-2.0
"""Content-aware upsampling (CARAFE and its relatives) for PyTorch and the OpenMMLab stack.

Importing this package needs torch alone. OpenMMLab classes are registered by importing the host that
they belong to: ``custom_imports = dict(imports=['carafe_plugin.detection'])`` in a config.
"""

from .ops import carafe, carafe_downsample, carafe_downsample_softmax, carafe_softmax
from .ops._native import plain_operators
from .upsamplers import UPSAMPLERS, Upsampler, build_upsampler

__version__ = '0.1.0'

__all__ = [
    'UPSAMPLERS',
    'Upsampler',
    'build_upsampler',
    'carafe',
    'carafe_downsample',
    'carafe_downsample_softmax',
    'carafe_softmax',
    'patch_featup',
    'patch_mmcv',
    'plain_operators',
    'unpatch_featup',
    'unpatch_mmcv',
]


def patch_mmcv() -> None:
    """Put this package's operator under ``mmcv.ops.carafe``; see :mod:`carafe_plugin.mmcv_patch`."""
    from . import mmcv_patch

    mmcv_patch.apply()


def unpatch_mmcv() -> None:
    """Undo :func:`patch_mmcv`; does nothing where it is not in place."""
    from . import mmcv_patch

    mmcv_patch.undo()


def patch_featup() -> None:
    """Serve the compiled operators of FeatUp and SAPA; see :mod:`carafe_plugin.featup_patch`."""
    from . import featup_patch

    featup_patch.apply()


def unpatch_featup() -> None:
    """Undo :func:`patch_featup`; does nothing where it is not in place."""
    from . import featup_patch

    featup_patch.undo()
