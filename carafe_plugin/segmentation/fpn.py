# SPDX-License-Identifier: Apache-2.0
"""Semantic FPN's neck (Kirillov et al., CVPR 2019, https://arxiv.org/abs/1901.02446) with any upsampler."""

from mmseg.models.necks import FPN
from mmseg.registry import MODELS

from carafe_plugin._hosts.fpn import UpsampledTopDown


@MODELS.register_module()
class UpsampleFPN(UpsampledTopDown, FPN):
    """MMSegmentation's FPN whose top-down steps are upsamplers of :data:`carafe_plugin.UPSAMPLERS`.

    Arguments and errors: see :class:`carafe_plugin._hosts.fpn.UpsampledTopDown`. The stock field of the same
    name holds ``mode``; here it holds ``type``.
    """
