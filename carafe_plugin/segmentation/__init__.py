# SPDX-License-Identifier: Apache-2.0
"""Hosts for MMSegmentation: importing this package registers them and every upsampler with mmengine."""

from importlib.util import find_spec

from carafe_plugin.runtime.registration import register_upsamplers

from .fpn import UpsampleFPN
from .fpn_head import UpsampleFPNHead
from .metrics import BoundaryIoUMetric
from .segformer_head import UpsampleSegformerHead
from .setr_up_head import UpsampleSETRUPHead
from .transforms import MapLabels
from .unet import UpsampleInterpConv, UpsampleUNet
from .uper_head import UpsampleUPerHead

register_upsamplers()

__all__ = [
    'BoundaryIoUMetric',
    'MapLabels',
    'UpsampleFPN',
    'UpsampleFPNHead',
    'UpsampleInterpConv',
    'UpsampleSETRUPHead',
    'UpsampleSegformerHead',
    'UpsampleUNet',
    'UpsampleUPerHead',
]

if find_spec('mmdet') is not None:  # MaskFormer and Mask2Former; MMSegmentation itself goes without
    from carafe_plugin._hosts.pixel_decoder import UpsampleMSDeformAttnPixelDecoder, UpsamplePixelDecoder

    from .maskformer_head import UpsampleMaskFormerHead

    __all__ += ['UpsampleMSDeformAttnPixelDecoder', 'UpsampleMaskFormerHead', 'UpsamplePixelDecoder']
