# SPDX-License-Identifier: Apache-2.0
"""Upsamplers behind one call contract and one registry. Needs torch alone; knows no host network."""

from .base import Upsampler, fit, top_down
from .build import UPSAMPLERS, build_upsampler
from .carafe import CARAFE
from .deconv import DeconvUpsampler
from .interpolate import BilinearUpsampler, NearestUpsampler
from .pixel_shuffle import PixelShuffleUpsampler

__all__ = [
    'CARAFE',
    'UPSAMPLERS',
    'BilinearUpsampler',
    'DeconvUpsampler',
    'NearestUpsampler',
    'PixelShuffleUpsampler',
    'Upsampler',
    'build_upsampler',
    'fit',
    'top_down',
]
