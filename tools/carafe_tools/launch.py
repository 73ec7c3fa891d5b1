# SPDX-License-Identifier: Apache-2.0
"""What ``tools/train.py`` and ``tools/test.py`` share: arguments, config, Runner."""

import argparse
import difflib
import inspect
import os
import re
from pathlib import Path
from unittest import mock

from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import RUNNERS
from mmengine.runner import Runner
from mmengine.utils import import_modules_from_strings

from carafe_plugin.runtime.distributed import start_cpu_processes
from carafe_plugin.runtime.errors import UserError
from carafe_plugin.runtime.progress import ProgressBarHook

from .terminal import short_log, silence_pycocotools


def read_config(path: str, options: dict | None) -> Config:
    """Read a config file and merge the overrides of ``--cfg-options`` into it.

    Raises:
        UserError: there is no such file, or an override does not fit into it: there is no such place, or
            its words would take the place of one dict or several, or it seems misspelt.
    """
    if not Path(path).is_file():
        raise UserError(f'config {path} does not exist')
    cfg = Config.fromfile(path)
    for key, value in (options or {}).items():
        _check_override(cfg, key, value)
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


def _check_override(cfg: Config, key: str, value: object) -> None:
    """Refuse a misspelt name, and words where the config has a dict, which a command line cannot spell."""
    place = cfg
    for part in key.split('.'):
        if isinstance(place, (list, tuple)) and part.isdigit() and int(part) < len(place):
            place = place[int(part)]
        elif isinstance(place, (dict, Config)) and part in place:
            place = place[part]
        else:
            _check_spelling(place, part, key)
            return
    several = isinstance(place, (list, tuple))
    described = [
        part for part in (place if several else [place]) if isinstance(part, dict) and 'type' in part
    ]
    words = [
        part for part in (value if isinstance(value, (list, tuple)) else [value]) if isinstance(part, str)
    ]
    if described and words:
        there, field = ('dicts', f'{key}.0.type') if several else ('a dict', f'{key}.type')
        raise UserError(
            f'--cfg-options {key}: the config has {there} there, got {words[0]!r}; '
            f'set the fields one by one, as {field}=..., or write a config'
        )


def _check_spelling(place: object, part: str, key: str) -> None:
    """Refuse a new field of nearly the name of one that is there; a config file may add any."""
    if not isinstance(place, (dict, Config)):
        return
    known = [*place, *(inspect.signature(Runner).parameters if isinstance(place, Config) else ())]
    if part in known:
        return
    for name in difflib.get_close_matches(part, known, 3, 0.85):
        if re.sub(r'\d', '', name) != re.sub(r'\d', '', part):  # layer1 beside layer2 is no misspelling
            raise UserError(f'--cfg-options {key}: the config has no {part!r}; did you mean {name!r}?')


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


class _CopyOfConfig(Hook):
    """Write the config once all is built: a run that fails before leaves an earlier one's copy as it is."""

    def __init__(self, cfg: Config) -> None:
        self.cfg = cfg

    def before_run(self, runner: Runner) -> None:
        if is_main_process():
            self.cfg.dump(Path(runner.work_dir, Path(self.cfg.filename).name))


def build_runner(cfg: Config, copy: Config | None = None) -> Runner:
    """Make the Runner that the config asks for, with a progress bar, in the processes of a CPU launch too.

    Args:
        cfg: what the Runner is made from.
        copy: what it writes into the work_dir for other tools to read, where mmengine writes ``cfg`` with all
            that belongs to this run alone; None leaves the folder's copy as it is.
    """
    start_cpu_processes(cfg)
    silence_pycocotools()
    with mock.patch.object(Runner, 'dump_config'), short_log():
        runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    runner.register_hook(ProgressBarHook())
    if copy is not None:
        runner.register_hook(_CopyOfConfig(copy))
    return runner
