# SPDX-License-Identifier: Apache-2.0
"""A resumed run draws what the run that was stopped would have drawn next."""

import itertools
import random
from collections.abc import Iterator

import numpy as np
import torch
from mmengine.dataset import InfiniteSampler
from mmengine.dist import all_gather_object, get_rank
from mmengine.hooks import CheckpointHook
from mmengine.runner import IterBasedTrainLoop, Runner
from torch.utils.data import BatchSampler


def get_random_state() -> dict:
    """States of the global generators of this process, as a checkpoint can hold them."""
    state = dict(
        python=random.getstate(),
        numpy=np.random.get_state(legacy=False),  # noqa: NPY002
        torch=torch.get_rng_state(),
    )
    if torch.cuda.is_available():
        state['cuda'] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: dict) -> None:
    """Undo what was drawn since :func:`get_random_state`."""
    random.setstate(state['python'])
    np.random.set_state(state['numpy'])  # noqa: NPY002
    torch.set_rng_state(state['torch'].cpu())
    if 'cuda' in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state['cuda'].cpu())


class ResumedIterator:
    """Batches of an iteration-based loop from the one after those that were trained on.

    mmengine's loop first asks for the batches that were trained on, and drops them. Where the order is known
    without it (an ``InfiniteSampler``), they are not loaded; elsewhere they are, which may take long.

    Args:
        loop: the loop, its iteration that of the checkpoint.
        state: random state to go on from; None leaves the generators as they are.
    """

    def __init__(self, loop: IterBasedTrainLoop, state: dict | None) -> None:
        self._old, self._loader = loop.dataloader_iterator, loop.dataloader
        self._left, self._state = loop.iter, state
        batches = self._loader.batch_sampler
        self._skips = type(batches) is BatchSampler and isinstance(batches.sampler, InfiniteSampler)
        if self._skips:
            sampler = batches.sampler
            # From the start: workers may have fetched ahead.
            rest = sampler._indices_of_rank()
            sampler.indices = itertools.islice(rest, loop.iter * batches.batch_size, None)

    def __iter__(self) -> Iterator:
        return self

    def __next__(self) -> object:
        if self._left > 0:
            self._left -= 1
            return None if self._skips else next(self._old)
        if self._left == 0:
            self._left = -1
            if self._skips:
                self._old = iter(self._loader)
            if self._state is not None:
                set_random_state(self._state)
        return next(self._old)


class ExactResumeHook(CheckpointHook):
    """mmengine's ``CheckpointHook`` that also saves and restores the random states of all processes.

    A validation draws from states of its own, so that a run does not depend on when it validates. With
    worker processes, what a data set draws in them is not restored, unless it is seeded by the draws of a
    :class:`carafe_plugin.runtime.NumberedSampler`.
    """

    _saved: list[dict] | None = None
    _restored: list[dict] | None = None
    _before_val: dict

    def before_train(self, runner: Runner) -> None:
        super().before_train(runner)
        loop = runner.train_loop
        if not loop.iter:
            return
        state = None
        if self._restored is None or len(self._restored) != runner.world_size:
            runner.logger.warning(
                'The checkpoint holds no random states of this many processes: '
                'what is drawn from here on is not what the stopped run would have drawn.'
            )
        else:
            state = self._restored[get_rank()]
        if isinstance(loop, IterBasedTrainLoop):
            loop.dataloader_iterator = ResumedIterator(loop, state)
        elif state is not None:
            set_random_state(state)

    def before_val(self, runner: Runner) -> None:
        self._before_val = get_random_state()
        # A new best score saves a checkpoint in the middle of the validation.
        self._saved = all_gather_object(self._before_val)

    def after_val(self, runner: Runner) -> None:
        set_random_state(self._before_val)

    def _save_checkpoint(self, runner: Runner) -> None:
        self._saved = all_gather_object(get_random_state())
        super()._save_checkpoint(runner)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        checkpoint['random_states'] = self._saved

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        self._restored = checkpoint.get('random_states')
