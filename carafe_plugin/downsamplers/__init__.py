# SPDX-License-Identifier: Apache-2.0
"""CARAFE++ downwards and what it is compared with. Needs torch alone; knows no host network.

Experimental: the operator is CARAFE++'s, but the registry, the ``downsample_cfg`` field and the place that
:class:`carafe_plugin.detection.CarafeResNet` gives a downsampler are this project's, and may change.
"""

from .base import Downsampler
from .baselines import AvgPoolDownsampler, MaxPoolDownsampler, StridedConvDownsampler
from .build import DOWNSAMPLERS, build_downsampler
from .carafe import CarafeDownsample

__all__ = [
    'DOWNSAMPLERS',
    'AvgPoolDownsampler',
    'CarafeDownsample',
    'Downsampler',
    'MaxPoolDownsampler',
    'StridedConvDownsampler',
    'build_downsampler',
]
