# SPDX-License-Identifier: Apache-2.0
"""Whole models as ONNX files find what the toolboxes' own predictions are, from image to pixels."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import warnings
from functools import partial

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from torch import nn

from carafe_plugin.openvino import extension_path
from carafe_tools import whole
from carafe_tools.preflight import build_model
from tests.runtime.helpers import ROOT, load_tool, write_coco, write_detector_config

onnx = pytest.importorskip('onnx', reason='needs the onnx extra')
pytest.importorskip('onnxruntime', reason='needs the onnx extra')

export, infer = load_tool('export_onnx'), load_tool('infer_onnx')
openvino = pytest.mark.skipif(not importlib.util.find_spec('openvino'), reason='openvino is not installed')
RUNTIMES = ['onnxruntime', pytest.param('openvino', marks=[pytest.mark.slow, openvino])]
DETECTORS = [
    'mask_rcnn',
    'retinanet',
    *(pytest.param(kind, marks=pytest.mark.slow) for kind in ('yolox', 'rtmdet')),
]

CONFIGS = dict(
    mask_rcnn='',
    retinanet="""
_base_ = '{root}/configs/coco/retinanet_r50_fpn-carafe_1x_coco.py'
model = dict(
    backbone=dict(depth=18, base_channels=8, stem_channels=8, init_cfg=None, frozen_stages=-1),
    neck=dict(in_channels=[8, 16, 32, 64], out_channels=16),
    bbox_head=dict(in_channels=16, feat_channels=16, stacked_convs=1, num_classes=2))
steps = [dict(type='Resize', scale=(160, 128), keep_ratio=True)]
""",
    yolox="""
_base_ = '{root}/configs/coco/yolox_s_pafpn-carafe_8xb8-300e_coco.py'
model = dict(
    backbone=dict(widen_factor=0.125),
    neck=dict(in_channels=[32, 64, 128], out_channels=16),
    bbox_head=dict(in_channels=16, feat_channels=16, num_classes=2))
steps = [dict(type='Resize', scale=(120, 120), keep_ratio=True),
         dict(type='Pad', pad_to_square=True, pad_val=dict(img=(114.0, 114.0, 114.0)))]
""",
    rtmdet="""
_base_ = '{root}/configs/coco/rtmdet_s_pafpn-carafe_8xb32-300e_coco.py'
model = dict(
    backbone=dict(widen_factor=0.125, init_cfg=None),
    neck=dict(in_channels=[32, 64, 128], out_channels=16, num_csp_blocks=1),
    bbox_head=dict(in_channels=16, feat_channels=16, num_classes=2))
steps = [dict(type='Resize', scale=(128, 128), keep_ratio=True),
         dict(type='Pad', size=(128, 128), pad_val=dict(img=(114, 114, 114)))]
""",
    segmentor="""
default_scope = 'mmseg'
custom_imports = dict(imports=['carafe_plugin.segmentation'])
norm = dict(type='BN', requires_grad=True)
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(type='SegDataPreProcessor', size=(64, 64), test_cfg=dict(size_divisor=32),
                           mean=[120, 110, 100], std=[60, 57, 50], bgr_to_rgb=True),
    backbone=dict(type='ResNet', depth=18, base_channels=8, stem_channels=8, norm_cfg=norm),
    decode_head=dict(type='UpsampleUPerHead', upsample_cfg=dict(fpn=dict(type='carafe')),
                     in_channels=[8, 16, 32, 64], in_index=[0, 1, 2, 3], pool_scales=(1, 2, 3, 6),
                     channels=16, num_classes=3, norm_cfg=norm),
    test_cfg=dict(mode='whole'))
steps = []
""",
)
DATA = """
test_dataloader = dict(dataset=dict(
    {delete}type='{dataset}',
    metainfo=dict(classes=('red', 'blue'), palette=[(255, 0, 0), (0, 0, 255)]),
    pipeline=[dict(type='LoadImageFromFile'), *steps,
              dict(type='{pack}', meta_keys=('img_path', 'ori_shape', 'img_shape', 'scale_factor'))]))
"""


def lively(model: nn.Module, predict) -> None:
    """Scale the weights, layer after layer, so that every map, and with them the scores, varies."""
    seen = set()

    def rescale(name, module, inputs, output):
        if name in seen:
            return None
        seen.add(name)
        factor = (0.3 if '_reg' in name else 1.5) / output.std().clamp(min=1e-6)
        module.weight.data *= factor
        return output * factor

    handles = []
    for name, module in model.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.normal_(module.weight)
            if module.bias is not None:
                module.bias.data.zero_()
            handles.append(module.register_forward_hook(partial(rescale, name)))
    predict()
    for handle in handles:
        handle.remove()


class Case:
    """A small model of a kind, its files, and what PyTorch finds with it."""

    def __init__(self, folder, kind: str) -> None:
        self.folder, self.kind = folder, kind
        self.config, self.weights = folder / f'{kind}.py', folder / f'{kind}.pth'
        self.segments = kind == 'segmentor'
        if kind == 'mask_rcnn':
            write_detector_config(self.config, write_coco(folder / 'data', images=1))
        else:
            names = ('BaseSegDataset', 'PackSegInputs') if self.segments else ('CocoDataset', 'PackDetInputs')
            text = CONFIGS[kind].replace('{root}', str(ROOT)) + DATA
            for name, value in zip(('{dataset}', '{pack}'), names, strict=True):
                text = text.replace(name, value)
            self.config.write_text(text.replace('{delete}', '' if self.segments else '_delete_=True, '))
        self.cfg = Config.fromfile(self.config)
        self.cfg.test_pipeline = self.cfg.test_dataloader.dataset.pipeline  # where MMSegmentation looks
        torch.manual_seed(0)
        with DefaultScope.overwrite_default_scope(self.cfg.default_scope):
            self.model = build_model(self.cfg).eval()
        self.model.cfg = self.cfg
        lively(self.model, lambda: self.predict(folder / 'wide.png'))
        torch.save(dict(state_dict=self.model.state_dict(), meta={}), self.weights)

    def predict(self, path):
        """By the toolbox's own call."""
        with DefaultScope.overwrite_default_scope(self.cfg.default_scope):
            if self.segments:
                from mmseg.apis import inference_model

                return inference_model(self.model, str(path)).pred_sem_seg.data[0].numpy()
            from mmdet.apis import inference_detector

            return inference_detector(self.model, str(path)).pred_instances

    def export(self, file, *argv) -> None:
        with warnings.catch_warnings():
            options = ['--out', file, '--size', 64, 96, *argv]
            export.main([str(arg) for arg in ('--whole', self.config, self.weights, *options)])


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Images of noise, wide and tall, and a black one."""
    folder = tmp_path_factory.mktemp('whole')
    noise = np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    cv2.imwrite(str(folder / 'wide.png'), cv2.resize(noise, (96, 72), interpolation=cv2.INTER_CUBIC))
    cv2.imwrite(str(folder / 'tall.png'), cv2.resize(noise, (67, 110), interpolation=cv2.INTER_CUBIC))
    cv2.imwrite(str(folder / 'black.png'), np.zeros((72, 96, 3), np.uint8))
    return folder


@pytest.fixture(scope='module')
def case(folder):
    """The case of a kind, with its exported file; each made once."""
    made = {}

    def get(kind):
        if kind not in made:
            made[kind] = Case(folder, kind)
            made[kind].file = folder / f'{kind}.onnx'
            made[kind].export(made[kind].file, '--images', folder / 'wide.png', folder / 'tall.png')
        return made[kind]

    return get


def finder(file, runtime, extension=None):
    """What a file finds in an image, by the functions of infer_onnx."""
    meta, _ = infer.read_header(file)
    run = infer.load(file, runtime, extension)

    def find(path):
        image = infer.read_image(path)
        images, factors = infer.prepare(image, meta)
        return infer.restore(run(images), meta, image.shape[:2], factors)

    return find


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('runtime', RUNTIMES)
@pytest.mark.parametrize('kind', DETECTORS)
def test_detectors(case, folder, kind, runtime):
    this = case(kind)
    find = finder(this.file, runtime)
    for name in ('wide.png', 'tall.png', 'black.png'):
        exact, found = this.predict(folder / name), find(folder / name)
        assert len(exact) >= 5 and len(found['boxes']) == len(exact)
        scores = exact.scores.numpy()
        assert np.all(np.diff(found['scores']) <= 0)
        np.testing.assert_allclose(found['scores'], scores, atol=1e-4)
        for index, (box, label) in enumerate(zip(found['boxes'], found['labels'], strict=True)):
            # Equal scores come in any order.
            same = (exact.labels.numpy() == label) & (np.abs(scores - found['scores'][index]) < 1e-3)
            apart = np.abs(exact.bboxes.numpy()[same] - box).max(1)
            assert apart.min() < 0.1
            if 'masks' in found:
                mask = exact.masks.numpy()[same][apart.argmin()]
                assert (mask & found['masks'][index]).sum() >= 0.99 * (mask | found['masks'][index]).sum()
    assert ('masks' in found) == (kind == 'mask_rcnn')


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('runtime', RUNTIMES)
def test_operators_as_nodes(case, folder, tmp_path, runtime):
    """As the file of standard operators; in OpenVINO by the extension, and not without."""
    this, file = case('mask_rcnn'), tmp_path / 'nodes.onnx'
    this.export(file, '--domain-ops', '--images', folder / 'wide.png')
    extension = None
    if runtime == 'openvino':
        with pytest.raises(infer.UserError, match='its operators of carafe_plugin need --extension'):
            finder(file, runtime)
        extension = extension_path()
    exact, found = (
        find(folder / 'tall.png') for find in (finder(this.file, runtime), finder(file, runtime, extension))
    )
    assert len(found['boxes']) >= 5
    for key, atol in (('boxes', 0.1), ('scores', 1e-4), ('labels', 0)):
        np.testing.assert_allclose(found[key], exact[key], rtol=0, atol=atol)
    assert (found['masks'] != exact['masks']).mean() < 1e-3


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('runtime', RUNTIMES)
def test_segmentor(case, folder, runtime):
    this = case('segmentor')
    find = finder(this.file, runtime)
    for name in ('wide.png', 'tall.png'):
        exact, found = this.predict(folder / name), find(folder / name)['labels']
        assert len(np.unique(exact)) > 1 and found.shape == exact.shape
        assert (found == exact).mean() > 0.999


@pytest.mark.filterwarnings('ignore')
def test_file(case):
    graph = onnx.load(case('mask_rcnn').file)
    assert {node.domain for node in graph.graph.node} == {''}
    assert {'NonMaxSuppression', 'RoiAlign'} <= {node.op_type for node in graph.graph.node}
    batch, channels, *size = graph.graph.input[0].type.tensor_type.shape.dim
    assert (batch.dim_value, channels.dim_value) == (1, 3) and all(dim.dim_param for dim in size)
    assert [value.name for value in graph.graph.output] == ['boxes', 'scores', 'labels', 'masks']
    meta = json.loads(graph.metadata_props[0].value)
    assert meta['classes'] == ['red', 'blue'] and meta['resize'] == dict(scale=[64, 64], keep_ratio=True)


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('runtime', RUNTIMES)
@pytest.mark.parametrize(
    'kind, field',
    [('mask_rcnn', 'rcnn.score_thr'), pytest.param('yolox', 'score_thr', marks=pytest.mark.slow)],
)
def test_nothing_found(case, folder, tmp_path, kind, field, runtime):
    """One file serves an image with objects and one without."""
    this = case(kind)
    some, none = (this.predict(folder / name).scores.max().item() for name in ('wide.png', 'black.png'))
    assert none < some
    this.export(
        tmp_path / 'strict.onnx',
        *('--images', folder / 'wide.png', folder / 'black.png'),
        *('--cfg-options', f'model.test_cfg.{field}={(some + none) / 2}'),
    )
    find = finder(tmp_path / 'strict.onnx', runtime)
    assert len(find(folder / 'wide.png')['boxes']) > 0
    found = find(folder / 'black.png')
    assert found['boxes'].shape == (0, 4) and found['scores'].shape == found['labels'].shape == (0,)
    assert 'masks' not in found or found['masks'].shape == (0, 72, 96)


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('kind', ['mask_rcnn', 'segmentor'])
def test_infer_stands_alone(case, folder, tmp_path, kind):
    """A copy of the script draws where neither PyTorch nor OpenMMLab nor this package can be imported."""
    (tmp_path / 'photos').mkdir()
    shutil.copy(folder / 'black.png', tmp_path / 'photos')
    shutil.copy(ROOT / 'tools' / 'infer_onnx.py', tmp_path)
    block = 'torch', 'mmcv', 'mmengine', 'mmdet', 'mmseg', 'onnx', 'PIL', 'carafe_plugin', 'carafe_tools'
    code = f'import sys, runpy; sys.modules.update(dict.fromkeys({block})); sys.argv[0] = "infer_onnx.py"; '
    code += 'runpy.run_path("infer_onnx.py", run_name="__main__")'
    command = [sys.executable, '-c', code, folder / 'wide.png', 'photos']
    command += ['--model', case(kind).file, '--score-thr', '0']
    done = subprocess.run(command, cwd=tmp_path, env={}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 3
    for line in done.stdout.splitlines()[1:]:
        assert re.fullmatch(r'pictures/\w+.png: read \d+ ms, resize \d+ ms, run \d+ ms, draw \d+ ms', line)
    picture = cv2.imread(str(tmp_path / 'pictures' / 'wide.png'))
    assert picture.shape == (5 * 72, 5 * 96, 3)  # a small image, drawn enlarged
    assert np.abs(cv2.resize(picture, (96, 72)).astype(int) - cv2.imread(str(folder / 'wide.png'))).max() > 50


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize(
    'kind, options, message',
    [
        ('segmentor', 'model.test_cfg.mode=slide', "test_cfg.mode must be 'whole', got 'slide'"),
        (
            'retinanet',
            'model.test_cfg.nms.type=soft_nms',
            r"test_cfg.nms must be dict\(type='nms', .*soft_nms.*",
        ),
        (
            'retinanet',
            'test_dataloader.dataset.pipeline.1.type=RandomFlip',
            '.*: RandomFlip cannot leave Python.*',
        ),
        (
            'retinanet',
            'model.bbox_head.type=ATSSHead model.bbox_head.norm_cfg=None',
            '.*ATSSHead predicts 3 maps a level, .* scores and boxes',
        ),
    ],
)
def test_models_that_are_not_served(case, tmp_path, capsys, kind, options, message):
    this = case(kind)
    argv = ['--whole', str(this.config), '--random-weights', '--out', str(tmp_path / 'x.onnx')]
    with pytest.raises(SystemExit):
        export.main([*argv, '--cfg-options', *options.split()])
    assert re.search(rf'error: {message}\n', capsys.readouterr().err)


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize(
    'argv, message',
    [
        ('--images none.png', 'none.png: no such file'),
        ('--picture none/x.png', '--picture none/x.png: there is no folder none'),
        ('--picture x.tif', '--picture must end in .jpg, .jpeg, .png, got x.tif'),
        ('--size 0 64', '--size must be at least 1, got 0 64'),
    ],
)
def test_mistakes_are_told_before_the_model_is_built(case, monkeypatch, capsys, argv, message):
    config = str(case('segmentor').config)
    monkeypatch.setattr(whole, 'build_model', None)
    with pytest.raises(SystemExit):
        export.main(['--whole', config, '--random-weights', *argv.split()])
    assert capsys.readouterr().err.endswith(f'error: {message}\n')


@pytest.mark.filterwarnings('ignore')
def test_without_the_check(case, tmp_path, monkeypatch):
    monkeypatch.setattr(whole, 'check', None)
    case('segmentor').export(tmp_path / 'model.onnx', '--no-check')
    assert infer.read_header(tmp_path / 'model.onnx')[0]['task'] == 'segmentation'


def test_images_of_the_test_data(tmp_path):
    """Those that the annotations name, in folders of their own and beside others; none where nothing is."""
    data = write_coco(tmp_path / 'data')
    content = json.loads((data / 'instances.json').read_text())
    (data / 'images' / 'a b').mkdir()
    for image in content['images'][2:]:
        name = image['file_name']
        image['file_name'] = f'a b/{name}'
        (data / 'images' / name).rename(data / 'images' / 'a b' / name)
    (data / 'test.json').write_text(json.dumps(dict(content, images=content['images'][2:], annotations=[])))
    cfg = Config.fromfile(write_detector_config(tmp_path / 'config.py', data))
    cfg.test_dataloader.dataset.ann_file = 'test.json'
    assert whole.images_of(cfg, None) == [data / 'images' / 'a b' / f'{index}.png' for index in (2, 3)]
    cfg.test_dataloader.dataset.data_prefix.img = 'elsewhere'
    assert whole.images_of(cfg, None) == []
    cfg.test_dataloader.dataset.ann_file = 'gone.json'
    assert whole.images_of(cfg, None) == []
    assert whole.images_of(cfg, [tmp_path / 'x.png']) == [tmp_path / 'x.png']


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('fault', ['export', 'check'])
def test_a_failure_leaves_what_was_there(case, folder, tmp_path, monkeypatch, capsys, fault):
    """An exporter that stops, and a file that its check refuses."""
    file = tmp_path / 'model.onnx'
    file.write_text('from before')

    def fail(*args, **kwargs):
        raise RuntimeError('no symbolic') if fault == 'export' else export.UserError(f'{args[0]} differs')

    monkeypatch.setattr(*((torch.onnx, 'export') if fault == 'export' else (whole, 'check')), fail)
    with pytest.raises(SystemExit):
        case('segmentor').export(file, '--images', folder / 'wide.png')
    said = 'the model cannot be exported: no symbolic' if fault == 'export' else f'{file} differs'
    assert capsys.readouterr().err == f'error: {said}\n'
    assert list(tmp_path.iterdir()) == [file] and file.read_text() == 'from before'
