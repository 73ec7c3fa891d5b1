# SPDX-License-Identifier: Apache-2.0
"""Every registered upsampler and its published variants, and what they are called with."""

import torch

from carafe_plugin.upsamplers import UPSAMPLERS, build_upsampler

CHANNELS = 8
VARIANTS = {
    'carafe-none': dict(type='carafe', compressed_channels=None, up_group=2),
    'carafe-sigmoid': dict(type='carafe', normalizer='sigmoid'),
    'carafe-sigmoid_normalized': dict(type='carafe', normalizer='sigmoid_normalized', up_group=2),
    'dysample+': dict(type='dysample', dyscope=True),
    'dysample-s': dict(type='dysample', style='pl', groups=2),
    'dysample-s+': dict(type='dysample', style='pl', groups=2, dyscope=True),
    'fade-gate': dict(type='fade', gate=True),
    'fade_lite-gate': dict(type='fade_lite', gate=True),
    'sapa-inner': dict(type='sapa', similarity='inner'),
    'sapa-gated': dict(type='sapa', similarity='gated'),
    'freqfusion-plain': dict(type='freqfusion', feature_resample=False),
}
CASES = {name: dict(type=name) for name in UPSAMPLERS} | VARIANTS
# Ratios that a definition allows, where it does not allow all.
FACTORS = {'a2u': (2,), 'indexnet': (2,)}


def build(case, channels=CHANNELS, scale_factor=2, seed=0):
    """The upsampler of a case, dropping no channels; all have a guide of ``channels`` at hand."""
    torch.manual_seed(seed)
    up = build_upsampler(CASES[case], channels, scale_factor, guide_channels=channels)
    for module in up.modules():
        if isinstance(module, torch.nn.Dropout2d):
            module.p = 0
    return up


def inputs(up, batch=2, size=(5, 6), guide_size=None, dtype=torch.float32, seed=1):
    """Seeded (x, guide), leaves that require gradients; the guide is None where none is read."""
    torch.manual_seed(seed)
    x = torch.randn(batch, up.in_channels, *size, dtype=dtype, requires_grad=True)
    if not up.needs_guide:
        return x, None
    guide_size = guide_size or [up.scale_factor * n for n in size]
    return x, torch.randn(batch, up.guide_channels, *guide_size, dtype=dtype, requires_grad=True)


def leaves(up, x, guide):
    return {'x': x, **({} if guide is None else {'guide': guide}), **dict(up.named_parameters())}
