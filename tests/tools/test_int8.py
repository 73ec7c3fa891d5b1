# SPDX-License-Identifier: Apache-2.0
"""Convolutions in int8 around CARAFE in float."""

import sys
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from carafe_plugin import build_upsampler
from tests.runtime.helpers import load_tool

tool = load_tool('quickstart_int8')


def test_torchao_is_missing(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, 'torchao', None)
    monkeypatch.delitem(sys.modules, 'carafe_tools.int8', raising=False)
    with pytest.raises(SystemExit):
        tool.main(['--work-dir', str(tmp_path)])
    assert capsys.readouterr().err == 'error: torchao is missing: pip install torchao\n'


@pytest.mark.parametrize(
    'argv, message',
    [
        ('--images 0', '--images must be at least 1, got 0'),
        ('--out none/x.onnx', '--out none/x.onnx: there is no folder none'),
        ('--work-dir none', 'none/last_checkpoint: no such file; make demo-seg first'),
    ],
)
def test_mistakes_in_one_line(monkeypatch, capsys, argv, message):
    monkeypatch.setitem(sys.modules, 'carafe_tools.int8', SimpleNamespace(quantise=None))
    with pytest.raises(SystemExit):
        tool.main(argv.split())
    assert capsys.readouterr().err.endswith(f'error: {message}\n')


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore')
@pytest.mark.skipif(not find_spec('torchao'), reason='torchao is not installed')
def test_convolutions_alone_are_quantised(tmp_path):
    """In PyTorch, and in onnxruntime in the form that other exports have."""
    onnxruntime = pytest.importorskip('onnxruntime', reason='needs the onnx extra')
    from carafe_tools.int8 import quantise

    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), build_upsampler(dict(type='carafe'), 16)).eval()
    images = [torch.rand(1, 3, 12, 15) for _ in range(4)]
    quantised = quantise(module, images)
    targets = [str(node.target) for node in quantised.graph.nodes if node.op == 'call_function']
    assert sum('conv2d' in target for target in targets) == 3  # with the compressor and the encoder
    assert sum(target.startswith('quantized_decomposed.quantize') for target in targets) == 3
    assert 'aten.embedding.default' in targets  # onnx_form gathers rows
    file = tmp_path / 'int8.onnx'
    with torch.no_grad():
        exact, expected = module(images[0]), quantised(images[0])
        assert 0 < (expected - exact).abs().max() < 0.05 * exact.abs().max()
        torch.onnx.export(quantised, (images[0],), dynamo=True, verbose=False).save(file)
    session = onnxruntime.InferenceSession(file, providers=['CPUExecutionProvider'])
    [output] = session.run(None, {session.get_inputs()[0].name: images[0].numpy()})
    # A value on the edge of two steps may be rounded otherwise.
    assert (torch.from_numpy(output) - expected).abs().max() < 0.02 * exact.abs().max()
