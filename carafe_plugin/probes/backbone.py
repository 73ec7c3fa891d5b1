# SPDX-License-Identifier: Apache-2.0
"""A frozen vision transformer with the weights of DINO or DINOv2."""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from mmseg.models.backbones import VisionTransformer
from mmseg.registry import MODELS
from torch import Tensor

from carafe_plugin.ops.arguments import require_choice

POSITION_RULES = ('bicubic', 'offset', 'antialias')


def resize_positions(positions: Tensor, grid: Sequence[int], size: Sequence[int], rule: str) -> Tensor:
    """Position embeddings of a grid of patches, resized to another grid.

    All three rules are bicubic. ``'bicubic'`` (mmseg) resizes to the size. ``'offset'`` (DINO's and DINOv2's
    own code, and so FeatUp) does it by the ratio of size + 0.1 to grid. ``'antialias'`` (timm, and so JAFAR)
    smooths where the grid shrinks and has another cubic where it grows. A grid of the right size is kept.

    Args:
        positions: embeddings, those of the class token first.
        grid: rows and columns of the embedded patches.
        size: rows and columns wanted.
        rule: one of the three above.

    Shape:
        ``positions`` (1, 1 + rows*columns, C); returns (1, 1 + size[0]*size[1], C).
    """
    if tuple(grid) == tuple(size):
        return positions
    first, patches = positions[:, :1], positions[:, 1:]
    patches = patches.transpose(1, 2).unflatten(2, tuple(grid))
    if rule == 'offset':
        ratio = tuple((wanted + 0.1) / there for wanted, there in zip(size, grid, strict=True))
        patches = F.interpolate(patches, scale_factor=ratio, mode='bicubic')
    else:
        patches = F.interpolate(patches, tuple(size), mode='bicubic', antialias=rule == 'antialias')
    return torch.cat((first, patches.flatten(2).transpose(1, 2)), dim=1)


@MODELS.register_module()
class FrozenViT(VisionTransformer):
    """MMSegmentation's ``VisionTransformer`` as DINO and DINOv2 have it: no gradients, always in eval mode.

    The defaults that differ from the stock class are theirs: a bias in the patch embedding, layer norms of
    epsilon 1e-6, a final norm. LayerScale is folded into the weights by ``tools/convert_vit.py``.

    Args:
        weights: file that ``tools/convert_vit.py`` wrote; None leaves random weights.
        position_rule: how position embeddings are resized where the image is not of ``img_size``; see
            :func:`resize_positions`.
        channel_norm: give each pixel of a map mean 0 and variance 1 over its channels, as FeatUp does.
        **kwargs: of the stock class. ``img_size`` is that of the weights: 224 for DINO, 518 for DINOv2.

    Shape:
        Images (N, 3, H, W), H and W multiples of ``patch_size`` p; returns one map (N, C, H/p, W/p) for each
        of ``out_indices``, with ``output_cls_token`` a list of the map and the class token (N, C).

    Raises:
        ValueError: the rule is unknown, the file is missing or not of this architecture; in the call, an
            image is no multiple of the patch.
    """

    def __init__(
        self,
        *,
        weights: str | None = None,
        position_rule: str = 'bicubic',
        channel_norm: bool = False,
        **kwargs: object,
    ) -> None:
        stock = dict(patch_bias=True, final_norm=True, norm_cfg=dict(type='LN', eps=1e-6), frozen_exclude=[])
        super().__init__(**(stock | kwargs))
        self.position_rule = require_choice('position_rule', position_rule, POSITION_RULES)
        self.channel_norm = channel_norm
        self.weights = weights
        if weights is not None:
            self._load(weights)
        self.train()

    def init_weights(self) -> None:
        """Nothing where weights were given; else random ones, as the stock class."""
        if self.weights is None:
            super().init_weights()

    def extra_repr(self) -> str:
        return (
            f'out_indices={list(self.out_indices)}, position_rule={self.position_rule!r}, '
            f'channel_norm={self.channel_norm}'
        )

    def train(self, mode: bool = True) -> 'FrozenViT':
        super().train(False)
        return self

    @torch.no_grad()
    def forward(self, inputs: Tensor) -> tuple:
        height, width = inputs.shape[-2:]
        if height % self.patch_size or width % self.patch_size:
            raise ValueError(
                f'the sides of an image must be multiples of patch_size={self.patch_size}, '
                f'got {height} x {width}'
            )
        outs = super().forward(inputs)
        if not self.channel_norm:
            return outs
        return tuple(
            [_normalised(out[0]), out[1]] if isinstance(out, list) else _normalised(out) for out in outs
        )

    def _pos_embeding(self, patched_img: Tensor, hw_shape: Sequence[int], pos_embed: Tensor) -> Tensor:
        grid = [side // self.patch_size for side in self.img_size]
        return patched_img + resize_positions(pos_embed, grid, hw_shape, self.position_rule)

    def _load(self, weights: str) -> None:
        if not Path(weights).is_file():
            raise ValueError(
                f'backbone weights {weights} do not exist: tools/convert_vit.py makes them of DINO or DINOv2'
            )
        state = torch.load(weights, map_location='cpu', weights_only=True)['state_dict']
        own = {name: tuple(tensor.shape) for name, tensor in self.state_dict().items()}
        got = {name: tuple(tensor.shape) for name, tensor in state.items()}
        if wrong := sorted(name for name in own.keys() | got.keys() if own.get(name) != got.get(name)):
            name = wrong[0]
            raise ValueError(
                f'weights {weights} are of another ViT: {len(wrong)} of its tensors differ, first {name}, '
                f'{got.get(name, "absent")} there and {own.get(name, "absent")} here'
            )
        self.load_state_dict(state)


def _normalised(x: Tensor) -> Tensor:
    return F.layer_norm(x.permute(0, 2, 3, 1), x.shape[1:2]).permute(0, 3, 1, 2)
