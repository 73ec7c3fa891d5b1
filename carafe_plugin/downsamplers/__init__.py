# SPDX-License-Identifier: Apache-2.0
"""Downsamplers behind one call contract and one registry. Needs torch alone; knows no host network."""

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
