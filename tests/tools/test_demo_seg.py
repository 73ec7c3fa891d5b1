# SPDX-License-Identifier: Apache-2.0
"""The demo, the pictures of tools/test.py and the training tool on a segmentation config."""

import json
import sys

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmseg.apis import init_model
from PIL import Image

from carafe_plugin.runtime.errors import UserError
from carafe_tools.drawing import blend, label_sheet, legend
from carafe_tools.seg_demo import find_label_map, read_truth, suffixes
from carafe_tools.shapes import make_shapes
from tests.runtime.helpers import ROOT, load_tool, run_tool

CONFIG = ROOT / 'configs' / 'quickstart' / 'upernet_r18_carafe_shapes.py'


@pytest.fixture(scope='module')
def setting(tmp_path_factory):
    """A shrunk quick-start config with SyncBN, its data, and a checkpoint of one iteration."""
    folder = tmp_path_factory.mktemp('segmentation')
    make_shapes(folder / 'shapes', 2, 2)
    parts = [
        f"{split}_dataloader = dict(dataset=dict(data_root='{folder / 'shapes' / 'ade'}'))"
        for split in ('train', 'val', 'test')
    ]
    (folder / 'config.py').write_text(f"""
_base_ = '{CONFIG}'
norm_cfg = dict(type='SyncBN', requires_grad=True)
model = dict(
    backbone=dict(base_channels=8, stem_channels=8, norm_cfg=norm_cfg),
    decode_head=dict(in_channels=[8, 16, 32, 64], channels=8, norm_cfg=norm_cfg),
    auxiliary_head=dict(in_channels=32, channels=8, norm_cfg=norm_cfg))
train_cfg = dict(max_iters=1, val_interval=1)
default_hooks = dict(checkpoint=dict(interval=1), logger=dict(interval=1))
{chr(10).join(parts)}
""")
    code = run_tool('train', [folder / 'config.py', '--work-dir', folder / 'work'], folder / 'log')
    assert code == 0, (folder / 'log').read_text()
    return folder


def test_training_reports_both_metrics(setting):
    (file,) = (setting / 'work').glob('*/vis_data/scalars.json')
    last = json.loads(file.read_text().splitlines()[-1])
    assert 0 <= last['mBIoU'] <= 100 and 0 <= last['mIoU'] <= 100


@pytest.mark.parametrize('grid', [False, True])
def test_demo(setting, tmp_path, capsys, monkeypatch, grid):
    for name in {'mmdet', *(name for name in sys.modules if name.startswith('mmdet.'))}:
        monkeypatch.setitem(sys.modules, name, None)  # it is not installed
    images = setting / 'shapes' / 'ade' / 'images' / 'validation'
    argv = [images, '--config', setting / 'config.py', '--checkpoint', setting / 'work' / 'iter_1.pth']
    argv += ['--out', tmp_path, '--ground-truth', setting / 'shapes' / 'ade' / 'annotations' / 'validation']
    load_tool('demo').main([*map(str, argv), '--device', 'cpu', *['--grid'] * grid])
    names = sorted(path.name for path in tmp_path.glob('*'))
    assert names == (['predictions.png'] if grid else ['val_00000.png', 'val_00001.png'])
    with Image.open(tmp_path / names[0]) as drawn:
        # 192 pixels are enlarged to twice as many: three columns, one or two rows, head and legend.
        assert drawn.width == 3 * 384 + 4 * 12
        assert drawn.height > (2 if grid else 1) * 384
    assert '2 images drawn' in capsys.readouterr().out


def test_truth_is_of_the_classes_of_the_config(setting):
    """Six categories in the files, one class in the config: the columns can be compared."""
    validation = setting / 'shapes' / 'ade' / 'annotations' / 'validation'
    images = [setting / 'shapes' / 'ade' / 'images' / 'validation' / 'val_00000.jpg']
    model = init_model(str(setting / 'config.py'), str(setting / 'work' / 'iter_1.pth'), device='cpu')
    (labels,) = read_truth(validation, images, model)
    with Image.open(validation / 'val_00000.png') as stored:
        assert len(np.unique(stored)) > 2
        np.testing.assert_array_equal(labels, np.array(stored) > 0)
    model.cfg.test_dataloader.dataset.pipeline[2]['label_map'] = [0, 1]
    with pytest.raises(UserError, match=r'val_00000.png: label_map leaves label \d unmapped'):
        read_truth(validation, images, model)


@pytest.mark.parametrize(
    ('name', 'image', 'label_map'),
    [
        ('coco_stuff27', 'a.jpg', 'a_labelTrainIds.png'),
        ('cityscapes27', 'ulm/ulm_1_leftImg8bit.png', 'ulm/ulm_1_gtFine_labelIds.png'),
        ('cityscapes27', 'ulm/ulm_1_leftImg8bit.png', 'ulm_1_gtFine_labelIds.png'),
        ('coco_stuff27', 'other.webp', 'other.png'),  # an image of another source
    ],
)
def test_label_maps_are_named_as_the_config_says(tmp_path, name, image, label_map):
    cfg = Config.fromfile(ROOT / 'configs' / '_base_' / f'{name}.py')
    (tmp_path / label_map).parent.mkdir(exist_ok=True)
    (tmp_path / label_map).touch()
    with DefaultScope.overwrite_default_scope('mmseg'):
        ends = suffixes(cfg.test_dataloader.dataset)
    assert find_label_map(tmp_path, tmp_path / 'images' / image, ends) == tmp_path / label_map
    with pytest.raises(UserError, match=r'b_\w+.png: no such label map'):
        find_label_map(tmp_path, tmp_path / f'b{ends[0]}', ends)


def test_suffixes_of_a_class():
    with DefaultScope.overwrite_default_scope('mmseg'):
        assert suffixes(dict(type='CityscapesDataset')) == ('_leftImg8bit.png', '_gtFine_labelTrainIds.png')
        assert suffixes(dict(type='ADE20KDataset', img_suffix='.png')) == ('.png', '.png')


@pytest.mark.parametrize('name', ['coco_stuff27', 'cityscapes27'])
def test_colours_can_be_told_apart(name):
    """By CIE76, where 2.3 can just be noticed side by side; Cityscapes' own colours are no closer than 14."""
    cfg = Config.fromfile(ROOT / 'configs' / '_base_' / f'{name}.py')
    lab = cv2.cvtColor(np.float32([cfg.palette]) / 255, cv2.COLOR_RGB2LAB)[0]
    distances = np.linalg.norm(lab[:, None] - lab, axis=-1) + 1e3 * np.eye(27)
    assert distances.min() > (30 if name == 'coco_stuff27' else 14)


def test_text_grows_with_the_pictures():
    """A title takes the same share of a large picture as of one of 640 pixels; small ones keep plain text."""
    shares = {}
    for width in (160, 640, 2048):
        labels = np.zeros((40, width), np.uint8)
        shown = label_sheet(
            [[np.full((40, width, 3), 255, np.uint8), labels]], ['title', 'b'], ['a'], [(255, 0, 0)]
        )
        pixels = np.array(shown)
        head = (pixels[: pixels.shape[0] // 2, : width + 24] < 128).all(-1)
        title = head[: np.flatnonzero((pixels[:, 12 + width + 12 : -12] != 255).any(-1).all(1))[0]]
        shares[width] = np.ptp(np.flatnonzero(title.any(0))), pixels.shape[0] - 40
    assert shares[160] == shares[640]
    (title, text), (large_title, large_text) = shares[640], shares[2048]
    assert large_title == pytest.approx(title * 2048 / 640, rel=0.1)
    assert large_text > 2 * text  # gaps between pictures stay


def test_demo_tells_of_weights_that_it_does_not_use(setting, tmp_path, capsys):
    """A checkpoint with upsamplers, the stock head's config: drawn, but not in silence."""
    (tmp_path / 'stock.py').write_text(
        f"_base_ = '{setting / 'config.py'}'\nmodel = dict(decode_head=dict(upsample_cfg=None))"
    )
    argv = [setting / 'shapes' / 'ade' / 'images' / 'validation', '--config', tmp_path / 'stock.py']
    argv += ['--checkpoint', setting / 'work' / 'iter_1.pth', '--out', tmp_path / 'out', '--device', 'cpu']
    load_tool('demo').main([*map(str, argv), '--max-images', '1'])
    assert 'have no place in' in (error := capsys.readouterr().err) and 'decode_head.upsamplers.' in error


def test_demo_names_a_missing_label_map(setting, tmp_path, capsys):
    argv = [setting / 'shapes' / 'train', '--config', setting / 'config.py', '--max-images', '1']
    argv += ['--checkpoint', setting / 'work' / 'iter_1.pth', '--out', tmp_path / 'out', '--device', 'cpu']
    with pytest.raises(SystemExit):
        load_tool('demo').main([*map(str, argv), '--ground-truth', str(tmp_path)])
    assert 'train_00000.png: no such label map' in capsys.readouterr().err


def test_show_dir_and_test_time_augmentation(setting, tmp_path):
    argv = [setting / 'config.py', setting / 'work' / 'iter_1.pth', '--work-dir', tmp_path / 'work', '--tta']
    assert run_tool('test', [*argv, '--show-dir', tmp_path / 'drawn'], tmp_path / 'log') == 0, (
        tmp_path / 'log'
    ).read_text()[-2000:]
    with Image.open(tmp_path / 'drawn' / 'val_00000.png') as drawn:
        assert drawn.width == 3 * 192 + 4 * 12
    (file,) = (tmp_path / 'work').glob('*/*.json')
    assert {'mIoU', 'mBIoU', 'aAcc'} <= json.loads(file.read_text()).keys()


def test_stock_weights_start_a_carafe_model(setting):
    """A checkpoint of the stock head loads into the head with upsamplers, as fine-tuning does it."""
    stock = init_model(str(CONFIG.with_name('upernet_r18_stock_shapes.py')), device='cpu')
    ours = init_model(str(CONFIG), device='cpu')
    keys = ours.load_state_dict(stock.state_dict(), strict=False)
    assert not keys.unexpected_keys
    assert all(key.startswith('decode_head.upsamplers.') for key in keys.missing_keys)
    with torch.no_grad():
        assert ours(torch.rand(1, 3, 64, 96)).shape == (1, 2, 16, 24)


def test_the_legend_names_what_occurs():
    image = np.full((40, 60, 3), 200, np.uint8)
    labels = np.zeros((40, 60), np.uint8)
    labels[:20], labels[30:] = 2, 255
    palette = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    drawn = blend(image, labels, palette, alpha=0.5)
    assert drawn[0, 0].tolist() == [100, 100, 228] and drawn[25, 0].tolist() == [228, 100, 100]
    assert drawn[35, 0].tolist() == [100, 100, 100]
    shown = np.array(label_sheet([[image, labels]], ['image', 'labels'], ['a', 'b', 'c'], palette))
    foot = shown[-38:].reshape(-1, 3).tolist()
    assert [255, 0, 0] in foot and [0, 0, 255] in foot and [0, 255, 0] not in foot
    assert legend(['a long name'] * 9, [(0, 0, 0)] * 9, 200).height > 4 * 26
