# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of another upsampler, class count or model: the same answer from every tool."""

import copy
import re

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from carafe_plugin.runtime.errors import UserError
from carafe_tools.weights import check_classes, check_start, check_weights, load_weights
from tests.runtime.helpers import ROOT, load_tool, write_coco, write_detector_config

QUICK = ROOT / 'configs' / 'quickstart'


def build(cfg):
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
        return MODELS.build(copy.deepcopy(cfg.model))


def save(file, cfg, **more):
    """A checkpoint as a run of ``cfg`` leaves it, before its first step."""
    model = build(cfg)
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
        optimizer = build_optim_wrapper(model, copy.deepcopy(cfg.optim_wrapper)).state_dict()
    meta = dict(dataset_meta=dict(classes=('red', 'blue')), epoch=0, iter=0, seed=0)
    content = dict(state_dict=model.state_dict(), optimizer=optimizer, meta=meta, message_hub={})
    torch.save(content | more, file)
    return file


@pytest.fixture(scope='module')
def setting(tmp_path_factory):
    """Folder with ``data``, ``config.py``, ``faster.py`` without a mask head, and a checkpoint of each."""
    folder = tmp_path_factory.mktemp('weights')
    config = write_detector_config(folder / 'config.py', write_coco(folder / 'data'))
    (folder / 'faster.py').write_text(f"_base_ = '{config}'\nmodel = dict(roi_head=dict(mask_head=None))\n")
    for name in ('config', 'faster'):
        save(folder / f'{name}.pth', Config.fromfile(folder / f'{name}.py'))
    stored = torch.load(folder / 'config.pth')
    backbone = {name[9:]: w for name, w in stored['state_dict'].items() if name.startswith('backbone.')}
    torch.save(backbone, folder / 'backbone.pth')
    return folder


def refusal(tool, argv, capsys):
    """Run a tool; return the one line in which it refuses."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        load_tool(tool).main(list(map(str, argv)))
    assert stop.value.code == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith('error: ')]
    return line


def calls(folder, checkpoint, options):
    """Tool -> arguments with which it reads the checkpoint, by config.py with ``options``."""
    config = folder / 'other.py'
    config.write_text(f"_base_ = 'config.py'\n{options}")
    where = ['--config', config, '--checkpoint', checkpoint, '--out', folder / 'out', '--device', 'cpu']
    image = folder / 'data' / 'images' / '0.png'
    return {
        'test': [config, checkpoint, '--work-dir', folder / 'out'],
        'train': [config, '--resume', checkpoint, '--work-dir', folder / 'out'],
        'demo': [image, *where],
        'visualize_kernels': [image, *where],
        'export_onnx': [config, checkpoint, '--out', folder / 'out.onnx'],
    }


SLOW = [pytest.param(tool, marks=pytest.mark.slow) for tool in ('visualize_kernels', 'export_onnx')]


@pytest.mark.parametrize('tool', ['test', 'train', 'demo', *SLOW])
def test_another_upsampler(setting, capsys, tool):
    pytest.importorskip('onnxruntime') if tool == 'export_onnx' else None
    options = "model = dict(neck=dict(upsample_cfg=dict(_delete_=True, type='deconv')))"
    line = refusal(tool, calls(setting, setting / 'config.pth', options)[tool], capsys)
    assert 'missing are neck.upsamplers.* (6)' in line
    assert 'config.pth is of another model than' in line or 'config.pth cannot be resumed by' in line
    assert not (setting / 'out').exists()


@pytest.mark.parametrize(
    ('checkpoint', 'message'),
    [
        ('faster.pth', r'missing are roi_head.mask_head.\* \(\d+\)$'),
        ('backbone.pth', r'missing are backbone.conv1.\* \(1\), .* and \d+ more$'),
    ],
)
def test_another_model(setting, capsys, checkpoint, message):
    line = refusal('test', calls(setting, setting / checkpoint, '')['test'], capsys)
    assert re.search(message, line), line


def test_another_class_count(setting):
    cfg = Config.fromfile(setting / 'config.py')
    cfg.model.roi_head.bbox_head.num_classes = 80
    message = (
        r'of another shape are roi_head.bbox_head.\* \(4\): roi_head.bbox_head.fc_cls.weight of \(3, 32\), '
        r'in the model \(81, 32\)'
    )
    with pytest.raises(UserError, match=message):
        check_weights(build(cfg), torch.load(setting / 'config.pth'), 'config.pth', 'config.py')


@pytest.mark.parametrize(
    ('trained', 'used', 'message'),
    [
        (
            'inpaint_partial-conv-carafe_pictures',
            'inpaint_global-local-carafe_pictures',
            r'missing are generator',
        ),
        ('upernet_r18_stock_shapes', 'upernet_r18_carafe_shapes', r'missing are decode_head.upsamplers.\* '),
        pytest.param(
            *(
                'upernet_r18_carafe-fpn_shapes',
                'upernet_r18_carafe-fusion_shapes',
                r'decode_head.upsamplers.\* ',
            ),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_other_hosts(trained, used, message):
    trained, used = (Config.fromfile(QUICK / f'{name}.py') for name in (trained, used))
    with pytest.raises(UserError, match=message):
        check_weights(build(used), dict(build(trained).state_dict()), 'a.pth', 'b.py')


def test_what_a_prediction_does_without(capsys):
    """Heads that serve training alone may be missing or differ; weights without a place are counted."""
    carafe, stock = (Config.fromfile(QUICK / f'upernet_r18_{name}_shapes.py') for name in ('carafe', 'stock'))
    stored = build(carafe).state_dict()
    stored = {name: value for name, value in stored.items() if not name.startswith('auxiliary_head.')}
    check_weights(build(carafe), stored, 'a.pth', 'b.py')
    assert capsys.readouterr().err == ''
    check_weights(build(stock), stored, 'a.pth', 'stock.py')
    count = sum(name.startswith('decode_head.upsamplers.') for name in stored)
    told = f'note: a.pth: {count} weights have no place in stock.py: decode_head.upsamplers.* ({count})\n'
    assert capsys.readouterr().err == told


class Renamed(nn.Module):
    """A weight that checkpoints of the first version call otherwise."""

    _version = 2

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))
        self.register_buffer('table', torch.zeros(3))

    def _load_from_state_dict(self, state, prefix, metadata, *args):
        if metadata.get('version', 1) < 2 and f'{prefix}kernel' in state:
            state[f'{prefix}weight'] = state.pop(f'{prefix}kernel')
        super()._load_from_state_dict(state, prefix, metadata, *args)


def test_names_that_a_class_itself_knows_are_right():
    model = nn.Sequential(Renamed())
    fit = load_weights(model, dict(state_dict={'module.0.kernel': torch.ones(2)}))
    assert (fit.total, fit.taken, fit.missing, fit.unused) == (1, 1, [], [])  # the table is made anew
    assert model[0].weight.tolist() == [1, 1]


def starting(setting, checkpoint, resume, **changes):
    cfg = Config.fromfile(setting / 'config.py')
    cfg.merge_from_dict(dict(changes, load_from=str(setting / checkpoint), resume=resume))
    cfg.launcher, cfg.work_dir = 'none', 'nowhere'
    check_start(cfg, build(cfg))


GROUPS = {'optim_wrapper.paramwise_cfg': dict(norm_decay_mult=0)}
ADAM = {'optim_wrapper.optimizer': dict(_delete_=True, type='AdamW', lr=0.1)}


def test_a_run_is_resumed_by_its_own_model_and_optimizer(setting):
    starting(setting, 'config.pth', True)
    starting(setting, 'config.pth', True, **{'optim_wrapper.optimizer.lr': 0.5})


@pytest.mark.parametrize(
    ('checkpoint', 'changes', 'message'),
    [
        ('faster.pth', {}, r'missing are roi_head.mask_head.\*'),
        ('config.pth', GROUPS, r"its optimizer has \d+ weights in 1 groups, the config's \d+ in \d\d+;"),
        ('config.pth', ADAM, r'its optimizer has no betas, eps, which AdamW needs;'),
        (
            'config.pth',
            {'model.roi_head.mask_head': None},
            r'no place is for roi_head.mask_head.\*',  # the optimizer would miss its weights
        ),
    ],
)
def test_a_run_is_not_resumed_by_another(setting, checkpoint, changes, message):
    with pytest.raises(UserError, match=rf'{checkpoint} cannot be resumed by \S+: {message}'):
        starting(setting, checkpoint, True, **changes)


def test_a_gan_is_resumed_with_both_optimizers(tmp_path):
    cfg = Config.fromfile(QUICK / 'inpaint_global-local-carafe_pictures.py')
    cfg.load_from, cfg.resume, cfg.launcher = str(save(tmp_path / 'gan.pth', cfg)), True, 'none'
    cfg.work_dir = 'nowhere'
    check_start(cfg, build(cfg))
    cfg.optim_wrapper.discriminator.optimizer = dict(type='SGD', lr=0.1, momentum=0.9)
    with pytest.raises(UserError, match='its optimizer has no dampening, momentum, which SGD needs'):
        check_start(cfg, build(cfg))


def test_first_weights_are_counted(setting, capsys):
    """Stock weights start a model with upsamplers: that is allowed, and said."""
    starting(setting, 'config.pth', False)
    assert capsys.readouterr().err == ''
    starting(setting, 'faster.pth', False)
    assert re.fullmatch(
        r'note: load_from \S+faster.pth: (\d+) of the (\d+) weights of the model are taken; '
        r'missing are roi_head.mask_head.\* \(\d+\)\n',
        capsys.readouterr().err,
    )
    message = (
        r"none of its \d+ weights has a place in the model \(its first is conv1.weight\); a backbone's alone"
    )
    with pytest.raises(UserError, match=message):
        starting(setting, 'backbone.pth', False)


def test_classes_in_another_order(capsys):
    dataset = dict(type='CocoDataset', metainfo=dict(classes=('a', 'c', 'b')))
    cfg = Config(
        dict(default_scope='mmdet', test_dataloader=dict(dataset=dict(type='RepeatDataset', dataset=dataset)))
    )
    check_classes(cfg, dict(meta=dict(dataset_meta=dict(classes=('a', 'c', 'b')))), 'a.pth')
    check_classes(cfg, dict(meta=dict()), 'a.pth')
    assert capsys.readouterr().err == ''
    check_classes(cfg, dict(meta=dict(dataset_meta=dict(classes=('a', 'b', 'c')))), 'a.pth')
    assert capsys.readouterr().err == (
        'note: a.pth was trained on other classes than test_dataloader.dataset.dataset has: '
        '2 differ, label 1 was b and is c\n'
    )
