#!/usr/bin/env python
# SPDX-License-Identifier: Apache-2.0
"""Train any OpenMMLab config: python tools/train.py CONFIG [options]."""

import argparse
import copy
from collections.abc import Sequence
from pathlib import Path

from carafe_tools.options import add_common_arguments
from carafe_tools.threads import share_busy_cores


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Train a model.')
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='go on from a checkpoint; without a path, from the latest good one in the work dir, if any',
    )
    parser.add_argument('--amp', action='store_true', help='mixed precision (needs a GPU)')
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate by batch size over auto_scale_lr.base_batch_size of the config',
    )
    add_common_arguments(parser)
    return parser.parse_args(argv)


if __name__ == '__main__':
    parse_args()  # --help and mistakes are answered before torch is loaded
    share_busy_cores()  # before it, too

from mmengine.config import Config

from carafe_plugin.runtime.checkpoint import set_resume
from carafe_plugin.runtime.config_parts import type_name
from carafe_plugin.runtime.distributed import leave_processes
from carafe_plugin.runtime.errors import UserError, is_first_process, notice
from carafe_tools.command import run_command
from carafe_tools.launch import build_runner, load_config
from carafe_tools.preflight import check_config
from carafe_tools.terminal import overview
from carafe_tools.weights import check_start


def use_amp(cfg: Config) -> None:
    kind = type_name(cfg.optim_wrapper) or 'OptimWrapper'
    if kind not in ('OptimWrapper', 'AmpOptimWrapper'):
        raise UserError(f'--amp replaces OptimWrapper, and this config uses {kind}')
    cfg.optim_wrapper.type = 'AmpOptimWrapper'
    cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')


def scale_lr(cfg: Config) -> None:
    if 'base_batch_size' not in (cfg.get('auto_scale_lr') or {}):
        raise UserError('--auto-scale-lr needs auto_scale_lr.base_batch_size in the config')
    cfg.auto_scale_lr.enable = True


def add_hooks(cfg: Config) -> None:
    """Save checkpoints atomically, and stop a run whose losses are lost."""
    hooks = cfg.setdefault('default_hooks', {})
    hook = hooks.setdefault('checkpoint', dict(type='CheckpointHook', interval=1))
    if hook is not None and type_name(hook) == 'CheckpointHook':
        hook['type'] = 'AtomicCheckpointHook'
    finite = hooks.get('finite_loss', {})
    finite = dict(patience=0) if finite is None else finite  # None is how mmengine drops a hook of its own
    hooks['finite_loss'] = dict(dict(type='FiniteLossHook'), **finite)
    # The copy of the config in the work dir must serve other tools as well.
    imports = cfg.get('custom_imports') or {}
    names = imports.get('imports') or []
    names = [names] if isinstance(names, str) else list(names)
    if 'carafe_plugin.runtime' not in names:
        cfg.custom_imports = dict(imports, imports=[*names, 'carafe_plugin.runtime'])


def tell_of_earlier_run(cfg: Config) -> None:
    checkpoints = sorted(path.name for path in Path(cfg.work_dir).glob('*.pth'))
    if checkpoints and not cfg.resume:
        notice(
            f'{cfg.work_dir} holds {", ".join(checkpoints[-2:])} of an earlier run, which this one writes '
            'over; --resume goes on with that run, another --work-dir keeps both'
        )


def train(argv: Sequence[str] | None) -> None:
    args = parse_args(argv)
    cfg = load_config(args)
    if args.amp:
        use_amp(cfg)
    if args.auto_scale_lr:
        scale_lr(cfg)
    add_hooks(cfg)
    asked_for = copy.deepcopy(cfg)
    set_resume(cfg, args.resume)
    model = check_config(cfg, ('train', 'val'))
    check_start(cfg, model)
    tell_of_earlier_run(cfg)
    runner = build_runner(cfg, asked_for)
    if is_first_process():
        print(overview(cfg, model), flush=True)
    runner.train()
    leave_processes()


def main(argv: Sequence[str] | None = None) -> None:
    run_command(train, argv)


if __name__ == '__main__':
    main()
