# SPDX-License-Identifier: Apache-2.0
"""The runs of a comparison: one variant of a config with one seed each. Needs mmengine."""

import copy
import datetime
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config

from carafe_plugin.runtime.checkpoint import find_resumable, read_checkpoint
from carafe_plugin.runtime.errors import UserError

from .files import write_atomically

#: How a checkpoint's meta data name what a training counts in.
_META = dict(epoch='epoch', iteration='iter')


@dataclass
class Cell:
    """One training run of the comparison."""

    variant: str
    seed: int
    folder: Path
    config: str

    @property
    def config_file(self) -> Path:
        # Beside the folder: into the folder the Runner writes a copy of its own, under the same name.
        return self.folder.with_suffix('.py')

    @property
    def result_file(self) -> Path:
        return self.folder / 'result.json'

    @property
    def hash(self) -> str:
        return hashlib.sha256(self.config.encode()).hexdigest()[:16]


def set_upsampler(node: object, name: str) -> int:
    """Set every ``upsample_cfg`` in a config's model, in place, and count them.

    Arguments of the config's own ``upsample_cfg`` stay where its type is ``name`` already. One of places (of
    UperNet) has each place that it names set. Any other without a type is left alone: it is an argument of
    MMDetection's own FPN, meant for ``F.interpolate``.

    Args:
        node: the model's dict, or any part of it.
        name: registered name of an upsampler, or 'stock'.
    """
    if isinstance(node, (list, tuple)):
        return sum(set_upsampler(child, name) for child in node)
    if not isinstance(node, dict):
        return 0
    count = 0
    for key, child in node.items():
        if key != 'upsample_cfg':
            count += set_upsampler(child, name)
        elif child is None or 'type' in child:
            count += _set(node, key, name)
        elif child and all(place is None or isinstance(place, dict) for place in child.values()):
            count += sum(_set(child, place, name) for place in child)
    return count


def _set(node: dict, key: str, name: str) -> int:
    if name == 'stock':
        node[key] = None
    elif node[key] is None or node[key].get('type') != name:
        node[key] = dict(type=name)
    return 1


def budget(cfg: Config) -> tuple[int, str]:
    """Length of the training and what it counts in, 'epoch' or 'iteration'."""
    if cfg.train_cfg.get('max_epochs'):
        return cfg.train_cfg.max_epochs, 'epoch'
    return cfg.train_cfg.max_iters, 'iteration'


def set_within(model: dict, name: str, within: Sequence[str] = ('',)) -> int:
    """As :func:`set_upsampler`, in the named parts of the model alone.

    Args:
        model: the model's dict.
        name: registered name of an upsampler, or 'stock'.
        within: dotted names, such as ``neck`` and ``roi_head.mask_head``; the empty one is the whole model.

    Raises:
        UserError: The model has no such part.
    """
    count = 0
    for path in within:
        part = model
        for key in filter(None, path.split('.')):
            if not isinstance(part, dict) or key not in part:
                raise UserError(f'--within {path}: the model has no such part')
            part = part[key]
        count += set_upsampler(part, name)
    return count


def cell_config(cfg: Config, seed: int) -> Config:
    """The config that one cell trains."""
    cfg = copy.deepcopy(cfg)
    cfg.randomness = {**cfg.get('randomness', {}), 'seed': seed}
    if budget(cfg)[1] == 'iteration':  # else the log says epoch 0 of every validation
        hooks = cfg.setdefault('default_hooks', {})
        logger = {'type': 'LoggerHook', **hooks.get('logger', {})}
        hooks['logger'] = {**logger, 'log_metric_by_epoch': False}
    return cfg


def prepare(cell: Cell) -> str:
    """Bring the cell's folder into the state from which it is to be trained.

    Returns:
        'finished', 'resumed', 'changed' (there was a run of another config, now renamed) or 'new'.

    Raises:
        UserError: The folder holds something that is not a cell.
    """
    state = 'new'
    if cell.config_file.exists():
        if cell.config_file.read_text() == cell.config:
            if cell.result_file.exists() and read_result(cell)['config_hash'] == cell.hash:
                return 'finished'
            return 'resumed' if any(cell.folder.glob('*.pth')) else 'new'
        if cell.folder.exists():
            # Hours of training may stand behind it: moved out of the way, never removed.
            now = datetime.datetime.now().strftime('%Y%m%d_%H%M%S')
            cell.folder.rename(cell.folder.with_name(f'{cell.folder.name}.until-{now}'))
            state = 'changed'
    elif cell.folder.exists() and any(cell.folder.iterdir()):
        raise UserError(f'{cell.folder} holds something else than a cell of a comparison; remove it')
    cell.folder.mkdir(parents=True, exist_ok=True)
    write_atomically(cell.config_file, cell.config)
    return state


def finished_checkpoint(cell: Cell, end: int, unit: str) -> Path | None:
    """The cell's last checkpoint, if its training has come to the end.

    Args:
        cell: the cell.
        end: length of the training.
        unit: what that counts, 'epoch' or 'iteration'.
    """
    file, _ = find_resumable(cell.folder)
    if file is None or read_checkpoint(file)['meta'].get(_META[unit]) != end:
        return None
    return file


def read_result(cell: Cell) -> dict:
    """The result of a finished cell."""
    return json.loads(cell.result_file.read_text())
