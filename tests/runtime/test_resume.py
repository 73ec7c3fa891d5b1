# SPDX-License-Identifier: Apache-2.0
"""A run that was killed at any moment goes on from a good checkpoint, and only from a safe one."""

import pathlib
import shutil
import signal

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.logging import HistoryBuffer

from carafe_plugin.runtime.checkpoint import find_resumable, read_checkpoint, set_resume
from carafe_plugin.runtime.checkpoint_hook import AtomicLocalBackend
from carafe_plugin.runtime.errors import UserError
from tests.torch_versions import needs_weights_only

from .helpers import run_tool

CONFIG = """
custom_imports = dict(imports=['tests.runtime.toy'])
model = dict(type='ToyModel')
train_dataloader = dict(
    batch_size=2, num_workers=0, dataset=dict(type='ToyDataset'), collate_fn=dict(type='pseudo_collate'),
    sampler=dict(type='DefaultSampler', shuffle=True))
train_cfg = dict(by_epoch=True, max_epochs=3)
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9))
param_scheduler = dict(type='ExponentialLR', gamma=0.9, by_epoch=False)
default_hooks = dict(checkpoint=dict(type='CheckpointHook', interval=1, max_keep_ckpts={keep}))
randomness = dict(seed={seed})
"""


def write_config(folder, name='config.py', seed=3, keep=1, **kill):
    hook = f'custom_hooks = [dict(type="KillHook", **{kill})]\n' if kill else ''
    file = folder / name
    file.write_text(CONFIG.format(seed=seed, keep=keep) + hook)
    return file


def train(config, work_dir, *options):
    return run_tool('train', [config, '--work-dir', work_dir, *options], work_dir.with_suffix('.log'))


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    """Work dir of a run that nobody disturbed; with ``--resume``, which finds nothing there."""
    folder = tmp_path_factory.mktemp('finished')
    work_dir = folder / 'run'
    assert train(write_config(folder, keep=2), work_dir, '--resume') == 0
    assert f'note: no checkpoint to resume from in {work_dir}' in (folder / 'run.log').read_text()
    return work_dir


@pytest.mark.parametrize(
    ('kills', 'left'),
    [
        ([dict(at_iter=6), dict(epoch=2, in_save='write')], 'epoch_1.pth'),
        ([dict(epoch=2, in_save='rename')], 'epoch_1.pth'),
        ([dict(epoch=2, in_save='pointer')], 'epoch_1.pth'),
        ([dict(epoch=2, in_save='remove')], 'epoch_2.pth'),
        ([dict(epoch=1, in_save='write')], None),
    ],
)
def test_killed_run_goes_on_like_an_undisturbed_one(tmp_path, finished, kills, left):
    work_dir = tmp_path / 'run'
    for kill in kills:
        assert train(write_config(tmp_path, 'killed.py', **kill), work_dir, '--resume') == -signal.SIGKILL
        found, complaints = find_resumable(work_dir)
        assert (found and found.name) == left
        assert complaints == []

    assert train(write_config(tmp_path), work_dir, '--resume') == 0
    assert not list(work_dir.glob('.*.partial'))
    mine, theirs = (read_checkpoint(folder / 'epoch_3.pth') for folder in (work_dir, finished))
    for part in ('state_dict', 'optimizer'):
        torch.testing.assert_close(mine[part], theirs[part], rtol=0, atol=0)
    assert mine['param_schedulers'] == theirs['param_schedulers']
    assert [mine['meta'][key] for key in ('epoch', 'iter')] == [3, 12]
    copy = Config.fromfile(work_dir / 'config.py')
    assert not copy.get('resume') and copy.get('load_from') is None  # a run from it starts anew
    losses = [saved['message_hub']['log_scalars']['train/loss'].data[0] for saved in (mine, theirs)]
    np.testing.assert_array_equal(*losses)


def test_truncated_checkpoint_is_named_and_the_previous_one_offered(tmp_path, finished):
    work_dir = tmp_path / 'run'
    shutil.copytree(finished, work_dir)
    last = work_dir / 'epoch_3.pth'
    last.write_bytes(last.read_bytes()[: last.stat().st_size // 2])
    (work_dir / 'last_checkpoint').write_text(str(last))
    before = sorted(work_dir.rglob('*'))

    assert train(write_config(tmp_path), work_dir, '--resume', last) == 1
    log = (tmp_path / 'run.log').read_text()
    previous = work_dir / 'epoch_2.pth'
    assert log == (
        f'error: checkpoint {last} is truncated or damaged; the latest good one: --resume {previous}\n'
    )
    assert sorted(work_dir.rglob('*')) == before

    assert train(write_config(tmp_path), work_dir, '--resume') == 0
    log = (tmp_path / 'run.log').read_text()
    assert f'note: checkpoint {last} is truncated or damaged: passed over' in log
    assert f'note: resuming from {previous}' in log


def test_damage_alone_does_not_start_a_run_anew(tmp_path):
    (tmp_path / 'epoch_1.pth').write_bytes(b'PK\x03\x04 and no more')
    with pytest.raises(UserError, match=r'epoch_1.pth is truncated or damaged; \S+ holds no good one'):
        set_resume(Config(dict(work_dir=str(tmp_path))), 'auto')


def test_moved_work_dir_is_resumed_with_its_own_seed(tmp_path, finished):
    moved = tmp_path / 'moved'
    shutil.copytree(finished, moved)
    (moved / 'last_checkpoint').write_text('gone/epoch_2.pth')
    cfg = Config(dict(work_dir=str(moved)))
    set_resume(cfg, 'auto')
    assert cfg.load_from == str(moved / 'epoch_2.pth')
    assert cfg.randomness.seed == 3


def test_weights_alone_are_not_resumed_from(tmp_path):
    torch.save(dict(state_dict={}), tmp_path / 'weights.pth')
    with pytest.raises(UserError, match=r'weights alone: use --cfg-options load_from='):
        set_resume(Config(dict(work_dir=str(tmp_path))), str(tmp_path / 'weights.pth'))


class _Call:
    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


@needs_weights_only
@pytest.mark.parametrize(
    ('content', 'name'),
    [
        (pathlib.PurePosixPath('a'), f'{pathlib.PurePosixPath.__module__}.PurePosixPath'),
        (_Call(eval, '1'), 'eval'),
        (_Call(getattr, HistoryBuffer, 'update'), "'update'"),
        (_Call(getattr, np.ndarray, 'tofile'), "'tofile'"),
        (np.array([{}], dtype=object), 'ObjectDType'),
    ],
)
def test_foreign_content_is_refused_by_name(tmp_path, content, name):
    torch.save(dict(state_dict={}, extra=content), tmp_path / 'foreign.pth')
    with pytest.raises(UserError, match=rf'foreign.pth is refused, it holds .*{name}'):
        read_checkpoint(tmp_path / 'foreign.pth')


@pytest.mark.parametrize('load', [torch.load, read_checkpoint])
def test_records_of_mmengine_are_read(tmp_path, load):
    record = HistoryBuffer([1.0, 4.0], [1, 1])
    content = dict(record=record, best=np.float64(0.5), ids=np.arange(3), weight=torch.arange(4.0))
    torch.save(content, tmp_path / 'records.pth')
    loaded = load(tmp_path / 'records.pth')
    statistics = [loaded['record'].statistics(name) for name in ('min', 'max', 'mean', 'current')]
    assert statistics == [1, 4, 2.5, 4]
    assert loaded['best'] == 0.5
    assert loaded['ids'].tolist() == [0, 1, 2] and loaded['weight'].tolist() == [0, 1, 2, 3]
    if hasattr(torch.serialization, 'get_safe_globals'):
        assert getattr not in torch.serialization.get_safe_globals()


@pytest.mark.parametrize('fails', [False, True])
def test_best_checkpoint_goes_after_its_successor_has_come(tmp_path, fails):
    backend = AtomicLocalBackend()
    old, rewritten, new = (str(tmp_path / name) for name in ('old', 'rewritten', 'new'))
    backend.put(b'1', old)
    backend.put(b'1', rewritten)
    try:
        with backend.removing_last():
            backend.remove(old)
            backend.remove(rewritten)
            AtomicLocalBackend().put(b'2', rewritten)
            if fails:
                raise OSError('disk full')
            backend.put(b'2', new)
    except OSError:
        pass
    left = {path.name for path in tmp_path.iterdir()}
    assert left == ({'old', 'rewritten'} if fails else {'rewritten', 'new'})
