# SPDX-License-Identifier: Apache-2.0
"""Every way into an upsampler is a call of the module, for hooks and for what gathers weights."""

import pytest
import torch
from torch import nn

from carafe_plugin.upsamplers import FADE, FreqFusion, GuidedUpsampler, Upsampler, top_down
from tests.upsamplers.cases import CASES, CHANNELS, build, inputs


def count_calls(module):
    calls = []
    module.register_forward_pre_hook(lambda *_: calls.append('before'))
    module.register_forward_hook(lambda *_: calls.append('after'))
    return calls


@pytest.mark.parametrize('case', CASES)
@pytest.mark.parametrize('method', ['__call__', 'fuse', 'pair'])
def test_hooks_fire_once(case, method):
    up = build(case)
    x, guide = inputs(up)
    if guide is None:
        guide = torch.randn(2, CHANNELS, 10, 12)
    calls = count_calls(up)
    getattr(up, method)(x, guide)
    assert calls == ['before', 'after']


@pytest.mark.parametrize('case', [case for case in CASES if hasattr(build(case), 'kernels')])
def test_hooks_see_the_kernels(case):
    up = build(case)
    args = inputs(up)
    seen = []
    up.register_forward_hook(lambda module, args, output: seen.append(output))
    assert up.enter(up.kernels, *args) is seen[0] and len(seen) == 1
    assert torch.equal(seen[0], up.kernels(*args))


@pytest.mark.parametrize('case', CASES)
def test_a_pair_is_what_is_summed(case):
    up = build(case).eval()
    x, guide = inputs(up)
    guide = torch.randn(2, CHANNELS, 9, 13) if guide is None else guide
    fine, joined = up.pair(x, guide)
    assert fine.shape == joined.shape == guide.shape
    if 'gate' not in case or 'sapa' in case:
        torch.testing.assert_close(fine + joined, up.fuse(x, guide))
    assert torch.equal(joined, guide) == ('freqfusion' not in case)


class Forward(Upsampler):
    """The least that a user writes."""

    def __init__(self, in_channels, scale_factor=2):
        super().__init__(in_channels, scale_factor)
        self.weight = nn.Parameter(torch.full((), 3.0))

    def forward(self, x, guide=None):
        return self.weight * x.repeat_interleave(2, 2).repeat_interleave(2, 3)


class Fuse(Forward):
    def fuse(self, x, guide):
        return guide - self(x)


class FuseThroughSuper(Forward):
    def fuse(self, x, guide):
        return super().fuse(x, guide) * 2


class ForwardOfFreqFusion(FreqFusion):
    def forward(self, x, guide=None):
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


class FuseOfFreqFusion(FreqFusion):
    def fuse(self, x, guide):
        return guide + super().fuse(x, guide)


class ForwardOfGatedFADE(FADE):
    def __init__(self, in_channels, scale_factor=2, **kwargs):
        super().__init__(in_channels, scale_factor, gate=True, **kwargs)

    def forward(self, x, guide=None):
        return super().forward(x, guide) * 0


class Mixin:
    def forward(self, x, guide=None):
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


class Mixed(Mixin, GuidedUpsampler):
    def fuse(self, x, guide):
        return self.enter(self.fuse_inside, x, guide)

    def fuse_inside(self, x, guide):
        return guide * 5 + self.forward(x)


def test_classes_of_users():
    torch.manual_seed(0)
    x, guide = torch.randn(1, 8, 3, 4), torch.randn(1, 8, 6, 8)
    repeated = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    freqfusion, fade = FreqFusion(8), FADE(8, gate=True)
    expected = {
        Forward: guide + 3 * repeated,
        Fuse: guide - 3 * repeated,
        FuseThroughSuper: 2 * (guide + 3 * repeated),
        ForwardOfFreqFusion: freqfusion.fuse(x, guide),
        FuseOfFreqFusion: guide + freqfusion.fuse(x, guide),
        ForwardOfGatedFADE: fade.fuse(x, guide),
        Mixed: 5 * guide + repeated,
    }
    for cls, fused in expected.items():
        up = cls(8)
        for stock in (freqfusion, fade):
            if isinstance(up, type(stock)):
                up.load_state_dict(stock.state_dict(), strict=True)
        calls = count_calls(up)
        torch.testing.assert_close(top_down([guide, x], [up])[0], fused, msg=cls.__name__)
        assert calls == ['before', 'after'], cls
    assert list(Forward(8).state_dict()) == ['weight']
    assert not Mixed(8).state_dict()
    assert torch.equal(ForwardOfFreqFusion(8)(x, guide), repeated)
