# SPDX-License-Identifier: Apache-2.0
"""What a run shows on the terminal: the log file keeps all of it."""

import logging
import re
import sys
from collections import Counter
from unittest import mock

from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.runner import Runner
from torch import nn

from carafe_plugin.runtime.config_parts import type_name
from carafe_plugin.upsamplers import UPSAMPLERS

# Hundreds of lines before the first iteration, and notes of mmengine's to its own developers.
_LOG_FILE_ALONE = (
    '\n' + '-' * 60 + '\nSystem environment:',
    'Config:\n',
    'Exp name: ',
    'Hooks will be executed in the following order:',
    'Distributed training is not used, all SyncBatchNorm',
    'The prefix is not set in metric class',
    '"FileClient" will be deprecated',
    '"HardDiskBackend" is the alias',
)


class _ForTheTerminal(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        return not text.startswith(_LOG_FILE_ALONE) and '_mAP_copypaste: ' not in text


def _build_logger(runner: Runner, *args: object, **kwargs: object) -> MMLogger:
    logger = _of_mmengine(runner, *args, **kwargs)
    for handler in logger.handlers:
        if type(handler) is logging.StreamHandler:
            handler.addFilter(_ForTheTerminal())
    return logger


_of_mmengine = Runner.build_logger


def short_log() -> mock._patch:
    """A context in which a Runner's logger leaves to its file what nobody reads on a terminal."""
    return mock.patch.object(Runner, 'build_logger', _build_logger)


def silence_pycocotools() -> None:
    """Leave out what it prints while it works; the table of figures, which mmdet catches, stays."""
    try:
        from pycocotools import coco, cocoeval
    except ImportError:  # a segmentor needs none
        return

    def into_a_catch(*values: object, **options: object) -> None:
        if sys.stdout is not stdout:
            print(*values, **options)

    stdout = sys.stdout
    coco.print, cocoeval.print = lambda *_, **__: None, into_a_catch


def overview(cfg: Config, model: nn.Module) -> str:
    """What a training is, in three lines; the config in the work_dir has the rest."""
    loop = cfg.get('train_cfg') or {}
    units = dict(max_iters='iteration', max_epochs='epoch')
    length = [f'{loop[key]} {unit}' + 's' * (loop[key] != 1) for key, unit in units.items() if key in loop]
    loader = cfg.get('train_dataloader') or {}
    optimizer = (cfg.get('optim_wrapper') or {}).get('optimizer') or {}
    million = sum(p.numel() for p in model.parameters()) / 1e6
    facts = [f'{type(model).__name__}, {million:.1f} M parameters', *length]
    if 'batch_size' in loader:
        facts.append(f'batches of {loader["batch_size"]}')
    if 'lr' in optimizer:
        facts.append(f'{type_name(optimizer)}, lr {optimizer["lr"]:g}')
    return '\n'.join(
        [
            '; '.join(facts),
            f'upsamplers: {upsamplers(model) or "those of the stock classes"}',
            f'config, log and checkpoints: {cfg.work_dir}',
        ]
    )


def upsamplers(model: nn.Module) -> str:
    """Which there are and how many, by the part of the model that has them."""
    names = {UPSAMPLERS.get(name): name for name in UPSAMPLERS}
    counts = Counter()
    for path, module in model.named_modules():
        if type(module) in names:
            part = re.sub(r'\.(upsamplers?|upsample)(?=\.|$)|(\.\d+)+$', '', path)
            counts[part, names[type(module)]] += 1
    return ', '.join(f'{part} {name} x {count}' for (part, name), count in counts.items())
