# SPDX-License-Identifier: Apache-2.0
"""A resumed run goes through the same losses as an undisturbed one, though everything in it is random."""

import random

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import InfiniteSampler
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, METRICS, MODELS
from mmengine.runner import Runner
from torch.utils.data import Dataset

from carafe_plugin.runtime.random_state import get_random_state, set_random_state
from carafe_plugin.runtime.sampler import NumberedSampler

LOADED = []


@DATASETS.register_module()
class RandomDataset(Dataset):
    """Seven numbers, each with noise from three generators; or from its draw alone."""

    def __init__(self, by_draw: bool = False) -> None:
        self.by_draw = by_draw

    def __len__(self) -> int:
        return 7

    def __getitem__(self, index: int) -> dict:
        LOADED.append(int(index))
        if self.by_draw:
            noise = np.random.default_rng(index.entropy).random()
        else:
            noise = random.random() + np.random.rand() + torch.rand(()).item()  # noqa: NPY002
        return dict(inputs=torch.tensor([float(index), noise]))


@MODELS.register_module()
class RandomModel(BaseModel):
    """A layer with dropout that draws, too, when it is validated."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.dropout = torch.nn.Linear(2, 8), torch.nn.Dropout(0.5)

    def forward(self, inputs, mode='tensor'):
        if mode == 'predict':
            return [torch.rand(()) for _ in inputs]
        return dict(loss=self.dropout(self.linear(torch.stack(inputs))).square().mean())


@METRICS.register_module()
class RandomMetric(BaseMetric):
    """Better each time, so that each validation saves a checkpoint again."""

    def process(self, data_batch, data_samples) -> None:
        self.results += data_samples

    def compute_metrics(self, results) -> dict:
        RandomMetric.score = getattr(RandomMetric, 'score', 0) + np.random.rand()  # noqa: NPY002
        return dict(score=RandomMetric.score)


def run(work_dir, sampler, *, by_epoch=False, workers=0, load_from=None):
    """Train; return the losses by iteration."""
    LOADED.clear()
    dataset = dict(type='RandomDataset', by_draw=workers > 0)
    loader = dict(batch_size=2, dataset=dataset, collate_fn=dict(type='pseudo_collate'), num_workers=workers)
    length = dict(max_epochs=2) if by_epoch else dict(max_iters=9, val_interval=2)
    cfg = Config(
        dict(
            model=dict(type='RandomModel'),
            work_dir=str(work_dir),
            train_dataloader=dict(loader, sampler=sampler),
            val_dataloader=dict(
                loader,
                num_workers=0,
                dataset=dict(type='RandomDataset'),
                sampler=dict(type='DefaultSampler', shuffle=False),
            ),
            train_cfg=dict(by_epoch=by_epoch, **length),
            val_cfg=dict(),
            val_evaluator=dict(type='RandomMetric'),
            optim_wrapper=dict(optimizer=dict(type='Adam', lr=0.01)),
            default_hooks=dict(
                logger=dict(type='LoggerHook', interval=1),
                checkpoint=dict(
                    type='AtomicCheckpointHook',
                    by_epoch=by_epoch,
                    interval=1 if by_epoch else 4,
                    save_best='score',
                    rule='greater',
                ),
            ),
            randomness=dict(seed=1),
            log_level='ERROR',
            resume=load_from is not None,
            load_from=load_from and str(load_from),
            experiment_name=str(work_dir).replace('/', '_'),
        )
    )
    runner = Runner.from_cfg(cfg)
    runner.train()
    runner.train_loop.dataloader_iterator = None  # ends its workers
    return runner.message_hub.get_scalar('train/loss').data[0]


@pytest.mark.parametrize(
    ('sampler', 'options'),
    [
        (dict(type='InfiniteSampler'), dict()),
        (dict(type='DefaultSampler', shuffle=True), dict()),
        (dict(type='DefaultSampler', shuffle=True), dict(by_epoch=True)),
        (dict(type='NumberedSampler'), dict(workers=2)),
    ],
)
def test_resumed_run_has_the_losses_of_an_undisturbed_one(tmp_path, monkeypatch, sampler, options):
    monkeypatch.setattr('mmengine.runner.loops.time.sleep', lambda _: None)  # 2 s at each end of the data
    whole = run(tmp_path / 'whole', sampler, **options)
    name = 'epoch_1.pth' if options.get('by_epoch') else 'iter_4.pth'
    resumed = run(tmp_path / 'resumed', sampler, load_from=tmp_path / 'whole' / name, **options)
    np.testing.assert_array_equal(resumed, whole)
    if not options and sampler['type'] == 'InfiniteSampler':
        trained_on = 5 * 2 + 3 * 7  # five iterations and three validations; nothing loaded to be thrown away
        assert len(LOADED) == trained_on


def test_numbered_sampler_keeps_the_order_and_numbers_draws_over_processes():
    dataset = list(range(5))
    sampler = NumberedSampler(dataset, seed=3)
    plain = [index for index, _ in zip(InfiniteSampler(dataset, seed=3), range(12), strict=False)]
    draws = [draw for draw, _ in zip(sampler, range(12), strict=False)]
    assert draws == plain
    assert [draw.entropy for draw in draws] == [(3, i) for i in range(12)]
    sampler.rank, sampler.world_size = 1, 2
    half = [draw for draw, _ in zip(sampler._indices_of_rank(), range(6), strict=False)]
    assert half == plain[1::2]
    assert [draw.entropy[1] for draw in half] == [1, 3, 5, 7, 9, 11]


def test_random_state_survives_a_checkpoint(tmp_path):
    def draw():
        return random.random(), np.random.rand(), torch.rand(2).tolist()  # noqa: NPY002

    torch.save(get_random_state(), tmp_path / 'state.pth')
    first = draw()
    assert draw() != first
    set_random_state(torch.load(tmp_path / 'state.pth'))  # weights_only
    assert draw() == first
