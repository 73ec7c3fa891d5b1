# SPDX-License-Identifier: Apache-2.0
"""Mask R-CNN's mask head (He et al., ICCV 2017, https://arxiv.org/abs/1703.06870) with any upsampler."""

from typing import Any

from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmdet.registry import MODELS

from carafe_plugin.ops.arguments import require_positive_int
from carafe_plugin.upsamplers import build_upsampler


@MODELS.register_module()
class UpsampleFCNMaskHead(FCNMaskHead):
    """MMDetection's mask head whose one upsampling step comes from :data:`carafe_plugin.UPSAMPLERS`.

    ``deconv`` here is the stock layer, a 2x2 transposed convolution of stride 2 with its ReLU; every other
    upsampler is followed by the mask predictor directly, as in the published CARAFE models. There is no
    finer map at hand, so an upsampler that needs a guide is refused.

    Args:
        upsample_cfg: ``dict(type=NAME, ...)``, with ``scale_factor`` where it is not 2; None runs the stock
            code with its default.
        **kwargs: as :class:`mmdet.models.roi_heads.mask_heads.FCNMaskHead`.

    Raises:
        TypeError, ValueError: see :func:`carafe_plugin.build_upsampler`.
    """

    def __init__(self, *args: Any, upsample_cfg: dict | None = None, **kwargs: Any) -> None:
        cfg: dict = dict(type='deconv') if upsample_cfg is None else dict(upsample_cfg)
        scale_factor = cfg.setdefault('scale_factor', 2)
        if cfg.get('type') == 'deconv':
            require_positive_int('scale_factor', scale_factor)
            if unknown := cfg.keys() - {'type', 'scale_factor'}:
                raise TypeError(f"the mask head's deconv takes no argument {', '.join(map(repr, unknown))}")
            super().__init__(*args, upsample_cfg=cfg, **kwargs)
            return
        # The stock class accepts a literal list of names: let it build the rest without an upsampler.
        super().__init__(*args, upsample_cfg=dict(type=None), **kwargs)
        channels = self.conv_out_channels if self.num_convs > 0 else self.in_channels
        self.upsample = build_upsampler(cfg, channels, scale_factor)
        self.upsample_cfg, self.scale_factor = cfg, scale_factor
