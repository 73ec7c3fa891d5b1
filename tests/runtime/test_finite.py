# SPDX-License-Identifier: Apache-2.0
"""A run whose losses or weights are lost stops, names them, and leaves its last good checkpoint."""

import math
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from mmengine.runner import Runner

from carafe_plugin.runtime import FiniteLossHook
from carafe_plugin.runtime.distributed import start_cpu_processes
from carafe_plugin.runtime.errors import UserError

from . import toy  # noqa: F401  (registers the data)
from .helpers import run_tool
from .test_distributed import run_two
from .test_resume import write_config


@MODELS.register_module()
class LosingModel(BaseModel):
    """Two losses of one weight, of which the second is lost at chosen iterations.

    Args:
        at: these iterations, counted from 1.
        how: ``'value'`` spoils the loss and no gradient, as a skipped step leaves the weights; ``'loss'``
            both; ``'gradient'`` the gradient alone.
    """

    def __init__(self, at: list[int], how: str) -> None:
        super().__init__()
        self.at, self.how = at, how
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, inputs, data_samples=None, mode='tensor'):
        second = self.weight.square().sum()
        if MessageHub.get_current_instance().get_info('iter') + 1 in self.at:
            if self.how == 'gradient':
                second = (second * 0).sqrt()
            else:
                second = second * math.nan if self.how == 'loss' else second + math.inf
        return dict(loss_first=self.weight.square().sum(), loss_second=second, acc=inputs[0].mean())


def run(work_dir, at, how, interval=100, patience=3):
    """Train for 9 iterations."""
    cfg = dict(
        model=dict(type='LosingModel', at=list(at), how=how),
        work_dir=str(work_dir),
        train_dataloader=dict(
            batch_size=2,
            num_workers=0,
            dataset=dict(type='ToyDataset'),
            collate_fn=dict(type='pseudo_collate'),
            sampler=dict(type='InfiniteSampler'),
        ),
        train_cfg=dict(by_epoch=False, max_iters=9),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01)),
        default_hooks=dict(
            checkpoint=dict(type='AtomicCheckpointHook', by_epoch=False, interval=interval),
            finite_loss=dict(type='FiniteLossHook', patience=patience),
        ),
        log_level='ERROR',
        experiment_name=str(work_dir).replace('/', '_'),
    )
    Runner.from_cfg(Config(cfg)).train()


def saved(work_dir):
    return sorted(file.name for file in work_dir.glob('*.pth'))


def test_lost_losses_stop_the_run(tmp_path):
    with pytest.raises(UserError) as error:
        run(tmp_path, range(4, 10), 'loss')
    # All weights are lost with the first step, so that the other loss follows; it did not go first.
    assert str(error.value).startswith(
        'the losses are not finite since iteration 4: loss_second nan; there is no checkpoint yet'
    )
    assert saved(tmp_path) == []


def test_checkpoint_of_lost_weights_is_not_written(tmp_path):
    with pytest.raises(UserError) as error:
        run(tmp_path, [4], 'loss', interval=1)
    assert 'weights are not finite after iteration 4, weight for one; ' in str(error.value)
    assert 'not finite since iteration 4: loss_second nan; ' in str(error.value)
    assert str(error.value).endswith(f'the last checkpoint is {tmp_path / "iter_3.pth"}')
    assert saved(tmp_path) == ['iter_1.pth', 'iter_2.pth', 'iter_3.pth']
    state = torch.load(tmp_path / 'iter_3.pth')['state_dict']
    assert state['weight'].isfinite()


def test_gradient_lost_in_the_last_iteration(tmp_path):
    """Every loss was finite; the weights that the last step leaves are not."""
    with pytest.raises(
        UserError, match='weights are not finite after iteration 9, weight for one; no checkpoint'
    ):
        run(tmp_path, [9], 'gradient')
    assert saved(tmp_path) == []


def test_losses_that_come_back_do_not_stop_it(tmp_path):
    run(tmp_path, [2, 3, 5, 6, 8], 'value')
    assert saved(tmp_path) == ['iter_9.pth']


def test_infinite_losses_in_a_row_do(tmp_path):
    with pytest.raises(
        UserError, match=r'since iteration 5: loss_second inf; the last checkpoint is .*iter_6.pth'
    ):
        run(tmp_path, [2, 3, 5, 6, 7], 'value', interval=2)


def test_patience_0_lets_it_go_on(tmp_path):
    run(tmp_path, range(4, 10), 'loss', patience=0)
    assert not torch.load(tmp_path / 'iter_9.pth')['state_dict']['weight'].isfinite()
    with pytest.raises(ValueError, match='patience must be at least 0, got -1'):
        FiniteLossHook(-1)


def a_run(model=None):
    hub = SimpleNamespace(get_info=lambda key: 0)
    return SimpleNamespace(iter=0, work_dir='nowhere', model=model, message_hub=hub)


@pytest.mark.parametrize(
    ('outputs', 'named'),
    [
        (dict(discriminator_real=torch.tensor(math.nan), discriminator_fake=1.0), 'discriminator_real nan'),
        (dict(loss=math.nan, loss_hole=0.1, discriminator_fake=math.nan), 'discriminator_fake nan'),
        (dict(loss=torch.tensor(math.inf)), 'loss inf'),
        (dict(loss=1.0, acc=math.nan), None),  # no object in the batch
        (None, None),
    ],
)
def test_what_counts_as_a_lost_loss(outputs, named):
    """Discriminators that are trained alone log no total, and no number of them is called a loss."""
    hook = FiniteLossHook(patience=1)
    if named is None:
        hook.after_train_iter(a_run(), 0, outputs=outputs)
        return
    with pytest.raises(UserError, match=f'since iteration 1: {named};'):
        hook.after_train_iter(a_run(), 0, outputs=outputs)


@pytest.mark.parametrize(
    ('where', 'value', 'refused'),
    [('weight', math.inf, True), ('running_mean', math.nan, True), ('running_mean', math.inf, False)],
)
def test_statistics_count_as_weights(where, value, refused):
    """An infinite buffer may be meant, as in a mask."""
    model = torch.nn.BatchNorm2d(2)
    model.state_dict()[where][1] = value
    hook, checkpoint = FiniteLossHook(), dict(state_dict=model.state_dict())
    if not refused:
        hook.before_save_checkpoint(a_run(model), checkpoint)
        return
    with pytest.raises(UserError, match=f'{where} for one'):
        hook.before_save_checkpoint(a_run(model), checkpoint)


def losing_rank(rank, file, _):
    """The second process alone loses its loss, from iteration 3 on."""
    start_cpu_processes(Config(dict(launcher='pytorch', model=dict())))
    hook, runner, told = FiniteLossHook(patience=2), a_run(), ''
    for runner.iter in range(9):
        lost = rank == 1 and runner.iter >= 2
        losses = dict(loss=math.nan, loss_mask=math.nan) if lost else dict(loss=1.0)
        try:
            hook.after_train_iter(runner, 0, outputs=losses)
        except UserError as error:
            told = str(error)
            break
    torch.save((runner.iter, told), file)


@pytest.mark.slow
def test_all_processes_stop_together(tmp_path):
    first, second = run_two(losing_rank, tmp_path)
    assert first == second
    assert first[0] == 3
    assert 'since iteration 3: loss_mask nan' in first[1]


def test_as_the_user_sees_it(tmp_path):
    config = write_config(tmp_path)
    argv = [config, '--work-dir', tmp_path / 'run', '--cfg-options', 'optim_wrapper.optimizer.lr=1e30']
    assert run_tool('train', argv, tmp_path / 'log') == 1
    last = (tmp_path / 'log').read_text().splitlines()[-1]
    assert last.startswith('error: weights are not finite after iteration 4, conv.')
    assert 'since iteration 2: loss inf' in last
    assert saved(tmp_path / 'run') == []
    assert run_tool('train', [*argv, 'default_hooks.finite_loss.patience=0'], tmp_path / 'log') == 0
    copy = Config.fromfile(tmp_path / 'run' / 'config.py')
    assert copy.default_hooks.finite_loss.patience == 0  # and so a run from the copy
