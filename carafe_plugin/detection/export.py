# SPDX-License-Identifier: Apache-2.0
"""A whole detector as a function of one image, in a form that ONNX takes at any size.

The model's own modules run: backbone, neck, heads, priors, box coders. What MMDetection writes for eager
mode, choosing boxes and pooling them, is said anew in operators that a graph has.
"""

from typing import Any

import torch
from mmcv.ops import RoIAlign, nms
from mmdet.models.dense_heads import RPNHead, YOLOXHead
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.models.detectors import SingleStageDetector, TwoStageDetector
from mmdet.models.roi_heads import StandardRoIHead
from mmdet.models.roi_heads.bbox_heads import BBoxHead
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from torch import Tensor, nn

from carafe_plugin._hosts.export import Preprocess, size_of

OUTPUTS = ('boxes', 'scores', 'labels', 'masks')


class _NMS(torch.autograd.Function):
    """Indices of the boxes (N, 4) that non-maximum suppression keeps, best first, at most ``limit``."""

    @staticmethod
    def forward(ctx: Any, boxes: Tensor, scores: Tensor, threshold: float, limit: int) -> Tensor:
        return nms(boxes, scores, threshold)[1][:limit]

    @staticmethod
    def symbolic(g: Any, boxes: Any, scores: Any, threshold: float, limit: int) -> Any:
        def constant(value: Any, dtype: torch.dtype = torch.int64) -> Any:
            return g.op('Constant', value_t=torch.tensor(value, dtype=dtype))

        batch = g.op('Unsqueeze', boxes, constant([0]))
        classes = g.op('Unsqueeze', scores, constant([0, 1]))
        bounds = constant([limit]), constant([threshold], torch.float32)
        kept = g.op('NonMaxSuppression', batch, classes, *bounds)  # image, class, box
        return g.op('Squeeze', g.op('Gather', kept, constant([2]), axis_i=1), constant([1]))


class _RoIAlign(torch.autograd.Function):
    """What ``layer`` pools of one map (1, C, H, W) for boxes (N, 4) in pixels of the image."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, boxes: Tensor, layer: RoIAlign) -> Tensor:
        return layer(features, torch.cat([boxes.new_zeros(len(boxes), 1), boxes], 1))

    @staticmethod
    def symbolic(g: Any, features: Any, boxes: Any, layer: RoIAlign) -> Any:
        count = g.op('Gather', g.op('Shape', boxes), g.op('Constant', value_t=torch.tensor([0])), axis_i=0)
        height, width = layer.output_size
        return g.op(
            'RoiAlign',
            features,
            boxes,
            g.op('ConstantOfShape', count, value_t=torch.tensor([0])),
            output_height_i=height,
            output_width_i=width,
            spatial_scale_f=layer.spatial_scale,
            sampling_ratio_i=max(0, layer.sampling_ratio),
            mode_s=layer.pool_mode,
            coordinate_transformation_mode_s='half_pixel' if layer.aligned else 'output_half_pixel',
        )


def _rows(maps: Tensor, channels: int) -> Tensor:  # [1, A*channels, H, W] -> [H*W*A, channels]
    return maps[0].permute(1, 2, 0).reshape(-1, channels)


def _activate(head: Any, logits: Tensor) -> Tensor:  # the background, where it is a class, comes last
    return logits.sigmoid() if head.use_sigmoid_cls else logits.softmax(-1)[:, :-1]


def _first(limit: int) -> slice:  # which a graph clamps, where sizes would be arithmetic
    return slice(limit if limit > 0 else None)


def _clip(boxes: Tensor, coder: Any, size: Tensor) -> Tensor:
    if not getattr(coder, 'clip_border', True):
        return boxes
    return torch.minimum(boxes.clamp(min=0), size.repeat(2))


def _suppress(boxes: Tensor, scores: Tensor, groups: Tensor, cfg: dict) -> Tensor:
    """Indices of the boxes (N, 4) that stay: none too small, one where many of a group overlap."""
    least = cfg.get('min_bbox_size', -1)
    if least >= 0:
        large = ((boxes[:, 2:] - boxes[:, :2]) > least).all(1).nonzero()[:, 0]
        boxes, scores, groups = boxes[large], scores[large], groups[large]
    apart = boxes
    if not cfg['nms'].get('class_agnostic', False):
        # One group a picture of its own, side by side; the row of zeros serves where there is no box.
        step = torch.cat([boxes, boxes.new_zeros(1, 4)]).max() + 1
        apart = boxes + (groups.to(boxes) * step)[:, None]
    limit = cfg.get('max_per_img', -1)
    kept = _NMS.apply(apart, scores, float(cfg['nms']['iou_threshold']), limit if limit > 0 else 2**31 - 1)
    return large[kept] if least >= 0 else kept


class Detector(nn.Module):
    """One RGB image (1, 3, H, W) of 0..255, float, to what the detector finds in it, ready for export.

    Returns boxes (K, 4) as x1, y1, x2, y2 in pixels of the image, scores (K,), labels (K,) of int64, best
    first, and of a model with masks their probabilities (K, h, w) inside the boxes. Thresholds are those of
    the model's ``test_cfg``. ``torch.onnx.export`` takes it with ``dynamo=False`` and opset 16 or later.

    Args:
        model: RetinaNet, RTMDet or another of a dense head with that contract, YOLOX, Faster or Mask R-CNN.

    Raises:
        TypeError: a head or RoI extractor is of another kind.
        ValueError: ``test_cfg`` asks for another suppression than plain NMS.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model: Any = model
        self.two_stage = hasattr(model, 'roi_head')
        if self.two_stage:
            _require('model', model, TwoStageDetector, ('predict', 'extract_feat'))
            _check_roi_head(model)
            configs = [model.rpn_head.test_cfg, model.roi_head.test_cfg]
        else:
            _require('model', model, SingleStageDetector, ('predict', 'extract_feat'))
            head = model.bbox_head
            kind = YOLOXHead if isinstance(head, YOLOXHead) else BaseDenseHead
            own = ('_bbox_decode',) if kind is YOLOXHead else ('_predict_by_feat_single',)
            _require('bbox_head', head, kind, ('predict_by_feat', '_bbox_post_process', *own))
            configs = [head.test_cfg]
        known = {'type', 'iou_threshold', 'class_agnostic', 'split_thr'}
        for cfg in configs:
            if cfg.nms.get('type', 'nms') != 'nms' or cfg.nms.keys() - known:
                raise ValueError(
                    f"test_cfg.nms must be dict(type='nms', iou_threshold=...), got {dict(cfg.nms)}"
                )
        self.preprocess = Preprocess(model.data_preprocessor)
        self.has_masks = self.two_stage and model.roi_head.with_mask
        self.eval()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        features = self.model.extract_feat(self.preprocess(images))
        size = size_of(images)
        if self.two_stage:
            return self._refine(features, self._propose(features, size), size)
        head = self.model.bbox_head
        if isinstance(head, YOLOXHead):
            boxes, scores, labels = self._yolox(head, features)
            kept = _suppress(boxes, scores, labels, dict(nms=head.test_cfg.nms))
        else:
            boxes, scores, labels = self._dense(head, features, size)
            kept = _suppress(boxes, scores, labels, head.test_cfg)
        return boxes[kept], scores[kept], labels[kept]

    def _dense(self, head: Any, features: tuple, size: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits, deltas, *more = head(features)
        if more:
            raise TypeError(
                f'{type(head).__name__} predicts {2 + len(more)} maps a level, expected scores and boxes'
            )
        cfg, coder, found = head.test_cfg, head.bbox_coder, []
        priors = head.prior_generator.grid_priors([x.shape[-2:] for x in logits], device=size.device)
        for level, prior in enumerate(priors):
            scores = _activate(head, _rows(logits[level], head.cls_out_channels))
            places, labels = (scores > cfg.get('score_thr', 0)).nonzero().unbind(1)
            scores, order = scores[places, labels].sort(descending=True)
            first = _first(cfg.get('nms_pre', -1))
            places, labels = places[order[first]], labels[order[first]]
            rows = _rows(deltas[level], coder.encode_size)
            found.append((prior[places], rows[places], scores[first], labels))
        prior, rows, scores, labels = map(torch.cat, zip(*found, strict=True))
        return _clip(coder.decode(prior, rows), coder, size), scores, labels

    def _yolox(self, head: Any, features: tuple) -> tuple[Tensor, Tensor, Tensor]:
        logits, deltas, objectness = head(features)
        sizes = [x.shape[-2:] for x in logits]
        priors = head.prior_generator.grid_priors(sizes, device=logits[0].device, with_stride=True)
        scores = torch.cat([_rows(x, head.cls_out_channels) for x in logits]).sigmoid()
        scores, labels = scores.max(1)
        scores = scores * torch.cat([_rows(x, 1) for x in objectness]).sigmoid()[:, 0]
        boxes = head._bbox_decode(torch.cat(priors), torch.cat([_rows(x, 4) for x in deltas]))
        likely = (scores >= head.test_cfg.score_thr).nonzero()[:, 0]
        return boxes[likely], scores[likely], labels[likely]

    def _propose(self, features: tuple, size: Tensor) -> Tensor:  # -> boxes [N, 4]
        head = self.model.rpn_head
        cfg, coder, found = head.test_cfg, head.bbox_coder, []
        logits, deltas = head(features)
        priors = head.prior_generator.grid_priors([x.shape[-2:] for x in logits], device=size.device)
        for level, prior in enumerate(priors):
            scores = _activate(head, _rows(logits[level], head.cls_out_channels))[:, 0]
            scores, order = scores.sort(descending=True)
            first = _first(cfg.nms_pre)
            order = order[first]
            rows = _rows(deltas[level], coder.encode_size)
            found.append((prior[order], rows[order], scores[first], torch.full_like(order, level)))
        prior, rows, scores, levels = map(torch.cat, zip(*found, strict=True))
        boxes = _clip(coder.decode(prior, rows), coder, size)
        return boxes[_suppress(boxes, scores, levels, cfg)]

    def _refine(self, features: tuple, proposals: Tensor, size: Tensor) -> tuple[Tensor, ...]:
        roi_head, head = self.model.roi_head, self.model.roi_head.bbox_head
        cfg = roi_head.test_cfg
        logits, deltas = head(_pool(roi_head.bbox_roi_extractor, features, proposals))
        scores = logits.softmax(-1)[:, :-1]
        places, labels = (scores > cfg.score_thr).nonzero().unbind(1)
        scores = scores[places, labels]
        boxes = head.bbox_coder.decode(proposals, deltas).reshape(-1, deltas.shape[1] // 4, 4)
        boxes = boxes[places, torch.zeros_like(labels) if head.reg_class_agnostic else labels]
        boxes = _clip(boxes, head.bbox_coder, size)
        kept = _suppress(boxes, scores, labels, dict(nms=cfg.nms, max_per_img=cfg.max_per_img))
        boxes, scores, labels = boxes[kept], scores[kept], labels[kept]
        if not self.has_masks:
            return boxes, scores, labels
        # One box more, dropped again: runtimes stumble over the empty batch of an image without objects.
        pooled = _pool(roi_head.mask_roi_extractor, features, torch.cat([boxes, boxes.new_zeros(1, 4)]))
        masks = roi_head.mask_head(pooled)[:-1].sigmoid()
        channels = torch.zeros_like(labels) if roi_head.mask_head.class_agnostic else labels
        masks = masks.gather(1, channels[:, None, None, None].expand(-1, 1, *masks.shape[2:]))
        return boxes, scores, labels, masks[:, 0]


def _pool(extractor: Any, features: tuple, boxes: Tensor) -> Tensor:  # [N, 4] -> [N, C, h, w]
    """Each box from the level of its size: pooled level by level, then put back into order."""
    count = extractor.num_inputs
    if count == 1:
        return _RoIAlign.apply(features[0], boxes, extractor.roi_layers[0])
    levels = extractor.map_roi_levels(torch.cat([torch.zeros_like(boxes[:, :1]), boxes], 1), count)
    places = [(levels == level).nonzero()[:, 0] for level in range(count)]
    pooled = [
        _RoIAlign.apply(features[level], boxes[place], extractor.roi_layers[level])
        for level, place in enumerate(places)
    ]
    return torch.cat(pooled)[torch.cat(places).argsort()]


def _require(name: str, module: nn.Module, kind: type, methods: tuple[str, ...]) -> None:
    """Raise a TypeError unless a module is of a kind, and predicts by that kind's own methods."""
    served = isinstance(module, kind) and all(
        getattr(type(module), method) is getattr(kind, method) for method in methods
    )
    if not served:
        raise TypeError(
            f'{name} {type(module).__name__} cannot be exported whole, '
            f'expected one that predicts as {kind.__name__}'
        )


def _check_roi_head(model: Any) -> None:
    roi_head = model.roi_head
    _require('rpn_head', model.rpn_head, RPNHead, ('_predict_by_feat_single', '_bbox_post_process'))
    _require('roi_head', roi_head, StandardRoIHead, ('predict_bbox', 'predict_mask', '_bbox_forward'))
    if roi_head.with_shared_head:
        raise TypeError('roi_head.shared_head cannot be exported whole, expected none')
    parts: list[tuple[str, type, tuple[str, ...]]] = [
        ('bbox_roi_extractor', SingleRoIExtractor, ('forward', 'map_roi_levels')),
        ('bbox_head', BBoxHead, ('predict_by_feat', '_predict_by_feat_single')),
    ]
    if roi_head.with_mask:
        parts.append(('mask_roi_extractor', SingleRoIExtractor, ('forward', 'map_roi_levels')))
        parts.append(('mask_head', FCNMaskHead, ('predict_by_feat', '_predict_by_feat_single')))
    for name, kind, methods in parts:
        _require(name, getattr(roi_head, name), kind, methods)
        for layer in getattr(getattr(roi_head, name), 'roi_layers', ()):
            _require(f'{name}.roi_layers', layer, RoIAlign, ('forward',))
