# SPDX-License-Identifier: Apache-2.0
"""What every host package does when it is imported."""

from mmengine.registry import MODELS

from carafe_plugin.upsamplers import UPSAMPLERS


def register_upsamplers() -> None:
    """Enter every known upsampler into mmengine's ``MODELS`` under its class name.

    So ``mmcv.cnn.build_upsample_layer(dict(type='CARAFE', in_channels=64, scale_factor=2))`` works, and with
    it every stock class that builds its upsampler that way.
    """
    for name in UPSAMPLERS:
        cls = UPSAMPLERS.get(name)
        if cls.__name__ not in MODELS.module_dict:
            MODELS.register_module(module=cls)
