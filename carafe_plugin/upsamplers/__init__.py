# SPDX-License-Identifier: Apache-2.0
"""Upsamplers behind one call contract and one registry. Needs torch alone; knows no host network."""

from .a2u import A2U
from .base import GuidedUpsampler, Upsampler, fit, top_down
from .build import UPSAMPLERS, build_upsampler
from .carafe import CARAFE
from .conv import BilinearConvUpsampler, NearestConvUpsampler
from .deconv import DeconvUpsampler
from .dysample import DySample
from .fade import FADE, FADELite
from .freqfusion import FreqFusion
from .gum import GUM
from .indexnet import IndexNet
from .interpolate import BilinearUpsampler, NearestUpsampler
from .jbu import JBU
from .pixel_shuffle import PixelShuffleUpsampler
from .sapa import SAPA
from .sapa_deform import SAPADeform
from .spatial_attention import SpatialAttentionUpsampler

__all__ = [
    'A2U',
    'CARAFE',
    'FADE',
    'GUM',
    'JBU',
    'SAPA',
    'UPSAMPLERS',
    'BilinearConvUpsampler',
    'BilinearUpsampler',
    'DeconvUpsampler',
    'DySample',
    'FADELite',
    'FreqFusion',
    'GuidedUpsampler',
    'IndexNet',
    'NearestConvUpsampler',
    'NearestUpsampler',
    'PixelShuffleUpsampler',
    'SAPADeform',
    'SpatialAttentionUpsampler',
    'Upsampler',
    'build_upsampler',
    'fit',
    'top_down',
]
