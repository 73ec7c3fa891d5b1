# SPDX-License-Identifier: Apache-2.0
"""Bookkeeping and table of a comparison; the training is a stand-in but for one slow test."""

import csv
import json
import re
import statistics

import pytest
from mmengine.config import Config

from carafe_plugin.runtime.checkpoint import read_checkpoint
from carafe_plugin.runtime.errors import UserError
from carafe_tools.cells import set_within
from carafe_tools.comparison import markdown, write_csv
from carafe_tools.model_cost import Cost
from tests.runtime.helpers import ROOT, load_tool, write_coco, write_detector_config

CONFIG = """
custom_imports = dict(imports=['carafe_plugin.detection'])
default_scope = 'mmdet'
model = dict(type='UpsampleFPN', in_channels=[4, 8], out_channels=4, num_outs=2,
             upsample_cfg=dict(type='carafe', up_kernel=3))
train_cfg = dict(type='IterBasedTrainLoop', max_iters=20)
val_dataloader = dict()
val_evaluator = dict()
"""
# Stands in for tools/train.py. Its scores depend on the cell, and it dies if the file `dies` names the seed.
TRAIN = """
import json, sys
from pathlib import Path
config, work_dir = {}, Path(sys.argv[3])
exec(Path(sys.argv[1]).read_text(), config)
seed, upsampler = config['randomness']['seed'], (config['model']['upsample_cfg'] or {}).get('type')
root = Path(__file__).parent
with open(root / 'calls', 'a') as calls:
    calls.write(f'{upsampler} {seed}' + ' --resume' * ('--resume' in sys.argv) + '\\n')
logs = work_dir / '20250101_000000' / 'vis_data'
logs.mkdir(parents=True, exist_ok=True)
(work_dir / Path(sys.argv[1]).name).write_text('the Runner dumps its config under this name')
(work_dir / 'iter_10.pth').touch()
if str(seed) in (root / 'dies').read_text().split():
    sys.exit(3)
if str(seed) in (root / 'dies_late').read_text().split():
    import torch
    torch.save(dict(meta=dict(iter=20), message_hub={}, state_dict={}), work_dir / 'iter_20.pth')
    config['train_cfg']['max_iters'] = 10
ap = config.get('score', 0.2) + 0.1 * seed + 0.05 * (upsampler == 'carafe')
steps = range(10, config['train_cfg']['max_iters'] - config.get('early', 0) + 1, 10)
with open(logs / 'scalars.json', 'w') as file:
    for step in steps:
        print(json.dumps({'loss': 1.0, 'iter': step, 'step': step}), file=file)
        line = {'coco/bbox_mAP': ap / 2, 'coco/segm_mAP': ap * step / 20, 'coco/AR@100': 0.5, 'time': 1.0}
        print(json.dumps({**(line if 'blind' not in config else {}), 'step': step}), file=file)
if config['train_cfg']['max_iters'] == 10:
    sys.exit(3)
"""
# Stands in for tools/test.py.
TEST = """
import json, sys
from pathlib import Path
assert 'test_evaluator' in Path(sys.argv[1]).read_text()
folder = Path(sys.argv[4]) / '20250102_000000'
folder.mkdir(parents=True)
with open(Path(__file__).parent / 'calls', 'a') as calls:
    calls.write(f'test {Path(sys.argv[2]).name}\\n')
metrics = {'coco/bbox_mAP': 0.1, 'coco/segm_mAP': 0.3, 'coco/AR@100': 0.5, 'time': 1.0, 'data_time': 0.0}
(folder / '20250102_000000.json').write_text(json.dumps(metrics))
"""
COSTS = dict(stock=Cost(40_000_000, 2 * 10**9, 50.0), carafe=Cost(40_074_148, 3 * 10**9, 60.0))


@pytest.fixture
def compare(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / 'tools')
    module = load_tool('compare')
    (tmp_path / 'train.py').write_text(TRAIN)
    (tmp_path / 'test.py').write_text(TEST)
    (tmp_path / 'config.py').write_text(CONFIG)
    (tmp_path / 'dies').touch()
    (tmp_path / 'dies_late').touch()
    monkeypatch.setattr(module, 'TRAIN', tmp_path / 'train.py')
    monkeypatch.setattr(module, 'TEST', tmp_path / 'test.py')
    monkeypatch.setattr(module, 'measure_costs', lambda cells: COSTS)
    monkeypatch.chdir(tmp_path)

    def call(*more, configs=('config.py',), upsamplers='stock,carafe', seeds='0,1'):
        (tmp_path / 'calls').write_text('')
        module.main([*configs, '--upsamplers', upsamplers, '--seeds', seeds, '--work-dir', 'work', *more])

    call.module = module
    return call


def calls(tmp_path):
    return (tmp_path / 'calls').read_text().splitlines()


def test_table_of_mean_and_spread(compare, tmp_path):
    compare()
    assert calls(tmp_path) == ['None 0', 'None 1', 'carafe 0', 'carafe 1']
    text = (tmp_path / 'work' / 'comparison.md').read_text()
    assert 'python tools/compare.py config.py --upsamplers stock,carafe --seeds 0,1' in text
    assert 'validation at iteration 20' in text
    table = [
        [cell.strip() for cell in line.split('|')[1:-1]] for line in text.splitlines() if line[:1] == '|'
    ]
    spread = statistics.stdev([0.2, 0.3])
    costs = ['params (M)', 'GMAC', 'GFLOP (2 per MAC)', 'ms / image']
    assert table[0] == ['variant', 'n', 'bbox_mAP', 'segm_mAP', *costs]
    assert table[2][:4] == ['stock', '2', f'0.125 ± {spread / 2:.3f}', f'0.250 ± {spread:.3f}']
    assert table[3][:4] == ['carafe', '2', f'0.150 ± {spread / 2:.3f}', f'0.300 ± {spread:.3f}']
    assert table[3][4:] == ['40.074', '3.000', '6.000', '60.0']

    lines = (tmp_path / 'work' / 'comparison.csv').read_text().splitlines()
    rows = list(csv.DictReader(line for line in lines if line[0] != '#'))
    assert [(row['variant'], row['seed']) for row in rows[:4]] == [
        ('stock', '0'), ('stock', '1'), ('carafe', '0'), ('carafe', '1'),
    ]  # fmt: skip
    assert [float(row['coco/segm_mAP']) for row in rows[:4]] == pytest.approx([0.2, 0.3, 0.25, 0.35])
    assert (rows[6]['seed'], rows[6]['parameters'], rows[6]['macs']) == ('mean', '40074148', '3000000000')
    assert (rows[5]['seed'], float(rows[5]['coco/segm_mAP'])) == ('std', pytest.approx(spread, abs=1e-6))


def test_finished_cells_are_taken_over_and_changed_ones_run_again(compare, tmp_path, capsys):
    compare(seeds='0')
    compare()
    assert calls(tmp_path) == ['None 1', 'carafe 1']
    (tmp_path / 'work' / 'stock' / 'seed0' / 'left_over').touch()
    capsys.readouterr()
    compare('--cfg-options', 'score=0.4', upsamplers='stock', seeds='0')
    assert calls(tmp_path) == ['None 0']
    assert 'its config has changed' in capsys.readouterr().out
    assert len(list(tmp_path.rglob('seed*.until-*/result.json'))) == 1  # kept, not removed
    assert not (tmp_path / 'work' / 'stock' / 'seed0' / 'left_over').exists()
    assert '| stock   | 1 | 0.200    | 0.400    |' in (tmp_path / 'work' / 'comparison.md').read_text()


def test_an_interrupted_cell_is_resumed(compare, tmp_path, capsys):
    (tmp_path / 'dies').write_text('1')
    with pytest.raises(SystemExit, match='1'):
        compare()
    assert 'error: training of work/stock/seed1 failed with exit code 3' in capsys.readouterr().err
    assert calls(tmp_path) == ['None 0', 'None 1']
    (tmp_path / 'dies').write_text('')
    compare()
    assert calls(tmp_path) == ['None 1 --resume', 'carafe 0', 'carafe 1']
    assert 'before the interruption of 1' in (tmp_path / 'work' / 'comparison.md').read_text()


def test_a_cell_killed_in_its_last_validation_is_evaluated(compare, tmp_path):
    (tmp_path / 'dies_late').write_text('1')
    with pytest.raises(SystemExit, match='1'):
        compare(upsamplers='stock')
    compare(upsamplers='stock')
    assert calls(tmp_path) == ['test iter_20.pth']
    result = json.loads((tmp_path / 'work' / 'stock' / 'seed1' / 'result.json').read_text())
    assert result['metrics'] == {'coco/bbox_mAP': 0.1, 'coco/segm_mAP': 0.3, 'coco/AR@100': 0.5}
    compare(upsamplers='stock')
    assert calls(tmp_path) == []


@pytest.mark.parametrize(
    'more, upsamplers, message',
    [
        ([], 'stock,nope', r'^error: nope does not fit: .*known: .*carafe'),
        (
            ['--cfg-options', 'model.upsample_cfg.scale_factor=0'],
            'carafe',
            r'built: .*scale_factor',
        ),
        (['--cfg-options', 'model.upsample_cfg.nope=1'], 'carafe', r"'nope'"),
        (['--cfg-options', 'early=10'], 'stock', r'work/stock/seed0: no validation at iteration 20'),
        (['--metrics', 'mIoU'], 'stock', r"no metric 'mIoU'; there are: coco/bbox_mAP"),
    ],
)
def test_bad_input_is_told_in_one_line(compare, capsys, tmp_path, more, upsamplers, message):
    with pytest.raises(SystemExit, match='1'):
        compare(*more, upsamplers=upsamplers)
    err = capsys.readouterr().err.splitlines()[-1]
    assert err.startswith('error: ')
    assert re.search(message, err)
    if upsamplers != 'stock':
        assert not (tmp_path / 'work').exists()


def test_a_cell_that_finds_nothing_is_a_dash(compare, capsys, tmp_path):
    compare('--cfg-options', 'blind=True')
    err = capsys.readouterr().err
    assert err.count('found nothing to score') == 4 and 'work/carafe/seed1: ' in err
    text = (tmp_path / 'work' / 'comparison.md').read_text()
    assert re.search(r'^\| stock +\| 0 +\| 40\.000 ', text, re.MULTILINE)
    assert not (tmp_path / 'work' / 'comparison.png').exists()

    results = [
        dict(variant='stock', seed=0, metrics={}),
        dict(variant='carafe', seed=0, metrics={'mAP': 0.5}),
    ]
    table = markdown(results, ['mAP'], {}, COSTS)
    assert re.search(r'\| stock +\| 0 +\| - .*\n\| carafe +\| 1 +\| 0\.500 ', table)
    write_csv(tmp_path / 'some.csv', results, {}, COSTS)
    with open(tmp_path / 'some.csv') as file:
        rows = list(csv.DictReader(file))
    assert [(row['variant'], row['seed'], row['mAP']) for row in rows] == [
        ('stock', '0', ''), ('carafe', '0', '0.5'), ('carafe', 'mean', '0.5'), ('carafe', 'std', ''),
    ]  # fmt: skip


def test_several_configs(compare, tmp_path, capsys):
    other = tmp_path / 'other.py'
    other.write_text("_base_ = './config.py'\nscore = 0.6\nmodel = dict(upsample_cfg=None)\n")
    compare.module.main(['config.py', 'other.py', '--work-dir', 'work'])
    assert calls(tmp_path) == ['carafe 0', 'None 0']  # each as it is
    both = ('config.py', 'other.py')
    compare(configs=both, seeds='0')
    assert calls(tmp_path) == ['None 0', 'carafe 0', 'None 0', 'carafe 0']
    lines = [line for line in (tmp_path / 'work' / 'comparison.csv').open() if line[0] != '#']
    found = {row['variant']: row['coco/segm_mAP'] for row in csv.DictReader(lines) if row['seed'] == '0'}
    assert found == {
        'config-stock': '0.2', 'config-carafe': '0.25', 'other-stock': '0.6', 'other-carafe': '0.65',
    }  # fmt: skip

    for change, message in (
        (
            'train_cfg = dict(max_iters=30)',
            'train equally long, got config.py for 20 iterations, other.py for 30',
        ),
        ("model = dict(_delete_=True, type='SSDVGG', depth=11)", r'other\.py: its model has no upsample_cfg'),
    ):
        other.write_text(f"_base_ = './config.py'\n{change}\n")
        with pytest.raises(SystemExit, match='1'):
            compare(configs=both)
        assert re.search(message, capsys.readouterr().err)


def test_a_folder_of_somebody_else_is_left_alone(compare, tmp_path, capsys):
    folder = tmp_path / 'work' / 'stock' / 'seed0'
    folder.mkdir(parents=True)
    (folder / 'thesis.tex').touch()
    with pytest.raises(SystemExit, match='1'):
        compare(upsamplers='stock')
    assert 'holds something else than a cell' in capsys.readouterr().err
    assert (folder / 'thesis.tex').exists()


def test_every_upsample_cfg_is_set(compare):
    def model():
        own = dict(type='carafe', up_kernel=7)
        stock_fpn = dict(type='FPN', upsample_cfg=dict(mode='nearest'))
        return dict(neck=[dict(upsample_cfg=own), stock_fpn], head=dict(deep=dict(upsample_cfg=None)))

    def fields(name):
        config = model()
        assert set_within(config, name) == 2
        assert config['neck'][1]['upsample_cfg'] == dict(mode='nearest')
        return config['neck'][0]['upsample_cfg'], config['head']['deep']['upsample_cfg']

    without = dict(config=Config(dict(model=dict(type='SSDVGG', depth=11))))
    with pytest.raises(UserError, match='no upsample_cfg to set'):
        compare.module.make_variants(without, ['carafe'], [''])
    assert fields('stock') == (None, None)
    config = model()
    assert set_within(config, 'fade', ['head.deep']) == 1
    assert config['neck'][0]['upsample_cfg']['type'] == 'carafe'
    with pytest.raises(UserError, match=r'--within head\.no: the model has no such part'):
        set_within(config, 'fade', ['head.no'])
    assert fields('bilinear') == (dict(type='bilinear'), dict(type='bilinear'))
    assert fields('carafe') == (dict(type='carafe', up_kernel=7), dict(type='carafe'))


@pytest.mark.slow
def test_trains_detectors(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / 'tools')
    module = load_tool('compare')
    config = write_detector_config(tmp_path / 'config.py', write_coco(tmp_path / 'data', images=2))
    work = tmp_path / 'work'
    arguments = [str(config), '--upsamplers', 'stock,carafe', '--work-dir', str(work)]
    module.main(arguments)
    folders = {name: work / name / 'seed0' for name in ('stock', 'carafe')}
    results = {name: json.loads((folder / 'result.json').read_text()) for name, folder in folders.items()}
    assert all('coco/segm_mAP' in result['metrics'] for result in results.values())
    keys = [stored_keys(folder) for folder in folders.values()]
    assert not any('content_encoder' in key for key in keys[0])
    assert sum('content_encoder.weight' in key for key in keys[1]) == 4
    assert (work / 'comparison.png').stat().st_size > 1000

    lines = [line for line in (work / 'comparison.csv').read_text().splitlines() if line[0] != '#']
    means = {row['variant']: row for row in csv.DictReader(lines) if row['seed'] == 'mean'}
    parameters = {
        name: sum(p.numel() for p in read_checkpoint(folder / 'epoch_1.pth')['state_dict'].values())
        for name, folder in folders.items()
    }
    for name, row in means.items():  # the checkpoint counts the running statistics of batch norm too
        assert 0 < parameters[name] - int(row['parameters']) < 0.2 * parameters[name]
        assert int(row['macs']) > 0 and float(row['latency_ms']) > 0
    assert int(means['carafe']['macs']) > int(means['stock']['macs'])

    # As a kill in the last validation leaves it: nothing to train, nothing evaluated.
    (folders['carafe'] / 'result.json').unlink()
    for log in folders['carafe'].glob('*/vis_data/scalars.json'):
        log.write_text(''.join(line for line in log.open() if 'mAP' not in line))
    module.main(arguments)
    again = json.loads((folders['carafe'] / 'result.json').read_text())
    assert again['metrics'] == pytest.approx(results['carafe']['metrics'])


def stored_keys(folder):
    return list(read_checkpoint(folder / 'epoch_1.pth')['state_dict'])
