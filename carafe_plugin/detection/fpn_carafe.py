# SPDX-License-Identifier: Apache-2.0
"""The 4-stage FPN behind the published CARAFE detectors (https://arxiv.org/abs/1905.02188), any upsampler."""

from typing import Any

from mmdet.models.necks import FPN_CARAFE
from mmdet.registry import MODELS
from mmengine.model import ModuleList
from torch import Tensor

from carafe_plugin._hosts.levels import require_levels
from carafe_plugin.upsamplers import build_upsampler, top_down
from carafe_plugin.upsamplers.published import rename_keys


@MODELS.register_module()
class UpsampleFPNCARAFE(FPN_CARAFE):
    """MMDetection's FPN_CARAFE whose top-down steps are upsamplers of :data:`carafe_plugin.UPSAMPLERS`.

    It is not FPN with other upsamplers: with ``num_outs=5`` on ResNet's four levels, P6 comes from a lateral
    of its own (3x3, stride 2), takes part in the top-down path by a fourth upsampler and has an output
    convolution, 5.31 M parameters more than :class:`UpsampleFPN`. The published rows at 46.8 M parameters
    have this topology. Guides are the laterals. With ``nearest`` and ``bilinear`` every output equals the
    stock class bit for bit, with ``carafe`` to rounding.

    Args:
        upsample_cfg: ``dict(type=NAME, ...)``; None runs the stock code with its default, mmcv's CARAFE (on
            a CPU only under :func:`carafe_plugin.patch_mmcv`).
        *args, **kwargs: as :class:`mmdet.models.necks.FPN_CARAFE`, whose checkpoints load: its
            ``upsample_modules.N`` are ``upsamplers.N`` here, and so are FreqFusion's ``alignment.N``.

    Raises:
        TypeError, ValueError: as :class:`UpsampleFPN`.
    """

    def __init__(self, *args: Any, upsample_cfg: dict | None = None, **kwargs: Any) -> None:
        if upsample_cfg is None:
            super().__init__(*args, **kwargs)
            self.upsamplers = ModuleList()
            return
        # The stock class knows a literal list of names: it builds the rest, with one that has no weights.
        super().__init__(*args, upsample_cfg=dict(type='nearest'), **kwargs)
        self.upsample_cfg, self.upsample = dict(upsample_cfg), upsample_cfg.get('type')
        del self.upsample_modules
        self.upsamplers = ModuleList(
            build_upsampler(upsample_cfg, self.out_channels, guide_channels=self.out_channels)
            for _ in self.lateral_convs[1:]
        )

    def init_weights(self) -> None:
        """As the stock class, whose Xavier covers every convolution; then the upsamplers' own."""
        super().init_weights()
        for upsampler in self.upsamplers:
            upsampler.init_weights()

    def forward(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Turn backbone maps (N, C_i, H_i, W_i), fine to coarse, into ``num_outs`` maps."""
        if not self.upsamplers:
            return super().forward(inputs)
        require_levels(inputs, self.in_channels)
        used = inputs[self.start_level : self.backbone_end_level]
        laterals = [conv(x) for conv, x in zip(self.lateral_convs, used, strict=False)]
        source = used[-1]
        for conv in self.lateral_convs[len(used) :]:
            source = conv(source)
            laterals.append(source)
        laterals = top_down(laterals, self.upsamplers)
        return tuple(conv(x) for conv, x in zip(self.fpn_convs, laterals, strict=True))

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: Any) -> None:
        if self.upsamplers:
            rename_keys(state_dict, {'upsample_modules.': 'upsamplers.', 'alignment.': 'upsamplers.'}, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)
