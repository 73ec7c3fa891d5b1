# SPDX-License-Identifier: Apache-2.0
"""Curves from the logs that mmengine writes."""

import json

import cv2
import pytest

from tests.runtime.helpers import load_tool

plot_logs = load_tool('plot_logs')


def train_line(step, loss, **more):
    return dict(lr=0.1, loss=loss, time=0.1, iter=step, step=step, **more)


def val_line(step, ap):
    return {'coco/segm_mAP': ap, 'coco/bbox_mAP': ap / 2, 'data_time': 0.1, 'time': 0.1, 'step': step}


def write_part(run, stamp, records, tail=''):
    folder = run / stamp / 'vis_data'
    folder.mkdir(parents=True)
    (folder / 'scalars.json').write_text(''.join(json.dumps(r) + '\n' for r in records) + tail)


def curve(records, key):
    return [(record['step'], record[key]) for record in records]


def test_a_resumed_run_is_joined_and_its_later_part_counts(tmp_path):
    first = [train_line(10, 5.0), val_line(10, 0.1), train_line(20, 4.0), train_line(30, 99.0)]
    first += [val_line(30, 0.99), train_line(40, 99.0)]
    # The first part was killed while it wrote; the second goes on from iteration 20 and is killed early.
    write_part(tmp_path, '20250101_000000', first, tail='{"loss": 3')
    write_part(tmp_path, '20250102_000000', [train_line(30, 3.0), val_line(30, 0.3)])
    train, val, unit = plot_logs.read_run(tmp_path)
    assert curve(train, 'loss') == [(10, 5.0), (20, 4.0), (30, 3.0)]
    assert curve(val, 'coco/segm_mAP') == [(10, 0.1), (30, 0.3)]
    assert unit == 'iteration'


@pytest.mark.parametrize(
    'extra, val_steps, expected, unit',
    [
        (dict(), (10, 20), [10, 20], 'iteration'),
        (dict(), (0, 0), [10, 20], 'iteration'),  # the logger's default in a run by iterations
        (dict(epoch=1), (1, 2), [1, 2], 'epoch'),
    ],
)
def test_where_a_validation_stands(tmp_path, extra, val_steps, expected, unit):
    lines = [train_line(10, 2.0, **extra), val_line(val_steps[0], 0.1)]
    lines += [train_line(20, 1.0, **extra), val_line(val_steps[1], 0.2)]
    write_part(tmp_path, '20250101_000000', lines)
    _, val, found_unit = plot_logs.read_run(tmp_path)
    assert [record['step'] for record in val] == expected
    assert found_unit == unit


def test_one_picture_for_several_runs(tmp_path, capsys):
    for name, ap in (('carafe', 0.3), ('stock', 0.2)):
        lines = [train_line(10, 2.0), val_line(10, 0.1), train_line(20, 1.0), val_line(20, ap)]
        write_part(tmp_path / name / 'seed0', '20250101_000000', lines)
    out = tmp_path / 'new' / 'curves.png'
    plot_logs.main([str(tmp_path / 'carafe/seed0'), str(tmp_path / 'stock/seed0'), '--out', str(out)])
    assert 'carafe/seed0, stock/seed0' in capsys.readouterr().out
    image = cv2.imread(str(out))
    assert image.shape[1] > 2.5 * image.shape[0]  # loss, box AP, mask AP
    for colour in plot_logs.COLOURS[:2]:
        bgr = [int(colour[i : i + 2], 16) for i in (5, 3, 1)]
        assert (image == bgr).all(-1).sum() > 100


@pytest.mark.parametrize(
    ('metrics', 'drawn', 'told'),
    [
        ({'pascal_voc/mAP': 0.5, 'pascal_voc/AP50': 0.6}, 'mAP', 'pascal_voc/AP50'),
        ({'PSNR': 20.0, 'hole_L1': 3.0}, 'PSNR', 'hole_L1'),
        ({'mIoU': 50.0, 'mBIoU': 30.0, 'aAcc': 90.0}, 'mBIoU', 'aAcc'),
        ({'coco_panoptic/PQ': 40.0, 'coco_panoptic/SQ': 70.0}, 'PQ', 'coco_panoptic/SQ'),
    ],
)
def test_every_hosts_metric_is_drawn_and_the_rest_named(tmp_path, capsys, metrics, drawn, told):
    records = [
        train_line(10, 2.0, loss_mask=1.0, memory=100),
        dict(metrics, data_time=0.1, time=0.1, step=10),
    ]
    write_part(tmp_path / 'run', '20250101_000000', records)
    runs = {'run': plot_logs.read_run(tmp_path / 'run')}
    assert {'loss', drawn} <= plot_logs.collect(runs, None).keys()
    plot_logs.main([str(tmp_path / 'run'), '--out', str(tmp_path / 'curves.png')])
    assert f'not drawn: loss_mask, {told}; --keys draws them' in capsys.readouterr().out


@pytest.mark.parametrize(
    'argv, message',
    [
        (['run', '--keys', 'mIoU'], r"run 'run' has no key 'mIoU'; it has: lr, loss, time, coco/segm_mAP"),
        (['absent'], r'absent: not a work_dir with logs'),
        (['broken'], r'scalars.json, line 1: not JSON'),
        (['run', 'epochs'], r"'bbox_mAP' is logged by epoch in one run, by iteration in another"),
    ],
)
def test_bad_input_is_told_in_one_line(tmp_path, monkeypatch, argv, message):
    monkeypatch.chdir(tmp_path)
    write_part(tmp_path / 'run', '20250101_000000', [train_line(10, 2.0), val_line(10, 0.1)])
    write_part(tmp_path / 'epochs', '20250101_000000', [train_line(10, 2.0, epoch=1), val_line(1, 0.1)])
    write_part(tmp_path / 'broken', '20250101_000000', [], tail='{"loss"\n{}\n')
    with pytest.raises(SystemExit, match=message) as error:
        plot_logs.main([*argv, '--out', 'curves.png'])
    assert '\n' not in error.value.code
    assert not (tmp_path / 'curves.png').exists()
