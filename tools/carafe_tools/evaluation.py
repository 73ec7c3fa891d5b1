# SPDX-License-Identifier: Apache-2.0
"""Options of ``tools/test.py``, written into the config."""

import copy
import os

from mmengine.config import Config, ConfigDict

from carafe_plugin.runtime.config_parts import as_list, type_name
from carafe_plugin.runtime.errors import UserError, notice

from . import drawing  # noqa: F401  (registers the hook)


def draw_predictions(cfg: Config, folder: str) -> None:
    """Have the visualization hook draw each test image into ``folder``."""
    hook = (cfg.get('default_hooks') or {}).get('visualization')
    if hook is None:
        raise UserError('--show-dir needs a visualization hook in default_hooks of the config')
    hook.draw = True
    folder = os.path.abspath(folder)  # MMDetection puts a relative one into the work_dir
    if type_name(hook) in ('DetVisualizationHook', 'InpaintingVisualizationHook'):
        hook.test_out_dir = folder
    else:  # MMSegmentation's own has no legend, and draws into the visualizer's folder
        hook.draw = False
        cfg.custom_hooks = [*cfg.get('custom_hooks', ()), dict(type='OverlayHook', out_dir=folder)]


def dump_predictions(cfg: Config, file: str) -> None:
    """Write all predictions to a pickle file beside the evaluation."""
    kind = 'DumpDetResults' if cfg.get('default_scope') == 'mmdet' else 'DumpResults'
    cfg.test_evaluator = [*as_list(cfg.test_evaluator), dict(type=kind, out_file_path=file)]


def only_format(cfg: Config, prefix: str) -> None:
    """Write COCO result files ``PREFIX.bbox.json``, ``PREFIX.segm.json`` and evaluate nothing."""
    metrics = [evaluator for evaluator in as_list(cfg.test_evaluator) if type_name(evaluator) == 'CocoMetric']
    if not metrics:
        raise UserError('--format-only needs a CocoMetric in test_evaluator')
    for metric in metrics:
        metric.update(format_only=True, outfile_prefix=prefix)


def use_test_time_augmentation(cfg: Config) -> None:
    """Wrap the model and swap the pipeline for ``tta_model`` and ``tta_pipeline`` of the config.

    A detection config without them gets a flip, as in MMDetection's own tool. MMDetection merges boxes
    only, so the mask head is left out.
    """
    dataset = cfg.test_dataloader.dataset
    while 'dataset' in dataset:
        dataset = dataset.dataset
    if cfg.get('default_scope') == 'mmdet':
        cfg.setdefault('tta_model', _FLIP_MODEL)
        if 'tta_pipeline' not in cfg:
            cfg.tta_pipeline = [*copy.deepcopy(dataset.pipeline[:-1]), _FLIP_TRANSFORM]
    if 'tta_model' not in cfg or 'tta_pipeline' not in cfg:
        raise UserError('--tta needs tta_model and tta_pipeline in the config')
    if type_name(cfg.tta_model) == 'DetTTAModel':
        _leave_masks_out(cfg)
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
    dataset.pipeline = cfg.tta_pipeline


def _leave_masks_out(cfg: Config) -> None:
    roi_head = cfg.model.get('roi_head') or {}
    if roi_head.get('mask_head') is None:
        return
    notice("MMDetection's test-time augmentation merges boxes only: masks are neither predicted nor scored")
    roi_head.mask_head = None
    for evaluator in as_list(cfg.test_evaluator):
        if type_name(evaluator) == 'CocoMetric':
            evaluator.metric = 'bbox'


_FLIP_MODEL = dict(type='DetTTAModel', tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100))
_META_KEYS = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'flip', 'flip_direction')
_FLIP_TRANSFORM = dict(
    type='TestTimeAug',
    transforms=[
        [dict(type='RandomFlip', prob=1.0), dict(type='RandomFlip', prob=0.0)],
        [dict(type='PackDetInputs', meta_keys=_META_KEYS)],
    ],
)
