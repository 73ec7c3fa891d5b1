# SPDX-License-Identifier: Apache-2.0
"""Parameters and operations of the generators, as compare.py and cost_table.py count them."""

import json

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS

from carafe_tools import model_cost
from tests.runtime.helpers import ROOT, load_tool

from .pictures import write_pictures

cost_table = load_tool('cost_table')
PLACES = [
    f'configs/inpainting/{name}_places-256.py' for name in ('global-local_patchgan_500k', 'partial-conv_800k')
]


def carafe(channels):
    """Multiply-adds for a pixel of the map: compressor, encoder, reassembly."""
    return channels * 64 + 64 * 9 * 100 + 4 * 25 * channels


@pytest.mark.parametrize('upsampler', [None, 'carafe'])
def test_operations_of_global_local_are_those_of_its_table_of_layers(upsampler):
    cfg = Config.fromfile(ROOT / PLACES[0])
    cfg.model.generator.upsample_cfg = upsampler and dict(type=upsampler)
    parameters, macs = cost_table.model_cost(cfg, cfg.model, (64, 48))
    wide = 2 if upsampler else 1  # an upsampler does not halve the channels
    layers = {  # by the share of the image's pixels: side, channels in and out
        1: [(5, 4, 64), (3, 64 * wide, 32), (3, 32, 3)],
        4: [(3, 64, 128), (3, 128, 128), (3, 128 * wide, 128)],
        16: [(3, 128, 256), *[(3, 256, 256)] * 8],
    }
    steps = {16: carafe(256), 4: carafe(128)} if upsampler else {16: 16 * 256 * 128, 4: 16 * 128 * 64}
    total = 0
    for share, convs in layers.items():
        total += 64 * 48 // share * (steps.get(share, 0) + sum(k**2 * a * b for k, a, b in convs))
    assert macs == pytest.approx(total, rel=2e-3)  # mmengine counts batch norms too
    network = MODELS.build(cfg.model.generator)
    assert parameters == sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize('network', ['global-local', 'partial-conv'])
def test_a_comparison_counts_and_times_generators(network, tmp_path):
    cfg = Config.fromfile(ROOT / 'configs' / 'quickstart' / f'inpaint_{network}-carafe_pictures.py')
    cfg.val_dataloader.dataset.data_root = str(write_pictures(tmp_path / 'data', 3))
    models = {}
    for name in ('stock', 'carafe'):
        cfg.model.generator.upsample_cfg = None if name == 'stock' else dict(type=name)
        saved = MODELS.build(cfg.model)
        torch.save(dict(state_dict=saved.state_dict()), tmp_path / f'{name}.pth')
        models[name] = model_cost.load_model(cfg, tmp_path / f'{name}.pth')
        for one, other in zip(saved.parameters(), models[name].parameters(), strict=True):
            assert torch.equal(one, other)
    images = model_cost.validation_images(cfg, 2)
    assert len(images) == 2 and images[0]['inputs'][0].shape == (3, 64, 64)
    costs = model_cost.costs(models, images)
    for name, model in models.items():
        assert costs[name].parameters == sum(p.numel() for p in model.generator.parameters())
        assert costs[name].latency > 0
    assert costs['carafe'].macs > costs['stock'].macs > 0


@pytest.mark.slow
def test_the_documented_table_is_the_tool_s(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    argv = [*PLACES, '--types', 'stock', 'carafe', '--shape', '256', '256']
    cost_table.main(argv)
    text = (ROOT / 'docs' / 'inpainting.md').read_text()
    assert capsys.readouterr().out in text
    command = text.replace('\\\n', ' ').split('tools/cost_table.py ')[1].split('\n')[0]
    assert command.split() == argv


def test_types_replace_the_generator_s_upsampler(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    config = 'configs/quickstart/inpaint_global-local-carafe_pictures.py'
    options = ['--shape', '32', '32', '--format', 'json']
    cost_table.main([config, '--types', 'stock', 'carafe', *options])
    stock, mine = json.loads(capsys.readouterr().out)
    cost_table.main([config, *options])
    assert json.loads(capsys.readouterr().out) == [mine]
    assert (stock['upsampler'], mine['upsampler']) == ('stock', 'carafe')
    assert mine['parameters (M)'] != stock['parameters (M)']
    with pytest.raises(SystemExit):
        cost_table.main([config, '--types', 'fade'])
    error = capsys.readouterr().err
    assert "'fade' needs a guide" in error and error.count('\n') == 1
