# SPDX-License-Identifier: Apache-2.0
"""Upsamplers behind one call contract and one registry. Needs torch alone; knows no host network."""

from .base import GuidedUpsampler, Upsampler, fit, top_down
from .build import UPSAMPLERS, build_upsampler
from .carafe import CARAFE
from .conv import BilinearConvUpsampler, NearestConvUpsampler
from .deconv import DeconvUpsampler
from .dysample import DySample
from .fade import FADE, FADELite
from .gum import GUM
from .interpolate import BilinearUpsampler, NearestUpsampler
from .pixel_shuffle import PixelShuffleUpsampler
from .spatial_attention import SpatialAttentionUpsampler

__all__ = [
    'CARAFE',
    'FADE',
    'GUM',
    'UPSAMPLERS',
    'BilinearConvUpsampler',
    'BilinearUpsampler',
    'DeconvUpsampler',
    'DySample',
    'FADELite',
    'GuidedUpsampler',
    'NearestConvUpsampler',
    'NearestUpsampler',
    'PixelShuffleUpsampler',
    'SpatialAttentionUpsampler',
    'Upsampler',
    'build_upsampler',
    'fit',
    'top_down',
]
