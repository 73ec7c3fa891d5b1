# SPDX-License-Identifier: Apache-2.0
"""Backbone and neck of a config as an ONNX file."""

import re
import sys
import warnings

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope

from carafe_tools import onnx_files
from carafe_tools.preflight import build_model
from tests.runtime.helpers import load_tool, write_coco, write_detector_config

onnx = pytest.importorskip('onnx', reason='needs the onnx extra')
ort = pytest.importorskip('onnxruntime', reason='needs the onnx extra')
pytest.importorskip('onnxscript', reason='needs the onnx extra')

tool = load_tool('export_onnx')

SEGMENTOR = """
default_scope = 'mmseg'
norm = dict(type='BN', requires_grad=True)
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(type='SegDataPreProcessor', size=(64, 64)),
    backbone=dict(type='ResNet', depth=18, base_channels=8, stem_channels=8, norm_cfg=norm),
    neck=dict(type='FPN', in_channels=[8, 16, 32, 64], out_channels=8, num_outs=4),
    decode_head=dict(type='FPNHead', in_channels=[8] * 4, in_index=[0, 1, 2, 3],
                     feature_strides=[4, 8, 16, 32], channels=8, num_classes=2, norm_cfg=norm),
    test_cfg=dict(mode='whole'))
"""


@pytest.fixture(scope='module')
def setting(tmp_path_factory):
    """Folder with ``config.py``, ``model.pth`` whose kernels are far from uniform, and ``other.pth``."""
    folder = tmp_path_factory.mktemp('export')
    config = write_detector_config(folder / 'config.py', write_coco(folder / 'data', images=1))
    config.write_text(config.read_text() + "\nmodel['neck'].update(upsample_cfg=dict(up_kernel=3))\n")
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = build_model(Config.fromfile(config))
    for upsampler in model.neck.upsamplers:
        torch.nn.init.normal_(upsampler.content_encoder.weight, std=0.3)
    torch.save(dict(state_dict=model.state_dict(), meta={}), folder / 'model.pth')
    torch.save(dict(state_dict={'neck.weight': torch.zeros(1)}, meta={}), folder / 'other.pth')
    (folder / 'segmentor.py').write_text(SEGMENTOR)
    return folder


def export(*argv):
    with warnings.catch_warnings():  # the tool silences the process that it has for itself
        tool.main([str(arg) for arg in argv])


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('exporter', ['torchscript', pytest.param('dynamo', marks=pytest.mark.slow)])
def test_detector(setting, tmp_path, exporter, capsys):
    out = tmp_path / 'model.onnx'
    export(
        setting / 'config.py', setting / 'model.pth', '--out', out, '--size', 64, 96, '--exporter', exporter
    )
    said = capsys.readouterr().out
    assert float(re.search(r'at 96 x 160: (\S+) of', said).group(1)) < 1e-4 and str(out) in said
    graph = onnx.load(out).graph
    assert {node.domain for node in graph.node} == {''}
    batch, channels, *size = graph.input[0].type.tensor_type.shape.dim
    assert channels.dim_value == 3 and all(dim.dim_param for dim in (batch, *size))
    assert [value.name for value in graph.output] == [f'level{i}' for i in range(5)]
    session = ort.InferenceSession(out, providers=['CPUExecutionProvider'])
    weights = torch.load(setting / 'model.pth')['state_dict']
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = build_model(Config.fromfile(setting / 'config.py')).eval()
    model.load_state_dict(weights)
    images = torch.randn(3, 3, 70, 45)  # no multiples of a stride
    with torch.no_grad():
        expected = model.extract_feat(images)
    for output, exact in zip(session.run(None, {'images': images.numpy()}), expected, strict=True):
        torch.testing.assert_close(torch.from_numpy(output), exact, rtol=1e-3, atol=1e-4)


@pytest.mark.filterwarnings('ignore')
def test_segmentor_without_checkpoint(setting, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    export(setting / 'segmentor.py', '--random-weights', '--size', 64, 64, '--exporter', 'torchscript')
    assert [path.name for path in tmp_path.iterdir()] == ['segmentor.onnx']
    assert '4 maps, (8, 16, 16), (8, 8, 8)' in capsys.readouterr().out


@pytest.mark.parametrize(
    'argv, message',
    [
        (('no.py', '--random-weights'), 'config no.py does not exist'),
        (('config.py', 'no.pth'), 'checkpoint .*no.pth does not exist'),
        (
            ('config.py', 'other.pth'),
            r'other.pth is of another model than config.py .*missing are backbone\.conv1\.\* \(1\)',
        ),
        (('config.py', '--random-weights', '--size', '100', '96'), 'must be multiples of 32 .*got 100 96'),
        (('config.py', '--random-weights', '--out', 'none/x.onnx'), 'there is no folder none'),
        (
            ('config.py', '--random-weights', '--cfg-options', 'model.neck.upsample_cfg.type=nearset'),
            "the model cannot be built: .*unknown upsampler 'nearset'",
        ),
    ],
)
def test_mistakes_in_one_line(setting, monkeypatch, capsys, argv, message):
    monkeypatch.chdir(setting)
    before = sorted(setting.iterdir())
    with pytest.raises(SystemExit) as stop:
        tool.main(list(argv))
    assert stop.value.code == 1
    assert re.fullmatch(rf'error: [^\n]*{message}[^\n]*\n', capsys.readouterr().err)
    assert sorted(setting.iterdir()) == before


@pytest.mark.filterwarnings('ignore')
def test_a_failure_leaves_what_was_there(setting, tmp_path, monkeypatch, capsys):
    """A file that differs from PyTorch does not get the good name."""
    out = tmp_path / 'model.onnx'
    out.write_text('from before')
    monkeypatch.setattr(tool, 'TOLERANCE', 0.0)
    argv = '--random-weights', '--out', out, '--size', 64, 64, '--exporter', 'torchscript'
    with pytest.raises(SystemExit):
        export(setting / 'segmentor.py', *argv)
    assert f'error: {out} differs from PyTorch' in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [out] and out.read_text() == 'from before'


def test_weights_beside_the_file_move_along(tmp_path):
    """As the newer exporter writes models of more than 2 GB."""
    with onnx_files.draft(tmp_path / 'model.onnx') as file:
        for name in ('model.onnx', 'model.onnx.data'):
            file.with_name(name).write_text(name)
        assert not any(path.is_file() for path in tmp_path.iterdir())
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        name: name for name in ('model.onnx', 'model.onnx.data')
    }


def test_missing_extra_and_missing_checkpoint(setting, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        tool.main([str(setting / 'config.py')])
    assert 'give a checkpoint or --random-weights' in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    with pytest.raises(SystemExit):
        tool.main([str(setting / 'config.py'), '--random-weights'])
    assert capsys.readouterr().err == 'error: onnxruntime is missing: pip install "carafe-plugin[onnx]"\n'


@pytest.mark.filterwarnings('ignore')
def test_domain_operators(setting, tmp_path, capsys):
    out = tmp_path / 'model.onnx'
    argv = '--out', out, '--size', 64, 96, '--exporter', 'torchscript', '--domain-ops'
    export(setting / 'config.py', setting / 'model.pth', *argv)
    said = capsys.readouterr().out
    assert '3 nodes of the domain carafe_plugin' in said
    assert float(re.search(r'at 96 x 160: (\S+) of', said).group(1)) < 1e-4
    nodes = [node for node in onnx.load(out).graph.node if node.domain]
    assert [node.op_type for node in nodes] == ['reassemble_softmax'] * 3
    with pytest.raises(SystemExit):
        export(setting / 'segmentor.py', '--random-weights', *argv)
    assert 'error: the model has no operator of this package' in capsys.readouterr().err


@pytest.mark.filterwarnings('ignore')
def test_a_wrong_graph_is_found(setting, tmp_path):
    """A file of other weights does not pass for the model."""
    args = tool.parse_args([str(setting / 'config.py'), str(setting / 'model.pth')])
    model, divisor = tool.load_model(args)
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        tool.export(model, images, 5, 'torchscript', tmp_path / 'model.onnx')
        assert tool.compare(model, images, tmp_path / 'model.onnx') < 1e-4
        model.model.neck.upsamplers[0].content_encoder.weight.mul_(1.1)
        with pytest.raises(tool.UserError, match='differs from PyTorch by'):
            tool.compare(model, images, tmp_path / 'model.onnx')
    assert divisor == 32
