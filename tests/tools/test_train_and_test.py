# SPDX-License-Identifier: Apache-2.0
"""The training and testing tools on a tiny Mask R-CNN with CARAFE in neck and mask head."""

import contextlib
import json
import os
import pickle
import pty
import re
import subprocess
import sys
import termios
import threading

import pytest

from carafe_plugin.runtime.checkpoint import read_checkpoint
from tests.runtime.helpers import ROOT, run_tool, write_coco, write_detector_config


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """Folder with ``config.py``, ``data``, and ``work``: one epoch of training in one process."""
    folder = tmp_path_factory.mktemp('run')
    config = write_detector_config(folder / 'config.py', write_coco(folder / 'data'))
    assert run_tool('train', [config, '--work-dir', folder / 'work'], folder / 'train.log') == 0, (
        folder / 'train.log'
    ).read_text()
    return folder


def test_training_leaves_log_checkpoint_and_scores(run):
    log = (run / 'train.log').read_text()
    assert '\x1b' not in log
    assert '\r' not in log
    assert len(re.findall(r'Epoch\(train\) .* loss: \d', log)) == 4
    assert 'coco/segm_mAP: ' in log
    assert (run / 'work' / 'last_checkpoint').read_text() == str(run / 'work' / 'epoch_1.pth')


def test_terminal_fits_a_screen_and_the_log_file_has_all(run):
    shown = (run / 'train.log').read_text()
    (kept,) = (path.read_text() for path in (run / 'work').glob('*/*.log'))
    before_training = shown[: shown.index('Epoch(train)')]
    assert len(before_training.splitlines()) < 25, before_training
    assert 'MaskRCNN, ' in before_training and 'parameters; 1 epoch; batches of ' in before_training
    assert 'upsamplers: neck carafe x ' in before_training
    assert str(run / 'work') in before_training and 'creating index' not in shown
    for part in ('System environment:', 'Config:\n', 'Hooks will be executed', 'The prefix is not set'):
        assert part not in shown
    assert 'System environment:' in kept and 'upsample_cfg' in kept and 'Hooks will be executed' in kept
    line = re.search(r'Epoch\(train\) .*', shown).group()
    assert line in kept


def test_a_run_that_cannot_be_built_leaves_the_earlier_ones_config(run, tmp_path):
    copy = run / 'work' / 'config.py'
    before = copy.read_text()
    argv = [run / 'config.py', '--work-dir', run / 'work', '--cfg-options', 'optim_wrapper.optimizer.type=No']
    assert run_tool('train', argv, tmp_path / 'log') != 0
    assert copy.read_text() == before
    log = (tmp_path / 'log').read_text()
    assert f'note: {run / "work"} holds epoch_1.pth of an earlier run, which this one writes over' in log


def test_predictions_are_dumped_and_drawn(run, tmp_path):
    argv = [run / 'config.py', run / 'work' / 'epoch_1.pth', '--work-dir', tmp_path / 'work']
    argv += ['--out', tmp_path / 'out' / 'all.pkl', '--show-dir', tmp_path / 'drawn']
    assert run_tool('test', argv, tmp_path / 'log') == 0
    assert 'coco/segm_mAP: ' in (tmp_path / 'log').read_text()
    assert sorted(path.name for path in (tmp_path / 'drawn').iterdir()) == [f'{i}.png' for i in range(4)]
    predictions = pickle.loads((tmp_path / 'out' / 'all.pkl').read_bytes())
    assert [len(p['pred_instances']['masks']) for p in predictions] == [5] * 4
    assert list((tmp_path / 'work').glob('*.py')) == []  # a copy of the config is train.py's business


def test_test_server_files_need_no_annotations(run, tmp_path):
    content = json.loads((run / 'data' / 'instances.json').read_text())
    del content['annotations']
    info = tmp_path / 'image_info.json'
    info.write_text(json.dumps(content))
    argv = [run / 'config.py', run / 'work' / 'epoch_1.pth', '--work-dir', tmp_path / 'work']
    argv += ['--format-only', tmp_path / 'server', '--cfg-options']
    argv += [f'test_dataloader.dataset.ann_file={info}', f'test_evaluator.ann_file={info}']
    assert run_tool('test', argv, tmp_path / 'log') == 0, (tmp_path / 'log').read_text()
    assert 'coco/bbox_mAP' not in (tmp_path / 'log').read_text()
    boxes, masks = (json.loads((tmp_path / f'server.{kind}.json').read_text()) for kind in ('bbox', 'segm'))
    assert len(boxes) == len(masks) == 20
    assert {'image_id', 'category_id', 'score', 'segmentation'} <= masks[0].keys()


def test_test_time_augmentation_scores_boxes(run, tmp_path):
    """Called with the copy of the config that lies in the run's folder, which is then its work_dir, too."""
    copy = run / 'work' / 'config.py'
    before = copy.read_text()
    argv = [copy, run / 'work' / 'epoch_1.pth', '--tta']
    argv += ['--out', tmp_path / 'all.pkl', '--show-dir', tmp_path / 'drawn']
    assert run_tool('test', argv, tmp_path / 'log') == 0
    assert copy.read_text() == before
    log = (tmp_path / 'log').read_text()
    assert 'merges boxes only' in log
    assert 'coco/bbox_mAP: ' in log
    assert 'coco/segm' not in log


def test_two_cpu_processes_train_and_test(run, tmp_path):
    # A free port would be better found by torchrun itself; the process id keeps parallel test runs apart.
    env = dict(os.environ, PYTHON=sys.executable, PORT=str(20000 + os.getpid() % 10000))
    train = [
        'bash',
        ROOT / 'tools' / 'dist_train.sh',
        run / 'config.py',
        '2',
        '--work-dir',
        tmp_path / 'work',
    ]
    train += ['--cfg-options', 'model.backbone.norm_cfg.type=SyncBN']
    done = subprocess.run(train, env=env, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r'Epoch\(train\)  ?\[1\]\[\d/2\]', done.stdout)) == 2
    assert 'coco/segm_mAP: ' in done.stdout
    assert done.stderr.count('each process normalises its own images') == 1
    state = read_checkpoint(tmp_path / 'work' / 'epoch_1.pth')['state_dict']
    assert not any(key.startswith('module.') for key in state)
    # What this machine and launch asked for is no part of the config.
    copy = (tmp_path / 'work' / 'config.py').read_text()
    assert 'SyncBN' in copy and 'device_ids' not in copy


class Terminal:
    """The lines that a terminal shows after the given output: enough of one for a bar and log lines."""

    def __init__(self, output: str) -> None:
        self.lines = []
        for line in re.sub(r'\x1b\[[\d;]*m', '', output).replace('\r\n', '\n').split('\n'):
            shown = ''
            for piece in line.split('\r'):
                shown = piece + shown[len(piece) :]
            self.lines.append(shown.rstrip())


def read_all(descriptor: int, pieces: list[bytes]) -> None:
    with contextlib.suppress(OSError):  # the other end is closed
        while True:
            pieces.append(os.read(descriptor, 4096))


@pytest.mark.parametrize('columns', [100, 0])
def test_bar_on_a_terminal_leaves_log_lines_whole(run, tmp_path, columns):
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (25, columns))
    pieces = []
    reader = threading.Thread(target=read_all, args=(master, pieces))
    reader.start()
    argv = [run / 'config.py', '--work-dir', tmp_path / 'work']
    code = run_tool('train', argv, os.ttyname(slave))
    os.close(slave)
    reader.join()
    os.close(master)
    text = b''.join(pieces).decode()
    assert code == 0, text
    assert re.search(r'epoch 1/1 +\d+%\|.*\| \d/4 \[ETA \d\d:\d\d, .*loss \d', text)
    assert re.search(r'val +\d+%\|.*\| \d/4 \[ETA', text)
    shown = Terminal(text).lines
    lines = [line for line in shown if 'Epoch(' in line]
    assert len(lines) == 9  # four of training, four of validation, the scores
    assert all(re.match(r'\d\d/\d\d \d\d:\d\d:\d\d - mmengine - INFO - Epoch', line) for line in lines)
    assert not any('%|' in line for line in shown)
