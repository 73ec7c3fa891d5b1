# SPDX-License-Identifier: Apache-2.0
"""Bad input: one line naming the cause, an exit code, and nothing touched."""

import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import mmdet
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import HOOKS, DefaultScope

from carafe_plugin.runtime import data_checks
from carafe_plugin.runtime.errors import UserError
from carafe_tools.preflight import check_config
from carafe_tools.shapes import make_shapes
from tests.runtime.helpers import ROOT, load_tool, run_tool, write_coco, write_detector_config

MMDET_TRAIN = Path(mmdet.__file__).parent / '.mim' / 'tools' / 'train.py'

NECK = 'model.neck.upsample_cfg'
HEAD = 'model.roi_head.mask_head.upsample_cfg'


@pytest.fixture(scope='module')
def setting(tmp_path_factory):
    """Config on healthy data, its data folder, and a work dir in which somebody's file lies."""
    folder = tmp_path_factory.mktemp('errors')
    data = write_coco(folder / 'data')
    content = json.loads((data / 'instances.json').read_text())
    no_list = dict(content, annotations={})
    absent = dict(content, images=[*content['images'], dict(id=9, file_name='9.png', width=64, height=64)])
    (data / 'no_list.json').write_text(json.dumps(no_list))
    (data / 'absent.json').write_text(json.dumps(absent))
    (data / 'reversed.json').write_text(json.dumps(dict(content, categories=content['categories'][::-1])))
    (data / 'list.json').write_text('[]')
    (data / 'text.json').write_text('{"images": [')
    work_dir = folder / 'work'
    work_dir.mkdir()
    (work_dir / 'keep.txt').touch()
    config = write_detector_config(folder / 'config.py', data)
    wrapped = folder / 'wrapped.py'
    wrapped.write_text(
        f"_base_ = '{config}'\n"
        'one = {{_base_.train_dataloader.dataset}}\n'
        "twice = dict(type='RepeatDataset', times=2, dataset=one)\n"
        "both = dict(type='ConcatDataset', datasets=[one, twice])\n"
        'train_dataloader = dict(dataset=dict(_delete_=True, **both))\n'
    )
    return config, wrapped, work_dir


CASES = {
    'missing annotation file': (
        ['train_dataloader.dataset.ann_file=gone.json'],
        r'annotation file \S+/gone.json does not exist \(train_dataloader.dataset.ann_file\)',
    ),
    'missing annotation file of the evaluator': (
        ['val_evaluator.ann_file=gone.json'],
        r'annotation file gone.json does not exist \(val_evaluator.ann_file\)',
    ),
    'image listed but absent': (
        ['val_dataloader.dataset.ann_file=absent.json'],
        r'image \S+/images/9.png does not exist, 1 of the 5 images listed in \S+/absent.json are absent',
    ),
    'image folder absent': (
        ['train_dataloader.dataset.data_prefix.img=elsewhere'],
        r'image \S+/elsewhere/0.png does not exist, 4 of the 4 images',
    ),
    'json without a COCO list': (
        ['train_dataloader.dataset.ann_file=no_list.json'],
        r'annotation file \S+/no_list.json is not COCO: it has no list "annotations"',
    ),
    'json that is no object': (
        ['train_dataloader.dataset.ann_file=list.json'],
        r'annotation file \S+/list.json is not COCO: it has no list "images"',
    ),
    'no json': (
        ['train_dataloader.dataset.ann_file=text.json'],
        r'annotation file \S+/text.json is not JSON: Expecting value',
    ),
    'unknown upsampler': (
        [f'{NECK}.type=carafes'],
        r"the model cannot be built: .*'carafes'; known: .*carafe.*pixel_shuffle",
    ),
    'argument left over from another upsampler': (
        [f'{NECK}.up_kernel=5', f'{NECK}.type=bilinear'],
        r"the model cannot be built: .*'bilinear' takes no argument 'up_kernel'.*_delete_=True",
    ),
    'scale_factor=0': ([f'{HEAD}.scale_factor=0'], 'the model cannot be built: .*scale_factor.* 0'),
    'channels not divisible by groups': (
        [f'{NECK}.up_group=3'],
        'the model cannot be built: .*divisible by up_group=3, got 16',
    ),
    'categories in another order': (
        ['train_dataloader.dataset.ann_file=reversed.json'],
        r'categories and classes differ in order in \S+/reversed.json',
    ),
    'a head of fewer classes': (
        ['model.roi_head.bbox_head.num_classes=1'],
        'model.roi_head.bbox_head has num_classes=1, train_dataloader.dataset 2 classes: red, blue',
    ),
    'assertion without a text': (
        ['model.neck.num_outs=1'],
        'the model cannot be built: AssertionError in fpn.py, line [0-9]+: assert num_outs',
    ),
    'assertion with a text': (
        ['model.backbone.out_indices=[0,9]'],
        'the model cannot be built: ',
    ),
    'import by an option': (
        ['custom_imports.imports=[no_such_module]'],
        '--cfg-options custom_imports: .*no_such_module',
    ),
    'unknown class': (['model.neck.type=NoSuchNeck'], 'the model cannot be built: NoSuchNeck is not in'),
    'list of words for an evaluator': (
        ['val_evaluator=[CocoMetric]'],
        "--cfg-options val_evaluator: .* a dict there, got 'CocoMetric'; .* as val_evaluator.type=",
    ),
    'python for a list of transforms': (
        ['train_dataloader.dataset.pipeline=[dict(type="Resize")]'],
        r'--cfg-options train_dataloader.dataset.pipeline: .* dicts there.*; .* as \S+.pipeline.0.type=',
    ),
    'name for an upsampler': (
        [f'{NECK}=bilinear'],
        rf'--cfg-options {NECK}: .*, as {NECK}.type=..., or write a config',
    ),
    'pretrained weights': (
        ['model.neck.init_cfg.type=Pretrained', 'model.neck.init_cfg.checkpoint=gone.pth'],
        'model.neck.init_cfg: checkpoint gone.pth does not exist',
    ),
    'length of the run by another name': (
        ['train_cfg.epochs=1'],
        "train_cfg: got an unexpected keyword argument 'epochs'; EpochBasedTrainLoop takes max_epochs, ",
    ),
    'misspelt option': (
        ['train_dataloader.batchsize=1'],
        "--cfg-options train_dataloader.batchsize: the config has no 'batchsize'; did you mean 'batch_size'",
    ),
    'misspelt field that the config lacks': (
        ['load_form=x.pth'],
        "--cfg-options load_form: .* mean 'load_from'",
    ),
    'override that does not fit': (
        ['train_dataloader.dataset.pipeline.9.scale=3'],
        '--cfg-options does not fit the config: ',
    ),
}


def assert_one_line(text, pattern):
    assert re.fullmatch(rf'error: {pattern}.*\n', text), text


def run_main(argv, capfd, work_dir):
    """Run the tool in this process; return its stderr. The work dir must stay as it is."""
    with pytest.raises(SystemExit) as error:
        load_tool('train').main([*map(str, argv), '--work-dir', str(work_dir)])
    assert error.value.code == 1
    assert [path.name for path in work_dir.rglob('*')] == ['keep.txt']
    return capfd.readouterr().err


@pytest.mark.parametrize(('options', 'pattern'), CASES.values(), ids=CASES.keys())
def test_bad_setting(setting, capfd, options, pattern):
    config, _, work_dir = setting
    assert_one_line(run_main([config, '--cfg-options', *options], capfd, work_dir), pattern)


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
def test_amp_without_gpu(setting, capfd):
    config, _, work_dir = setting
    assert_one_line(run_main([config, '--amp'], capfd, work_dir), r'mixed precision \(--amp.* needs a GPU')


def test_wrapped_dataset_is_looked_into(setting, capfd):
    _, wrapped, work_dir = setting
    option = 'train_dataloader.dataset.datasets.1.dataset.ann_file=absent.json'
    error = run_main([wrapped, '--cfg-options', option], capfd, work_dir)
    assert_one_line(error, r'image \S+/images/9.png does not exist')


@pytest.mark.parametrize(
    ('argv', 'pattern'),
    [
        (['gone.py'], 'config gone.py does not exist'),
        (['{config}', '--resume', 'gone.pth'], 'checkpoint gone.pth does not exist'),
        (['{config}', '--launcher', 'pytorch'], '--launcher pytorch needs torchrun'),
        (['{config}', '--cfg-options', 'load_from=gone.pth'], 'checkpoint gone.pth does not exist'),
    ],
)
def test_bad_argument(setting, capfd, monkeypatch, argv, pattern):
    config, _, work_dir = setting
    monkeypatch.delenv('RANK', raising=False)
    assert_one_line(run_main([arg.format(config=config) for arg in argv], capfd, work_dir), pattern)


def test_as_the_user_sees_it(setting, tmp_path):
    config, _, _ = setting
    command = [sys.executable, ROOT / 'tools' / 'train.py', config, '--cfg-options', f'{NECK}.type=carafes']
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert_one_line(done.stderr, 'the model cannot be built: ')
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize('tool', ['train', str(MMDET_TRAIN)], ids=['ours', 'mmdet'])
def test_another_program_is_stopped_too(setting, tmp_path, tool):
    """Our configs bring a hook along, so that MMDetection's own tool trains on no wrong data either."""
    config, _, _ = setting
    argv = [
        config,
        '--work-dir',
        tmp_path,
        '--cfg-options',
        'train_dataloader.dataset.ann_file=reversed.json',
    ]
    assert run_tool(tool, argv, tmp_path / 'log') == 1
    log = (tmp_path / 'log').read_text()
    assert 'categories and classes differ in order' in log.splitlines()[-1]
    assert ('Traceback' in log) == (tool != 'train')
    assert not list(tmp_path.rglob('*.pth')) and 'Epoch(train)' not in log


def test_the_hook_looks_once_in_a_process(setting, monkeypatch):
    config, _, _ = setting
    monkeypatch.setattr(data_checks, '_looked', set())
    cfg = Config.fromfile(config)
    hook = HOOKS.build(cfg.default_hooks.check_data)
    runner = SimpleNamespace(cfg=cfg, model=torch.nn.Identity())
    with DefaultScope.overwrite_default_scope('mmdet'):
        hook.before_train(runner)
        cfg.train_dataloader.dataset.ann_file = 'gone.json'
        hook.before_train(runner)
        cfg.test_dataloader.dataset.ann_file = 'gone.json'
        with pytest.raises(UserError, match=r'gone.json does not exist \(test_dataloader.dataset.ann_file'):
            hook.before_test(runner)


@pytest.mark.parametrize(
    'config', ['mask-rcnn_r18_fpn-carafe_head-carafe_shapes', 'upernet_r18_carafe_shapes']
)
def test_the_quick_start_passes_without_a_word(tmp_path, monkeypatch, capfd, config):
    make_shapes(tmp_path / 'data' / 'shapes', 8, 2)
    monkeypatch.chdir(tmp_path)
    cfg = Config.fromfile(ROOT / 'configs' / 'quickstart' / f'{config}.py')
    check_config(cfg, ('train', 'val', 'test'))
    assert 'note' not in capfd.readouterr().err
