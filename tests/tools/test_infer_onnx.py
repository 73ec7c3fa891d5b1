# SPDX-License-Identifier: Apache-2.0
"""What infer_onnx says of files and images that do not serve; what it draws is in test_export_whole."""

import json
import re
import sys

import cv2
import numpy as np
import pytest

from tests.runtime.helpers import load_tool

onnx = pytest.importorskip('onnx', reason='needs the onnx extra')
pytest.importorskip('onnxruntime', reason='needs the onnx extra')

infer = load_tool('infer_onnx')


def write_file(path, meta=None, opset=17, domain=None):
    """An ONNX file that gives back its input."""
    shape = onnx.helper.make_tensor_value_info('images', 1, [1, 3, None, None])
    node = onnx.helper.make_node('Identity', ['images'], ['labels'])
    graph = onnx.helper.make_graph([node], 'graph', [shape], [shape])
    opsets = [onnx.helper.make_opsetid('', opset)]
    if domain:
        opsets.append(onnx.helper.make_opsetid('carafe_plugin', domain))
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)
    if meta:
        text = meta if isinstance(meta, str) else json.dumps(meta)
        onnx.helper.set_model_props(model, dict(carafe_plugin=text))
    onnx.save(model, path)


@pytest.fixture(scope='module')
def mistakes(tmp_path_factory):
    folder = tmp_path_factory.mktemp('mistakes')
    meta = dict(format=1, task='segmentation', classes=['a'], palette=[[0, 0, 0]], pad=None)
    meta['resize'] = dict(scale=[64, 64], keep_ratio=True)
    write_file(folder / 'ours.onnx', meta)
    write_file(folder / 'plain.onnx')
    write_file(folder / 'newer.onnx', meta | dict(format=2))
    write_file(folder / 'domain.onnx', meta, domain=2)
    write_file(folder / 'opset.onnx', meta, opset=99)
    write_file(folder / 'list.onnx', '[]')
    write_file(folder / 'prose.onnx', 'no JSON')
    (folder / 'ff.onnx').write_bytes(b'\xff' * 4_000_000)
    # A metadata_props whose key is the number 2**49, no text.
    (folder / 'number.onnx').write_bytes(b'\x72\x09\x08' + b'\x80' * 7 + b'\x01')
    (folder / 'taken' / 'wide.png').mkdir(parents=True)
    cv2.imwrite(str(folder / 'wide.png'), np.zeros((72, 96, 3), np.uint8))
    (folder / 'text.png').write_text('no image')
    (folder / 'text.onnx').write_text('no model at all')
    (folder / 'cut.onnx').write_bytes((folder / 'ours.onnx').read_bytes()[:-9])
    cv2.imwrite(str(folder / 'line.png'), np.zeros((1, 900, 3), np.uint8))
    return folder


@pytest.mark.parametrize(
    'argv, message',
    [
        ('wide.png --model none.onnx', 'none.onnx: no such file'),
        ('none.png --model ours.onnx', 'none.png: no such file'),
        ('taken --model ours.onnx', r'taken: there is no image in this folder \(.jpg, .*\)'),
        ('text.png --model ours.onnx', 'text.png: not a readable image'),
        ('wide.png --model text.onnx', 'text.onnx: not an ONNX file'),
        ('wide.png --model cut.onnx', 'cut.onnx: not an ONNX file'),
        ('wide.png --model ff.onnx', 'ff.onnx: not an ONNX file'),
        ('wide.png --model number.onnx', 'number.onnx: not an ONNX file'),
        ('wide.png --model list.onnx', 'list.onnx: its metadata carafe_plugin are no description of .*'),
        ('wide.png --model prose.onnx', 'prose.onnx: its metadata carafe_plugin are no description of .*'),
        (
            'wide.png --model ours.onnx --out text.png',
            '--out text.png: cannot be made a folder: File exists',
        ),
        ('wide.png --model ours.onnx --out taken', 'taken/wide.png: cannot be written'),
        ('wide.png --model plain.onnx', 'plain.onnx: not a whole model, which .* --whole writes'),
        ('wide.png --model newer.onnx', 'newer.onnx has format 2 of a whole model, this script reads 1'),
        (
            'wide.png --model domain.onnx',
            'domain.onnx needs version 2 of the operators of carafe_plugin, .* 1',
        ),
        ('wide.png --model opset.onnx', r'onnxruntime \S+ refuses opset.onnx \(opset 99\): .*'),
        ('wide.png --model ours.onnx --runtime openvino', 'openvino is missing: pip install openvino'),
        ('line.png --model ours.onnx', 'an image of 900 x 1 pixels is too narrow for the model'),
        ('wide.png wide.png --model ours.onnx', 'wide.png: another image is, or .*; choose another --out'),
        ('wide.png --model ours.onnx --out .', 'wide.png: .* written to, wide.png; choose another --out'),
        (
            'wide.png --model ours.onnx --runtime openvino --extension none.so',
            '--extension none.so: no such file',
        ),
    ],
)
def test_mistakes_in_one_line(mistakes, monkeypatch, capsys, argv, message):
    monkeypatch.chdir(mistakes)
    monkeypatch.setitem(sys.modules, 'openvino', None)
    monkeypatch.setattr(infer, 'draw', lambda image, *_: image)  # the models here find nothing to draw
    with pytest.raises(SystemExit) as stop:
        infer.main(argv.split())
    assert stop.value.code == 1
    assert re.fullmatch(rf'error: {message}\n', capsys.readouterr().err)


@pytest.mark.parametrize(
    'box', [(-9, 1, -4, 5), (1, -9, 5, -4), (20, 1, 25, 5), (1, 20, 5, 25), (-9, -9, 25, 25)], ids=str
)
def test_masks_of_boxes_at_and_beyond_the_border(box):
    mask = infer.paste(np.ones((4, 4), np.float32), np.float32(box), (10, 12), 0.5)
    assert mask.shape == (10, 12) and mask.all() == mask.any() == (box == (-9, -9, 25, 25))
