# SPDX-License-Identifier: Apache-2.0
"""tools/benchmark.py from end to end on tiny maps; what it times is not looked at."""

import json

import cv2
import pytest

from carafe_tools import op_cases, report
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
