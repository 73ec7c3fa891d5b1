# SPDX-License-Identifier: Apache-2.0
"""mmcv.ops.carafe through each of its doors, before and after the patch."""

import importlib
import sys

import mmcv.ops
import pytest
import torch
from mmcv.cnn import build_upsample_layer
from mmcv.ops import CARAFE, CARAFENaive, CARAFEPack
from mmcv.ops import carafe as imported_before  # a name bound before any patch
from mmcv.ops import carafe_naive as naive_imported_before

import carafe_plugin
import carafe_plugin.detection
from tests.reference import carafe_case

SIZES = (5, 2, 2)


def inputs():
    features, _, masks, expected = (torch.tensor(x) for x in carafe_case((2, 4, 3, 5), *SIZES))
    return features.requires_grad_(), masks.requires_grad_(), expected


@pytest.fixture
def patched():
    carafe_plugin.patch_mmcv()
    yield
    carafe_plugin.unpatch_mmcv()


DOORS = dict(
    imported_before=lambda: imported_before,
    package_attribute=lambda: mmcv.ops.carafe,
    module_global=lambda: sys.modules['mmcv.ops.carafe'].carafe,
    module_class=lambda: CARAFE(*SIZES).forward,
    naive_imported_before=lambda: naive_imported_before,
    naive_package_attribute=lambda: mmcv.ops.carafe_naive,
    naive_module_class=lambda: CARAFENaive(*SIZES).forward,
)


@pytest.mark.parametrize('door', DOORS)
def test_every_door_leads_to_our_operator(patched, door):
    function, arguments = DOORS[door](), () if door.endswith('module_class') else SIZES
    features, masks, expected = inputs()
    out = function(features, masks, *arguments)
    torch.testing.assert_close(out.detach(), expected)
    (out**2).sum().backward()
    ours = [x.detach().requires_grad_() for x in (features, masks)]
    (carafe_plugin.carafe(*ours, *SIZES) ** 2).sum().backward()
    torch.testing.assert_close([features.grad, masks.grad], [x.grad for x in ours])


def test_one_input_without_gradient(patched):
    features, masks, _ = inputs()
    imported_before(features.detach(), masks, *SIZES).sum().backward()
    assert features.grad is None and masks.grad is not None


@pytest.mark.parametrize('reloaded', [False, True])
def test_undone_again(patched, reloaded, monkeypatch):
    from carafe_plugin import mmcv_patch

    # Another test may have imported it a second time.
    monkeypatch.setitem(sys.modules, 'carafe_plugin.mmcv_patch', mmcv_patch)
    carafe_plugin.patch_mmcv()  # a second time changes nothing
    if reloaded:
        importlib.reload(mmcv_patch)
    carafe_plugin.unpatch_mmcv()
    assert mmcv.ops.carafe is mmcv_patch.ORIGINALS['carafe'] is imported_before
    features, masks, _ = inputs()
    assert mmcv.ops.carafe_naive is naive_imported_before
    for function in (imported_before, naive_imported_before):
        with pytest.raises(RuntimeError, match='implementation for device cpu not found'):
            function(features, masks, *SIZES)  # mmcv itself has no CPU kernel


def test_carafe_pack_equals_our_module(patched):
    pack, module = CARAFEPack(8, 2), carafe_plugin.build_upsampler(dict(type='carafe'), 8)
    module.load_state_dict(pack.state_dict())
    x = torch.rand(2, 8, 5, 6)
    torch.testing.assert_close(pack(x), module(x))
    torch.testing.assert_close(pack.bfloat16()(x.bfloat16()).float(), module(x), rtol=0.05, atol=0.05)


def test_build_upsample_layer_knows_every_upsampler():
    names = carafe_plugin.UPSAMPLERS
    for cls in (names.get(name) for name in names):
        layer = build_upsample_layer(dict(type=cls.__name__, in_channels=8, scale_factor=2))
        assert type(layer) is cls
        assert layer(torch.rand(1, 8, 3, 4), torch.rand(1, 8, 6, 8)).shape == (1, 8, 6, 8)
