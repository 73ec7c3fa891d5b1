# SPDX-License-Identifier: Apache-2.0
"""SETR's upsampling heads (Zheng et al., CVPR 2021, https://arxiv.org/abs/2012.15840) with any upsampler."""

from typing import Any

from mmseg.models.decode_heads import SETRUPHead
from mmseg.registry import MODELS

from carafe_plugin.upsamplers import build_upsampler


@MODELS.register_module()
class UpsampleSETRUPHead(SETRUPHead):
    """MMSegmentation's SETRUPHead (naive and progressive) with upsamplers behind its convolutions.

    A plain vision transformer has no finer map, so an upsampler that needs a guide is refused. With
    ``bilinear`` the output equals the stock class bit for bit.

    Args:
        upsample_cfg: ``dict(type=NAME, ...)``; None runs the stock code. The ratio is ``up_scale``.
        **kwargs: as :class:`mmseg.models.decode_heads.SETRUPHead`.

    Raises:
        TypeError, ValueError: see :func:`carafe_plugin.build_upsampler`.
    """

    def __init__(
        self, *args: Any, up_scale: int = 4, upsample_cfg: dict | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, up_scale=up_scale, **kwargs)
        if upsample_cfg is not None:
            for up_conv in self.up_convs:
                up_conv[1] = build_upsampler(upsample_cfg, self.channels, up_scale)

    def init_weights(self) -> None:
        """As the stock class; then the upsamplers' own, which its rules may have touched."""
        super().init_weights()
        for up_conv in self.up_convs:
            if hasattr(up_conv[1], 'init_weights'):
                up_conv[1].init_weights()
