# SPDX-License-Identifier: Apache-2.0
"""A run whose numbers are lost ends, instead of going on to its last iteration."""

import math
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import all_gather_object, all_reduce
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from .errors import UserError


@HOOKS.register_module()
class FiniteLossHook(Hook):
    """Stop a run whose losses stay nan or infinite, and write no checkpoint of such weights.

    Losses that are finite again, as after a step that mixed precision skipped, start the count anew. Of
    several processes it is enough that one has such losses; all of them stop together.

    Args:
        patience: iterations in a row with such losses after which the run ends; 0 lets it go on, and lets
            every checkpoint be written.

    Raises:
        ValueError: ``patience`` is negative.
        UserError: while training: names the losses that went first, their iteration and the last checkpoint.
    """

    def __init__(self, patience: int = 5) -> None:
        if patience < 0:
            raise ValueError(f'patience must be at least 0, got {patience}')
        self.patience = patience
        self._count, self._first = 0, ''

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        if not self.patience:
            return
        broken = _broken_losses(outputs or {})
        anywhere = torch.tensor(float(bool(broken)))
        all_reduce(anywhere, 'max')
        if not anywhere:
            self._count = 0
            return
        if not self._count:
            named = {name: value for part in all_gather_object(broken) for name, value in part.items()}
            losses = ', '.join(f'{name} {value}' for name, value in named.items())
            self._first = f'iteration {runner.iter + 1}: {losses}'
        self._count += 1
        if self._count == self.patience:
            raise UserError(
                f'the losses are not finite since {self._first}; {_last_checkpoint(runner)}; '
                'default_hooks.finite_loss.patience=0 would let the run go on'
            )

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        if not self.patience:
            return
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        parameters = {name for name, _ in model.named_parameters()}
        for name, value in checkpoint['state_dict'].items():
            # An infinite buffer may be meant, as in a mask; nan never is.
            broken = ~value.isfinite() if name in parameters else value.isnan()
            if broken.any():
                since = f'; the losses are not finite since {self._first}' if self._count else ''
                # The loop's own count has gone on where a validation saves.
                iteration = runner.message_hub.get_info('iter') + 1
                raise UserError(
                    f'weights are not finite after iteration {iteration}, {name} for one{since}; '
                    f'no checkpoint of them is written, {_last_checkpoint(runner)}'
                )


def _broken_losses(outputs: dict) -> dict[str, float]:
    """What of an iteration's numbers is not finite; the total of the losses only where nothing else is."""
    # One look at the total tells of all its parts: each look at a GPU's number waits for it.
    if 'loss' in outputs and math.isfinite(_number(outputs['loss'])):
        return {}
    values = {name: _number(value) for name, value in outputs.items()}
    broken = {name: value for name, value in values.items() if not math.isfinite(value)}
    return {name: value for name, value in broken.items() if name != 'loss' or len(broken) == 1}


def _number(value: torch.Tensor | float) -> float:
    return float(value.detach() if isinstance(value, torch.Tensor) else value)


def _last_checkpoint(runner: Runner) -> str:
    pointer = Path(runner.work_dir, 'last_checkpoint')
    return (
        f'the last checkpoint is {pointer.read_text().strip()}'
        if pointer.is_file()
        else 'there is no checkpoint yet'
    )
