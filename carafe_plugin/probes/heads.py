# SPDX-License-Identifier: Apache-2.0
"""Probes: one 1x1 convolution on the upsampled features."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.losses import accuracy
from mmseg.registry import MODELS
from torch import Tensor

from .losses import SigLoss, scale_and_shift_invariant


@MODELS.register_module()
class ProbeHead(BaseDecodeHead):
    """Linear segmentation probe: a 1x1 convolution with PyTorch's own initialisation, cross-entropy.

    Args:
        in_channels: channels of the features.
        num_classes: number of classes; 0 counts like any other.
        at_features: compare at the size of the features, labels brought to it and predictions back by
            nearest interpolation, as FeatUp and LoftUp do; else logits are resized bilinearly to the
            labels, as in JAFAR.
        ignore_index: label of the pixels that do not count.

    Raises:
        ValueError: while training, a label is outside the classes; the file is named.
    """

    def __init__(
        self, in_channels: int, num_classes: int, at_features: bool = False, ignore_index: int = 255
    ) -> None:
        super().__init__(
            in_channels,
            in_channels,
            num_classes=num_classes,
            out_channels=num_classes,
            dropout_ratio=0,
            ignore_index=ignore_index,
            init_cfg=None,
        )
        self.at_features = at_features

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        return self.conv_seg(inputs[-1])

    def loss_by_feat(self, seg_logits: Tensor, batch_data_samples: Sequence) -> dict[str, Tensor]:
        labels = self._stack_batch_gt(batch_data_samples)
        self._check(labels, batch_data_samples)
        if self.at_features:
            labels = F.interpolate(labels.float(), seg_logits.shape[2:], mode='nearest').long()
        else:
            seg_logits = F.interpolate(seg_logits, labels.shape[2:], mode='bilinear')
        labels = labels[:, 0]
        total = F.cross_entropy(seg_logits, labels, ignore_index=self.ignore_index, reduction='sum')
        count = (labels != self.ignore_index).sum().clamp_min(1)  # a batch may have no label at all
        return dict(
            loss_ce=total / count, acc_seg=accuracy(seg_logits, labels, ignore_index=self.ignore_index)
        )

    def predict_by_feat(self, seg_logits: Tensor, batch_img_metas: Sequence[dict]) -> Tensor:
        size = batch_img_metas[0]['img_shape'][:2]
        return F.interpolate(seg_logits, size, mode='nearest' if self.at_features else 'bilinear')

    def _check(self, labels: Tensor, samples: Sequence) -> None:
        wrong = (labels >= self.num_classes) & (labels != self.ignore_index)
        if wrong.any():
            index, label = int(wrong.nonzero()[0, 0]), int(labels[wrong][0])
            name = samples[index].metainfo.get('seg_map_path', f'image {index} of the batch')
            raise ValueError(
                f'{name}: label {label} is none of the {self.num_classes} classes, 0 to '
                f'{self.num_classes - 1}, nor ignore_index={self.ignore_index}'
            )


class _DepthHead(BaseDecodeHead):
    """What the depth probes share: true maps from the samples, predictions at the size of the image."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(
            in_channels,
            in_channels,
            num_classes=out_channels,
            threshold=0.5,  # of segmentation with one class; unused
            dropout_ratio=0,
            init_cfg=None,
        )

    def _stack_batch_gt(self, batch_data_samples: Sequence) -> Tensor:
        return torch.stack([sample.gt_depth_map.data for sample in batch_data_samples])  # [N, 1, H, W]

    def predict_by_feat(self, depth: Tensor, batch_img_metas: Sequence[dict]) -> Tensor:
        return F.interpolate(depth, batch_img_metas[0]['img_shape'][:2], mode='bilinear')


@MODELS.register_module()
class ProbeDepthHead(_DepthHead):
    """FeatUp's depth probe: a 1x1 convolution to one number, right up to scale and shift of each image.

    Its loss is :func:`carafe_plugin.probes.losses.scale_and_shift_invariant`, at the size of the features,
    against pseudo-depth (MiDaS's) that comes as files. Pixels of depth 0 do not count.

    Args:
        in_channels: channels of the features.
    """

    def __init__(self, in_channels: int) -> None:
        super().__init__(in_channels, 1)

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        return self.conv_seg(inputs[-1])

    def loss_by_feat(self, depth: Tensor, batch_data_samples: Sequence) -> dict[str, Tensor]:
        target = F.interpolate(self._stack_batch_gt(batch_data_samples), depth.shape[2:], mode='nearest')[
            :, 0
        ]
        return dict(loss_ssi=scale_and_shift_invariant(depth[:, 0], target, (target > 0).to(target)))


@MODELS.register_module()
class ProbeDepthBinsHead(_DepthHead):
    """JAFAR's depth probe: 256 bins between 0.001 and 10, their weights from features and class token.

    The class token, divided by its norm, stands beside the features at each pixel. The weights of the bins
    are ReLU + 0.1 of a 1x1 convolution, divided by their sum. The loss is
    :class:`carafe_plugin.probes.losses.SigLoss`; JAFAR's gradient loss, always 0 as released, is left out.

    Args:
        in_channels: channels C of the features and of the class token.
        warm_up: see :class:`carafe_plugin.probes.losses.SigLoss`.

    Raises:
        ValueError: in the call, the backbone gives no class token (``output_cls_token=True``).
    """

    def __init__(self, in_channels: int, warm_up: int = 100) -> None:
        super().__init__(2 * in_channels, 256)
        self.register_buffer('bins', torch.linspace(1e-3, 10, 256)[:, None, None], persistent=False)
        self.criterion = SigLoss(warm_up)

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        if len(inputs) < 2:
            raise ValueError('ProbeDepthBinsHead needs the class token: set backbone.output_cls_token=True')
        token, features = F.normalize(inputs[0], dim=1), inputs[-1]
        token = token[:, :, None, None].expand_as(features)
        weights = self.conv_seg(torch.cat((features, token), dim=1)).relu() + 0.1
        return (weights * self.bins).sum(1, keepdim=True) / weights.sum(1, keepdim=True)

    def loss_by_feat(self, depth: Tensor, batch_data_samples: Sequence) -> dict[str, Tensor]:
        target = self._stack_batch_gt(batch_data_samples)
        depth = F.interpolate(depth, target.shape[2:], mode='bilinear')
        return dict(loss_sig=self.criterion(depth, target))
