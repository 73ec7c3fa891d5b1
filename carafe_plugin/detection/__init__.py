# SPDX-License-Identifier: Apache-2.0
"""Hosts for MMDetection: importing this package registers them and every upsampler with mmengine."""

from carafe_plugin._hosts.pixel_decoder import UpsampleMSDeformAttnPixelDecoder, UpsamplePixelDecoder
from carafe_plugin.runtime.registration import register_upsamplers

from .concat_pafpn import UpsampleCSPNeXtPAFPN, UpsampleYOLOXPAFPN
from .fpn import UpsampleFPN
from .fpn_carafe import UpsampleFPNCARAFE
from .mask_head import UpsampleFCNMaskHead
from .pafpn import UpsamplePAFPN
from .panoptic_fpn_head import UpsamplePanopticFPNHead
from .resnet import CarafeResNet

register_upsamplers()

__all__ = [
    'CarafeResNet',
    'UpsampleCSPNeXtPAFPN',
    'UpsampleFCNMaskHead',
    'UpsampleFPN',
    'UpsampleFPNCARAFE',
    'UpsampleMSDeformAttnPixelDecoder',
    'UpsamplePAFPN',
    'UpsamplePanopticFPNHead',
    'UpsamplePixelDecoder',
    'UpsampleYOLOXPAFPN',
]
