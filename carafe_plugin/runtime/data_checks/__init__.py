# SPDX-License-Identifier: Apache-2.0
"""What is wrong with the data of a config, told in one line before a training goes wrong in silence.

Certain mistakes are a :class:`UserError`, doubtful ones a notice. tools/train.py and tools/test.py look
before the work dir exists; :class:`CheckDataHook` looks where another program made the Runner.
"""

from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import nn

from carafe_plugin.runtime.config_parts import as_list, type_name, unwrap

from .classes import check_heads, check_mask_head, class_names
from .coco import check_coco_dataset, check_coco_metric, forget_coco_file
from .seg import check_seg_dataset
from .voc import check_voc_dataset

_looked: set[str] = set()  # splits that this process has looked at


def check_data(cfg: Config, splits: tuple[str, ...]) -> None:
    """Check the annotations, label maps and images that a config names, in the registry scope that is set.

    Looked at are data sets of MMDetection's COCO and VOC kinds and of MMSegmentation's, local files only.
    A large annotation file is read once more by this: a few seconds for COCO.

    Args:
        cfg: complete config; not changed.
        splits: some of ``'train'``, ``'val'``, ``'test'``.

    Raises:
        UserError: names file, entry and cause.
    """
    try:
        for split in splits:
            _check_split(cfg, split)
    finally:
        forget_coco_file()
    _looked.update(splits)


def _check_split(cfg: Config, split: str) -> None:
    where, train = f'{split}_dataloader.dataset', split == 'train'
    evaluators = as_list(cfg.get(f'{split}_evaluator'))
    dataset = (cfg.get(f'{split}_dataloader') or {}).get('dataset')
    # Test images of the COCO server come without annotations.
    scored = not any(evaluator.get('format_only') for evaluator in evaluators)
    classes = None
    if isinstance(dataset, dict):
        check_coco_dataset(dataset, where, train, scored)
        check_voc_dataset(dataset, where, train)
        check_seg_dataset(dataset, where, train)
        classes = next((class_names(inner, name) for name, inner in unwrap(dataset, where)), None)
    for evaluator in evaluators:
        if type_name(evaluator) == 'CocoMetric':
            check_coco_metric(evaluator, f'{split}_evaluator', classes, scored)


def check_model(model: nn.Module, cfg: Config, splits: tuple[str, ...]) -> None:
    """Compare a model's heads with the classes of a config's data; else as :func:`check_data`."""
    for split in splits:
        dataset = (cfg.get(f'{split}_dataloader') or {}).get('dataset')
        if isinstance(dataset, dict):
            if split == 'train':
                check_mask_head(model, dataset, 'train_dataloader.dataset')
            check_heads(model, dataset, f'{split}_dataloader.dataset', spoken=split != splits[0])


@HOOKS.register_module()
class CheckDataHook(Hook):
    """Checks data and heads before training and before testing, unless the process has done so before."""

    def before_train(self, runner: Runner) -> None:
        self._check(runner, ('train', 'val'))

    def before_test(self, runner: Runner) -> None:
        self._check(runner, ('test',))

    def _check(self, runner: Runner, splits: tuple[str, ...]) -> None:
        if is_main_process() and not _looked.issuperset(splits):
            check_data(runner.cfg, splits)
            check_model(runner.model, runner.cfg, splits)
