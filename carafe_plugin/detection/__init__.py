# SPDX-License-Identifier: Apache-2.0
"""Hosts for MMDetection: importing this package registers them and every upsampler with mmengine."""

from carafe_plugin.engine.registration import register_upsamplers

from .fpn import UpsampleFPN
from .mask_head import UpsampleFCNMaskHead

register_upsamplers()

__all__ = ['UpsampleFCNMaskHead', 'UpsampleFPN']
