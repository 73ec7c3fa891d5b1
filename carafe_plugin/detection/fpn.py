# SPDX-License-Identifier: Apache-2.0
"""FPN (Lin et al., CVPR 2017, https://arxiv.org/abs/1612.03144) with any upsampler in its top-down path."""

from mmdet.models.necks import FPN
from mmdet.registry import MODELS

from carafe_plugin._hosts.fpn import UpsampledTopDown


@MODELS.register_module()
class UpsampleFPN(UpsampledTopDown, FPN):
    """MMDetection's FPN whose top-down steps are upsamplers of :data:`carafe_plugin.UPSAMPLERS`.

    Arguments and errors: see :class:`carafe_plugin._hosts.fpn.UpsampledTopDown`.
    """
