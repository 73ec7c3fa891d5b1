# SPDX-License-Identifier: Apache-2.0
"""A task of milliseconds that trains exactly alike each time, and the ways to kill it."""

import os
import signal
from pathlib import Path

import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, HOOKS, MODELS
from torch.utils.data import Dataset

from carafe_plugin.runtime import checkpoint_hook


@DATASETS.register_module()
class ToyDataset(Dataset):
    """Eight numbers."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict:
        return dict(inputs=torch.full((1, 4, 4), float(index)))


@MODELS.register_module()
class ToyModel(BaseModel):
    """One convolution that learns to say 1."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(1, 4, 3)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        return dict(loss=(self.conv(torch.stack(inputs) / 8) - 1).square().mean())


@HOOKS.register_module()
class KillHook(Hook):
    """Send this process SIGKILL, before an iteration or in the middle of a save.

    Args:
        at_iter: iteration before which to die, counted from 0.
        epoch: epoch whose checkpoint is being saved.
        in_save: ``'write'`` (half of the bytes are on the disk), ``'rename'`` (before the file takes its
            name), ``'pointer'`` (before ``last_checkpoint`` does) or ``'remove'`` (before the old one goes).
    """

    def __init__(self, at_iter: int = -1, epoch: int = -1, in_save: str = '') -> None:
        self.at_iter, self.epoch, self.in_save = at_iter, epoch, in_save

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        if runner.iter == self.at_iter:
            os.kill(os.getpid(), signal.SIGKILL)

    def before_save_checkpoint(self, runner, checkpoint) -> None:
        if runner.epoch + 1 == self.epoch:
            self._arm()

    def _arm(self) -> None:
        real_replace, real_open = os.replace, open

        def die(*args):
            os.kill(os.getpid(), signal.SIGKILL)

        def open_and_die(path, mode):
            file = real_open(path, mode)

            class Writer:
                def __enter__(self):
                    return self

                def __exit__(self, *exc):
                    pass

                def write(self, content):
                    file.write(content[: len(content) // 2])
                    file.flush()
                    die()

            return Writer()

        def replace(source, target):
            if self.in_save == 'rename' or Path(target).name == 'last_checkpoint':
                die()
            real_replace(source, target)

        if self.in_save == 'write':
            checkpoint_hook.open = open_and_die
        elif self.in_save == 'remove':
            checkpoint_hook.AtomicLocalBackend.remove = die
        else:
            os.replace = replace
