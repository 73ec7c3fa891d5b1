# SPDX-License-Identifier: Apache-2.0
"""A progress bar on a terminal; elsewhere mmengine's log lines say enough."""

import logging
import os
import sys
from contextlib import ExitStack
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop, Runner

_FORMAT = '{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [ETA {remaining}, {rate_fmt}{postfix}]'


@HOOKS.register_module()
class ProgressBarHook(Hook):
    """Show how far training, validation or test has come, with the time left and the loss.

    The bar is drawn on stderr, only where that is a terminal. Log lines go above it. The time left counts
    the iterations to come, without the validations among them.
    """

    priority = 'VERY_LOW'

    def __init__(self) -> None:
        self._bar: Any = None  # of tqdm, which has no annotations
        self._enabled = False
        self._redirection = ExitStack()

    def before_run(self, runner: Runner) -> None:
        self._enabled = is_main_process() and sys.stderr.isatty()
        if not self._enabled:
            return
        # Not needed elsewhere, and not a dependency of mmengine.
        from tqdm.contrib.logging import logging_redirect_tqdm  # type: ignore[import-untyped]

        consoles = [h for h in runner.logger.handlers if type(h) is logging.StreamHandler]
        self._redirection.enter_context(logging_redirect_tqdm([runner.logger]))
        if consoles:  # tqdm's stand-in handler would let through what the first one keeps back
            stand_in = runner.logger.handlers[-1]
            stand_in.setLevel(consoles[0].level)
            stand_in.filters = consoles[0].filters

    def after_run(self, runner: Runner) -> None:
        self._close()
        self._redirection.close()

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: object = None, outputs: object = None
    ) -> None:
        if not self._enabled:
            return
        if self._bar is None:
            self._open(runner.max_iters, runner.iter)
        by_epoch = isinstance(runner.train_loop, EpochBasedTrainLoop)
        epoch = f'epoch {runner.epoch + 1}/{runner.max_epochs}' if by_epoch else 'train'
        self._bar.set_description_str(epoch, refresh=False)
        if 'train/loss' in runner.message_hub.log_scalars:
            # From the log, not from `outputs`: it is on the host already.
            loss = runner.message_hub.get_scalar('train/loss').mean(10)
            self._bar.set_postfix_str(f'loss {loss:.4f}', refresh=False)
        self._bar.update()

    def before_val_epoch(self, runner: Runner) -> None:
        self._open(len(runner.val_dataloader), desc='val')

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: object = None, outputs: object = None
    ) -> None:
        self._step(batch_idx)

    def before_test_epoch(self, runner: Runner) -> None:
        self._open(len(runner.test_dataloader), desc='test')

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: object = None, outputs: object = None
    ) -> None:
        self._step(batch_idx)

    def _open(self, total: int, initial: int = 0, desc: str = '') -> None:
        if not self._enabled:
            return
        from tqdm import tqdm  # type: ignore[import-untyped]

        self._close()
        # Terminals of containers may say that they are 0 columns wide, and tqdm then draws nothing.
        known_width = os.get_terminal_size(sys.stderr.fileno()).columns > 0
        self._bar = tqdm(
            total=total,
            initial=initial,
            desc=desc,
            bar_format=_FORMAT,
            ncols=None if known_width else 80,
            dynamic_ncols=known_width,
            leave=False,
        )

    def _step(self, batch_idx: int) -> None:
        if self._bar is None:
            return
        self._bar.update()
        if batch_idx + 1 == self._bar.total:
            self._close()  # metrics print past the logger: no bar may stand in their way

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
