# SPDX-License-Identifier: Apache-2.0
"""Models whose neck sees the image beside the features, and whose backbone may be read from disk."""

from collections.abc import Sequence

from mmseg.models.segmentors import DepthEstimator, EncoderDecoder
from mmseg.registry import MODELS
from torch import Tensor

from .cache import FeatureCache


class _FrozenFeatures(EncoderDecoder):
    """Features of a frozen backbone, upsampled by a neck that is called with the map and the image.

    With ``output_cls_token`` in the backbone the head gets the class token (N, C) behind the map.
    """

    def __init__(
        self, *, neck: dict, frozen_neck: bool = False, cache: str | None = None, **kwargs: object
    ) -> None:
        if kwargs.get('auxiliary_head') is not None:
            raise ValueError(f'a {type(self).__name__} has one head, got an auxiliary_head')
        super().__init__(neck=neck, **kwargs)
        if any(p.requires_grad for p in self.backbone.parameters()):
            raise ValueError(
                f'the backbone of a {type(self).__name__} must be frozen, as FrozenViT is; '
                f'{type(self.backbone).__name__} has parameters that learn'
            )
        self.frozen_neck = frozen_neck
        if frozen_neck:
            self.neck.requires_grad_(False)
        self.cache = None if cache is None else FeatureCache(cache, self.backbone)
        self.train()

    def train(self, mode: bool = True) -> '_FrozenFeatures':
        super().train(mode)
        if self.frozen_neck:
            self.neck.eval()
        return self

    def extract_feat(self, inputs: Tensor, batch_img_metas: Sequence[dict] | None = None) -> list[Tensor]:
        if self.cache is None or batch_img_metas is None:
            features = self.backbone(inputs)[-1]
        else:
            features = self.cache(inputs, batch_img_metas)
        features, *token = features if isinstance(features, list) else [features]
        return [*token, self.neck(features, inputs)]

    def loss(self, inputs: Tensor, data_samples: Sequence) -> dict:
        metas = [sample.metainfo for sample in data_samples]
        return self._decode_head_forward_train(self.extract_feat(inputs, metas), data_samples)

    def encode_decode(self, inputs: Tensor, batch_img_metas: Sequence[dict]) -> Tensor:
        features = self.extract_feat(inputs, batch_img_metas)
        return self.decode_head.predict(features, batch_img_metas, self.test_cfg)


@MODELS.register_module()
class ProbeSegmentor(_FrozenFeatures):
    """MMSegmentation's segmentor on frozen features.

    Args:
        neck: config of an :class:`UpsampleStack`.
        frozen_neck: keep the upsampler as it was loaded, in eval mode; else it learns with the head.
        cache: folder for the backbone's features; see :class:`FeatureCache`.
        **kwargs: of the stock class, without auxiliary head.

    Raises:
        ValueError: the backbone is not frozen, or there is an auxiliary head; in the calls, see
            :class:`FeatureCache`.
    """


@MODELS.register_module()
class ProbeDepthEstimator(_FrozenFeatures, DepthEstimator):
    """MMSegmentation's depth estimator on frozen features; see :class:`ProbeSegmentor`."""
