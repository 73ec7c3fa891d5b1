# SPDX-License-Identifier: Apache-2.0
"""UperNet's head (Xiao et al., ECCV 2018, https://arxiv.org/abs/1807.10221), upsamplers in three places."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import ModuleDict, ModuleList
from mmseg.models.decode_heads import UPerHead
from mmseg.models.utils import resize
from mmseg.registry import MODELS
from torch import Tensor

from carafe_plugin.upsamplers import build_upsampler, top_down
from carafe_plugin.upsamplers.published import rename_keys

from ._lift import lift

PLACES = ('ppm', 'fpn', 'fusion')


@MODELS.register_module()
class UpsampleUPerHead(UPerHead):
    """MMSegmentation's UPerHead with upsamplers of :data:`carafe_plugin.UPSAMPLERS`, each place by itself.

    - ``ppm``: the pooled maps go to half the size of C5 (rounded up) bilinearly, then x2 by an upsampler
      each. A guided upsampler gets C5.
    - ``fpn``: the top-down path, as in the detectors' FPN. Guides are the laterals.
    - ``fusion``: P5 to P2 are joined level by level, cat(P2, up(cat(P3, up(cat(P4, up(P5)))))); the order of
      the channels is the stock one. Guides are P4, P3 and P2.

    A place that is not named runs the stock code, and so does the head as a whole with None. ``fpn`` with
    ``bilinear`` equals the stock bit for bit where each level is exactly half of the next finer one; ``ppm``
    and ``fusion`` are other definitions than one interpolation to the final size. At 512 channels CARAFE
    adds 362,128 parameters in ``ppm``, 271,596 in ``fpn`` and 369,900 in ``fusion``.

    Args:
        upsample_cfg: some of ``ppm``, ``fpn`` and ``fusion``, each ``dict(type=NAME, ...)`` or None.
        **kwargs: as :class:`mmseg.models.decode_heads.UPerHead`.

    Raises:
        TypeError, ValueError: an unknown place; see also :func:`carafe_plugin.build_upsampler`. In
            ``forward``, a ValueError where a level's size is not half of the next finer one's, give or take a
            pixel.
    """

    def __init__(self, *args: Any, upsample_cfg: Mapping | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        cfgs = _places(upsample_cfg)
        steps = len(self.in_channels) - 1
        # Input and guide channels of each upsampler; of two levels, N is the one that takes N + 1 to N.
        channels = dict(
            ppm=[(self.channels, self.in_channels[-1])] * len(self.psp_modules),
            fpn=[(self.channels, self.channels)] * steps,
            fusion=[(self.channels * (steps - level), self.channels) for level in range(steps)],
        )
        # mmengine's containers initialise their members after the head's own rules; torch's would not.
        self.upsamplers = ModuleDict()
        for place, cfg in cfgs.items():
            self.upsamplers[place] = ModuleList(
                build_upsampler(cfg, inputs, guide_channels=guide) for inputs, guide in channels[place]
            )

    def psp_forward(self, inputs: list[Tensor]) -> Tensor:
        """Pool C5 (N, C, H, W) at all scales and merge what comes back into (N, channels, H, W)."""
        if 'ppm' not in self.upsamplers:
            return super().psp_forward(inputs)
        x = inputs[-1]
        half = [(side + 1) // 2 for side in x.shape[-2:]]
        outs = [x]
        for pool, upsampler in zip(self.psp_modules, self.upsamplers['ppm'], strict=True):
            pooled = F.interpolate(pool(x), size=half, mode='bilinear', align_corners=self.align_corners)
            outs.append(lift(upsampler, pooled, x))
        return self.bottleneck(torch.cat(outs, 1))

    def _forward_feature(self, inputs: list[Tensor]) -> Tensor:
        if not self.upsamplers:
            return super()._forward_feature(inputs)
        inputs = self._transform_inputs(inputs)
        laterals = [conv(x) for conv, x in zip(self.lateral_convs, inputs[:-1], strict=True)]
        laterals.append(self.psp_forward(inputs))

        if 'fpn' in self.upsamplers:
            laterals = top_down(laterals, self.upsamplers['fpn'])
        else:
            for level in range(len(laterals) - 1, 0, -1):
                laterals[level - 1] = laterals[level - 1] + self._resize(laterals[level], laterals[level - 1])

        outs = [conv(x) for conv, x in zip(self.fpn_convs, laterals[:-1], strict=True)]
        outs.append(laterals[-1])
        if 'fusion' in self.upsamplers:
            fused = outs.pop()
            for out, upsampler in zip(reversed(outs), reversed(self.upsamplers['fusion']), strict=True):
                fused = torch.cat([out, lift(upsampler, fused, out)], 1)
        else:
            fused = torch.cat([outs[0], *(self._resize(out, outs[0]) for out in outs[1:])], 1)
        return self.fpn_bottleneck(fused)

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: Any) -> None:
        if 'fpn' in self.upsamplers:  # DySample's and SAPA's segmentors
            rename_keys(state_dict, {'upsample_modules.': 'upsamplers.fpn.'}, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _resize(self, x: Tensor, like: Tensor) -> Tensor:
        return resize(x, size=like.shape[-2:], mode='bilinear', align_corners=self.align_corners)


def _places(upsample_cfg: Mapping | None) -> dict[str, Mapping]:
    """The places that are set; TypeError or ValueError where the config is of another form."""
    if upsample_cfg is None:
        return {}
    if not isinstance(upsample_cfg, Mapping):
        raise TypeError(f'upsample_cfg must be a dict, got {upsample_cfg!r}')
    if unknown := upsample_cfg.keys() - set(PLACES):
        raise ValueError(
            f'upsample_cfg of UpsampleUPerHead has the places {", ".join(PLACES)}, got '
            f'{", ".join(sorted(map(repr, unknown)))}; write e.g. upsample_cfg=dict(fpn=dict(type=NAME))'
        )
    return {place: upsample_cfg[place] for place in PLACES if upsample_cfg.get(place) is not None}
