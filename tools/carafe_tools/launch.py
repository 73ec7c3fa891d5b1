# SPDX-License-Identifier: Apache-2.0
"""What ``tools/train.py`` and ``tools/test.py`` share: arguments, config, Runner."""

import argparse
import os
from pathlib import Path

from mmengine.config import Config, DictAction
from mmengine.registry import RUNNERS
from mmengine.runner import Runner
from mmengine.utils import import_modules_from_strings

from carafe_plugin.runtime.distributed import start_cpu_processes
from carafe_plugin.runtime.errors import UserError
from carafe_plugin.runtime.progress import ProgressBarHook


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that both tools take, spelled as in the OpenMMLab tools."""
    parser.add_argument('--work-dir', help='folder for logs and checkpoints; default work_dirs/<config name>')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='override the config, e.g. model.neck.upsample_cfg.type=bilinear; a list as key="[a,b]"',
    )
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)


def read_config(path: str, options: dict | None) -> Config:
    """Read a config file and merge the overrides of ``--cfg-options`` into it.

    Raises:
        UserError: there is no such file, or an override does not fit into it.
    """
    if not Path(path).is_file():
        raise UserError(f'config {path} does not exist')
    cfg = Config.fromfile(path)
    try:
        cfg.merge_from_dict(options or {})
    except (IndexError, KeyError, TypeError) as error:
        raise UserError(f'--cfg-options does not fit the config: {error}') from error
    if any(key.split('.')[0] == 'custom_imports' for key in options or {}):
        try:
            import_modules_from_strings(**cfg.custom_imports)  # mmengine did so with the file's own
        except (ImportError, TypeError) as error:
            raise UserError(f'--cfg-options custom_imports: {error}') from error
    return cfg


def load_config(args: argparse.Namespace) -> Config:
    """Read ``args.config`` and apply the common options to it.

    Raises:
        UserError: as :func:`read_config`.
    """
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    cfg = read_config(args.config, args.cfg_options)
    cfg.launcher = args.launcher
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = str(Path('work_dirs', Path(args.config).stem))
    return cfg


def build_runner(cfg: Config) -> Runner:
    """Make the Runner that the config asks for, with a progress bar, in the processes of a CPU launch too."""
    start_cpu_processes(cfg)
    runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    runner.register_hook(ProgressBarHook())
    return runner
