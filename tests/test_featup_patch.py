# SPDX-License-Identifier: Apache-2.0
"""The operators of FeatUp and SAPA under their own names, with and without the packages."""

import importlib
import sys
from types import ModuleType

import numpy as np
import pytest
import torch

import carafe_plugin
from carafe_plugin import featup_patch
from tests import reference

DOUBLE = torch.float64


@pytest.fixture
def patched():
    carafe_plugin.patch_featup()
    yield
    carafe_plugin.unpatch_featup()


@pytest.fixture(autouse=True)
def _nothing_is_left():
    carafe_plugin.unpatch_featup()  # importing the module applied it
    yield
    assert not {'featup', 'sapa', featup_patch.FEATUP} & sys.modules.keys()


def case(k=3, size=(4, 5), channels=2, seed=0):
    torch.manual_seed(seed)
    padded = torch.randn(2, channels, *(side + k - 1 for side in size), dtype=DOUBLE, requires_grad=True)
    return padded, torch.randn(2, *size, k, k, dtype=DOUBLE, requires_grad=True)


def six_loops(padded, filters):
    padded, filters = padded.detach().numpy(), filters.detach().numpy()
    n_images, rows, columns, k, _ = filters.shape
    out = np.zeros((n_images, padded.shape[1], rows, columns))
    for n in range(n_images):
        for c in range(padded.shape[1]):
            for y in range(rows):
                for x in range(columns):
                    for i in range(k):
                        for j in range(k):
                            out[n, c, y, x] += filters[n, y, x, i, j] * padded[n, c, y + i, x + j]
    return torch.tensor(out)


@pytest.mark.parametrize('k', [1, 3, 7])
def test_adaptive_conv(patched, k):
    from featup.adaptive_conv_cuda.adaptive_conv import AdaptiveConv

    padded, filters = case(k)
    torch.testing.assert_close(AdaptiveConv.apply(padded, filters).detach(), six_loops(padded, filters))


def test_gradients(patched):
    padded, filters = case(size=(2, 3), channels=1)
    assert torch.autograd.gradcheck(featup_patch.adaptive_conv, (padded, filters))
    assert torch.autograd.gradgradcheck(featup_patch.adaptive_conv, (padded, filters))


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_dtypes(dtype):
    padded, filters = (x.detach().to(dtype) for x in case(7))
    out = featup_patch.adaptive_conv(padded, filters)
    assert out.dtype == dtype
    expected = six_loops(padded.double(), filters.double())
    torch.testing.assert_close(out.double(), expected, rtol=2e-2, atol=2e-2)


def test_bad_shapes():
    padded, filters = case()
    with pytest.raises(ValueError, match=r'padded must .* = \(2, C, 6, 7\) .*, got \(2, 2, 6, 6\)'):
        featup_patch.adaptive_conv(padded[..., :-1], filters)
    with pytest.raises(ValueError, match=r'filters must have shape .* k odd, got \(2, 4, 5, 3, 2\)'):
        featup_patch.adaptive_conv(padded, filters[..., :-1])


def test_sapa(patched):
    import sapa

    torch.manual_seed(0)
    query, key = torch.randn(1, 6, 8, 3, dtype=DOUBLE), torch.randn(1, 3, 4, 3, dtype=DOUBLE)
    first = [x.permute(0, 3, 1, 2).numpy() for x in (query, key)]
    similar = torch.tensor(reference.correlate(*first, 5, 1, 2)).permute(0, 2, 3, 1)
    torch.testing.assert_close(sapa.sim(query, key, 5, 2), similar)
    masks = similar.permute(0, 3, 1, 2).numpy()
    out = torch.tensor(reference.carafe_loops(first[1], masks, 5, 1, 2)).permute(0, 2, 3, 1)
    torch.testing.assert_close(sapa.atn(similar, key, 5, 2), out)


class Compiled(torch.autograd.Function):
    """What a compiled extension brings."""

    @staticmethod
    def forward(ctx, padded, filters):
        return torch.zeros(())


def test_a_package_that_is_there_is_served_and_put_back(monkeypatch):
    featup, sapa = ModuleType(featup_patch.FEATUP), ModuleType('sapa')
    featup.AdaptiveConv, sapa.sim, sapa.atn = Compiled, min, max
    with monkeypatch.context() as context:
        context.setitem(sys.modules, featup_patch.FEATUP, featup)
        context.setitem(sys.modules, 'sapa', sapa)
        bound = Compiled  # as `from ... import AdaptiveConv` has it
        carafe_plugin.patch_featup()
        carafe_plugin.patch_featup()  # a second time changes nothing
        padded, filters = case()
        torch.testing.assert_close(bound.apply(padded, filters).detach(), six_loops(padded, filters))
        assert sapa.sim is featup_patch.sim and sapa.atn is featup_patch.atn
        carafe_plugin.unpatch_featup()
        assert bound.apply(padded, filters).shape == () and sapa.sim is min and sapa.atn is max
        assert sys.modules['sapa'] is sapa


def test_undone_where_nothing_was(patched):
    from featup.adaptive_conv_cuda.adaptive_conv import AdaptiveConv

    carafe_plugin.unpatch_featup()
    for name in (featup_patch.FEATUP, 'sapa'):
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module(name)
    assert not hasattr(AdaptiveConv, 'apply')
    carafe_plugin.patch_featup()
    AdaptiveConv.apply(*case())  # whoever imported it is served again
