# SPDX-License-Identifier: Apache-2.0
"""Fields and kernels of a tiny model, and the tool that draws them."""

import re

import cv2
import numpy as np
import pytest
import torch
from mmdet.apis import init_detector
from torch import nn

from carafe_plugin.detection import UpsampleFPN, UpsampleYOLOXPAFPN
from carafe_plugin.upsamplers import UPSAMPLERS
from carafe_tools.kernels import accumulated_field, chain, principal_colours, pull_back, recorded
from tests.runtime.helpers import ROOT, load_tool, write_coco, write_detector_config

WITH_KERNELS = ['a2u', 'carafe', 'fade', 'fade_lite', 'freqfusion', 'sapa']


def neck_steps(name, sizes=((48, 64), (24, 32), (12, 16), (6, 8)), **arguments):
    """The calls of a neck's upsamplers, from fine to coarse."""
    torch.manual_seed(0)
    neck = UpsampleFPN([4, 8, 12, 16], 32, 4, upsample_cfg=dict(type=name, **arguments))
    for p in neck.upsamplers.parameters():  # far from the plain mean of the initialisation
        nn.init.normal_(p, std=0.05)
    maps = [torch.randn(1, c, *size) for c, size in zip((4, 8, 12, 16), sizes, strict=True)]
    with torch.no_grad(), recorded(neck) as steps:
        neck(maps)
    assert 'fuse' not in vars(neck.upsamplers[0])  # nothing of the recording stays
    return neck, steps[::-1]


@pytest.mark.parametrize('name', list(UPSAMPLERS))
def test_every_upsampler_has_maps_and_the_reassembling_ones_have_kernels(name):
    _, steps = neck_steps(name)
    assert [tuple(step.upsampled().shape) for step in steps] == [(1, 32, *step.size) for step in steps]
    assert [step.has_kernels for step in steps] == [name in WITH_KERNELS] * 3
    if name in WITH_KERNELS:
        assert len(accumulated_field(chain(steps, steps[0]), (20, 31))) == 4
    else:
        with pytest.raises(ValueError, match='has no reassembly kernels'):
            steps[0].kernels()


@pytest.mark.parametrize('name', WITH_KERNELS)
def test_kernels_are_what_the_upsampler_reassembles_with(name):
    _, steps = neck_steps(name, **dict(feature_resample=False) if name == 'freqfusion' else {})
    step = steps[1]
    kernels = step.kernels()
    torch.testing.assert_close(kernels.sum(1), torch.ones_like(kernels[:, 0]))
    # One pixel of one channel, from the definition.
    side = int(kernels.shape[1] ** 0.5)
    row, column = 9, 14
    window = nn.functional.pad(step.x, [side // 2] * 4)[0, 3, row // 2 :, column // 2 :][:side, :side]
    expected = (window.flatten() * kernels[0, :, row, column]).sum()
    torch.testing.assert_close(step.upsampled()[0, 3, row, column], expected)


def test_field_is_the_product_of_kernels_through_all_levels():
    """Against an explicit walk through the pyramid."""
    _, steps = neck_steps('carafe')
    assert [step.name for step in chain(steps, steps[0])] == [f'upsamplers.{n}' for n in range(3)]
    expected = {(20, 31): 1.0}
    for step, weights in zip(steps, accumulated_field(steps, (20, 31))[1:], strict=True):
        kernels, coarser = step.kernels()[0], {}
        for (row, column), weight in expected.items():
            for entry in range(25):
                at = row // 2 + entry // 5 - 2, column // 2 + entry % 5 - 2
                coarser[at] = coarser.get(at, 0) + weight * kernels[entry, row, column].item()
        height, width = step.x.shape[-2:]
        expected = {at: w for at, w in coarser.items() if 0 <= at[0] < height and 0 <= at[1] < width}
        dense = torch.zeros(height, width)
        for at, weight in expected.items():
            dense[at] = weight
        torch.testing.assert_close(weights, dense)


def test_field_sums_to_one_inside_and_has_the_support_of_the_kernels():
    _, steps = neck_steps('carafe', [(96, 96), (48, 48), (24, 24), (12, 12)])
    fields = accumulated_field(steps, (47, 48))
    for weights, support in zip(fields, (1, 5, 7, 8), strict=True):
        assert weights.sum().item() == pytest.approx(1, abs=1e-5)
        assert [(weights > 0).any(axis).sum().item() for axis in (0, 1)] == [support] * 2
    # Nine entries of the corner's kernel lie inside the map, the rest met the padding.
    inside = steps[0].kernels()[0, :, 0, 0].view(5, 5)[2:, 2:].sum()
    torch.testing.assert_close(accumulated_field(steps, (0, 0))[1].sum(), inside)


def test_field_follows_the_size_policy():
    """Odd sizes are cropped, maps of 2n + 1 repeat the last row; no weight is lost by either."""
    _, steps = neck_steps('carafe', [(49, 63), (24, 32), (12, 16), (6, 8)])
    weights = accumulated_field(steps[:1], (48, 31))[1]
    same = accumulated_field(steps[:1], (47, 31))[1]
    assert torch.equal(weights, same) and weights.any()
    with pytest.raises(ValueError, match=r'point must lie in a map of 49 rows and 63 columns, got \(49, 0\)'):
        accumulated_field(steps, (49, 0))


def test_pull_back_is_the_adjoint():
    torch.manual_seed(0)
    x, kernels, weights = torch.randn(1, 1, 6, 7), torch.rand(1, 9, 12, 14), torch.rand(1, 1, 12, 14)
    from carafe_plugin import carafe

    up = carafe(x, kernels, 3)
    torch.testing.assert_close((up * weights).sum(), (x * pull_back(weights, kernels, 2)).sum())


def test_a_chain_ends_at_a_convolution():
    neck = UpsampleYOLOXPAFPN([8, 16, 16], 16, 1, upsample_cfg=dict(type='carafe'))
    maps = [torch.randn(1, c, size, size) for c, size in ((8, 16), (16, 8), (16, 4))]
    with torch.no_grad(), recorded(neck.eval()) as steps:
        neck(maps)
    assert len(steps) == 2 and chain(steps, steps[1]) == [steps[1]]


def test_colours_mean_the_same_in_both_maps():
    x = torch.randn(16, 6, 8)
    first, second = principal_colours(x, x.repeat_interleave(2, 1))
    assert first.shape == (6, 8, 3) and second.shape == (12, 8, 3)
    torch.testing.assert_close(first, second[::2])


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    """An image, and a config with a checkpoint for each kind of upsampler."""
    folder = tmp_path_factory.mktemp('detector')
    config = write_detector_config(folder / 'config.py', write_coco(folder / 'data', images=1))
    for kind in ('carafe', 'freqfusion', 'bilinear', 'stock'):
        cfg = None if kind == 'stock' else dict(type=kind)
        text = f"_base_ = '{config}'\nmodel = dict(neck=dict(upsample_cfg={cfg}))\n"
        (folder / f'{kind}.py').write_text(text)
        model = init_detector(str(folder / f'{kind}.py'), device='cpu', palette='random')
        meta = dict(dataset_meta=dict(classes=('red', 'blue'), palette='random'))
        torch.save(dict(state_dict=model.state_dict(), meta=meta), folder / f'{kind}.pth')
    return folder


@pytest.fixture
def run(files, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / 'tools')
    module = load_tool('visualize_kernels')

    def call(*more, kind='carafe', image='data/images/0.png'):
        where = ['--config', str(files / f'{kind}.py'), '--checkpoint', str(files / f'{kind}.pth')]
        out = tmp_path / 'out'
        module.main([str(files / image), *where, '--out', str(out), '--device', 'cpu', *more])
        return {file.name: cv2.imread(str(file)) for file in out.iterdir()}

    return call


@pytest.mark.parametrize('kind', ['carafe', 'freqfusion'])
def test_pictures(run, kind):
    pictures = run('--points', '20,30', '40,12', kind=kind)
    assert set(pictures) == {'kernels.png', 'field.png', 'features.png'}
    for picture in pictures.values():
        assert np.unique(picture).size > 50
    assert pictures['kernels.png'].shape[0] < pictures['kernels.png'].shape[1]  # two points, three steps


def test_an_upsampler_without_kernels_has_feature_maps_only(run, capsys):
    assert set(run(kind='bilinear')) == {'features.png'}
    assert 'BilinearUpsampler has no kernels to draw' in capsys.readouterr().err


def test_bad_input_is_told_in_one_line(run, capsys):
    for more, message in (
        (dict(args=['--points', '20']), r"--points takes X,Y in pixels of the image, got '20'"),
        (dict(args=['--points', '20,99']), 'point 20,99 lies outside the image'),
        (dict(args=['--level', '3']), '--level must be between 0 and 2, got 3'),
        (dict(kind='stock'), 'stock.py: no upsampler in the neck; set model.neck.upsample_cfg'),
        (dict(image='carafe.py'), 'carafe.py: not a readable image'),
    ):
        with pytest.raises(SystemExit, match='1'):
            run(*more.pop('args', ()), **more)
        err = capsys.readouterr().err.splitlines()[-1]
        assert err.startswith('error: ') and re.search(message, err)
