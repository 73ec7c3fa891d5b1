# SPDX-License-Identifier: Apache-2.0
"""tools/benchmark.py from end to end on tiny maps; what it times is not looked at."""

import csv
import dataclasses
import json

import cv2
import pytest
import torch

from carafe_tools import op_cases, published, report, timing
from tests.runtime.helpers import load_tool

benchmark = load_tool('benchmark')
QUICK = ['--seconds', '0.001']


def test_op(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(op_cases.SIZES, 'p4', (1, 32, 3, 5))
    monkeypatch.setattr(benchmark, 'ceilings', lambda *_: dict(copy_GB_s=1.0, matmul_float32_GFLOP_s=1.0))
    argv = ['op', '--sizes', 'p4', '--dtypes', 'float32,bfloat16', '--no-forms', '--out', str(tmp_path)]
    benchmark.main([*argv, *QUICK])
    content = json.loads((tmp_path / 'op.json').read_text())
    cases = {row['case'] for row in content['results']}
    assert {'forward', 'fused backward', 'step', 'forward channels_last', 'bilinear', 'copy'} <= cases
    assert {'forward bfloat16', 'fused backward bfloat16'} <= cases
    forward = next(row for row in content['results'] if row['case'] == 'forward')
    assert forward['flops'] == 2 * 25 * 32 * 6 * 10
    assert forward['bytes'] == 4 * (32 * 15 + 25 * 60 + 32 * 60)
    assert {row['comparison'] for row in content['bars']} >= {'forward / bilinear', 'fused / plain backward'}
    assert {'machine', 'threads', 'versions', 'load before', 'command'} <= set(content['facts'])
    assert (tmp_path / 'op.md').read_text() in capsys.readouterr().out
    assert (tmp_path / 'op.png').stat().st_size > 1000


def test_module(tmp_path, capsys):
    argv = [
        'module',
        '--upsamplers',
        'carafe,nearest',
        '--sizes',
        '1x16x4x6,2x16x3x3',
        '--out',
        str(tmp_path),
    ]
    benchmark.main([*argv, *QUICK])
    rows = json.loads((tmp_path / 'module.json').read_text())['results']
    assert [(row['size'], row['upsampler']) for row in rows] == [
        (size, name) for size in ('1x16x4x6', '2x16x3x3') for name in ('carafe', 'nearest')
    ]
    assert all(row['forward_ms'] > 0 and row['step_ms'] > 0 for row in rows)
    assert 'carafe' in capsys.readouterr().out and (tmp_path / 'module.png').exists()


@pytest.mark.filterwarnings('ignore')
def test_export(tmp_path, monkeypatch, capsys):
    """Every runtime that is here, with every number of threads, gives what PyTorch does."""
    pytest.importorskip('onnxruntime', reason='needs the onnx extra')
    monkeypatch.setitem(op_cases.SIZES, 'p4', (1, 32, 3, 5))
    benchmark.main(['export', '--sizes', 'p4', '--out', str(tmp_path), *QUICK])
    content = json.loads((tmp_path / 'export.json').read_text())
    rows = content['results']
    native, standard = 'PyTorch, native operator', 'onnxruntime, standard form'
    found = {(row['runtime'], row['threads']) for row in rows}
    assert found >= {(name, threads) for name in (native, standard) for threads in (1, 2)}
    assert all(row['median_ms'] > 0 for row in rows)
    assert all(row['difference'] < 1e-5 for row in rows if row['difference'] is not None)
    assert {row['runtime'] for row in content['failed']} <= {'OpenVINO, standard form', 'OpenVINO, extension'}
    assert 'onnxruntime' in content['facts']['runtimes'] and standard in capsys.readouterr().out
    assert (tmp_path / 'export.png').stat().st_size > 1000


def test_the_picture_has_a_row_of_panels_for_memory_where_it_was_measured(tmp_path):
    row = dict(size='1x8x4x4', upsampler='carafe', forward_ms=1.0, step_ms=3.0)
    heights = []
    for peak in (None, 2.5):
        rows = [row | dict(forward_peak_MB=peak, step_peak_MB=peak)]
        path = report.draw_times(rows, 'a machine', tmp_path / 'module.png')
        heights.append(cv2.imread(str(path)).shape[0])
    assert heights[1] > 1.5 * heights[0]


def test_an_upsampler_that_needs_a_guide_gets_one(monkeypatch):
    from carafe_plugin.upsamplers import UPSAMPLERS, NearestUpsampler

    class Guided(NearestUpsampler):
        needs_guide = True

        def __init__(self, in_channels, scale_factor=2, *, guide_channels):
            super().__init__(in_channels, scale_factor)

        def forward(self, x, guide=None):
            assert guide.shape == (1, 4, 6, 10)
            return super().forward(x)

    monkeypatch.setitem(UPSAMPLERS._classes, 'guided', Guided)
    (row,) = benchmark.models.measure_upsamplers(['guided'], (1, 4, 3, 5), 'cpu', 0.001)
    assert 'failed' not in row and row['parameters'] == 0


def test_detector(tmp_path, capsys):
    config = 'configs/quickstart/mask-rcnn_r18_fpn-carafe_head-carafe_shapes.py'
    argv = ['detector', config, '--image-size', '64', '64', '--out', str(tmp_path)]
    benchmark.main([*argv, *QUICK])
    rows = json.loads((tmp_path / 'detector.json').read_text())['results']
    assert [row['what'] for row in rows] == ['inference', 'training step']
    assert 'no data loading' in capsys.readouterr().out


@pytest.mark.parametrize(
    'argv, message',
    [
        (['op', '--sizes', 'p4,p9'], "unknown name 'p9'; known: p5, p4"),
        (['op', '--dtypes', 'int8'], "unknown name 'int8'"),
        (['op', '--seconds', '0'], '--seconds must be above 0'),
        (['module', '--upsamplers', 'carfe'], "unknown name 'carfe'; known: "),
        (['module', '--sizes', '1x256x50'], "'1x256x50' is not NxCxHxW"),
    ],
)
def test_bad_arguments(argv, message, capsys):
    with pytest.raises(SystemExit):
        benchmark.main(argv)
    assert message in capsys.readouterr().err


def test_a_config_that_is_not_there(tmp_path):
    with pytest.raises(SystemExit, match=r'^error: absent.py: no such config$'):
        benchmark.main(['detector', 'absent.py', '--out', str(tmp_path)])


@pytest.mark.parametrize('subject', ['op', 'module'])
def test_what_was_measured_stays_where_a_later_size_fails(subject, tmp_path, monkeypatch):
    """A limit may end the run between two sizes."""
    sizes = {'op': 'p5,p4', 'module': '1x16x3x4,1x16x4x6'}[subject]
    for size in ('p5', 'p4'):
        monkeypatch.setitem(op_cases.SIZES, size, (1, 32, 3, 5))
    monkeypatch.setattr(benchmark, 'ceilings', lambda *_: dict(copy_GB_s=1.0))
    module, name = {
        'op': (benchmark, 'measure_size'),
        'module': (benchmark.models, 'measure_upsamplers'),
    }[subject]
    measured = iter([getattr(module, name)])  # the second call finds none

    def once(*args):
        return next(measured)(*args)

    monkeypatch.setattr(module, name, once)
    options = dict(op=['--no-forms', '--dtypes', 'float32'], module=['--upsamplers', 'nearest'])[subject]
    with pytest.raises(StopIteration):
        benchmark.main([subject, '--sizes', sizes, *options, '--out', str(tmp_path), *QUICK])
    rows = json.loads((tmp_path / f'{subject}.json').read_text())['results']
    assert {row['size'] for row in rows} == {sizes.split(',')[0]}
    assert (tmp_path / f'{subject}.md').exists()


def test_published_set_ups(tmp_path, monkeypatch, capsys):
    setup = dataclasses.replace(
        published.SETUPS['naf'], size=(1, 32, 2, 3), factors=(2, 3), upsamplers=('carafe', 'indexnet')
    )
    monkeypatch.setitem(published.SETUPS, 'naf', setup)
    table = tmp_path / 'all.csv'
    for _ in range(2):
        benchmark.main(['published', '--setups', 'naf', '--csv', str(table), '--out', str(tmp_path), *QUICK])
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert [(row['method'], row['factor']) for row in rows] == 2 * [
        ('carafe', '2'), ('indexnet', '2'), ('carafe', '3')
    ]  # fmt: skip
    assert all(0 < float(row['p20_ms']) <= float(row['p50_ms']) <= float(row['p80_ms']) for row in rows)
    assert all(row['date'] and row['machine'] and 'torch' in row['versions'] for row in rows)
    content = json.loads((tmp_path / 'published.json').read_text())
    times = {(row['method'], row['factor']): row['published_ms'] for row in content['results']}
    assert times['FeatUp', 16] == '57.1' and times['carafe', 2] is None
    (lost,) = content['failed']
    assert lost['method'] == 'indexnet' and lost['factor'] == 3 and 'only, got 3' in lost['failed']
    assert '| FeatUp ' in capsys.readouterr().out


def test_a_table_of_other_columns_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark.timing, 'measure', lambda *_: ({}, {}))
    table = tmp_path / 'all.csv'
    table.write_text('a,b\n1,2\n')
    monkeypatch.setitem(
        published.SETUPS, 'naf', dataclasses.replace(published.SETUPS['naf'], factors=(2,), size=(1, 8, 2, 2))
    )
    with pytest.raises(SystemExit, match=r'all.csv must have the columns date, .*, got a, b$'):
        benchmark.main(['published', '--setups', 'naf', '--csv', str(table), '--out', str(tmp_path), *QUICK])
    assert table.read_text() == 'a,b\n1,2\n'


def test_scaling(tmp_path, monkeypatch, capsys):
    """Each call finds the number of threads of its row, and the process keeps its own."""
    seen = set()
    monkeypatch.setattr(
        benchmark.scaling, 'operator_runs', lambda: dict(forward=lambda: seen.add(torch.get_num_threads()))
    )
    before = torch.get_num_threads()
    benchmark.main(['scaling', '--threads', '2,1,3', '--config', 'absent.py', '--out', str(tmp_path), *QUICK])
    assert seen == {1, 2, 3} and torch.get_num_threads() == before
    content = json.loads((tmp_path / 'scaling.json').read_text())
    assert [row['threads'] for row in content['results']] == [1, 2, 3]
    assert content['failed'] == [
        dict(what='detector, training step', threads=None, failed='absent.py: no such config')
    ]
    assert (tmp_path / 'scaling.md').read_text() in capsys.readouterr().out


def test_cases_of_scaling(monkeypatch):
    for size in benchmark.scaling.SIZES:
        monkeypatch.setitem(op_cases.SIZES, size, (1, 32, 3, 5))
    runs = benchmark.scaling.operator_runs()
    assert {'forward, p4', 'step, p3', 'fused step, p5'} <= set(runs)
    rows, failed = benchmark.scaling.measure_scaling(runs, [1], 0.001)
    assert not failed and all(row['median_ms'] > 0 for row in rows)


@pytest.mark.parametrize(
    'one, two, speed_up', [([8, 8], [5, 5], 1.6), ([8, 4], [5, 5], None), ([8, 8], [5, 2], None)]
)
def test_speed_up_of_what_is_not_noisy(monkeypatch, one, two, speed_up):
    timings = {('step', 1): timing.Timing(one), ('step', 2): timing.Timing(two)}
    monkeypatch.setattr(benchmark.scaling, 'measure', lambda *_: (timings, {}))
    rows, _ = benchmark.scaling.measure_scaling(dict(step=None), [1, 2], 0.001)
    assert rows[1]['speed_up'] == speed_up


def test_numbers_of_threads(capsys):
    assert benchmark.scaling.powers_of_two(16) == [1, 2, 4, 8, 16]
    assert benchmark.scaling.powers_of_two(6) == [1, 2, 4]
    with pytest.raises(SystemExit):
        benchmark.main(['scaling', '--threads', '1,0'])
    assert "'1,0' is not a list of numbers of threads" in capsys.readouterr().err
