# SPDX-License-Identifier: Apache-2.0
"""Linear probes on frozen, upsampled features: importing this package registers it with MMSegmentation."""

from carafe_plugin.runtime.registration import register_upsamplers

from .backbone import FrozenViT

register_upsamplers()

__all__ = ['FrozenViT']
