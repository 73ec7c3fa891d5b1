# SPDX-License-Identifier: Apache-2.0
"""docs/own_data.md: its config takes the data set that it describes, and what it quotes is said."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from carafe_plugin.runtime.data_checks import coco
from carafe_plugin.runtime.errors import UserError
from carafe_tools.preflight import check_config
from tests.docs.snippets import ROOT, blocks
from tests.runtime.helpers import write_coco

PAGE = 'docs/own_data.md'
CLASSES = ('cup', 'plate')


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """data/mine as the page has it, ten images in each half, and the page's config beside it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, 'torchvision', None)  # as if it were not installed
    for split in ('train', 'val'):
        made = write_coco(tmp_path / 'made' / split, images=10)
        (tmp_path / 'data/mine/annotations').mkdir(parents=True, exist_ok=True)
        shutil.move(made / 'images', tmp_path / 'data/mine' / split)
        content = json.loads((made / 'instances.json').read_text())
        for category, name in zip(content['categories'], CLASSES, strict=True):
            category['name'] = name
        (tmp_path / f'data/mine/annotations/{split}.json').write_text(json.dumps(content))
    (tmp_path / 'mine.py').write_text(next(block.text for block in blocks(PAGE) if block.title == 'mine.py'))
    coco.forget_coco_file()
    yield Path('data/mine')
    coco.forget_coco_file()


def change_file(edit, split='train'):
    def change(folder, cfg):
        file = folder / 'annotations' / f'{split}.json'
        content = json.loads(file.read_text())
        edit(content)
        file.write_text(json.dumps(content))

    return change


def each(entries, edit):
    return change_file(lambda content: [entry.update(edit(entry)) for entry in content[entries]])


def set_classes(*names):
    def change(folder, cfg):
        for loader in (cfg.train_dataloader, cfg.val_dataloader):
            loader.dataset.metainfo.classes = names

    return change


def corners(entry):
    x, y, w, h = entry['bbox']
    return dict(bbox=[x, y, x + w, y + h])


def in_shares(entry):
    return dict(bbox=[value / 64 for value in entry['bbox']])


def without_masks(content):
    for entry in content['annotations']:
        del entry['segmentation']


def number_of_outputs(folder, cfg):
    cfg.model.roi_head.bbox_head.num_classes = cfg.model.roi_head.mask_head.num_classes = 1


BREAKS = {
    'torchvision is not installed': lambda folder, cfg: None,
    'the file lies elsewhere': lambda folder, cfg: (folder / 'annotations/train.json').unlink(),
    'an image is missing': lambda folder, cfg: (folder / 'train/3.png').unlink(),
    'a name is spelled otherwise': set_classes('cup', 'Plate'),
    'another order': set_classes('plate', 'cup'),
    'no name fits': set_classes('person', 'car'),
    'one class, without its comma': lambda folder, cfg: (
        set_classes()(folder, cfg) or cfg.train_dataloader.dataset.metainfo.update(classes='cup')
    ),
    'the heads have other numbers': number_of_outputs,
    'one head is forgotten': lambda folder, cfg: cfg.model.roi_head.bbox_head.update(num_classes=80),
    'corners': each('annotations', corners),
    'shares of the image': each('annotations', in_shares),
    'sizes of other images': each('images', lambda entry: dict(width=128, height=128)),
    'no masks': change_file(without_masks),
    'an object of id 0': change_file(lambda content: content['annotations'][0].update(id=0), 'val'),
    'no iscrowd': change_file(
        lambda content: [entry.pop('iscrowd') for entry in content['annotations']], 'val'
    ),
}


def said(folder, change) -> str:
    cfg = Config.fromfile('mine.py')
    change(folder, cfg)
    with pytest.raises(UserError) as error:
        check_config(cfg, ('train', 'val'))
    return ' '.join(str(error.value).split())


def test_good_data_pass(folder):
    cfg = Config.fromfile('mine.py')
    cfg.model.backbone.init_cfg = None
    check_config(cfg, ('train', 'val'))


@pytest.mark.parametrize('name', BREAKS)
def test_quoted(folder, name):
    quotes = {block.title: ' '.join(block.text.split()) for block in blocks(PAGE) if block.language == 'text'}
    assert quotes[name] == f'error: {said(folder, BREAKS[name])}'


def test_nothing_else_is_quoted():
    titles = {block.title for block in blocks(PAGE) if block.language == 'text' and block.title}
    assert titles == set(BREAKS), f'{ROOT / PAGE} and BREAKS differ'


SMALL = """
model.backbone.init_cfg=None train_cfg.max_epochs=1
train_dataloader.num_workers=0 train_dataloader.persistent_workers=False
train_dataloader.dataset.pipeline.2.scale=(64,64)
val_dataloader.num_workers=0 val_dataloader.persistent_workers=False
val_dataloader.dataset.pipeline.1.scale=(64,64)
"""


@pytest.mark.slow
def test_first_epoch(folder, tmp_path):
    """The config trains, with the accumulated gradients and averaged weights of docs/cluster.md."""
    block = next(block for block in blocks('docs/cluster.md') if block.title == 'accumulate.py')
    (tmp_path / block.title).write_text(block.text)
    command = [sys.executable, ROOT / 'tools/train.py', block.title, '--cfg-options', *SMALL.split()]
    done = subprocess.run(command, env=dict(os.environ, OMP_NUM_THREADS='1'), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    checkpoint = torch.load(tmp_path / 'work_dirs/accumulate/epoch_1.pth', weights_only=False)
    assert 'ema_state_dict' in checkpoint and 'coco/bbox_mAP' in done.stdout + done.stderr
