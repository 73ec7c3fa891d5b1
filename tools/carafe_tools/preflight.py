# SPDX-License-Identifier: Apache-2.0
"""What can be known before the Runner is made, which creates the work_dir first of all."""

import copy

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from carafe_plugin.runtime.config_parts import as_list, type_name
from carafe_plugin.runtime.errors import UserError

from .coco_files import check_coco_dataset, check_coco_file
from .seg_files import check_seg_dataset


def check_config(cfg: Config, splits: tuple[str, ...]) -> None:
    """Find what would fail later, and say it in one line.

    Checked are mixed precision without a GPU, the COCO files of the given splits and of their evaluators, the
    images and label maps of segmentation, and whether the model can be built, upsamplers included. A large
    annotation file is read once more by this: a few seconds for COCO.

    Args:
        cfg: complete config; not changed.
        splits: some of ``'train'``, ``'val'``, ``'test'``.

    Raises:
        UserError: names the cause.
    """
    if 'train' in splits:
        _check_amp(cfg)
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
        for split in splits:
            evaluators = as_list(cfg.get(f'{split}_evaluator'))
            dataset = (cfg.get(f'{split}_dataloader') or {}).get('dataset')
            # Test images of the COCO server come without annotations.
            scored = not any(evaluator.get('format_only') for evaluator in evaluators)
            if isinstance(dataset, dict):
                check_coco_dataset(dataset, f'{split}_dataloader.dataset', annotated=scored)
                check_seg_dataset(dataset, f'{split}_dataloader.dataset')
            for evaluator in evaluators:
                file = evaluator.get('ann_file')
                if is_coco_metric(evaluator) and isinstance(file, str) and not evaluator.get('backend_args'):
                    check_coco_file(file, f'{split}_evaluator.ann_file', scored)
        build_model(cfg)


def is_coco_metric(evaluator: dict) -> bool:
    """Whether an evaluator config means MMDetection's CocoMetric."""
    return type_name(evaluator) == 'CocoMetric'


def _check_amp(cfg: Config) -> None:
    kind = type_name(cfg.get('optim_wrapper') or {})
    if kind == 'AmpOptimWrapper' and get_device() in ('cpu', 'mps'):
        raise UserError('mixed precision (--amp, AmpOptimWrapper) needs a GPU, and torch finds none here')


def build_model(cfg: Config) -> nn.Module:
    """Build the model of a config, in the registry scope that is set.

    Raises:
        UserError: it cannot be built; names the cause.
    """
    model = copy.deepcopy(cfg.model)
    if cfg.get('data_preprocessor') is not None:
        model.setdefault('data_preprocessor', copy.deepcopy(cfg.data_preprocessor))
    try:
        return MODELS.build(model)
    except (KeyError, TypeError, ValueError) as error:
        # str() of a KeyError quotes its text.
        cause = error.args[0] if isinstance(error, KeyError) and error.args else error
        raise UserError(f'the model cannot be built: {cause}') from error
