# SPDX-License-Identifier: Apache-2.0
"""The tools train, resume, test and show inpainting configs, and say in one line what cannot work."""

import re
import signal
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS
from PIL import Image

from carafe_plugin.runtime.checkpoint import read_checkpoint
from carafe_tools.launch import build_runner
from tests.runtime.helpers import ROOT, load_tool, run_tool

from .pictures import picture, write_pictures

CONFIGS = ROOT / 'configs'
PLACES = sorted(path.stem for path in (CONFIGS / 'inpainting').glob('*.py'))
TINY = """
_base_ = '{base}'
custom_imports = dict(imports=['carafe_plugin.inpainting', 'tests.runtime.toy'])
model = dict(generator=dict(base_channels=8))
train_dataloader = dict(batch_size=2, dataset=dict(data_root='{data}'))
val_dataloader = dict(batch_size=4, dataset=dict(data_root='{data}'))
test_dataloader = val_dataloader
train_cfg = dict(max_iters=6, val_interval=3)
param_scheduler = [dict(type='ExponentialLR', gamma=0.9, by_epoch=False)]
default_hooks = dict(
    logger=dict(interval=1),
    checkpoint=dict(interval=2, max_keep_ckpts=2, save_best='PSNR', rule='greater'))
custom_hooks = [dict(type='EMAHook', momentum=0.5), *{hooks}]
randomness = dict(seed=7)
"""


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp('data'), count=5, height=70, width=90)


def write_config(folder, data, base='inpaint_global-local-carafe_pictures', name='config.py', hooks=()):
    file = folder / name
    file.write_text(TINY.format(base=CONFIGS / 'quickstart' / f'{base}.py', data=data, hooks=list(hooks)))
    return file


def train(config, work_dir, *options):
    return run_tool('train', [config, '--work-dir', work_dir, *options], work_dir.with_suffix('.log'))


@pytest.fixture(scope='module')
def finished(tmp_path_factory, data):
    """Config and work dir of a run that nobody disturbed."""
    folder = tmp_path_factory.mktemp('finished')
    config = write_config(folder, data)
    assert train(config, folder / 'run') == 0, (folder / 'run.log').read_text()
    return config, folder / 'run'


def test_killed_run_goes_on_bit_for_bit(tmp_path, data, finished):
    """Two networks, their optimizers and schedules, averaged weights, holes and flips."""
    kill = dict(type='KillHook', at_iter=5)
    work_dir = tmp_path / 'run'
    assert train(write_config(tmp_path, data, name='killed.py', hooks=[kill]), work_dir) == -signal.SIGKILL
    assert train(write_config(tmp_path, data), work_dir, '--resume') == 0
    assert 'resuming from' in work_dir.with_suffix('.log').read_text()
    mine, theirs = (read_checkpoint(folder / 'iter_6.pth') for folder in (work_dir, finished[1]))
    for part in ('state_dict', 'ema_state_dict', 'optimizer'):
        torch.testing.assert_close(mine[part], theirs[part], rtol=0, atol=0)
    assert mine['optimizer'].keys() == mine['param_schedulers'].keys() == {'generator', 'discriminator'}
    assert mine['param_schedulers'] == theirs['param_schedulers']
    for name in ('loss', 'loss_hole', 'loss_adversarial', 'discriminator_fake', 'generator.lr'):
        curves = [saved['message_hub']['log_scalars'][f'train/{name}'].data[0] for saved in (mine, theirs)]
        assert len(curves[0]) == 6
        np.testing.assert_array_equal(*curves)


def test_test_draws_every_image(tmp_path, data, finished):
    config, work_dir = finished
    options = [config, work_dir / 'iter_6.pth', '--work-dir', tmp_path / 'test']
    assert run_tool('test', [*options, '--show-dir', tmp_path / 'show'], tmp_path / 'log') == 0
    log = (tmp_path / 'log').read_text()
    assert all(f'{name}: ' in log for name in ('L1', 'PSNR', 'SSIM', 'hole_L1', 'hole_PSNR', 'hole_SSIM'))
    pictures = sorted((tmp_path / 'show').rglob('*.png'))
    assert [file.name[:1] for file in pictures] == ['0', '1', '2', '3', '4']
    assert Image.open(pictures[0]).size == (3 * 64 + 2 * 6, 64)


def demo(finished, *options):
    config, work_dir = finished
    where = ['--config', config, '--checkpoint', work_dir / 'iter_6.pth', '--device', 'cpu']
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        load_tool('demo').main(list(map(str, [*options, *where])))


@pytest.fixture
def image(tmp_path):
    Image.fromarray(picture(45, 53)).save(tmp_path / 'image.png')
    return tmp_path / 'image.png'


@pytest.mark.parametrize('polarity', ['white', 'black', None])
def test_demo_fills_the_hole_alone(tmp_path, image, finished, polarity):
    hole = np.zeros((45, 53), bool)
    hole[10:30, 20:40] = True
    Image.fromarray(np.uint8(255 * (hole == (polarity == 'white')))).save(tmp_path / 'mask.png')
    mask = ['--mask', tmp_path / 'mask.png', '--mask-hole', polarity] if polarity else []
    demo(finished, image, '--out', tmp_path / 'out', *mask)
    row = np.asarray(Image.open(tmp_path / 'out' / 'image.png'))
    masked, result, original = row[:, :53], row[:, 59:112], row[:, 118:]
    np.testing.assert_array_equal(original, picture(45, 53))
    if polarity is None:
        hole = (masked != original).any(2)
        assert 0.05 < hole.mean() <= 0.3
    assert (masked[hole] == 255).all()
    np.testing.assert_array_equal(result[~hole], original[~hole])
    assert (result[hole] != original[hole]).any()
    np.testing.assert_array_equal(Image.open(tmp_path / 'out' / 'image.result.png'), result)


@pytest.mark.parametrize(
    ('mask', 'message'),
    [
        (np.ones((44, 53)), 'is of 53x44 pixels, its image of 53x45'),
        (np.ones((45, 53)), 'is of one colour: with white as the hole it marks every pixel'),
        (np.zeros((45, 53)), 'is of one colour: with white as the hole it marks no pixel'),
        (np.eye(45, 53) / 255, 'not a mask, its values are 0 to 1; black is 0 and white is 255'),
        (None, 'not a readable image'),
    ],
)
def test_demo_refuses_a_mask_that_cannot_be(tmp_path, image, finished, capsys, mask, message):
    if mask is None:
        (tmp_path / 'mask.png').write_text('no image')
    else:
        Image.fromarray(np.uint8(255 * mask)).save(tmp_path / 'mask.png')
    with pytest.raises(SystemExit):
        demo(finished, image, '--out', tmp_path / 'out', '--mask', tmp_path / 'mask.png')
    error = capsys.readouterr().err
    assert message in error and '--mask-hole' not in error
    assert not (tmp_path / 'out').exists()


def test_demo_takes_the_mask_of_each_images_name(tmp_path, finished, capsys):
    masks, images = tmp_path / 'masks', []
    masks.mkdir()
    for index, suffix in enumerate(('.jpg', '.bmp')):
        images.append(tmp_path / f'{index}{suffix}')
        Image.fromarray(picture(45, 53)).save(images[-1], quality=100)
        hole = np.zeros((45, 53), np.uint8)
        hole[10 * index : 10 * index + 9] = 255
        Image.fromarray(hole).save(masks / f'{index}.png')
    demo(finished, *images, '--out', tmp_path / 'out', '--mask', masks)
    for index in range(2):
        with Image.open(tmp_path / 'out' / f'{index}.png') as row:
            white = (np.asarray(row)[:, :53] == 255).all(2).all(1)
        assert np.flatnonzero(white).tolist() == list(range(10 * index, 10 * index + 9))
    (masks / '1.png').unlink()
    with pytest.raises(SystemExit):
        demo(finished, *images, '--out', tmp_path / 'new', '--mask', masks)
    assert re.search(r'error: mask folder \S+ holds none named as \S+1.bmp', capsys.readouterr().err)
    assert not (tmp_path / 'new').exists()


@pytest.mark.slow
def test_evaluation_with_the_masks_of_the_images_names(tmp_path, data, finished, capsys):
    """The hole is cropped with its image; an image without a mask is told before the work_dir exists."""
    masks = tmp_path / 'masks'
    masks.mkdir()
    for index, file in enumerate(sorted(data.glob('*.png'))):
        hole = np.zeros((70, 90), np.uint8)
        hole[20:40, 30 + index : 60] = 255
        Image.fromarray(hole).save(masks / file.name)
    config = tmp_path / 'named.py'
    config.write_text(f"""
_base_ = '{finished[0]}'
test_dataloader = dict(dataset=dict(pipeline=[
    dict(type='ReadImage'),
    dict(type='HoleFromFiles', root='{masks}', by_name=True),
    dict(type='CropResize', size=70, random=False),
    dict(type='PackInpainting')]))
""")
    cfg = Config.fromfile(config)
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    for index in range(5):
        expected = np.zeros((70, 90), bool)
        expected[20:40, 30 + index : 60] = True
        np.testing.assert_array_equal(dataset[index]['data_samples']['holes'][0], expected[:, 10:80])
    argv = [config, finished[1] / 'iter_6.pth', '--work-dir', tmp_path / 'test']
    assert run_tool('test', argv, tmp_path / 'log') == 0
    assert 'hole_PSNR: ' in (tmp_path / 'log').read_text()
    (masks / '3.png').unlink()
    with pytest.raises(SystemExit):
        load_tool('test').main([*map(str, argv[:-1]), str(tmp_path / 'new')])
    assert re.search(r'holds none named as \S+3.png, 1 of 5 images have no mask', capsys.readouterr().err)
    assert not (tmp_path / 'new').exists()


def test_demo_needs_no_other_toolbox(tmp_path, image, finished):
    config, work_dir = finished
    argv = ['demo.py', image, '--config', config, '--checkpoint', work_dir / 'iter_6.pth']
    argv += ['--out', tmp_path / 'out', '--device', 'cpu']
    code = f"""
import runpy, sys
sys.path.insert(0, 'tools')
sys.modules.update(dict.fromkeys(['mmdet', 'mmseg', 'pycocotools']))  # to import them fails
sys.argv = {list(map(str, argv))}
sys.path.insert(0, 'tools')  # as for a script that is started
runpy.run_path('tools/demo.py', run_name='__main__')
"""
    subprocess.run([sys.executable, '-c', code], check=True, cwd=ROOT)
    assert (tmp_path / 'out' / 'image.result.png').is_file()


def test_demo_inpaints_a_single_pixel(tmp_path, finished):
    Image.fromarray(picture(1, 1)).save(tmp_path / 'dot.png')
    demo(finished, tmp_path / 'dot.png', '--out', tmp_path / 'out')
    assert Image.open(tmp_path / 'out' / 'dot.result.png').size == (1, 1)


def test_demo_refuses_the_checkpoint_of_another_model(tmp_path, data, image, finished, capsys):
    other = write_config(tmp_path, data, 'inpaint_partial-conv-carafe_pictures')
    with pytest.raises(SystemExit):
        demo((other, finished[1]), image, '--out', tmp_path / 'out')
    assert 'is of another model' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['train_dataloader.dataset.data_root=nowhere'], 'image folder nowhere does not exist'),
        (['val_dataloader.dataset.ann_file=list.txt'], 'list of images list.txt does not exist'),
        (['model.generator.upsample_cfg.type=nothing'], "unknown upsampler 'nothing'"),
        (
            ['model.perceptual.type=VGGLoss', 'model.perceptual.weights=vgg.pth'],
            'weights of VGG16: checkpoint vgg.pth does not exist; give its file',
        ),
    ],
)
def test_train_says_what_is_missing(tmp_path, finished, capsys, options, message):
    with pytest.raises(SystemExit):
        load_tool('train').main(
            [str(finished[0]), '--work-dir', str(tmp_path / 'run'), '--cfg-options', *options]
        )
    assert re.search(rf'^error: .*{message}', capsys.readouterr().err, re.MULTILINE)
    assert not (tmp_path / 'run').exists()


def test_unreadable_images_do_not_stop_a_run(tmp_path):
    data = write_pictures(tmp_path / 'data', count=5, height=70, width=90)
    (data / '2.png').write_bytes((data / '2.png').read_bytes()[:99])
    assert train(write_config(tmp_path, data), tmp_path / 'run') == 0
    log = (tmp_path / 'run.log').read_text()
    assert '2.png: not a readable image' in log and 'skipped, 1 so far' in log


def test_partial_conv_trains_from_its_config(tmp_path, data):
    cfg = Config.fromfile(write_config(tmp_path, data, 'inpaint_partial-conv-carafe_pictures'))
    cfg.merge_from_dict(dict(work_dir=str(tmp_path / 'run'), launcher='none', train_cfg=dict(max_iters=2)))
    runner = build_runner(cfg)
    runner.train()
    losses = runner.message_hub.get_scalar('train/loss').data[0]
    assert len(losses) == 2 and np.isfinite(losses).all()


@pytest.mark.parametrize('name', PLACES)
def test_places_configs_build_what_they_name(name):
    cfg = Config.fromfile(CONFIGS / 'inpainting' / f'{name}.py')
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    upsampler = model.generator.upsamplers[0]
    upsampler = getattr(upsampler, 'upsampler', upsampler)
    stock = dict(GlobalLocalGenerator='ConvModule', PartialConvUNet='NearestUpsampler')
    assert type(upsampler).__name__ == (
        'CARAFE' if 'carafe' in name else stock[type(model.generator).__name__]
    )
    text = (CONFIGS / 'inpainting' / f'{name}.py').read_text()
    assert f'configs/inpainting/{name}.py' in text
    assert 'Assumed:' in text or '_base_' in text
